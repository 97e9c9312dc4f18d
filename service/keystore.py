"""Private keys at rest: files of mode 0600 in directories of mode 0700, offline roots sealed under a passphrase.

A key file holds the two seeds of one key pair and says what the key is for. What is readable by anybody else is
refused, not repaired: it may have been read already.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import nacl.exceptions
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta, Struct
from nacl.secret import SecretBox

from verifier import private
from verifier.encoding import b64, parse, unb64
from verifier.keys import HYBRID_USES
from verifier.refused import Refused
from verifier.signing import KeyPair

SEED = 32
MAX_KEY_FILE = 1 << 12
MAX_PASSPHRASE = 1 << 10
# RFC 7914 §2: 64 MiB and about 0.2 s a guess.
COST, BLOCK, PARALLEL = 1 << 16, 8, 1
HYBRID = HYBRID_USES | {"root"}

write_private = private.write_private

Random = Callable[[int], bytes]


class KeyFile(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One private key: `use` as in the key list, or `root`, or `client` for the key a caller authenticates with."""

    use: str
    owner: str
    ed25519_seed: str
    ml_dsa_44_seed: str | None = None

    def pair(self) -> KeyPair:
        """Derive the key pair."""
        return KeyPair(_seed(self.ed25519_seed), _seed(self.ml_dsa_44_seed) if self.ml_dsa_44_seed else None)


class SealedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key file under a passphrase: scrypt (RFC 7914), then XSalsa20-Poly1305."""

    scrypt_salt: str
    scrypt_n: Annotated[int, Meta(ge=1 << 14, le=1 << 20)]
    sealed: str


def generate(use: str, owner: str, random: Random) -> KeyFile:
    """Make a key with both halves where its use asks for both."""
    second = b64(random(SEED)) if use in HYBRID else None
    return KeyFile(use=use, owner=owner, ed25519_seed=b64(random(SEED)), ml_dsa_44_seed=second)


def save(path: Path, key: KeyFile, *, passphrase: bytes | None = None, random: Random = os.urandom) -> None:
    """Write a new key file; an existing one is never overwritten."""
    plain = msgspec.json.encode(key)
    write_private(path, _seal(plain, passphrase, random) if passphrase is not None else plain)


def load(path: Path, use: str, *, passphrase: bytes | None = None) -> KeyPair:
    """Read a key for one use. Raises `Refused`: no-key, loose-mode, bad-key, wrong-use, bad-passphrase."""
    raw = read_private(path)
    if passphrase is not None:
        raw = _unseal(raw, passphrase)
    elif b'"sealed"' in raw:
        raise Refused("bad-passphrase", f"{path.name} is sealed under a passphrase, and none was given")
    try:
        key = parse(raw, KeyFile, limit=MAX_KEY_FILE)
    except Refused as refused:
        raise Refused("bad-key", f"{path.name} is no key file") from refused
    if key.use != use:
        raise Refused("wrong-use", f"{path.name} is a key for {key.use}, not for {use}")
    return key.pair()


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def read_private(path: Path, limit: int = MAX_KEY_FILE) -> bytes:
    """Read a file that nobody else could have read, in a directory that nobody else can enter.

    At most `limit` + 1 bytes. Raises `Refused`: no-key, loose-mode.
    """
    content = private.read_private(path, limit)
    private.require_private(path.parent.stat(), path.parent)
    return content


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase from a private file, without the newline that editors leave."""
    passphrase = read_private(path).rstrip(b"\r\n")
    if not 0 < len(passphrase) <= MAX_PASSPHRASE:
        raise Refused("bad-passphrase", f"{path.name} holds no passphrase")
    return passphrase


def _seed(text: str) -> bytes:
    seed = unb64(text, field="seed")
    if len(seed) != SEED:
        raise Refused("bad-key", f"a seed has {SEED} bytes")
    return seed


def _seal(plain: bytes, passphrase: bytes, random: Random) -> bytes:
    salt = random(16)
    box = SecretBox(Scrypt(salt=salt, length=SecretBox.KEY_SIZE, n=COST, r=BLOCK, p=PARALLEL).derive(passphrase))
    sealed = box.encrypt(plain, random(SecretBox.NONCE_SIZE))
    return msgspec.json.encode(SealedFile(scrypt_salt=b64(salt), scrypt_n=COST, sealed=b64(bytes(sealed))))


def _unseal(raw: bytes, passphrase: bytes) -> bytes:
    try:
        file = parse(raw, SealedFile, limit=MAX_KEY_FILE)
        cost = Scrypt(salt=unb64(file.scrypt_salt), length=SecretBox.KEY_SIZE, n=file.scrypt_n, r=BLOCK, p=PARALLEL)
        return SecretBox(cost.derive(passphrase)).decrypt(unb64(file.sealed))
    except (nacl.exceptions.CryptoError, ValueError, Refused) as error:
        raise Refused("bad-passphrase", "the passphrase does not open this file") from error
