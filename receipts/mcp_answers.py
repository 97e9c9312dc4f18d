"""What the gateway itself says on the MCP path: discovery, lists, refusals (MCP 2026-07-28; RFC 9728 for the token)."""

from typing import Any

import msgspec

from receipts.request import Answer, refusal_headers
from receipts.sessions import Server
from receipts.tokens import BadToken, challenge
from service.app import VERSION
from service.dpop import ALGORITHMS
from verifier.admission import grants, prompt_target, resource_target, tool_target
from verifier.grant import Scope
from verifier.manifest import Manifest, Prompt, Resource, Tool
from verifier.refused import Refused

REVISION = "2026-07-28"
# Our own error codes lie outside the range that JSON-RPC and MCP keep for themselves.
DENIED, BAD_TOKEN, UNAVAILABLE = -31001, -31002, -31003
# What lies at fault with the request's form: HTTP status and code that the revision prescribes.
FORM = {
    **dict.fromkeys(("not-json", "not-utf8", "duplicate-key", "bad-number", "too-deep"), (400, -32700)),
    **dict.fromkeys(("bad-request", "bad-encoding"), (400, -32600)), "too-large": (413, -32600),
    **dict.fromkeys(("bad-params", "bad-parent", "unknown-state"), (400, -32602)),
    **dict.fromkeys(("header-mismatch", "duplicate-header"), (400, -32020)), "unsupported-version": (400, -32022),
    "internal-error": (500, -32603),
}  # fmt: skip
METHOD_NOT_FOUND = (404, -32601)
NOT_OURS = frozenset({
    "stale-revocations", "ledger-unavailable", "scope-unavailable", "controls-unavailable", "disk-full",
    "clock-stepped", "database-restored",
})  # fmt: skip

# Each method that lists, and the member of its result.
LISTS = {
    "tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}  # fmt: skip
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
    return Answer(status, body, refusal_headers(code, receipt))


def refusal(ident: Ident, refused: Refused, metadata: str, receipt: str | None) -> Answer:
    """Refuse; 401 for the token alone, with where its documents are found."""
    hint = {"hint": refused.hint} if refused.hint else {}
    if isinstance(refused, BadToken):
        answer = rpc_error(ident, refused.code, refused.why, receipt=receipt, said=(401, BAD_TOKEN), **hint)
        return Answer(401, answer.body, {**answer.headers, **challenge(refused, metadata)})
    if refused.code == "unsupported-version":
        hint |= {"supported": [REVISION], "requested": refused.field}  # type: ignore[dict-item] # as the revision has it
    return rpc_error(ident, refused.code, refused.why, receipt=receipt, said=_said(refused), **hint)


def discover(ident: Ident, manifest: Manifest) -> Answer:
    """Answer `server/discover` with what the manifest has."""
    has = {"tools": True, "resources": bool(manifest.resources), "prompts": bool(manifest.prompts)}
    capabilities: dict[str, Any] = {name: {} for name, there in has.items() if there}
    return _complete(ident, {"supportedVersions": [REVISION], "capabilities": capabilities}, manifest.server)


def listed(ident: Ident, method: str, server: Server, scope: Scope) -> Answer:
    """Answer a list with what manifest and grant both name, as the manifest describes it."""
    manifest = server.manifest
    found: dict[str, list[dict[str, Any]]] = {
        "tools/list": [_tool(each) for each in manifest.tools if grants(scope, tool_target(manifest, each))],
        "prompts/list": [_prompt(each) for each in manifest.prompts if grants(scope, prompt_target(manifest, each))],
        "resources/list": [_resource(each) for each in _granted(manifest, scope) if "*" not in each.uri],
        "resources/templates/list": [],
    }
    return _complete(ident, {LISTS[method]: found[method]}, manifest.server)


def _granted(manifest: Manifest, scope: Scope) -> list[Resource]:
    """Give the resources of a manifest that a grant names one by one, or all of."""
    return [each for each in manifest.resources if grants(scope, resource_target(manifest, each, each.uri))]


def protected_resource(url: str, scope_url: str, server: str) -> Answer:
    """Answer RFC 9728's document of one server: the resource is its address here, scope its authorization server.

    The resource is exactly what the client called (§3.3), or a client must not believe the document.
    """
    document = {
        "resource": url,
        "authorization_servers": [scope_url],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": [*ALGORITHMS],
        "resource_name": f"{server} through Tallystick",
    }
    return Answer(200, _encode(document))


def _complete(ident: Ident, result: dict[str, Any], name: str) -> Answer:
    """Complete a result of our own: shaped by one token's grant, so nobody may keep it."""
    common = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    info = {"io.modelcontextprotocol/serverInfo": {"name": name, "version": VERSION}}
    return Answer(200, rpc_result(ident, {**result, **common, "_meta": info}))


def _tool(tool: Tool) -> dict[str, Any]:
    given = {"outputSchema": tool.output_schema, "annotations": tool.annotations}
    return {
        "name": tool.name,
        **({"title": tool.title} if tool.title is not None else {}),
        "description": tool.description,
        "inputSchema": msgspec.Raw(tool.input_schema.encode()),
        **{key: msgspec.Raw(text.encode()) for key, text in given.items() if text is not None},
    }


def _resource(resource: Resource) -> dict[str, Any]:
    return {"uri": resource.uri, "name": resource.title or resource.uri, "description": resource.description}


def _prompt(prompt: Prompt) -> dict[str, Any]:
    schema = msgspec.json.decode(prompt.input_schema)
    needed = set(schema.get("required", ()))
    arguments = [{"name": name, "required": name in needed} for name in schema.get("properties", {})]
    return {"name": prompt.name, "description": prompt.description, "arguments": arguments}


def _said(refused: Refused) -> tuple[int, int]:
    if refused.field == "method":
        return METHOD_NOT_FOUND
    return FORM.get(refused.code, (200, UNAVAILABLE if refused.code in NOT_OURS else DENIED))


_encode = msgspec.json.Encoder(decimal_format="number").encode
