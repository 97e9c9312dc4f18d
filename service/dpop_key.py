"""A caller's own key for proofs of possession, in a private file: a JWK (RFC 7517) of Ed25519 or P-256.

The form is the one that libraries of OAuth and JOSE read and write, since whoever makes the proofs is seldom ours.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct

from service import keystore
from service.dpop import Prover, b64url, unb64url
from verifier.private import require_private
from verifier.refused import Refused

SIZE = 32  # bytes of each number of both kinds of key


class _Jwk(Struct, frozen=True, omit_defaults=True):
    """A private key; what else there is in a JWK is its owner's affair."""

    kty: str
    crv: str
    d: str
    x: str
    y: str = ""


def prover(path: Path, clock: Callable[[], int], random: Callable[[int], bytes]) -> Prover:
    """Read the key in a file, or make one of Ed25519 where there is no file, and prove with it.

    Raises `Refused`: loose-mode, no-key for a directory that is not there, bad-key.
    """
    if not path.exists():
        _make(path, random)
    raw = keystore.read_private(path)
    try:
        key = msgspec.json.decode(raw, type=_Jwk)
        sign, public = _edwards(key) if key.kty == "OKP" else _curve(key)
        together = {name: getattr(key, name) for name in public} == public
    except (msgspec.DecodeError, ValueError) as error:
        hint = "A private JWK has kty, crv, x and d: OKP and Ed25519, or EC and P-256 with y."
        raise Refused("bad-key", f"{path.name} is no private JWK of Ed25519 or P-256", hint=hint) from error
    if not together:
        raise Refused("bad-key", f"the two halves of {path.name} do not belong together", hint="Make a new key.")
    return Prover(sign, public, clock, random)


def _make(path: Path, random: Callable[[int], bytes]) -> None:
    """Make a key; another process that was faster has made one, too."""
    if not path.parent.is_dir():
        raise Refused("no-key", f"{path.parent.name} is no directory", hint="Make it, of mode 0700.")
    require_private(path.parent.stat(), path.parent)
    seed = random(SIZE)
    _, public = _edwards(_Jwk("OKP", "Ed25519", b64url(seed), ""))
    try:
        keystore.write_private(path, msgspec.json.encode(_Jwk(**public, d=b64url(seed))) + b"\n")
    except FileExistsError:
        return


def _edwards(key: _Jwk) -> tuple[Callable[[bytes], bytes], dict[str, str]]:
    if key.crv != "Ed25519":
        raise ValueError("another curve")
    private = Ed25519PrivateKey.from_private_bytes(unb64url(key.d))
    x = b64url(private.public_key().public_bytes_raw())
    return private.sign, {"crv": "Ed25519", "kty": "OKP", "x": x}


def _curve(key: _Jwk) -> tuple[Callable[[bytes], bytes], dict[str, str]]:
    if (key.kty, key.crv) != ("EC", "P-256") or len(unb64url(key.d)) != SIZE:
        raise ValueError("another kind of key")
    private = ec.derive_private_key(int.from_bytes(unb64url(key.d), "big"), ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (b64url(number.to_bytes(SIZE, "big")) for number in (numbers.x, numbers.y))

    def sign(message: bytes) -> bytes:
        """Sign as JWS has it, both numbers side by side (RFC 7518 §3.4)."""
        return b"".join(
            n.to_bytes(SIZE, "big") for n in decode_dss_signature(private.sign(message, ec.ECDSA(SHA256())))
        )

    return sign, {"crv": "P-256", "kty": "EC", "x": x, "y": y}
