"""The approved tool manifest of one MCP server, or of the tools that a runtime runs itself (specs/manifest.md).

Schemas and annotations are foreign JSON: carried as the exact text that the server gave, parsed only by their user.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verifier.conditions import glob_matches
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


class Resource(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Resources as reviewed: a glob over their URIs."""

    uri: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/*-]{1,128}\Z")]
    title: Annotated[str, Meta(max_length=256)] | None = None
    description: Text
    sensitivity: SafeText
    data_classes: Annotated[list[Label], Meta(max_length=MAX_LABELS)]
    approval: Tier


class Prompt(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A prompt as reviewed; `input_schema` describes its arguments, as a tool's does."""

    name: SafeText
    title: Annotated[str, Meta(max_length=256)] | None = None
    description: Text
    input_schema: Schema
    sensitivity: SafeText
    data_classes: Annotated[list[Label], Meta(max_length=MAX_LABELS)]
    approval: Tier


class Manifest(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The tools of one server and where it is reached; pinned by digest in every grant.

    Without a `url` they are tools that the runtime runs itself: no gateway sees them run.
    """

    issuer: SafeText
    server: Name
    serial: Annotated[int, Meta(ge=1, le=2**31)]
    issued_at: Time
    url: Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,100}(/[A-Za-z0-9._~/-]{0,128})?\Z")] | None = None
    tools: Annotated[list[Tool], Meta(max_length=1000)]
    resources: Annotated[list[Resource], Meta(max_length=1000)] = []
    prompts: Annotated[list[Prompt], Meta(max_length=1000)] = []

    @classmethod
    def parse(cls, payload: bytes) -> "Manifest":
        """Read a manifest from canonical bytes. Raises `Refused`: the reading codes, bad-manifest."""
        manifest = read(payload, cls, limit=MAX_MANIFEST)
        for field, names in (
            ("tools", [tool.name for tool in manifest.tools]),
            ("resources", [each.uri for each in manifest.resources]),
            ("prompts", [each.name for each in manifest.prompts]),
        ):
            if names != sorted(set(names)):
                raise Refused("bad-manifest", f"{field} are sorted by name, none twice", field=field)
        if manifest.url is None and (manifest.resources or manifest.prompts):
            raise Refused("bad-manifest", "resources and prompts are a server's, which has a url", field="url")
        for tool in manifest.tools:
            _check(tool.name, tool.data_classes, tool.input_schema, tool.output_schema, tool.annotations)
        for resource in manifest.resources:
            _check(resource.uri, resource.data_classes)
        for prompt in manifest.prompts:
            _check(prompt.name, prompt.data_classes, prompt.input_schema)
        return manifest

    @property
    def host(self) -> str:
        """The upstream's host and port, as `egress.hosts` of a policy names them; none of a runtime's own tools."""
        return "" if self.url is None else self.url.split("/")[2]

    def tool(self, name: str) -> Tool | None:
        """Find a tool by name."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def resource(self, uri: str) -> Resource | None:
        """Find what was reviewed of a resource: the first whose glob its URI matches."""
        return next((each for each in self.resources if glob_matches(each.uri, uri)), None)

    def prompt(self, name: str) -> Prompt | None:
        """Find a prompt by name."""
        return next((each for each in self.prompts if each.name == name), None)


def _check(name: str, labels: list[str], *schemas: str | None) -> None:
    if labels != sorted(set(labels)):
        raise Refused("bad-manifest", f"labels of {name} are sorted, none twice", field="data_classes")
    for text in schemas:
        if text is not None and not isinstance(reject_duplicates(text.encode()), dict):
            raise Refused("bad-manifest", f"a schema of {name} is not a JSON object", field="input_schema")
