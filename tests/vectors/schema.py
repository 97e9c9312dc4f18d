"""JSON Schemas (draft 2020-12) of every format, from the very types that read it."""

from typing import Any

import msgspec
from msgspec import Struct

from verifier import leaf
from verifier.approval import Approval
from verifier.box import Box
from verifier.bundle import Head, Header
from verifier.disclosure import Disclosure
from verifier.envelope import Envelope
from verifier.grant import Grant, Token
from verifier.keys import KeyList, Pin
from verifier.latest import Latest
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.report import Report
from verifier.revocation import Heartbeat, Revocation
from verifier.seal import Seal

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[str, type[Struct]] = {
    "envelope": Envelope,
    "keys": KeyList,
    "pin": Pin,
    "policy": Policy,
    "manifest": Manifest,
    "prices": Prices,
    "latest": Latest,
    "grant": Grant,
    "token": Token,
    "seal": Seal,
    "approval": Approval,
    "revocation": Revocation,
    "heartbeat": Heartbeat,
    "bundle-header": Header,
    "bundle-head": Head,
    "disclosure": Disclosure,
    "box": Box,
    "report": Report,
}


def schemas() -> dict[str, bytes]:
    """Return every schema by file name."""
    made = {name: _schema(name, [kind]) for name, kind in TYPES.items()}
    made["receipt"] = _schema("receipt", list(leaf.KINDS.values()))
    return {
        f"{name}.json": msgspec.json.format(msgspec.json.encode(each), indent=1) + b"\n" for name, each in made.items()
    }


def _schema(name: str, kinds: list[type[Struct]]) -> dict[str, Any]:
    """Write the schema of one type, or of one of several."""
    found, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    body = found[0] if len(found) == 1 else {"oneOf": list(found)}
    plain = _ended if name == "report" else lambda part: _without_null(_ended(part))
    return {"$schema": DIALECT, "$id": f"urn:tallystick:{name}:v1", **body, "$defs": plain(dict(sorted(parts.items())))}


def _ended(part: Any) -> Any:
    """Write the end of text as ECMA 262 does: `$`, where Python says backslash Z."""
    if isinstance(part, dict):
        return {name: _ended(each) for name, each in part.items()}
    if isinstance(part, list):
        return [_ended(each) for each in part]
    return part.replace("\\Z", "$") if isinstance(part, str) else part


def _without_null(part: Any) -> Any:
    """Say that optional means absent: a signed document never holds null (specs/encoding.md §1)."""
    if isinstance(part, list):
        return [_without_null(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {name: _without_null(each) for name, each in part.items() if (name, each) != ("default", None)}
    several = [each for each in kept.pop("anyOf", ()) if each != {"type": "null"}]
    return {**kept, **(several[0] if len(several) == 1 else {"anyOf": several} if several else {})}
