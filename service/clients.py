"""Who calls a service: the client's own JWT (RFC 7523 form), and what each client may do.

    Authorization: Bearer <JWS EdDSA {iss = sub = client id, aud = the service's issuer URL, iat, exp, jti}>

A token lives at most a minute and is taken once. `clients.toml` holds public keys and roles only.
"""

import base64
import re
import secrets
import tomllib
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm
from litestar import Request
from msgspec import Meta, Struct

from service.once import Once
from verifier.encoding import SafeText, unb64
from verifier.refused import Refused
from verifier.signing import ED25519_BYTES, KeyPair, verify_ed25519

Role = Literal["author", "registrar", "orchestrator", "gateway", "approver", "responder", "auditor"]
Clock = Callable[[], int]

SECOND = 1_000_000
LIFE = 60  # seconds, RFC 7523 asks for short
SKEW = 5  # seconds a client's clock may run ahead
MAX_TOKEN = 4096
MAX_REMEMBERED = 8192  # jti of one client: 136 calls a second for a minute; or as many as it may make changes,
MOST_REMEMBERED = 1 << 18  # up to this: 4,000 a second, about 40 MB
MAX_FAILURES = 30  # a minute and address
MAX_ADDRESSES = 4096

READS = frozenset({"GET", "HEAD", "OPTIONS"})
_jti = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Client(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One caller: its public Ed25519 key in base64 and the least roles it needs."""

    ed25519: str
    roles: Annotated[list[Role], Meta(min_length=1, max_length=8)]


class ClientFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`clients.toml`: a table `[clients.<id>]` a caller."""

    clients: dict[SafeText, Client]


class Caller(Struct, frozen=True):
    """Somebody who proved to be a client by a token with this `jti`; `job` is what it asks about, where it says so."""

    client: str
    roles: frozenset[str]
    jti: str = ""
    job: str | None = None

    def require(self, *roles: str) -> None:
        """Let only these roles pass. Raises `Refused` with forbidden."""
        if self.roles.isdisjoint(roles):
            raise Refused("forbidden", f"client {self.client} has none of the roles: {', '.join(roles)}")


class _Claimed(Struct, frozen=True):
    iss: str


class _Claims(Struct, frozen=True):
    """What a client's token says: one audience, times in whole seconds."""

    iss: str
    sub: str
    aud: str
    iat: int
    exp: int
    jti: str
    job: object = None


class _Ed25519(OKPAlgorithm):
    """EdDSA by libsodium's rules, as all of ours is checked (verifier/signing.py), and sooner than by OpenSSL."""

    def verify(self, msg: str | bytes, key: Any, sig: str | bytes) -> bool:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Check a signature."""
        return verify_ed25519(key.public_bytes_raw(), cast("bytes", msg), cast("bytes", sig))


_jws = jwt.PyJWS(algorithms=[])
_jws.register_algorithm("EdDSA", _Ed25519())


class Clients:
    """The callers of one service. One instance a process; its memory is bounded and forgets what has expired.

    Processes that share a database share through `once` what has been used.
    """

    def __init__(
        self, clients: ClientFile, audience: str, clock: Clock, writes: int = 600, once: Once | None = None
    ) -> None:
        """Decode every key once; refuses a file with a key that is none. `writes` are those of one client a minute."""
        self._once = once
        self._roles = {name: frozenset[str](client.roles) for name, client in clients.clients.items()}
        self._keys = {name: _public(name, client) for name, client in clients.clients.items()}
        self._audience = audience
        self._clock = clock
        self._seen: dict[str, OrderedDict[str, int]] = {name: OrderedDict() for name in clients.clients}
        self._failures: OrderedDict[str, deque[int]] = OrderedDict()
        self._writes = writes
        self._most = max(MAX_REMEMBERED, min(writes, MOST_REMEMBERED))
        self._buckets = {name: (float(writes), clock()) for name in clients.clients}

    @classmethod
    def load(cls, path: Path, audience: str, clock: Clock, writes: int = 600, once: Once | None = None) -> "Clients":
        """Read `clients.toml`. Raises `Refused` with bad-clients."""
        try:
            given = tomllib.loads(path.read_bytes().decode())
            return cls(msgspec.convert(given, ClientFile), audience, clock, writes, once)
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise Refused("bad-clients", f"{path.name} cannot be used: {type(error).__name__}") from error

    async def admit(self, authorization: str, address: str) -> Caller:
        """Check an `Authorization` header, once for each token in all processes. Raises as `authenticate` does."""
        caller, now = self.authenticate(authorization, address), self._clock()
        until = now + (LIFE + SKEW) * SECOND
        if self._once is not None and not await self._once.take(f"client/{caller.client}/{caller.jti}", until):
            self._refuse_guesser(address, now)
            self._note_failure(address, now)
            raise _unauthenticated()
        return caller

    def authenticate(self, authorization: str, address: str) -> Caller:
        """Check an `Authorization` header, once for each token in this process.

        Raises `Refused`: unauthenticated (one sentence for every cause, a guesser learns nothing), too-many-failures,
        too-many-requests. A good token always passes: behind one proxy, or on one machine, whoever fails on purpose
        would shut out everybody else, the gateway's feed of revocations among them.
        """
        now = self._clock()
        try:
            return self._check(authorization, now)
        except Refused as refused:
            if refused.code == "unauthenticated":
                self._refuse_guesser(address, now)
                self._note_failure(address, now)
            raise

    def count_write(self, caller: Caller) -> None:
        """Count one request that changes something. Raises `Refused` too-many-requests beyond what a minute brings.

        A bucket that fills evenly: a minute's worth at once, then as fast as it fills.
        """
        left, then = self._buckets[caller.client]
        now = self._clock()
        left = min(float(self._writes), left + max(0, now - then) * self._writes / (60 * SECOND))
        if left < 1:
            why = f"client {caller.client} changed something more than {self._writes} times in a minute"
            raise Refused("too-many-requests", why, hint="Wait, and send fewer; writes_per_minute is the setting.")
        self._buckets[caller.client] = (left - 1, now)

    def _check(self, authorization: str, now: int) -> Caller:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN:
            raise _unauthenticated()
        claims = self._claims(token)
        name, issued, expires = claims.iss, claims.iat, claims.exp
        if claims.sub != name or claims.aud != self._audience:
            raise _unauthenticated()
        if not 0 < expires - issued <= LIFE or issued * SECOND > now + SKEW * SECOND or expires * SECOND <= now:
            raise _unauthenticated()
        self._take_once(name, claims.jti, expires * SECOND, now)
        return Caller(name, self._roles[name], claims.jti, claims.job if isinstance(claims.job, str) else None)

    def _claims(self, token: str) -> _Claims:
        """Open the token with the key of the client that it claims to come from; times are checked by our clock."""
        try:
            payload: bytes = _jws.decode(token, self._keys[_issuer(token)], algorithms=["EdDSA"])
            return msgspec.json.decode(payload, type=_Claims)
        except (jwt.PyJWTError, msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise _unauthenticated() from error

    def _take_once(self, name: str, jti: str, expires: int, now: int) -> None:
        if not _jti.fullmatch(jti):
            raise _unauthenticated()
        seen = self._seen[name]
        while seen and next(iter(seen.values())) <= now:
            seen.popitem(last=False)
        if jti in seen:
            raise _unauthenticated()
        if len(seen) >= self._most:
            raise Refused("too-many-requests", f"client {name} used {self._most} tokens within a minute")
        # Kept for the longest life from now on, so that the order of insertion is the order of expiry.
        seen[jti] = max(expires, now + (LIFE + SKEW) * SECOND)

    def _refuse_guesser(self, address: str, now: int) -> None:
        times = self._failures.get(address)
        while times and times[0] <= now - 60 * SECOND:
            times.popleft()
        if times and len(times) >= MAX_FAILURES:
            raise Refused("too-many-failures", "too many failed attempts from this address", hint="Wait a minute.")

    def _note_failure(self, address: str, now: int) -> None:
        self._failures.setdefault(address, deque(maxlen=MAX_FAILURES)).append(now)
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)


def client_token(key: KeyPair, client: str, audience: str, now: int) -> str:
    """Make the token that a client sends to one service, once. `now` in microseconds."""
    issued = now // SECOND
    claims = {"iss": client, "sub": client, "aud": audience, "iat": issued, "exp": issued + LIFE}
    signed = _b64url(b'{"alg":"EdDSA","typ":"JWT"}')
    signed += "." + _b64url(msgspec.json.encode({**claims, "jti": secrets.token_urlsafe(16)}))
    return signed + "." + _b64url(key.ed25519(signed.encode()))


async def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """Give a route its caller; what the routes allow is theirs to say (`caller.require`)."""
    clients: Clients = request.app.state.clients
    address = request.client.host if request.client else ""
    caller = await clients.admit(request.headers.get("authorization", ""), address)
    if request.method not in READS:
        clients.count_write(caller)
    return caller


def _issuer(token: str) -> str:
    """Read who a token claims to come from, which is believed by nobody yet: it says whose key to try."""
    payload = token.split(".")[1:2]
    return msgspec.json.decode(base64.urlsafe_b64decode("".join(payload) + "=="), type=_Claimed).iss


def _public(name: str, client: Client) -> Ed25519PublicKey:
    raw = unb64(client.ed25519, field=name)
    if len(raw) != ED25519_BYTES:
        raise Refused("bad-clients", f"the key of client {name} has the wrong length")
    return Ed25519PublicKey.from_public_bytes(raw)


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unauthenticated() -> Refused:
    hint = "Send a fresh token of your own: EdDSA, aud = this service's issuer URL, at most 60 s, each jti once."
    return Refused("unauthenticated", "the caller did not prove who it is", hint=hint)
