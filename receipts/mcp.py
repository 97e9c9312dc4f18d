"""The MCP path: Streamable HTTP of revision 2026-07-28, stateless, JSON answers (specs/http.md §4).

Discovery and lists are answered from the approved manifest and the grant; calls of tools, resources and prompts are
sent on as requests of our own. Whatever else there is in MCP is not let through.
"""

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from msgspec.structs import replace

from receipts import inputs, mcp_answers, mcp_calls, screens
from receipts.body import encode, read_json
from receipts.call import Asked, Exchange, Known
from receipts.inputs import Inputs
from receipts.labelling import label_of, require_allowed
from receipts.mcp_answers import REVISION, rpc_error, rpc_result
from receipts.mcp_calls import EVENTS, META, METHODS, ServerCall
from receipts.mcp_headers import require_header
from receipts.request import JSON, Answer, Request
from receipts.sessions import Server, Session, Sessions
from receipts.stream import events
from receipts.upstream import PolicyCut, Upstream, UpstreamFailed, whole
from service.signs import signs, strings
from verifier.admission import find_target
from verifier.decision import may_ask
from verifier.encoding import safe_text
from verifier.leaf import Parent, Target
from verifier.refused import Refused

PARENT = "tallystick/parent"
MAX_ID = 128


class McpCall:
    """One request to one server (`receipts.call.Path`)."""

    def __init__(  # what one call meets
        self,
        name: str,
        request: Request,
        sessions: Sessions,
        upstream: Upstream,
        *,
        keys: Mapping[str, str],
        metadata: str,
        waiting: Inputs,
        clock: Callable[[], int],
    ) -> None:
        """Take the request before its body.

        `keys` are the upstreams' own credentials by server; `metadata` is where RFC 9728's document lies; `waiting`
        are the states that servers gave to be brought back.
        """
        self._name = name
        self._request = request
        self._sessions = sessions
        self._keys = keys
        self._upstream = upstream
        self._metadata = metadata
        self.id: int | str | None = None
        self._inputs = waiting
        self._clock = clock
        self._session: Session | None = None
        self._called: ServerCall | None = None

    async def read(self, raw: bytes, session: Session, known: Known) -> Asked | Answer:
        """Read the request; discovery and listing are answered at once."""
        self._require_media_types()
        method, params = self._open(read_json(raw))
        if method is None:
            return Answer(202, b"")
        known.target = Target(server=safe_text(self._name), tool=None)
        server = await self._sessions.server(session, self._name)
        known.manifest = server.digest
        if method == "server/discover":
            return mcp_answers.discover(self.id, server.manifest)
        if method in mcp_answers.LISTS:
            return mcp_answers.listed(self.id, method, server, session.scope)
        if method not in METHODS:
            raise Refused("not-allowed", "no rule allows this method", field="method")
        return await self._call(method, params, server, session, known)

    async def _call(self, method: str, params: dict[str, Any], server: Server, session: Session, known: Known) -> Asked:
        name, target = mcp_calls.aimed(method, params, self._name)
        known.target = target
        known.parent = self._parent(params["_meta"])
        if (reviewed := find_target(server.manifest, METHODS[method][0], name)) is not None:
            known.labels = list(reviewed.labels)
        size = len(known.raw or b"")
        call = await mcp_calls.read(self._request, method, params, server, handled=session.handling, size=size)
        known.labels = list(call.target.labels)
        call = replace(call, more=self._inputs.resume(session.scope.job, call, params, self._clock()))
        url = server.manifest.url or ""
        self._upstream.require_reachable(url)
        self._session, self._called = session, call
        usable = [each for policy in session.chain for rule in policy.allowed_tools for each in rule.server_requests]
        declared = params["_meta"][META + "clientCapabilities"]
        return Asked(
            target=target,
            decided=call.target,
            arguments=call.arguments,
            redactions=call.redactions,
            slices=call.slices(inputs.capabilities(declared, usable)),
            url=url,
            headers=call.headers(self._keys.get(self._name)),
        )

    async def forward(self, asked: Asked, exchange: Exchange) -> None:
        """Call the tool, and keep its answer until the receipt is durable."""
        assert self._session is not None
        terms = self._session.terms
        exchange.screens = screens.run(terms)
        exchange.labels = list(asked.decided.labels)
        async with self._upstream.post(asked.url, asked.headers, b"".join(asked.slices)) as answer:
            if answer.status in {401, 403} or 300 <= answer.status < 400:  # noqa: PLR2004 - redirects
                # What the server says about our own credential is not the caller's to read.
                raise UpstreamFailed("upstream-status", f"the server answered {answer.status}")
            if not screens.content_type_allowed(answer.content_type, terms.content_types):
                raise UpstreamFailed("content-type", "the server's answer is of a type that the policy does not allow")
            message = await self._message(answer, terms.max_bytes, exchange)
        labelled = await label_of(message, self._session.handling, exchange.size)
        exchange.labels = sorted({*exchange.labels, *labelled.labels})
        exchange.redactions += labelled.redactions
        require_allowed(labelled.labels, self._session.handling)
        body = self._answer(labelled.value, exchange)
        if terms.injection != "off":
            exchange.flags = signs(strings(labelled.value))
        if exchange.flags and terms.injection == "block":
            raise PolicyCut("injection", "the server's answer means to steer a model, which the policy blocks")
        exchange.answer = Answer(200, body)

    def _ask_client(self, result: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
        """Let a server ask its client for what every rule that allowed the call names. Raises `PolicyCut`."""
        assert self._session is not None
        assert self._called is not None
        methods, state = inputs.asked(result)
        for method in methods:
            if not may_ask(self._session.chain, exchange.rules, self._name, method):
                raise PolicyCut("not-allowed", f"the server asks its client for {method}, which no rule allows")
        exchange.server_requests = methods
        name = self._inputs.keep(self._session.scope.job, self._called, state, self._clock())
        return {**result, "requestState": name}

    def failed(self, failure: UpstreamFailed) -> Answer:
        """Say as a JSON-RPC error that no answer came."""
        return rpc_error(self.id, failure.code, failure.why)

    def refusal(self, refused: Refused, receipt: str | None) -> Answer:
        """Refuse as a JSON-RPC error."""
        return mcp_answers.refusal(self.id, refused, self._metadata, receipt)

    def _require_media_types(self) -> None:
        accept = self._request.header("accept") or ""
        if JSON not in accept and "*/*" not in accept:
            raise Refused("bad-request", "the answer is application/json, which Accept does not name", field="accept")
        if (self._request.header("content-type") or "").partition(";")[0].strip().lower() != JSON:
            raise Refused("bad-request", "the body is application/json", field="content-type")

    def _open(self, message: Any) -> tuple[str | None, dict[str, Any]]:
        """Check a message's form, and its headers against it; no method for a notification, which changes nothing."""
        if (
            not isinstance(message, dict)
            or message.get("jsonrpc") != "2.0"
            or not isinstance(message.get("method"), str)
        ):
            raise Refused("bad-request", "the body is not one JSON-RPC 2.0 request")
        method: str = message["method"]
        if "id" not in message:
            return None, {}
        self.id = _id(message["id"])
        params = message.get("params", {})
        meta = params.get("_meta") if isinstance(params, dict) else None
        if not isinstance(meta, dict) or not isinstance(meta.get(META + "clientCapabilities"), dict):
            raise Refused("bad-params", f"params._meta holds {META}protocolVersion and {META}clientCapabilities")
        version = meta.get(META + "protocolVersion")
        if not isinstance(version, str):
            raise Refused("bad-params", f"params._meta holds {META}protocolVersion")
        require_header(self._request, "mcp-protocol-version", version)
        require_header(self._request, "mcp-method", method)
        if version != REVISION:
            raise Refused("unsupported-version", f"this gateway speaks revision {REVISION}", field=version[:32])
        return method, params

    def _parent(self, meta: dict[str, Any]) -> Parent | None:
        """Read which model's tool call this answers: `_meta["tallystick/parent"]` or the header `Tally-Parent`."""
        named = meta.get(PARENT)
        if named is None and (header := self._request.header("tally-parent")) is not None:
            call, _, ident = header.partition("/")
            named = {"call": call, "id": ident}
        if named is None:
            return None
        if (
            not isinstance(named, dict)
            or named.keys() != {"call", "id"}
            or not all(isinstance(each, str) for each in named.values())
        ):
            raise Refused(
                "bad-parent", "a parent is {call, id}: the model's call and the tool call in its answer", field=PARENT
            )
        if safe_text(named["call"]) != named["call"] or len(named["call"]) > 64:  # noqa: PLR2004 - an id's length
            raise Refused("bad-parent", "a parent's call is the id of a receipt", field=PARENT)
        return Parent(call=named["call"], id=safe_text(named["id"]))

    async def _message(self, answer: aiohttp.ClientResponse, limit: int, exchange: Exchange) -> dict[str, Any]:
        """Read the one response of an answer, be it JSON or a stream of events."""
        if answer.content_type == EVENTS:
            async for raw, content in events(answer, limit):
                exchange.received(raw)
                message = _parsed(content) if content is not None else {}
                if "method" not in message and message.get("id") == 1:
                    return message
            raise UpstreamFailed("broken-stream", "the server's stream ended without an answer")
        raw = await whole(answer, limit)
        exchange.received(raw)
        if answer.content_type != JSON:
            raise UpstreamFailed("upstream-status", f"the server answered {answer.status} without JSON")
        message = _parsed(raw)
        if message.get("id") != 1 and "error" not in message:
            raise UpstreamFailed("upstream-answer", "the server answered another request")
        return message

    def _answer(self, message: dict[str, Any], exchange: Exchange) -> bytes:
        """Write the answer again for our caller: its id, the server's result or error."""
        result, error = message.get("result"), message.get("error")
        if isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str):
            exchange.fail("upstream_error", "upstream-status")
            return encode({"jsonrpc": "2.0", "id": self.id, "error": error})
        if not isinstance(result, dict):
            raise UpstreamFailed("upstream-answer", "the server's answer holds neither result nor error")
        kind = result.setdefault("resultType", "complete")
        if kind == "input_required":
            result = self._ask_client(result, exchange)
        elif kind != "complete":
            raise UpstreamFailed("upstream-answer", "the server's answer is of a kind that the gateway does not know")
        if result.get("isError") is True:
            exchange.tool_error = True
        return rpc_result(self.id, result)


def _id(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or len(str(value)) > MAX_ID:
        raise Refused("bad-request", "a request's id is a number or a text")
    return value


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        message = read_json(raw)
    except Refused as refused:
        raise UpstreamFailed("upstream-answer", f"the server's answer cannot be read: {refused.code}") from refused
    if not isinstance(message, dict):
        raise UpstreamFailed("upstream-answer", "the server's answer is not a JSON object")
    return message
