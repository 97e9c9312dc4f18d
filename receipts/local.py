"""Tools that the runtime runs itself: decision and receipt before, the runtime's word for the rest (specs/http.md §5).

    POST /authorize               {"server", "tool", "arguments"?, "parent"?} -> {"call", "allowed": true, "arguments"}
    POST /authorize/{call}/result {"status": "ok" | "error", "content"?}      -> {"call", "content"}

What is run is what the answer says, not what was asked: data may have been replaced in it.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from receipts.body import encode, read_json, sliced
from receipts.call import Asked, Exchange, Known
from receipts.completion import BAD_REQUEST, STATUS
from receipts.delivery import Begun, finish, key_header
from receipts.labelling import label_of, require_allowed
from receipts.mcp_calls import schema_of
from receipts.pipeline import Pipeline
from receipts.request import Answer, Request, refusal_headers
from receipts.sessions import Session, Sessions
from receipts.tokens import BadToken, challenge
from receipts.upstream import PolicyCut, UpstreamFailed
from service.signs import signs, strings
from verifier.admission import find_target
from verifier.encoding import Name, SafeText
from verifier.leaf import Parent, Target
from verifier.refused import Refused

MAX_OPEN = 256  # calls of one job that wait for their results
PROBLEM = "application/problem+json"


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    server: Name
    tool: SafeText
    arguments: dict[str, Any] = {}
    parent: Parent | None = None


class _Result(Struct, frozen=True, forbid_unknown_fields=True):
    status: Literal["ok", "error"]
    content: Any = None


class Local:
    """The calls that runtimes run themselves, from their decision to their result."""

    def __init__(self, pipeline: Pipeline, sessions: Sessions, max_body: int) -> None:
        """Start with none."""
        self._pipeline = pipeline
        self._sessions = sessions
        self._max_body = max_body
        self._open: dict[str, dict[str, Begun]] = {}  # by job

    async def authorize(self, request: Request) -> None:
        """Decide a call, and record its `begin`; its end is the result's, or its lane's."""
        begun = await self._pipeline.begin(request, _Authorize(self._sessions, self._require_room))
        if begun is None:
            return
        self._open.setdefault(begun.lane.job, {})[begun.exchange.call] = begun
        said = {"call": begun.exchange.call, "allowed": True, "arguments": begun.asked.arguments}
        keys = {"tally-receipt": begun.exchange.call, "tally-call-keys": key_header(begun.exchange.keys)}
        await request.answer(Answer(200, encode(said), keys))

    async def result(self, request: Request, call: str) -> None:
        """Take in what became of a call, and answer with what the runtime may go on with."""
        try:
            session = await self._pipeline.admit(request)
            raw = await request.body(self._max_body)
            result = _read(raw, _Result)
            begun = self._take(call, session.scope.job)
        except Refused as refused:
            await request.answer(refusal(refused))
            return
        try:
            await finish(request, _Reported(session, raw, result), begun)
        finally:
            begun.lane.calls.pop(call, None)

    def _take(self, call: str, job: str) -> Begun:
        """Take an open call of a job, once. Raises `Refused` unknown-call."""
        begun = self._open.get(job, {}).pop(call, None)
        if begun is None:
            raise Refused("unknown-call", "no call of this name waits for its result here", field="call")
        return begun

    def _require_room(self, job: str) -> None:
        """Raise `Refused` too-many-open where a job has begun much and reported nothing."""
        for each in [each for each, calls in self._open.items() if all(begun.lane.closing for begun in calls.values())]:
            del self._open[each]  # nothing of them waits any more
        if len(self._open.get(job, {})) >= MAX_OPEN:
            why = f"{MAX_OPEN} calls of this job wait for their results"
            raise Refused("too-many-open", why, hint="Report what became of them: POST /authorize/{call}/result.")


class _Shape:
    """How this path refuses."""

    def failed(self, failure: UpstreamFailed) -> Answer:
        return refusal(Refused(failure.code, failure.why))

    def refusal(self, refused: Refused, receipt: str | None) -> Answer:
        return refusal(refused, receipt)


class _Authorize(_Shape):
    """A call to be decided (`receipts.call.Path`); nothing is sent anywhere."""

    def __init__(self, sessions: Sessions, require_room: Callable[[str], None]) -> None:
        self._sessions = sessions
        self._require_room = require_room

    async def read(self, raw: bytes, session: Session, known: Known) -> Asked | Answer:
        asked = _read(raw, _Asked)
        self._require_room(session.scope.job)
        known.target, known.parent = Target(server=asked.server, tool=asked.tool), asked.parent
        server = await self._sessions.server(session, asked.server)
        known.manifest = server.digest
        found = find_target(server.manifest, "local", asked.tool)
        if found is None:
            why = "the approved manifest names no such tool that the runtime runs itself"
            raise Refused("unknown-tool", why, field="tool", hint="Tools of an MCP server are called at /mcp/{server}.")
        if session.terms.regulated:
            why = "the policy is regulated: what only the runtime sees is no evidence"
            raise Refused("observed-by-runtime", why, field="tool")
        labelled = await label_of(asked.arguments, session.handling, len(raw))
        decided = msgspec.structs.replace(found, labels=tuple(sorted({*found.labels, *labelled.labels})))
        known.labels = list(decided.labels)
        server.arguments(f"tool:{asked.tool}", schema_of(server, "tool", asked.tool)).check(labelled.value)
        body = {"server": asked.server, "tool": asked.tool, "arguments": labelled.value}
        return Asked(
            target=known.target,
            decided=decided,
            arguments=labelled.value,
            slices=sliced(body, "arguments"),
            redactions=labelled.redactions,
            url="",
            headers={},
        )

    async def forward(self, asked: Asked, exchange: Exchange) -> None:
        raise NotImplementedError("the runtime runs it")


class _Reported(_Shape):
    """What a runtime says of a call that it ran (`receipts.call.Path`)."""

    def __init__(self, session: Session, raw: bytes, result: _Result) -> None:
        self._session = session
        self._raw = raw
        self._result = result

    async def read(self, raw: bytes, session: Session, known: Known) -> Asked | Answer:
        raise NotImplementedError("it was read when it was authorized")

    async def forward(self, asked: Asked, exchange: Exchange) -> None:
        """Look through the result as through a server's answer."""
        terms, handled = self._session.terms, self._session.handling
        exchange.screens = ["data", *(["injection"] if terms.injection != "off" else []), "size"]
        exchange.received(self._raw)
        if len(self._raw) > terms.max_bytes:
            raise PolicyCut("response-too-large", f"the result is larger than {terms.max_bytes} bytes", 413)
        labelled = await label_of(self._result.content, handled, len(self._raw))
        exchange.labels = sorted({*asked.decided.labels, *labelled.labels})
        exchange.redactions += labelled.redactions
        require_allowed(labelled.labels, handled)
        if terms.injection != "off":
            exchange.flags = signs(strings(labelled.value))
        if exchange.flags and terms.injection == "block":
            raise PolicyCut("injection", "the result means to steer a model, which the policy blocks", 403)
        exchange.tool_error = True if self._result.status == "error" else None
        exchange.answer = Answer(200, encode({"call": exchange.call, "content": labelled.value}))


def refusal(refused: Refused, receipt: str | None = None) -> Answer:
    """Refuse as a problem (RFC 9457)."""
    status = (
        401 if isinstance(refused, BadToken) else 400 if refused.code in BAD_REQUEST else STATUS.get(refused.code, 403)
    )
    problem = {
        "status": status,
        "code": refused.code,
        "detail": refused.why,
        "hint": refused.hint,
        "field": refused.field,
    }
    body = {name: value for name, value in {**problem, "receipt": receipt}.items() if value}
    headers = refusal_headers(refused.code, receipt)
    headers |= challenge(refused) if status == 401 else {}  # noqa: PLR2004 - RFC 6750 §3
    return Answer(status, encode(body), headers, PROBLEM)


def _read(raw: bytes, kind: type[Any]) -> Any:
    """Read a body with exact decimals. Raises `Refused`."""
    value = read_json(raw)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Refused("bad-value", str(error)[:200]) from error
