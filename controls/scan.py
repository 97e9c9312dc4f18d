"""A server's tools as they are, held against its approved manifest (specs/manifest.md §3).

What changed since it was reviewed, what in it means to steer a model, and what would take anything. A scan approves
nothing: it drafts a manifest for a reviewer, with the reviewer's last judgements and without any of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from controls.drafts import ListedTool
from service.signs import signs, strings
from verifier.encoding import reject_duplicates
from verifier.manifest import Manifest, Tool

Change = Literal["added", "removed", "changed"]
PARTS = ("title", "description", "input_schema", "output_schema", "annotations")


class Drift(Struct, frozen=True, omit_defaults=True):
    """A tool that is not as it was approved; `parts` of a changed one."""

    tool: str
    change: Change
    parts: list[str] = []


class Warned(Struct, frozen=True):
    """Something in a tool's description or schema that a reviewer has to look at; `sign` is its name."""

    tool: str
    sign: str
    says: str


class Scan(Struct, frozen=True, kw_only=True):
    """What a scan found; `draft` is for `tally manifest build`, its judgements those of the last review."""

    server: str
    manifest: str | None
    tools: int
    drift: list[Drift]
    warnings: list[Warned]
    draft: dict[str, Any]


def compare(manifest: Manifest | None, listed: Mapping[str, ListedTool]) -> list[Drift]:
    """Say what differs, by tool. Schemas are compared as what they say: another order of members is no change."""
    approved = {tool.name: tool for tool in manifest.tools} if manifest else {}
    found = [Drift(name, "added") for name in listed.keys() - approved.keys()]
    found += [Drift(name, "removed") for name in approved.keys() - listed.keys()]
    for name in approved.keys() & listed.keys():
        if parts := [part for part in PARTS if _said(approved[name], part) != _said(listed[name], part)]:
            found.append(Drift(name, "changed", parts))
    return sorted(found, key=lambda each: each.tool)


def warn(listed: Mapping[str, ListedTool], others: Mapping[str, set[str]]) -> list[Warned]:
    """List what a reviewer has to look at; `others` are the approved tools of other servers."""
    found = [each for tool in listed.values() for each in _warn(tool, others)]
    return sorted(found, key=lambda each: (each.tool, each.sign, each.says))


def draft(server: str, url: str, manifest: Manifest | None, listed: Mapping[str, ListedTool]) -> dict[str, Any]:
    """Draft a manifest: what was judged before stays, a new tool has no judgement and so does not build."""
    approved = {tool.name: tool for tool in manifest.tools} if manifest else {}
    tools = []
    for name in sorted(listed):
        said = {part: _said(listed[name], part) for part in PARTS}
        judged = approved.get(name)
        judgement = (
            {"tool_class": judged.tool_class, "sensitivity": judged.sensitivity, "data_classes": judged.data_classes}
            if judged
            else {}
        )
        tools.append({"name": name, **judgement, **{part: value for part, value in said.items() if value is not None}})
    return {"server": server, "url": url, "tools": tools}


def _warn(tool: ListedTool, others: Mapping[str, set[str]]) -> Iterator[Warned]:
    schema = _said(tool, "input_schema")
    texts = [
        tool.name,
        tool.title or "",
        tool.description or "",
        *strings(schema),
        *strings(_said(tool, "output_schema")),
    ]
    for sign in signs(texts):
        yield Warned(tool.name, sign, "its name, description or schema bears signs of text that steers a model")
    for server, names in sorted(others.items()):
        if tool.name in names:
            yield Warned(tool.name, "shadowing", f"a tool of this name is approved for server {server}")
        elif mentioned := sorted(name for name in names if len(name) > 5 and name in " ".join(texts)):  # noqa: PLR2004 - a word
            yield Warned(tool.name, "shadowing", f"it speaks of {mentioned[0]}, a tool of server {server}")
    if not isinstance(schema, dict) or schema.get("type") != "object" or _is_open(schema):
        yield Warned(tool.name, "open-schema", "its schema takes arguments that it does not describe")


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Tell whether a schema takes more than it names: outright, or because it names nothing and closes nothing."""
    additional = schema.get("additionalProperties")
    named = (
        schema.get("properties")
        or schema.get("allOf")
        or schema.get("anyOf")
        or schema.get("oneOf")
        or schema.get("$ref")
    )
    return (
        additional is True
        or isinstance(additional, dict)
        or (additional is None and not named and "properties" not in schema)
    )


def _said(tool: ListedTool | Tool, part: str) -> Any:
    """Read one part of a tool, JSON as what it says; None where it says nothing."""
    value = getattr(tool, part)
    if isinstance(value, msgspec.Raw):
        return reject_duplicates(bytes(value)) if bytes(value) else None
    if isinstance(tool, Tool) and part not in {"title", "description"} and value is not None:
        return reject_duplicates(value.encode())
    return value
