"""Proof of possession (RFC 9449): a token bound to a key is worth nothing to whoever has the token alone.

    DPoP: <JWT: typ dpop+jwt, alg EdDSA or ES256, jwk; jti, htm, htu, iat, nonce, ath>

Each request carries a proof of its own, signed by the client's key, for one method and address and, at the gateway, one
token (`ath`). A proof counts once, within a minute, and under a nonce that this server gave lately: none can be made in
advance (specs/token.md §4).
"""

import hmac
import json
from base64 import b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import jwt
import msgspec
from jwt import PyJWK
from msgspec import Meta, Struct

from service.once import Once
from verifier.refused import Refused

SECOND = 1_000_000
ALGORITHMS = {"EdDSA": ("OKP", "Ed25519", ("crv", "kty", "x")), "ES256": ("EC", "P-256", ("crv", "kty", "x", "y"))}
MAX_PROOF = 4096
PAST, FUTURE = 60, 5  # seconds
NONCE_LIFE = 60  # seconds; the one before the current counts, too
MOST_PROOFS = 1 << 18  # remembered at once; with more the next is refused
PORTS = {"http": 80, "https": 443}

Text = Annotated[str, Meta(min_length=1, max_length=512)]
Ascii = Annotated[str, Meta(pattern=r"^[ -~]*\Z")]  # else it can be neither compared nor hashed


class _Claims(Struct, frozen=True):
    jti: Annotated[str, Meta(pattern=r"^[ -~]{8,128}\Z")]
    htm: Text
    htu: Text
    iat: int
    nonce: Ascii = ""
    ath: Ascii = ""


class Proofs:
    """The proofs that one server has seen; `url` is its public address, `secret` what its nonces are made of.

    Processes that share a database share through `once` what has been used.
    """

    def __init__(self, url: str, secret: bytes, clock: Callable[[], int], once: Once | None = None) -> None:
        """Start having seen none."""
        self._shared = once
        self._url = url.rstrip("/")
        self._secret = secret
        self._clock = clock
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def nonce(self) -> str:
        """Give the nonce that counts now."""
        return self._nonce(self._clock() // SECOND // NONCE_LIFE)

    def check(self, given: Sequence[str], method: str, path: str, token: str | None = None) -> str:
        """Check the one proof of a request, once in this process; return the thumbprint of its key (RFC 7638).

        Raises `Refused`: dpop-required, bad-dpop-proof, use-dpop-nonce, too-many-proofs.
        """
        return self._check(given, method, path, token)[0]

    async def admit(self, given: Sequence[str], method: str, path: str) -> str:
        """Check a proof that comes without a token, once in all processes; return and raise as `check` does."""
        jkt, jti = self._check(given, method, path, None)
        until = self._clock() + (PAST + FUTURE) * SECOND
        if self._shared is not None and not await self._shared.take(f"dpop/{jkt}/{jti}", until):
            raise _bad("the proof was used before")
        return jkt

    def _check(self, given: Sequence[str], method: str, path: str, token: str | None) -> tuple[str, str]:
        if len(given) != 1:
            code = "bad-dpop-proof" if given else "dpop-required"
            raise Refused(code, "one proof of possession is needed", hint="Send one DPoP header.", field="dpop")
        jwk, claims = _read(given[0])
        now = self._clock() // SECOND
        for wrong, why in (
            (claims.htm != method, "is for another method"),
            (_address(claims.htu) != _address(self._url + path), "is for another address"),
            (not now - PAST <= claims.iat <= now + FUTURE, "is too old, or of a time to come"),
            (token is not None and not hmac.compare_digest(claims.ath, _hash(token)), "is for another token"),
        ):
            if wrong:
                raise _bad(f"the proof {why}")
        slot = now // NONCE_LIFE
        if not any(hmac.compare_digest(claims.nonce, self._nonce(each)) for each in (slot, slot - 1)):
            hint = "Send the DPoP-Nonce of this answer in the next proof."
            raise Refused("use-dpop-nonce", "the proof lacks a nonce that this server gave lately", hint=hint)
        jkt = thumbprint(jwk)
        self._once(sha256(f"{jkt}/{claims.jti}".encode()).digest(), now)
        return jkt, claims.jti

    def _once(self, proof: bytes, now: int) -> None:
        """Remember a proof for as long as it would count. Raises `Refused`: bad-dpop-proof, too-many-proofs."""
        while self._seen and next(iter(self._seen.values())) < now:
            self._seen.popitem(last=False)
        if proof in self._seen:
            raise _bad("the proof was used before")
        if len(self._seen) >= MOST_PROOFS:
            raise Refused("too-many-proofs", "too many proofs in a minute to remember", hint="Try again shortly.")
        self._seen[proof] = now + PAST + FUTURE

    def _nonce(self, slot: int) -> str:
        return b64url(hmac.digest(self._secret, f"tally-dpop/1\0{slot}".encode(), "sha256")[:16])


class Prover:
    """The client's half: makes proofs with its key, whose public half is `jwk`; `sign` signs as JWS has it."""

    def __init__(
        self,
        sign: Callable[[bytes], bytes],
        jwk: Mapping[str, str],
        clock: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        """Take the key; the private half is only called."""
        self._sign = sign
        self._clock = clock
        self._random = random
        self._alg = next(alg for alg, (kty, _, _) in ALGORITHMS.items() if kty == jwk["kty"])
        self.jwk = dict(jwk)

    def proof(self, method: str, url: str, *, token: str | None = None, nonce: str = "") -> str:
        """Make the proof for one request, of a resource with its `token`."""
        claims: dict[str, Any] = {
            "jti": self._random(16).hex(), "htm": method, "htu": url, "iat": self._clock() // SECOND
        }  # fmt: skip
        claims |= ({"nonce": nonce} if nonce else {}) | ({"ath": _hash(token)} if token is not None else {})
        header = {"typ": "dpop+jwt", "alg": self._alg, "jwk": self.jwk}
        signed = f"{b64url(json.dumps(header).encode())}.{b64url(json.dumps(claims).encode())}"
        return f"{signed}.{b64url(self._sign(signed.encode()))}"


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Compute a public key's thumbprint (RFC 7638)."""
    members = next(members for kty, _, members in ALGORITHMS.values() if kty == jwk["kty"])
    return _hash(json.dumps({name: jwk[name] for name in members}, separators=(",", ":")))


def _read(proof: str) -> tuple[dict[str, str], _Claims]:
    """Read a proof by the key in it, whose private half no proof may show. Raises `Refused` bad-dpop-proof."""
    if len(proof) > MAX_PROOF:
        raise _bad(f"the proof is longer than {MAX_PROOF} characters")
    try:
        header = jwt.get_unverified_header(proof)
        kty, crv, members = ALGORITHMS[header["alg"]]
        jwk = header["jwk"]
        if header["typ"] != "dpop+jwt" or "crit" in header or (jwk["kty"], jwk["crv"]) != (kty, crv) or "d" in jwk:
            raise _bad("the proof is not of the form that RFC 9449 asks for")
        public = {name: str(jwk[name]) for name in members}
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        said = jwt.decode(proof, PyJWK(public, algorithm=header["alg"]), algorithms=[header["alg"]], options=options)
        return public, msgspec.convert(said, _Claims)
    except (jwt.PyJWTError, msgspec.ValidationError, LookupError, TypeError, ValueError) as error:
        raise _bad("the proof cannot be read, or its signature does not fit") from error


def _address(url: str) -> tuple[str, str, int | None, str]:
    """Take what counts of an address (RFC 9449 §4.3): no query, no fragment. Raises `Refused` bad-dpop-proof."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), parts.hostname or "", parts.port or PORTS.get(parts.scheme), unquote(parts.path)
    except ValueError as error:
        raise _bad("the proof names no address") from error


def _hash(text: str) -> str:
    return b64url(sha256(text.encode()).digest())


def b64url(raw: bytes) -> str:
    """Write unpadded base64url."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """Read unpadded base64url, in its one spelling. Raises `ValueError`."""
    raw = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if b64url(raw) != text:
        raise ValueError("base64url with stray bits")
    return raw


def _bad(why: str) -> Refused:
    return Refused("bad-dpop-proof", why, hint="Make a new proof for each request.", field="dpop")
