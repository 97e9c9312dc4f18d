"""Arguments against a tool's schema, and the closed world."""

import json
from typing import Any

import pytest

from receipts.arguments import Arguments
from verifier.refused import Refused

CASE = {"type": "object", "properties": {"z": {"type": "object", "properties": {"y": {}}}}}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "q": {"type": "string", "pattern": "^[a-z]+$"},
        "nested": {"type": "object", "properties": {"x": {"type": "integer"}}},
        "list": {"type": "array"},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"x": {}}}},
        "case": {"$ref": "#/$defs/Case"},
        "case_again": {"$ref": "#/properties/maybe/anyOf/0"},
        "maybe": {"anyOf": [{"$ref": "#/$defs/Case"}, {"type": "null"}]},
        "any": True,
        "free": {"type": "object", "additionalProperties": True},
        "typed": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {}}}},
        "all": {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    },
    "required": ["q"],
    "$defs": {"Case": CASE},
}


def outcome(arguments: Any, schema: Any = SCHEMA) -> str:
    try:
        Arguments("t", json.dumps(schema)).check(arguments)
    except Refused as refused:
        return refused.code
    return "accepted"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"nested": {"x": 1}},
        {"list": [1, [2, "three"]]},
        {"rows": [{"x": 1}]},
        {"case": {"z": {"y": 1}}},
        {"case_again": {"z": {"y": 1}}},
        {"maybe": None},
        {"maybe": {"z": {}}},
        {"any": 3},
        {"free": {"x": {"y": [{"z": 1}]}}},
        {"typed": {"whatever": {"x": 1}}},
        {"all": {"a": 1, "b": 2}},
    ],
)
def test_what_the_schema_names_is_accepted(more: dict[str, Any]) -> None:
    assert outcome({"q": "a", **more}) == "accepted"


@pytest.mark.parametrize(
    "more",
    [
        {"new": 1},
        {"nested": {"x": 1, "new": 1}},
        {"list": [[{"new": 1}]]},
        {"rows": [{"x": 1}, {"new": 1}]},
        {"case": {"new": 1}},
        {"case": {"z": {"y": 1, "new": 2}}},
        {"case": {"z": {"y": {"new": 1}}}},
        {"maybe": {"new": 1}},
        {"any": {"new": 1}},
        {"typed": {"whatever": {"new": 1}}},
        {"all": {"a": 1, "new": 2}},
    ],
)
def test_what_the_schema_does_not_name_is_refused_at_every_place(more: dict[str, Any]) -> None:
    assert outcome({"q": "a", **more}) == "unknown-argument"


@pytest.mark.parametrize(
    "arguments", [{}, {"q": 1}, {"q": "A"}, {"q": "a", "nested": []}, {"q": "a", "typed": {"x": 1}}]
)
def test_what_the_schema_forbids_is_refused(arguments: dict[str, Any]) -> None:
    assert outcome(arguments) == "bad-arguments"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/schema"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"type": "no-type"},
        {"properties": {"a": {"pattern": "(?=a)"}}},
        {"dependencies": {"a": ["b"]}},
        {"properties": {"a": {"$dynamicRef": "#x"}}},
        {"properties": {"a": {"$ref": "#/x-types/A"}}, "x-types": {"A": CASE}},
        {"properties": {"a": {"$ref": "#/default"}}, "default": CASE},
        {"properties": {"a": {"$id": "urn:a", "$schema": "http://json-schema.org/draft-07/schema#", **CASE}}},
        {"properties": {"a": {"$ref": "#/$defs/A/not"}}, "$defs": {"A": {"not": CASE}}},
    ],
)
def test_a_schema_that_fetches_backtracks_or_is_of_another_draft_is_refused(schema: dict[str, Any]) -> None:
    assert outcome({}, schema) == "bad-schema"


def test_a_refusal_says_the_place_and_no_value() -> None:
    with pytest.raises(Refused) as refused:
        Arguments("t", json.dumps(SCHEMA)).check({"q": "a", "nested": {"x": "my secret"}})
    assert "nested/x" in refused.value.why
    assert "secret" not in refused.value.why
