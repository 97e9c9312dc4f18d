"""A job-scoped token as it arrives: an RFC 9068 access token, signed with Ed25519 by scope (specs/token.md).

The key is found by `kid` in the pinned key list, and the algorithm is that key's: what the token says of its own
algorithm is only compared.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from service.dpop import ALGORITHMS
from verifier.grant import Token
from verifier.keys import Trust
from verifier.refused import Refused
from verifier.signing import verify_ed25519

MAX_TOKEN = 1 << 14
SECOND = 1_000_000
# Our codes by those of RFC 9449.
OF_PROOF = {
    "dpop-required": "invalid_token",
    "bad-dpop-proof": "invalid_dpop_proof",
    "use-dpop-nonce": "use_dpop_nonce",
}


class BadToken(Refused):
    """The credential itself is refused: the caller gets 401, and 403 from nothing else (RFC 6750 §3.1).

    `nonce` is what the next proof of possession is to hold.
    """

    nonce = ""


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protected header; RFC 9864 names the algorithm `Ed25519`, older libraries `EdDSA`; `crit` is refused."""

    alg: Literal["EdDSA", "Ed25519"]
    typ: Literal["at+jwt", "application/at+jwt"]
    kid: str


class Credential(Struct, frozen=True):
    """What a request says of who calls: its `Authorization`, its DPoP headers, and what a proof has to be for."""

    authorization: str | None
    proofs: Sequence[str]
    method: str
    path: str

    def token(self) -> tuple[str, str]:
        """Give scheme, `bearer` or `dpop`, and token. Raises `BadToken` no-token."""
        scheme, _, token = (self.authorization or "").partition(" ")
        if scheme.lower() not in {"bearer", "dpop"} or not token or len(token) > MAX_TOKEN:
            hint = "Send Authorization: Bearer <token>, or DPoP <token> where it is bound."
            raise BadToken("no-token", "the call carries no job-scoped token", hint=hint)
        return scheme.lower(), token.strip()


def challenge(refused: Refused, metadata: str = "") -> dict[str, str]:
    """Write what a 401 says of how to come again (RFC 6750 §3, RFC 9449 §7.1, §9; RFC 9728 §5.1 for `metadata`)."""
    parts = {} if refused.code == "no-token" else {"error": OF_PROOF.get(refused.code, "invalid_token")}
    scheme, headers = "Bearer", {}
    if refused.code in OF_PROOF:
        scheme, parts["algs"] = "DPoP", " ".join(ALGORITHMS)
    if isinstance(refused, BadToken) and refused.nonce:
        headers["dpop-nonce"] = refused.nonce
    parts |= {"resource_metadata": metadata} if metadata else {}
    said = ", ".join(f'{name}="{value}"' for name, value in parts.items())
    return {"www-authenticate": f"{scheme} {said}".strip(), **headers}


def read_token(text: str, trust: Trust, *, issuer: str, audience: str, now: int) -> Token:
    """Check a token's signature, issuer and audience; its times are `check_time`'s.

    Raises `BadToken`: bad-token, unknown-signer, wrong-use, wrong-owner, key-not-valid, key-revoked, bad-signature,
    wrong-issuer, wrong-audience.
    """
    try:
        return _read(text, trust, issuer, audience, now)
    except BadToken:
        raise
    except Refused as refused:
        raise BadToken(refused.code, refused.why) from refused


def _read(text: str, trust: Trust, issuer: str, audience: str, now: int) -> Token:
    signed, _, signature = text.rpartition(".")
    head, _, payload = signed.partition(".")
    try:
        header = msgspec.json.decode(_unb64url(head), type=Header)
        token = msgspec.json.decode(_unb64url(payload), type=Token)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("bad-token", "not a token of the form that scope issues") from error
    if header.kid not in trust.by_kid:
        raise Refused("unknown-signer", "signed by a key that the key list does not name")
    trust.signer(frozenset({header.kid}), "token", issuer, now)
    public, _ = trust.by_kid[header.kid].pair().raw()
    if not verify_ed25519(public, signed.encode(), _unb64url(signature)):
        raise Refused("bad-signature", "the signature does not fit the token")
    if token.iss != issuer:
        raise Refused("wrong-issuer", "the token names another issuer than this gateway's scope")
    if token.aud != audience:
        raise Refused("wrong-audience", "the token is for another gateway")
    return token


def kid_of(text: str) -> str:
    """Name the key that a token says has signed it; `read_token` has found that it did."""
    return msgspec.json.decode(_unb64url(text.partition(".")[0]), type=Header).kid


def check_time(token: Token, now: int) -> None:
    """Check the token's window for a time in microseconds. Raises `BadToken`: token-expired, token-not-valid-yet."""
    if now >= token.exp * SECOND:
        raise BadToken("token-expired", "the token has expired", hint="Get a new one from scope.")
    if now < max(token.nbf, token.iat) * SECOND:
        raise BadToken(
            "token-not-valid-yet", "the token is not valid yet", hint="Compare the clocks of scope and gateway."
        )


def _unb64url(text: str) -> bytes:
    """Decode unpadded base64url, in its one spelling."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("bad-token", "not base64url") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise Refused("bad-token", "base64url with stray bits")
    return raw
