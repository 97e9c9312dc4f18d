"""Request bodies as the OpenAPI document describes them: from the very types that read them; and how refusals look.

Routes take bodies as bytes, since what is signed is kept as it came; so the framework cannot know what is in them.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from verifier.envelope import Envelope

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
FORM = "application/x-www-form-urlencoded"


REFUSAL = "application/problem+json"
PROBLEM = {"type": "urn:tallystick:problem:forbidden", "title": "forbidden", "code": "forbidden"}


def json_body(kind: Any, example: msgspec.Struct | None = None) -> type[Operation]:
    """Describe a body in JSON, with an example of it."""
    return _operation("application/json", kind, example)


def envelope_body() -> type[Operation]:
    """Describe a body that is a signed document."""
    return _operation(ENVELOPE, Envelope)


def form_body(*fields: str) -> type[Operation]:
    """Describe a form, as OAuth's addresses read it: these fields, and the client's own assertion (RFC 7523)."""
    named = (*fields, "client_assertion_type", "client_assertion", "client_id")
    return _made(FORM, {"type": "object", "properties": {name: {"type": "string"} for name in named}})


class Rendered(JsonRenderPlugin):
    """The document as it is served: with the refusals that are sent, not with the framework's own."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Write it."""
        return super().render(request, {**openapi_schema, "paths": _refusing(openapi_schema["paths"])})


def _refusing(paths: dict[str, Any]) -> dict[str, Any]:
    """Let every operation answer by a problem document, whatever the status, when it refuses; or in OAuth's form."""
    problem = _refusal("type", "title", "code", "detail", "hint", "field", status={"type": "integer"})
    problem["example"] = {**PROBLEM, "status": 403, "detail": "client auditor has none of the roles: responder"}
    oauth = _refusal("error", "error_description", "code", "hint", "field")

    def described(each: dict[str, Any]) -> dict[str, Any]:
        form = FORM in each.get("requestBody", {}).get("content", {}) or set(each["responses"]) == {"400"}
        content = {REFUSAL: problem} | ({"application/json": oauth} if form else {})
        said = {"description": f"A refusal (RFC 9457{' or RFC 6749 §5.2' * form})", "content": content}
        return each | {"responses": {k: v for k, v in each["responses"].items() if k != "400"} | {"default": said}}

    return {
        path: {name: described(each) if "responses" in each else each for name, each in operations.items()}
        for path, operations in paths.items()
    }


def _refusal(*names: str, **more: dict[str, str]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": {**{name: {"type": "string"} for name in names}, **more}}}


def _operation(media_type: str, kind: Any, example: msgspec.Struct | None = None) -> type[Operation]:
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="{name}")
    return _made(media_type, _inlined(schema, parts), None if example is None else msgspec.to_builtins(example))


def _made(media_type: str, schema: dict[str, Any], example: object = None) -> type[Operation]:
    media = OpenAPIMediaType(schema=_Written(schema), example=example)
    body = RequestBody(content={media_type: media}, required=True)

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
