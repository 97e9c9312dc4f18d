"""Request bodies as the OpenAPI document describes them: from the very types that read them.

Routes take bodies as bytes, since what is signed is kept as it came; so the framework cannot know what is in them.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from verifier.envelope import Envelope

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
FORM = "application/x-www-form-urlencoded"


def json_body(kind: Any) -> type[Operation]:
    """Describe a body in JSON."""
    return _operation("application/json", kind)


def envelope_body() -> type[Operation]:
    """Describe a body that is a signed document."""
    return _operation(ENVELOPE, Envelope)


def form_body(*fields: str) -> type[Operation]:
    """Describe a form, as OAuth's addresses read it."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    return _made(FORM, schema)


def _operation(media_type: str, kind: Any) -> type[Operation]:
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="{name}")
    return _made(media_type, _inlined(schema, parts))


def _made(media_type: str, schema: dict[str, Any]) -> type[Operation]:
    body = RequestBody(content={media_type: OpenAPIMediaType(schema=_Written(schema))}, required=True)

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = body

    return Described


class _Written(Schema):
    """A schema that is written already."""

    def __init__(self, written: dict[str, Any]) -> None:
        super().__init__()
        self._written = written

    def to_schema(self) -> dict[str, Any]:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Give it as it is."""
        return self._written


def _inlined(part: Any, parts: dict[str, Any]) -> Any:
    """Put what is referred to in its place; write the end of a text as ECMA 262 does, `$`, not backslash Z."""
    if isinstance(part, list):
        return [_inlined(each, parts) for each in part]
    if isinstance(part, dict):
        if "$ref" in part:
            return _inlined(parts[part["$ref"]], parts)
        return {name: _inlined(each, parts) for name, each in part.items() if name not in {"title", "discriminator"}}
    return part.replace("\\Z", "$") if isinstance(part, str) else part
