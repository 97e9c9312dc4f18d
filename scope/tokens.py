"""The text of a token: a JWS in compact form, signed with EdDSA (RFC 7515, RFC 9068; specs/token.md)."""

import base64
import binascii
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from verifier.grant import Token
from verifier.keys import Key
from verifier.revocation import Name
from verifier.signing import KeyPair, verify_ed25519

MAX_TOKEN = 1 << 17


class Shown(Struct, frozen=True):
    """A token that somebody showed, and the key that signed it."""

    token: Token
    kid: str

    @property
    def names(self) -> list[Name]:
        """Name by what it is revoked beside its job."""
        return [("jti", self.token.jti), ("key", self.kid)]


class _Header(Struct, frozen=True):
    alg: str
    kid: str
    typ: str


def encode(token: Token, key: KeyPair) -> str:
    """Write a token as a JWS in compact form."""
    signed = f"{_header(key.kid)}.{_b64url(msgspec.json.encode(token))}"
    return f"{signed}.{_b64url(key.ed25519(signed.encode()))}"


def read(keys: Iterable[Key], raw: str) -> Shown | None:
    """Read a token that one of some keys signed; its header is, byte for byte, the one that we write."""
    header, _, rest = raw.partition(".")
    public = {_header(key.kid): key for key in keys}
    payload, dot, signature = rest.partition(".")
    if header not in public or not dot or len(raw) > MAX_TOKEN:
        return None
    try:
        key = public[header]
        if not verify_ed25519(key.pair().raw()[0], f"{header}.{payload}".encode(), _unb64url(signature)):
            return None
        return Shown(msgspec.json.decode(_unb64url(payload), type=Token), key.kid)
    except (binascii.Error, ValueError):
        return None


def _header(kid: str) -> str:
    return _b64url(msgspec.json.encode(_Header("EdDSA", kid, "at+jwt")))


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64url(text: str) -> bytes:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _b64url(raw) != text:
        raise ValueError("not the one spelling")
    return raw
