"""Private keys at rest: files of mode 0600 in directories of mode 0700, offline roots sealed under a passphrase.

A key file holds the two seeds of one key pair and says what the key is for. What is readable by anybody else is
refused, not repaired: it may have been read already.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import nacl.exceptions
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta, Struct
from nacl.secret import SecretBox

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


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, durably. Raises `FileExistsError` rather than replace one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_private(path: Path) -> bytes:
    """Read a file that nobody else could have read. Raises `Refused`: no-key, loose-mode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("no-key", f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        _require_private(os.fstat(descriptor), path)
        _require_private(path.parent.stat(), path.parent)
        return file.read(MAX_KEY_FILE + 1)


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase from a private file, without the newline that editors leave."""
    passphrase = read_private(path).rstrip(b"\r\n")
    if not 0 < len(passphrase) <= MAX_PASSPHRASE:
        raise Refused("bad-passphrase", f"{path.name} holds no passphrase")
    return passphrase


def _require_private(status: os.stat_result, path: Path) -> None:
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.geteuid():
        hint = "Make a new key: somebody else may have read this one. Files are 0600, directories 0700, both your own."
        raise Refused("loose-mode", f"{path.name} is open to others than its owner", hint=hint)


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
