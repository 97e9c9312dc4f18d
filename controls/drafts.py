"""From a reviewer's draft to a tool manifest: what the server says of its tools, and what the reviewer says of them.

    {"server": "crm-mcp", "url": "https://crm.example/mcp", "tools": [
      {"name": "get_case", "tool_class": "read", "sensitivity": "internal", "data_classes": ["customer_provided"],
       "description": "Read one support case.", "input_schema": {"type": "object", …}}]}

Class, sensitivity and data classes are judgements and have no default. Descriptions and schemas that a draft leaves out
are taken from the server's own `tools/list`; a tool that the draft does not name is not approved.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from verifier.encoding import Name, canonical, parse, reject_duplicates
from verifier.manifest import MAX_MANIFEST, Manifest, Prompt, Resource, Tool
from verifier.refused import Refused
from verifier.rules import Label, ToolClass

ABSENT = Raw(b"")


class ToolDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tool as its reviewer sees it."""

    name: str
    tool_class: ToolClass
    sensitivity: str
    data_classes: list[Label]
    title: str | None = None
    description: str | None = None
    input_schema: Raw = ABSENT
    output_schema: Raw = ABSENT
    annotations: Raw = ABSENT


class ResourceDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resources as their reviewer sees them: a glob over URIs."""

    uri: str
    sensitivity: str
    data_classes: list[Label]
    description: str
    title: str | None = None


class PromptDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt as its reviewer sees it; without a schema it takes no arguments."""

    name: str
    sensitivity: str
    data_classes: list[Label]
    description: str
    title: str | None = None
    input_schema: Raw = Raw(b'{"type":"object","properties":{}}')


class ManifestDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server and what of it may be used at all; without a `url`, tools that the runtime runs itself."""

    server: Name
    url: str | None = None
    tools: Annotated[list[ToolDraft], Meta(max_length=1000)] = []
    resources: Annotated[list[ResourceDraft], Meta(max_length=1000)] = []
    prompts: Annotated[list[PromptDraft], Meta(max_length=1000)] = []


class ListedTool(Struct, frozen=True, kw_only=True, rename="camel"):
    """One tool as `tools/list` of its server describes it; other members are not part of a manifest."""

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: Raw
    output_schema: Raw = ABSENT
    annotations: Raw = ABSENT


class Listing(Struct, frozen=True):
    """The result of `tools/list`."""

    tools: list[ListedTool]


class ListingAnswer(Struct, frozen=True):
    """The whole JSON-RPC answer to `tools/list`."""

    result: Listing


def read_manifest_draft(raw: bytes) -> ManifestDraft:
    """Read a JSON draft as a person wrote it. Raises `Refused` with the reading codes."""
    draft = parse(raw, ManifestDraft, limit=MAX_MANIFEST)
    reject_duplicates(raw)
    return draft


def read_listing(raw: bytes) -> dict[str, ListedTool]:
    """Read the result of `tools/list`, or the whole answer; by tool name. Raises `Refused` with the reading codes."""
    given = reject_duplicates(raw)
    whole = isinstance(given, dict) and "result" in given
    listing = parse(raw, ListingAnswer, limit=MAX_MANIFEST).result if whole else parse(raw, Listing, limit=MAX_MANIFEST)
    return {tool.name: tool for tool in listing.tools}


def build_manifest(
    draft: ManifestDraft, *, issuer: str, now: int, serial: int = 1, listing: dict[str, ListedTool] | None = None
) -> Manifest:
    """Write a manifest out and read it back as everybody will. Raises `Refused`, unknown-tool for one not listed."""
    tools = [_tool(each, _listed(each, listing)) for each in sorted(draft.tools, key=lambda tool: tool.name)]
    manifest = Manifest(
        issuer=issuer, server=draft.server, serial=serial, issued_at=now, url=draft.url, tools=tools,
        resources=sorted((_resource(each) for each in draft.resources), key=lambda each: each.uri),
        prompts=sorted((_prompt(each) for each in draft.prompts), key=lambda each: each.name),
    )  # fmt: skip
    return Manifest.parse(canonical(manifest))


def _listed(tool: ToolDraft, listing: dict[str, ListedTool] | None) -> ListedTool | None:
    if listing is not None and tool.name not in listing:
        raise Refused("unknown-tool", f"the server lists no tool {tool.name!r}", field="tools")
    return listing[tool.name] if listing is not None else None


def _tool(tool: ToolDraft, listed: ListedTool | None) -> Tool:
    """Let the draft speak first and the server's listing fill what it leaves out."""
    said = (tool, listed) if listed else (tool,)
    schema = _first(*(_text(each.input_schema) for each in said))
    description = _first(*(each.description for each in said))
    if schema is None or description is None:
        hint = "Write it into the draft, or give the server's own tools/list."
        raise Refused(
            "missing-field", f"tool {tool.name!r} has no description or no input_schema", hint=hint, field="tools"
        )
    return Tool(
        name=tool.name,
        title=_first(*(each.title for each in said)),
        description=description,
        input_schema=schema,
        output_schema=_first(*(_text(each.output_schema) for each in said)),
        annotations=_first(*(_text(each.annotations) for each in said)),
        tool_class=tool.tool_class,
        sensitivity=tool.sensitivity,
        data_classes=sorted(set(tool.data_classes)),
        approval="none",
    )


def _resource(given: ResourceDraft) -> Resource:
    return Resource(
        uri=given.uri, title=given.title, description=given.description, sensitivity=given.sensitivity,
        data_classes=sorted(set(given.data_classes)), approval="none",
    )  # fmt: skip


def _prompt(given: PromptDraft) -> Prompt:
    return Prompt(
        name=given.name, title=given.title, description=given.description,
        input_schema=_text(given.input_schema) or "{}", sensitivity=given.sensitivity,
        data_classes=sorted(set(given.data_classes)), approval="none",
    )  # fmt: skip


def _text(schema: Raw) -> str | None:
    """Keep a schema's own tokens and leave out the spaces between them; `null` says nothing."""
    text = msgspec.json.format(bytes(schema), indent=-1).decode() if bytes(schema) else "null"
    return None if text == "null" else text


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)
