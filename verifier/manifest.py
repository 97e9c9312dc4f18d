"""The approved tool manifest of one MCP server (specs/manifest.md).

Schemas and annotations are foreign JSON: carried as the exact text that the server gave, parsed only by their user.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verifier.encoding import Name, SafeText, Text, Time, read, reject_duplicates
from verifier.leaf import MAX_LABELS
from verifier.refused import Refused
from verifier.rules import Label, Tier, ToolClass

Schema = Annotated[str, Meta(min_length=2, max_length=1 << 16)]
MAX_MANIFEST = 1 << 20


class Tool(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One tool as reviewed: what the server says of it, and what the reviewer says."""

    name: SafeText
    title: Annotated[str, Meta(max_length=256)] | None = None
    description: Text
    input_schema: Schema
    output_schema: Schema | None = None
    annotations: Schema | None = None
    tool_class: ToolClass
    sensitivity: SafeText
    data_classes: Annotated[list[Label], Meta(max_length=MAX_LABELS)]
    approval: Tier


class Manifest(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The tools of one server and where it is reached; pinned by digest in every grant."""

    issuer: SafeText
    server: Name
    serial: Annotated[int, Meta(ge=1, le=2**31)]
    issued_at: Time
    url: Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,100}(/[A-Za-z0-9._~/-]{0,128})?\Z")]
    tools: Annotated[list[Tool], Meta(max_length=1000)]

    @classmethod
    def parse(cls, payload: bytes) -> "Manifest":
        """Read a manifest from canonical bytes. Raises `Refused`: the reading codes, bad-manifest."""
        manifest = read(payload, cls, limit=MAX_MANIFEST)
        names = [tool.name for tool in manifest.tools]
        if names != sorted(set(names)):
            raise Refused("bad-manifest", "tools are sorted by name, none twice", field="tools")
        for tool in manifest.tools:
            _check_tool(tool)
        return manifest

    @property
    def host(self) -> str:
        """The upstream's host and port, as `egress.hosts` of a policy names them."""
        return self.url.split("/")[2]

    def tool(self, name: str) -> Tool | None:
        """Find a tool by name."""
        return next((tool for tool in self.tools if tool.name == name), None)


def _check_tool(tool: Tool) -> None:
    if tool.data_classes != sorted(set(tool.data_classes)):
        raise Refused("bad-manifest", f"labels of {tool.name} are sorted, none twice", field="data_classes")
    for text in (tool.input_schema, tool.output_schema, tool.annotations):
        if text is not None and not isinstance(reject_duplicates(text.encode()), dict):
            raise Refused("bad-manifest", f"a schema of {tool.name} is not a JSON object", field="input_schema")
