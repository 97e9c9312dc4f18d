"""What the gateway itself says on the MCP path: discovery, lists, refusals (MCP 2026-07-28; RFC 9728 for the token)."""

from typing import Any

import msgspec

from receipts.request import Answer
from receipts.sessions import Server
from receipts.tokens import BadToken
from service.app import VERSION
from verifier.grant import Scope
from verifier.refused import Refused

REVISION = "2026-07-28"
# Our own error codes lie outside the range that JSON-RPC and MCP keep for themselves.
DENIED, BAD_TOKEN, UNAVAILABLE = -31001, -31002, -31003
# What lies at fault with the request's form: HTTP status and code that the revision prescribes.
FORM = {
    **dict.fromkeys(("not-json", "not-utf8", "duplicate-key", "bad-number", "too-deep"), (400, -32700)),
    **dict.fromkeys(("bad-request", "bad-encoding"), (400, -32600)), "too-large": (413, -32600),
    **dict.fromkeys(("bad-params", "bad-parent"), (400, -32602)),
    **dict.fromkeys(("header-mismatch", "duplicate-header"), (400, -32020)), "unsupported-version": (400, -32022),
    "internal-error": (500, -32603),
}  # fmt: skip
METHOD_NOT_FOUND = (404, -32601)
NOT_OURS = frozenset({"stale-revocations", "ledger-unavailable", "scope-unavailable", "controls-unavailable"})

Ident = int | str | None


def rpc_result(ident: Ident, result: dict[str, Any]) -> bytes:
    """Write a JSON-RPC result."""
    return _encode({"jsonrpc": "2.0", "id": ident, "result": result})


def rpc_error(
    ident: Ident, code: str, why: str, *, receipt: str | None = None, said: tuple[int, int] = (200, DENIED), **more: Any
) -> Answer:
    """Write a JSON-RPC error with our public code in `data`; `said` is HTTP status and JSON-RPC code."""
    data = {"code": code, **({"receipt": receipt} if receipt else {}), **more}
    status, number = said
    body = _encode({"jsonrpc": "2.0", "id": ident, "error": {"code": number, "message": why, "data": data}})
    return Answer(status, body, {"tally-receipt": receipt} if receipt else {})


def refusal(ident: Ident, refused: Refused, metadata: str, receipt: str | None) -> Answer:
    """Refuse; 401 for the token alone, with where its documents are found."""
    hint = {"hint": refused.hint} if refused.hint else {}
    if isinstance(refused, BadToken):
        answer = rpc_error(ident, refused.code, refused.why, receipt=receipt, said=(401, BAD_TOKEN), **hint)
        invalid = "" if refused.code == "no-token" else 'error="invalid_token", '
        challenge = {"www-authenticate": f'Bearer {invalid}resource_metadata="{metadata}"'}
        return Answer(401, answer.body, {**answer.headers, **challenge})
    if refused.code == "unsupported-version":
        hint |= {"supported": [REVISION], "requested": refused.field}  # type: ignore[dict-item] # as the revision has it
    return rpc_error(ident, refused.code, refused.why, receipt=receipt, said=_said(refused), **hint)


def discover(ident: Ident, name: str) -> Answer:
    """Answer `server/discover`: tools, and nothing else."""
    return _complete(ident, {"supportedVersions": [REVISION], "capabilities": {"tools": {}}}, name)


def tools_list(ident: Ident, server: Server, scope: Scope) -> Answer:
    """Answer `tools/list` with what manifest and grant both name, as the manifest describes it."""
    granted = {tool.removeprefix("mcp:") for tool in scope.tools}
    name = server.manifest.server
    tools = [_described(server, tool.name) for tool in server.manifest.tools if f"{name}/{tool.name}" in granted]
    return _complete(ident, {"tools": tools}, name)


def protected_resource(gateway: str, scope_url: str, server: str) -> Answer:
    """Answer RFC 9728's document of one server: the gateway is the resource, scope its authorization server."""
    document = {
        "resource": gateway,
        "authorization_servers": [scope_url],
        "bearer_methods_supported": ["header"],
        "resource_name": f"{server} through Tallystick",
    }
    return Answer(200, _encode(document))


def _complete(ident: Ident, result: dict[str, Any], name: str) -> Answer:
    """Complete a result of our own: shaped by one token's grant, so nobody may keep it."""
    common = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    info = {"io.modelcontextprotocol/serverInfo": {"name": name, "version": VERSION}}
    return Answer(200, rpc_result(ident, {**result, **common, "_meta": info}))


def _described(server: Server, name: str) -> dict[str, Any]:
    tool = server.tool(name)
    given = {"outputSchema": tool.output_schema, "annotations": tool.annotations}
    return {
        "name": tool.name,
        **({"title": tool.title} if tool.title is not None else {}),
        "description": tool.description,
        "inputSchema": msgspec.Raw(tool.input_schema.encode()),
        **{key: msgspec.Raw(text.encode()) for key, text in given.items() if text is not None},
    }


def _said(refused: Refused) -> tuple[int, int]:
    if refused.field == "method":
        return METHOD_NOT_FOUND
    return FORM.get(refused.code, (200, UNAVAILABLE if refused.code in NOT_OURS else DENIED))


_encode = msgspec.json.Encoder(decimal_format="number").encode
