"""What a call of a server asks for: a tool, a resource or a prompt, by the approved manifest (specs/http.md §4)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from receipts.body import encode, sliced
from receipts.labelling import Handling, label_of
from receipts.mcp_answers import REVISION
from receipts.mcp_headers import encoded, param_headers, require_header, require_params
from receipts.request import JSON, Request
from receipts.sessions import Server
from service.app import VERSION
from verifier.admission import find_target
from verifier.decision import ToolTarget
from verifier.encoding import safe_text
from verifier.leaf import Target
from verifier.refused import Refused

META = "io.modelcontextprotocol/"
EVENTS = "text/event-stream"
# Each method that is sent on: what it asks for, and the member of `params` that names it.
METHODS = {"tools/call": ("tool", "name"), "resources/read": ("resource", "uri"), "prompts/get": ("prompt", "name")}
NO_ARGUMENTS = '{"type":"object","properties":{}}'


class ServerCall(Struct, frozen=True, kw_only=True):
    """A call as it was read: `more` is what goes into `params` beside name and arguments."""

    method: str
    name: str
    target: ToolTarget
    arguments: dict[str, Any]
    redactions: int
    schema: Mapping[str, Any]
    more: Mapping[str, Any] = {}

    def slices(self, capabilities: Mapping[str, Any]) -> list[bytes]:
        """Write our own request, cut at the arguments: nothing of the caller's `_meta` goes on."""
        meta = {
            META + "protocolVersion": REVISION,
            META + "clientInfo": {"name": "tallystick", "version": VERSION},
            META + "clientCapabilities": capabilities,
        }
        member = METHODS[self.method][1]
        params = {"_meta": meta, member: self.name, **self.more}
        body = {"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params}
        if self.target.kind == "resource":
            return [encode(body)]
        params["arguments"] = self.arguments
        return sliced(body, "params", "arguments")

    def headers(self, key: str | None) -> dict[str, str]:
        """Write the upstream's headers: its own credential, never the caller's."""
        return {
            **param_headers(self.schema, self.arguments),
            "Accept": f"{JSON}, {EVENTS}",
            "MCP-Protocol-Version": REVISION,
            "Mcp-Method": self.method,
            "Mcp-Name": encoded(self.name),
            **({"Authorization": f"Bearer {key}"} if key is not None else {}),
        }


def aimed(method: str, params: Mapping[str, Any], server: str) -> tuple[str, Target]:
    """Find what a call names. Raises `Refused` bad-params."""
    kind, member = METHODS[method]
    name = params.get(member)
    if not isinstance(name, str) or not isinstance(params.get("arguments", {}), dict):
        raise Refused("bad-params", f"params hold a {member} and perhaps an object of arguments")
    if kind != "tool" and safe_text(name) != name:
        raise Refused("bad-params", f"a {kind} is named by letters, digits and _ . : / -", field=member)
    return name, Target(server=server, **{kind: safe_text(name)})


async def read(
    request: Request, method: str, params: Mapping[str, Any], server: Server, *, handled: Handling, size: int
) -> ServerCall:
    """Read a call of so many bytes against the manifest: headers, arguments, labels. Raises `Refused`."""
    kind, _ = METHODS[method]
    name, _ = aimed(method, params, server.manifest.server)
    require_header(request, "mcp-name", name)
    target = find_target(server.manifest, kind, name)
    if target is None or target.kind == "local":
        raise Refused("unknown-tool", f"the approved manifest names no such {kind} of a server", field="name")
    text = schema_of(server, kind, name)
    schema, given = msgspec.json.decode(text), params.get("arguments", {})
    require_params(request, schema, given)
    labelled = await label_of(given, handled, size)
    server.arguments(f"{kind}:{name}", text).check(labelled.value)
    return ServerCall(
        method=method,
        name=name,
        target=msgspec.structs.replace(target, labels=tuple(sorted({*target.labels, *labelled.labels}))),
        arguments=labelled.value,
        redactions=labelled.redactions,
        schema=schema,
    )


def schema_of(server: Server, kind: str, name: str) -> str:
    """Give the schema of arguments that was reviewed; a resource takes none."""
    tool, prompt = server.manifest.tool(name), server.manifest.prompt(name)
    if kind == "tool" and tool is not None:
        return tool.input_schema
    return prompt.input_schema if kind == "prompt" and prompt is not None else NO_ARGUMENTS
