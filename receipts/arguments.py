"""A tool's arguments against the approved manifest: its JSON Schema, and the closed world (specs/policy.md §4).

A property that the schema does not name is refused at each instance location, unless the schema speaks of additional
properties itself. Servers commonly ignore what they do not know; what a reviewer never saw must not travel.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import jsonschema_rs
import msgspec

from verifier.refused import Refused

# Whatever no schema describes: scalars, and arrays and objects without any property.
_CLOSED = "urn:tallystick:closed"
_NOTHING_NAMED = {"$id": _CLOSED, "additionalProperties": False, "items": {"$ref": _CLOSED}}
_SPEAKS_OF_OTHERS = ("additionalProperties", "unevaluatedProperties")
# Keywords of JSON Schema 2020-12 whose subschemas apply to another instance location, and those that apply in place.
_LISTS_OF_CHILDREN, _MAPS_OF_CHILDREN, _CHILDREN = (
    ("prefixItems",),
    ("properties", "patternProperties"),
    ("items", "contains"),
)
_LISTS_IN_PLACE, _MAPS_IN_PLACE = ("allOf", "anyOf", "oneOf"), ("$defs", "definitions", "dependentSchemas")
_IN_PLACE = ("if", "then", "else")  # not `not`: what it names, it does not allow
# Keywords of older drafts that 2020-12 reads differently or not at all: a rule that would silently not apply.
_OTHER_DRAFTS = frozenset({"dependencies", "additionalItems", "$recursiveRef", "$dynamicRef", "$schema"})
# Where a `$ref` may point: to what is closed below. What lies under a keyword that nobody knows is left as it stands.
_closed_place = re.compile(
    r"#(/(\$defs|definitions|dependentSchemas|properties|patternProperties)/[^/]+|/(allOf|anyOf|oneOf|prefixItems)/[0-9]+"
    r"|/(items|contains|additionalProperties|unevaluatedProperties|unevaluatedItems|if|then|else))*"
).fullmatch


class Arguments:
    """The compiled schema of one tool's, or one prompt's, arguments."""

    def __init__(self, name: str, text: str) -> None:
        """Compile both readings. Raises `Refused` bad-schema: no address is ever fetched, no pattern backtracks."""
        schema = msgspec.json.decode(text, type=dict[str, Any])
        schema.pop("$schema", None)
        closed = _close(schema, at_instance=True)
        closed["$defs"] = {**closed.get("$defs", {}), _CLOSED: _NOTHING_NAMED}
        self._schema, self._closed = _compiled(name, schema), _compiled(name, closed)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check one call. Raises `Refused`: bad-arguments, unknown-argument; no value is said."""
        for code, validator in (("bad-arguments", self._schema), ("unknown-argument", self._closed)):
            if not validator.is_valid(arguments):
                _explain(code, next(validator.iter_errors(arguments)))


def _compiled(name: str, schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            schema, retriever=_fetch_nothing, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise Refused("bad-schema", f"the schema of {name} cannot be used", hint="Approve a new manifest.") from error


def _fetch_nothing(address: str) -> NoReturn:
    raise ValueError(address)


def _close(schema: Any, *, at_instance: bool) -> Any:
    """Write a schema again so that each instance location refuses what nothing names.

    In-place subschemas see only their part of an object, so the location's own schema is the one that is closed:
    `unevaluatedProperties` and `unevaluatedItems` look through `allOf`, `$ref` and the like.
    """
    if schema is True and at_instance:
        return {"$ref": _CLOSED}
    if not isinstance(schema, dict):
        return schema
    if _OTHER_DRAFTS & schema.keys():
        raise Refused(
            "bad-schema", "a schema of another draft than 2020-12", hint="Approve a manifest with a 2020-12 schema."
        )
    if "$ref" in schema and not (isinstance(schema["$ref"], str) and _closed_place(schema["$ref"])):
        raise Refused("bad-schema", "a $ref to another place than a schema of this document", hint="Use $defs.")
    closed = {key: _close_member(key, value) for key, value in schema.items()}
    if at_instance:
        if not any(word in schema for word in _SPEAKS_OF_OTHERS):
            closed["unevaluatedProperties"] = False
        closed.setdefault("unevaluatedItems", {"$ref": _CLOSED})
    return closed


def _close_member(key: str, value: Any) -> Any:
    if key in _CHILDREN:
        return _close(value, at_instance=True)
    if key in _SPEAKS_OF_OTHERS or key == "unevaluatedItems":
        # `true` is the explicit word that anything goes; a schema is a schema of one more location.
        return value if isinstance(value, bool) else _close(value, at_instance=True)
    if key in _IN_PLACE:
        return _close(value, at_instance=False)
    if key in (*_LISTS_OF_CHILDREN, *_LISTS_IN_PLACE) and isinstance(value, list):
        return [_close(each, at_instance=key in _LISTS_OF_CHILDREN) for each in value]
    if key in (*_MAPS_OF_CHILDREN, *_MAPS_IN_PLACE) and isinstance(value, dict):
        return {name: _close(each, at_instance=key in _MAPS_OF_CHILDREN) for name, each in value.items()}
    return value


def _explain(code: str, error: jsonschema_rs.ValidationError) -> NoReturn:
    place = "/".join(str(part) for part in error.instance_path)
    unexpected = getattr(error.kind, "unexpected", ())
    named = " ".join(name if name.isidentifier() else "?" for name in unexpected)
    why = (
        f"the schema does not name {named or 'this'}"
        if code == "unknown-argument"
        else f"{error.kind.name} does not hold"
    )
    raise Refused(code, f"{why} at /{place}", hint="Compare with inputSchema of tools/list.", field="arguments")
