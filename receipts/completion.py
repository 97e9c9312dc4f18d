"""The model path's answers: whole or streamed, read for usage and tool calls on their way through (specs/http.md §3).

A stream's events go out as they come; only the last one waits until the receipt is durable.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import aiohttp
import msgspec
from msgspec import Meta, Struct

from receipts.body import encode, read_json
from receipts.call import Asked, Exchange, Known
from receipts.delivery import key_header
from receipts.labelling import Handling, Held, label_of, require_allowed
from receipts.models import ModelProvider, ModelRequest, ask, read_request
from receipts.request import JSON, Answer, Request, refusal_headers
from receipts.sessions import Session
from receipts.stream import comment, event, events
from receipts.tokens import BadToken, challenge
from receipts.upstream import PolicyCut, Upstream, UpstreamFailed, whole
from verifier.encoding import Count, safe_text
from verifier.leaf import ToolCall, Usage
from verifier.refused import Refused

EVENTS = "text/event-stream"
DONE = b"[DONE]"
MAX_ANSWER = 1 << 24
MAX_ERROR = 1 << 16
OK, UNAUTHORIZED, FORBIDDEN = 200, 401, 403
# Errors of a provider that the caller may know as they are: those about a credential are about ours.
PASSED_ON = frozenset(range(400, 600)) - {UNAUTHORIZED, FORBIDDEN, 407}
# Codes with a status of their own; the official client tries 429 and 5xx again by itself, so a spent budget is neither.
STATUS = {
    "budget-rate": 429, "limit-rate": 429, "too-large": 413, "unknown-model": 404, "not-found": 404,
    "method-not-allowed": 405, "stale-revocations": 503, "ledger-unavailable": 503, "scope-unavailable": 503,
    "controls-unavailable": 503, "client-gone": 499, "internal-error": 500, "unknown-call": 404,
    "too-many-proofs": 503, "disk-full": 503, "clock-stepped": 503, "database-restored": 503,
}  # fmt: skip
INVALID = "invalid_request_error"
KINDS = {400: INVALID, 404: INVALID, 405: INVALID, 413: INVALID, 403: "permission_error", 429: "rate_limit_error"}
BAD_REQUEST = frozenset({
    "not-json", "not-utf8", "duplicate-key", "duplicate-header", "bad-number", "too-deep", "unknown-field",
    "bad-value", "bad-parent", "bad-encoding",
})  # fmt: skip


class _Function(Struct, frozen=True):
    name: str | None = None


class _Call(Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: _Function | None = None
    custom: _Function | None = None


class _Message(Struct, frozen=True):
    tool_calls: list[_Call] | None = None


class _Choice(Struct, frozen=True):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Read(Struct, frozen=True):
    """What the gateway reads of an answer or of a chunk; the rest passes."""

    id: Annotated[str, Meta(max_length=1024)] | None = None
    model: Annotated[str, Meta(max_length=1024)] | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Completion:
    """One call of a model: a chat completion or embeddings (`receipts.call.Path`)."""

    def __init__(
        self, operation: str, request: Request, providers: dict[str, ModelProvider], upstream: Upstream
    ) -> None:
        """Take the request before its body."""
        self._operation = operation
        self._request = request
        self._providers = providers
        self._upstream = upstream
        self._asked = ModelRequest({}, stream=False, wants_usage=False)
        self._handling = Handling(frozenset(), frozenset())
        self._calls: dict[tuple[int, int], ToolCall] = {}

    async def read(self, raw: bytes, session: Session, known: Known) -> Asked:
        """Read the request and find its provider."""
        self._asked = read_request(raw, self._operation)
        self._handling = session.handling
        labelled = await label_of(self._asked.body, session.handling, len(raw))
        return ask(
            self._asked, labelled, self._operation, session, known, providers=self._providers, upstream=self._upstream
        )

    async def forward(self, asked: Asked, exchange: Exchange) -> None:
        """Send the request, and relay or keep the answer."""
        exchange.screens = ["data"]
        async with self._upstream.post(asked.url, asked.headers, b"".join(asked.slices)) as answer:
            if answer.status != OK:
                await self._rejected(answer, exchange)
            wanted = EVENTS if self._asked.stream else JSON
            if answer.content_type != wanted:
                raise UpstreamFailed("upstream-answer", f"the provider did not answer with {wanted}")
            await (self._relay(answer, exchange) if self._asked.stream else self._keep(answer, exchange))

    def failed(self, failure: UpstreamFailed) -> Answer:
        """Say in OpenAI's error shape that no answer came."""
        return Answer(failure.status, error_body(failure.code, failure.why, "upstream_error"))

    def refusal(self, refused: Refused, receipt: str | None) -> Answer:
        """Refuse in OpenAI's error shape."""
        return refusal(refused, receipt)

    async def _rejected(self, answer: aiohttp.ClientResponse, exchange: Exchange) -> None:
        """Give the provider's own refusal a name; what it says of our key stays here."""
        raw = await whole(answer, MAX_ERROR)
        exchange.received(raw)
        status = answer.status if answer.status in PASSED_ON else 502
        raise UpstreamFailed("upstream-status", f"the provider answered {answer.status}", status)

    async def _keep(self, answer: aiohttp.ClientResponse, exchange: Exchange) -> None:
        """Take in a whole answer; it is delivered when its receipt is durable."""
        raw = await whole(answer, MAX_ANSWER)
        exchange.received(raw)
        value = _parsed(raw)
        read = _read(value)
        self._note(read, exchange)
        if read.error is not None:
            raise UpstreamFailed("upstream-answer", "the provider answered with an error")
        labelled = await label_of(value, self._handling, len(raw))
        exchange.labels = labelled.labels
        exchange.redactions += labelled.redactions
        require_allowed(labelled.labels, self._handling)
        exchange.answer = Answer(OK, encode(labelled.value) if labelled.redactions else raw)

    async def _relay(self, answer: aiohttp.ClientResponse, exchange: Exchange) -> None:
        """Hand out events as they come; the last one is the exchange's tail."""
        exchange.stream = "cut"
        held = Held(self._handling)
        headers = {"tally-receipt": exchange.call, "tally-call-keys": key_header(exchange.keys)}
        await self._request.start(OK, EVENTS, headers)
        async for raw, content in events(answer):
            exchange.received(raw)
            if content == DONE:
                for out in held.rest():
                    await self._request.write(exchange.deliver(out))
                exchange.stream = "complete"
                exchange.tail = event(DONE)
                return
            ready = [comment("")] if content is None else self._chunk(content, exchange, held)
            for out in ready:
                await self._request.write(exchange.deliver(out))
        raise UpstreamFailed("broken-stream", "the provider's stream ended too early")

    def _chunk(self, content: bytes, exchange: Exchange, held: Held) -> Iterator[bytes]:
        """Read one chunk and write it again, without usage that nobody asked for; give what may go out."""
        value = _parsed(content)
        read = _read(value)
        self._note(read, exchange)
        if read.error is not None:
            raise UpstreamFailed("upstream-answer", "the provider broke its stream off with an error")
        if not self._asked.wants_usage and "usage" in value:
            del value["usage"]
            if read.usage is not None and not read.choices:
                return
        try:
            yield from held.add(event(encode(value)), {"choices": value.get("choices")})
        finally:
            exchange.labels = sorted(held.labels)

    def _note(self, read: _Read, exchange: Exchange) -> None:
        """Take usage, names and tool calls into the exchange."""
        exchange.upstream_id = exchange.upstream_id or (safe_text(read.id) if read.id else None)
        exchange.model = exchange.model or (safe_text(read.model) if read.model else None)
        if read.usage is not None:
            exchange.usage = Usage(input=read.usage.prompt_tokens, output=read.usage.completion_tokens)
        for choice in read.choices:
            said = choice.delta if self._asked.stream else choice.message  # what a client of this answer looks at
            for each in (said or _Message()).tool_calls or []:
                self._note_call(choice.index, each, exchange)

    def _note_call(self, choice: int, call: _Call, exchange: Exchange) -> None:
        """Note a tool call at its first appearance: the pieces of a stream that follow carry arguments alone."""
        key = (choice, call.index if self._asked.stream else len(self._calls))
        named = call.function or call.custom or _Function()
        if (known := self._calls.get(key)) is not None:
            if named.name or (call.id and safe_text(call.id) != known.id):
                raise UpstreamFailed(
                    "upstream-answer", "a tool call whose id or name goes on: clients put pieces together"
                )
            return
        if not call.id or not named.name:
            raise UpstreamFailed("upstream-answer", "a tool call without id or name")
        self._calls[key] = noted = ToolCall(id=safe_text(call.id), name=safe_text(named.name))
        exchange.tool_calls.append(noted)
        if exchange.too_many_tool_calls():
            raise PolicyCut("too-many-tool-calls", "the model asked for more tool calls than a receipt holds")


def refusal(refused: Refused, receipt: str | None = None) -> Answer:
    """Refuse in OpenAI's error shape, with the status that fits."""
    if isinstance(refused, BadToken):
        body = error_body(refused.code, refused.why, "authentication_error")
        return Answer(UNAUTHORIZED, body, challenge(refused))
    status = 400 if refused.code in BAD_REQUEST else STATUS.get(refused.code, FORBIDDEN)
    body = error_body(refused.code, refused.why, KINDS.get(status, "server_error"), refused.field or None)
    return Answer(status, body, refusal_headers(refused.code, receipt))


def error_body(code: str, message: str, kind: str, param: str | None = None) -> bytes:
    """Write OpenAI's error object."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def model_list(models: list[str]) -> Answer:
    """List the models of a token, as `GET /v1/models` does: exact names and patterns."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]} for name in models]
    return Answer(OK, msgspec.json.encode({"object": "list", "data": data}))


def _parsed(raw: bytes) -> dict[str, Any]:
    """Parse what the provider sent as strictly as what a caller sends. Raises `UpstreamFailed`."""
    try:
        value = read_json(raw)
    except Refused as refused:
        raise UpstreamFailed("upstream-answer", f"the provider's answer cannot be read: {refused.code}") from refused
    if not isinstance(value, dict):
        raise UpstreamFailed("upstream-answer", "the provider's answer is not a JSON object")
    return value


def _read(value: dict[str, Any]) -> _Read:
    try:
        return msgspec.convert(value, _Read)
    except msgspec.ValidationError as error:
        raise UpstreamFailed("upstream-answer", "the provider's answer is not of OpenAI's shape") from error
