"""What callers and `scope` say to each other, and the client of orchestrators, gateways and responders.

Documents travel as the bytes that were signed and come back as such. The client checks digests; whether a signature is
good is the caller's to ask `verifier.documents`, whose trust is the caller's own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import aiohttp
import jwt
import msgspec
from msgspec import Meta, Raw, Struct

from verifier.encoding import Count, Digest, Glob, Id, Name, SafeText, Time, Url, digest
from verifier.envelope import Envelope
from verifier.grant import Budget, Token
from verifier.refused import Refused
from verifier.revocation import TargetKind, TargetValue

T = TypeVar("T")
Credential = Callable[[], str]
Proving = Callable[[str, str, str], str]  # method, URL, nonce -> the DPoP header (RFC 9449)

MAX_ANSWER = 1 << 24
MAX_FEED_LINE = 1 << 19  # a hundred revocations are half of it
MAX_REFUSAL = 1 << 16
MAX_HEADS = 500  # closing heads with their proofs stay below the largest body that a service reads
TIMEOUT = aiohttp.ClientTimeout(total=10)
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name of RFC 8693
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name of RFC 8693

ToolPart = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}\Z")]
ResourcePart = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/*-]{1,128}\Z")]
State = Literal["open", "closing", "sealed"]
Reason = Literal["complete", "expired", "revoked"]
Kid = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Origin = Annotated[str, Meta(max_length=255)]
Note = Annotated[str, Meta(max_length=1 << 14)]
# Ten years: what a grant may not outlive is its policy.
ExpiresIn = Annotated[int, Meta(ge=1, le=10 * 366 * 86_400)]


class _Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer: a newer service may add fields."""


class _Request(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request: what a service does not know it must not ignore."""


class Tools(_Request, frozen=True, kw_only=True, tag="tally_mcp", tag_field="type"):
    """Tools of one MCP server, by their exact names (RFC 9396)."""

    server: Name
    tools: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"mcp:{self.server}/{each}" for each in self.tools]


class LocalTools(_Request, frozen=True, kw_only=True, tag="tally_local", tag_field="type"):
    """Tools that the runtime runs itself, by their exact names."""

    server: Name
    tools: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"local:{self.server}/{each}" for each in self.tools]


class Resources(_Request, frozen=True, kw_only=True, tag="tally_resource", tag_field="type"):
    """Resources of one MCP server, by globs over their URIs."""

    server: Name
    resources: Annotated[list[ResourcePart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"resource:{self.server}/{each}" for each in self.resources]


class Prompts(_Request, frozen=True, kw_only=True, tag="tally_prompt", tag_field="type"):
    """Prompts of one MCP server, by their exact names."""

    server: Name
    prompts: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"prompt:{self.server}/{each}" for each in self.prompts]


class Models(_Request, frozen=True, kw_only=True, tag="tally_model", tag_field="type"):
    """Models as `provider/pattern` (RFC 9396)."""

    models: Annotated[list[Glob], Meta(min_length=1, max_length=256)]


Detail = Tools | LocalTools | Resources | Prompts | Models


class JobRequest(_Request, frozen=True, kw_only=True):
    """Who wants to do what, under which policy. No `authorization_details`: all that the policy allows.

    `expires_in` in seconds; without it the job ends after an hour, or with its policy. `user_token` is an identity
    provider's token about the user that the job works for. `parent_token`, a living token of another job of the same
    client, makes it a child of that job: with a part of what that token carries, and of the purse. `binding` dpop asks
    for tokens that are bound to a key, where the policy does not.
    """

    agent: SafeText
    policy: Digest
    job_type: SafeText
    environment: SafeText
    authorization_details: Annotated[list[Detail], Meta(max_length=256)] | None = None
    limits: Budget = Budget()
    expires_in: ExpiresIn | None = None
    user_token: Annotated[str, Meta(max_length=1 << 14)] | None = None
    parent_token: Annotated[str, Meta(max_length=1 << 17)] | None = None
    binding: Literal["none", "dpop"] = "none"


class OpenedJob(_Message, frozen=True, kw_only=True):
    """A job and its signed grant; `unavailable` is what the policy allows and is revoked or in no approved manifest."""

    job: Id
    grant: Raw
    grant_digest: Digest
    policy: Digest
    opened: Time
    expires: Time
    unavailable: list[str]


class JobLane(_Message, frozen=True, kw_only=True):
    """One lane as `scope` knows it."""

    lane: Id
    gateway: Url
    size: Count
    closed: bool


class JobStatus(_Message, frozen=True, kw_only=True):
    """Where a job stands; `status` and `seal` are there once it is sealed. `grants` are in the order of their issue."""

    job: Id
    agent: SafeText
    policy: Digest
    grant: Digest
    grants: list[Digest] = []
    state: State
    opened: Time
    expires: Time
    reason: Reason | None = None
    status: str | None = None
    seal: Digest | None = None
    parent: Id | None = None
    children: list[Id] = []
    lanes: list[JobLane] = []


class JobPage(_Message, frozen=True, kw_only=True):
    """A client's jobs, newest first; `next` asks for the following page as `before`."""

    jobs: list[JobStatus]
    next: int | None = None


class IssuedToken(_Message, frozen=True, kw_only=True):
    """RFC 6749 §5.1. `expires_in` in seconds; never print `access_token`."""

    access_token: str
    token_type: str
    expires_in: int
    issued_token_type: str | None = None


class LaneRequest(_Request, frozen=True, kw_only=True):
    """A lane that a gateway is about to write: `kid` is the key that will sign its heads."""

    lane: Id
    gateway: Url
    kid: Kid
    origin: Origin
    share: Literal["all", "half"] = "all"


class RegisteredLane(_Message, frozen=True, kw_only=True):
    """The lane's share of the budget, when its job opened, and whether no other lane of it was registered yet."""

    share: Budget
    opened: Time
    alone: bool


class Head(_Request, frozen=True, kw_only=True):
    """One lane's newest head: `consistency` (base64 hashes) leads from the size last accepted; none from size 0.

    `jtis` are the tokens first used since; `closed` comes with the closing head, signed by both halves of the key, and
    with it what the lane spent of its share: the rest goes back to the job's purse.
    """

    lane: Id
    note: Note
    consistency: Annotated[list[Annotated[str, Meta(max_length=44)]], Meta(max_length=64)] = []
    jtis: Annotated[list[Id], Meta(max_length=4096)] = []
    closed: bool = False
    spent: Budget | None = None


class HeadsReport(_Request, frozen=True, kw_only=True):
    """Lanes of one gateway that moved; what is more than a report holds goes into the next."""

    heads: Annotated[list[Head], Meta(max_length=MAX_HEADS)]


class Closing(_Message, frozen=True, kw_only=True):
    """A job whose lanes the gateway is to close now."""

    job: Id
    reason: Reason


class RefusedHead(_Message, frozen=True, kw_only=True):
    """A head that was not accepted; `size` is what `scope` knows of the lane (0 when it knows nothing)."""

    lane: Id
    code: str
    why: str
    size: Count


class HeadsAnswer(_Message, frozen=True, kw_only=True):
    """What became of a report: heads that were refused, and the jobs that are closing."""

    closing: list[Closing]
    refused: list[RefusedHead]


class Snapshot(_Message, frozen=True, kw_only=True):
    """A signed heartbeat, and the signed revocations after the sequence asked for: at most a thousand, in order.

    All has been seen when the last one's sequence is the heartbeat's; else ask again after it.
    """

    heartbeat: Raw
    revocations: list[Raw]


class Incident(_Message, frozen=True, kw_only=True):
    """What a gateway reported and cannot be: `code` of it, and the value in question."""

    position: int
    time: Time
    job: Id
    lane: Id
    code: str
    value: str


class IncidentPage(_Message, frozen=True, kw_only=True):
    """Incidents, the oldest first; `next` is the following page's `after`."""

    incidents: list[Incident]
    next: int | None = None


class LateJob(_Message, frozen=True, kw_only=True):
    """A job that has been closing for longer than any job takes, and why it ends."""

    job: Id
    reason: str
    closing_at: Time


class Writing(_Message, frozen=True, kw_only=True):
    """A gateway with open lanes, the client that it is, and when it last reported; None where it has not been heard."""

    gateway: Url
    client: SafeText
    lanes: int
    reported: Time | None = None


class Unsealed(_Message, frozen=True, kw_only=True):
    """What waits for its seal at a `time`: how many jobs are open and closing, which are late, which gateways write.

    What gateways reported is known since `since` alone, and to the process that answers: at most a hundred of each.
    """

    time: Time
    since: Time
    open: int
    closing: int
    late: list[LateJob]
    gateways: list[Writing]


class RevocationRequest(_Request, frozen=True, kw_only=True):
    """What to revoke: a tool is `server/name`, a model `provider/name`, everything kind `all`, value `*`.

    For ever, or with `until` for new jobs and calls from that time on no more; what it ended stays ended.
    """

    kind: TargetKind
    value: TargetValue
    reason: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
    ticket: SafeText | None = None
    note: Annotated[str, Meta(max_length=512)] | None = None
    until: Time | None = None


class Revoked(_Message, frozen=True, kw_only=True):
    """A durable revocation: its place in the sequence, its time, its digest, and how many jobs it ended."""

    sequence: int
    time: Time
    digest: Digest
    jobs: int


class Preview(_Message, frozen=True, kw_only=True):
    """What a revocation would touch now: open jobs and the first of their names, living tokens, open lanes, gateways.

    `ends` tells whether these jobs would end; else calls, or tokens, are what it is about. Which calls are running
    gateways alone know. `again`: the same is revoked already. `complete` is false where more jobs are open than were
    looked at.
    """

    ends: bool
    jobs: int
    names: list[Id]
    tokens: int
    lanes: int
    gateways: list[Url] = []
    again: bool = False
    complete: bool = True


class Documents(_Message, frozen=True, kw_only=True):
    """Signed documents, whole."""

    documents: list[Raw]


def claims_of(token: str) -> Token:
    """Read what a token says, without believing it. Raises `Refused` bad-token."""
    try:
        said: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return msgspec.convert(said, Token)
    except (jwt.PyJWTError, msgspec.ValidationError) as error:
        raise Refused("bad-token", "this is no token that scope issued", hint="Get a new one.") from error


class TokenHeader(Struct, frozen=True):
    """What a token says of its signature; whether it is good, its readers find out."""

    alg: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+/-]{1,64}\Z")]
    typ: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+/-]{1,64}\Z")]
    kid: Kid


def header_of(token: str) -> TokenHeader:
    """Read a token's header, without believing it. Raises `Refused` bad-token."""
    try:
        return msgspec.convert(jwt.get_unverified_header(token), TokenHeader)
    except (jwt.PyJWTError, msgspec.ValidationError) as error:
        raise Refused("bad-token", "this is no token that scope issued", hint="Get a new one.") from error


class ScopeClient:
    """A caller of `scope`. `credential` makes a fresh client token (service/clients.py) for each request.

    Every method raises `Refused` with the service's own code, or scope-unavailable when it does not answer.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Credential) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._credential = credential
        self._nonce = ""

    async def open(self, job: JobRequest) -> OpenedJob:
        """Open a job (role orchestrator)."""
        return _decode(await self._call("POST", "/jobs", job), OpenedJob)

    async def child(self, token: str, job: JobRequest) -> OpenedJob:
        """Open a child job of the one that a living token is of; what the request does not name it inherits."""
        return await self.open(msgspec.structs.replace(job, parent_token=token))

    async def token(self, job: str, ttl: int | None = None, *, proving: Proving | None = None) -> IssuedToken:
        """Get a token for a job of one's own; `ttl` in seconds; `proving` binds it to a key (RFC 9449)."""
        return await self._token({"grant_type": "client_credentials", "job": job}, ttl, proving)

    async def refresh(self, token: str, ttl: int | None = None, *, proving: Proving | None = None) -> IssuedToken:
        """Exchange a living token for a younger one of the same job and scope (RFC 8693)."""
        fields = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        return await self._token(fields, ttl, proving)

    async def narrow(
        self, token: str, *details: Detail, ttl: int | None = None, proving: Proving | None = None
    ) -> IssuedToken:
        """Exchange a living token for one that carries a part of what it does (RFC 8693, RFC 9396)."""
        fields = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        asked = {**fields, "authorization_details": msgspec.json.encode(details).decode()}
        return await self._token(asked, ttl, proving)

    async def revoke_token(self, token: str) -> None:
        """Revoke one token of one's own (RFC 7009)."""
        await self._form("/revoke", {"token": token})

    async def introspect(self, token: str) -> dict[str, Any]:
        """Ask whether a token is live (RFC 7662)."""
        return _decode(await self._form("/introspect", {"token": token}), dict[str, Any])

    async def incidents(self, after: int = 0) -> IncidentPage:
        """List what gateways reported and cannot be, the oldest first, behind a position."""
        return _decode(await self._call("GET", f"/incidents?after={after}"), IncidentPage)

    async def unsealed(self) -> Unsealed:
        """Ask what waits for its seal (role auditor or responder)."""
        return _decode(await self._call("GET", "/unsealed"), Unsealed)

    async def close(self, job: str) -> JobStatus:
        """Close a job of one's own: its gateways end what is open, then it is sealed."""
        return _decode(await self._call("POST", f"/jobs/{quote(job)}/close"), JobStatus)

    async def status(self, job: str) -> JobStatus:
        """Ask where a job stands."""
        return _decode(await self._call("GET", f"/jobs/{quote(job)}"), JobStatus)

    async def jobs(self, before: int | None = None, limit: int = 50) -> JobPage:
        """List one's own jobs, newest first; `before` is the `next` of the page before."""
        behind = "" if before is None else f"&before={before}"
        return _decode(await self._call("GET", f"/jobs?limit={limit}{behind}"), JobPage)

    async def wait_for_seal(self, job: str, *, seconds: float = 15, every: float = 0.1) -> bytes:
        """Wait for a closing job's seal. Raises `Refused` not-sealed when the time is over."""
        for _ in range(max(1, int(seconds / every))):
            try:
                return await self.seal(job)
            except Refused as refused:
                if refused.code != "not-sealed":
                    raise
                await asyncio.sleep(every)
        return await self.seal(job)

    async def seal(self, job: str) -> bytes:
        """Fetch a job's seal. Raises `Refused` not-sealed."""
        return await self._call("GET", f"/jobs/{quote(job)}/seal")

    async def register_lane(self, job: str, lane: LaneRequest) -> RegisteredLane:
        """Register a lane before its first leaf; the same request again answers the same (role gateway)."""
        return _decode(await self._call("POST", f"/jobs/{quote(job)}/lanes", lane), RegisteredLane)

    async def report_heads(self, heads: Sequence[Head]) -> HeadsAnswer:
        """Report the lanes that moved, and learn which jobs are closing; an empty report only learns."""
        return _decode(await self._call("POST", "/heads", HeadsReport(heads=list(heads))), HeadsAnswer)

    async def snapshot(self, after: int) -> tuple[bytes, list[bytes]]:
        """Fetch a heartbeat and the revocations after a sequence, as the envelopes that were signed."""
        answer = _decode(await self._call("GET", f"/revocations/snapshot?after={after}"), Snapshot)
        return bytes(answer.heartbeat), [bytes(each) for each in answer.revocations]

    async def follow(self, after: int, silence: float = 2.5) -> AsyncGenerator[tuple[bytes, list[bytes]], None]:
        """Follow the feed of revocations: snapshots as they come, each from where the last one ended.

        Ends when scope ends it. Raises `Refused` scope-unavailable, also after `silence` seconds without a line.
        """
        url = f"{self._url}/revocations/stream?after={after}"
        headers, patience = {"Authorization": f"Bearer {self._credential()}"}, aiohttp.ClientTimeout(sock_read=silence)
        try:
            async with self._session.get(
                url, headers=headers, allow_redirects=False, timeout=patience, read_bufsize=MAX_FEED_LINE
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004 - redirects are not followed
                    raise _refusal(answer.status, await answer.content.read(MAX_REFUSAL))
                while line := await answer.content.readline():
                    said = _decode(line, Snapshot)
                    yield bytes(said.heartbeat), [bytes(each) for each in said.revocations]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Refused("scope-unavailable", f"scope's feed ends: {type(error).__name__}") from error

    async def grant(self, wanted: str) -> bytes:
        """Fetch a grant by digest. Raises `Refused` wrong-digest when the answer is another."""
        raw = await self._call("GET", f"/grants/{quote(wanted)}", public=True)
        if digest(Envelope.parse(raw, "grant").content()) != wanted:
            raise Refused("wrong-digest", "scope answered with another grant than the one asked for")
        return raw

    async def keys(self) -> bytes:
        """Fetch the signed key list that `scope` works with."""
        return await self._call("GET", "/keys", public=True)

    async def revocations(self, job: str) -> list[bytes]:
        """Fetch the revocations that touch a job: of a sealed one those that its seal names, in the seal's order."""
        answer = _decode(await self._call("GET", f"/jobs/{quote(job)}/revocations"), Documents)
        return [bytes(each) for each in answer.documents]

    async def revoke(self, wanted: RevocationRequest) -> Revoked:
        """Revoke (role responder); the answer comes when it is durable."""
        return _decode(await self._call("POST", "/revocations", wanted), Revoked)

    async def preview(self, wanted: RevocationRequest) -> Preview:
        """Ask what a revocation would touch; nothing is revoked (role responder)."""
        return _decode(await self._call("POST", "/revocations/preview", wanted), Preview)

    async def _token(self, fields: Mapping[str, str], ttl: int | None, proving: Proving | None) -> IssuedToken:
        asked = fields if ttl is None else {**fields, "ttl": str(ttl)}
        try:
            return _decode(await self._form("/token", asked, proving), IssuedToken)
        except Refused as refused:
            if refused.code != "use-dpop-nonce" or proving is None:
                raise
        return _decode(await self._form("/token", asked, proving), IssuedToken)

    async def _form(self, path: str, fields: Mapping[str, str], proving: Proving | None = None) -> bytes:
        """Send a form as OAuth asks, with the client's own JWT as its assertion (RFC 7523)."""
        assertion = {"client_assertion_type": ASSERTION, "client_assertion": self._credential()}
        headers = {} if proving is None else {"DPoP": proving("POST", self._url + path, self._nonce)}
        return await self._send("POST", path, data={**fields, **assertion}, headers=headers)

    async def _call(self, method: str, path: str, body: Struct | None = None, *, public: bool = False) -> bytes:
        headers = {} if public else {"Authorization": f"Bearer {self._credential()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else msgspec.json.encode(body)
        return await self._send(method, path, data=data, headers=headers)

    async def _send(self, method: str, path: str, **given: Any) -> bytes:
        url = self._url + path
        try:
            async with self._session.request(method, url, allow_redirects=False, timeout=TIMEOUT, **given) as answer:
                self._nonce = answer.headers.get("DPoP-Nonce", self._nonce)
                content = await answer.content.read(MAX_ANSWER + 1)
                while len(content) <= MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER + 1 - len(content))):
                    content += more
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused("scope-unavailable", f"scope does not answer: {type(error).__name__}") from error
        if len(content) > MAX_ANSWER:
            raise Refused("scope-unavailable", "scope answers with more than is read")
        if answer.status >= 300:  # noqa: PLR2004 - redirects are not followed
            raise _refusal(answer.status, content)
        return content


class _Problem(Struct):
    code: str
    detail: str = ""
    error_description: str = ""
    hint: str = ""
    field: str = ""


def _refusal(status: int, content: bytes) -> Refused:
    """Read a refusal, be it a problem document (RFC 9457) or OAuth's own (RFC 6749 §5.2)."""
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused("scope-unavailable", f"scope answers {status} without a reason")
    why = problem.detail or problem.error_description
    return Refused(problem.code, why, hint=problem.hint, field=problem.field)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("scope-unavailable", "scope answers with something else") from error
