"""How authors write: drafts in YAML, JSON and TOML, errors that point at a place, tests with coverage, lint."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from controls import drafting
from controls.commands import app
from controls.commands.authoring import TEMPLATES
from controls.lint import EXECUTORS, lint
from verifier.draft import build
from verifier.refused import Refused

NOW = 1_790_000_000_000_000
YAML = """\
policy_name: p
allowed_tools:
  - kind: mcp
    server: crm-mcp
    tools: [get_case]   # a comment
    when:
      - {attr: args.n, op: le, value: "99.95"}
budgets: {calls: 5}
regulated: true
"""
TOML = """\
policy_name = "p"
regulated = true

[budgets]
calls = 5

[[allowed_tools]]
kind = "mcp"
server = "crm-mcp"
tools = ["get_case"]

[[allowed_tools.when]]
attr = "args.n"
op = "le"
value = "99.95"
"""


BYTES = st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9)
OBJECTS = st.dictionaries(
    st.text("abc_", min_size=1, max_size=5), st.one_of(st.integers(-99, 99), st.booleans(), PLAIN), max_size=5
)


def tally(*words: object, code: str = "", status: int = 0) -> str:
    result = CliRunner().invoke(app, ["policy", *map(str, words)])
    if code:
        assert isinstance(result.exception, Refused), result.output
        assert result.exception.code == code
        return result.exception.why
    assert result.exit_code == status, (result.output, result.exception)
    return result.stdout


def refusal(name: str, text: str) -> str:
    with pytest.raises(Refused) as refused:
        drafting.read(name, text.encode())
    return f"{refused.value.code} {refused.value.why}"


def test_yaml_json_and_toml_say_the_same() -> None:
    value = drafting.read("p.yaml", YAML.encode()).value
    assert drafting.read("p.toml", TOML.encode()).value == value
    assert drafting.read("p.json", json.dumps(value, indent="\t").encode()).value == value
    assert value["allowed_tools"][0]["when"][0]["value"] == "99.95"


@pytest.mark.parametrize(("name", "text", "place"), [("p.yaml", YAML, "p.yaml:4:5"), ("p.toml", TOML, "p.toml:9:1")])
def test_a_field_is_found_where_it_is_written(name: str, text: str, place: str) -> None:
    draft = drafting.read(name, text.encode())
    assert draft.at("allowed_tools[0].server") == place
    assert draft.at("allowed_tools[0].nothing.at.all").split(":")[1] in {"3", "7"}
    assert draft.at("") == f"{name}:1:1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a: no", "'no' would be read as true or false"),
        ("a: 1.10", "'1.10' would be read as a float"),
        ("a: 2026-01-01", "'2026-01-01' would be read as a date"),
        ("a: 0o17", ""),
        ("a: 017", "'017' would be read as a int"),
        ("a: 1_000", "'1_000' would be read as a int"),
        ("a: 12:30:45", "'12:30:45' would be read as a int"),
        ("a: ~", "'~' would be read as nothing at all"),
        ("a:", "'' would be read as nothing at all"),
        ("a: &x 1", "anchors and aliases are not read"),
        ("a: *x", "anchors and aliases are not read"),
        ("a: !!python/object:os.system x", "tags are not read"),
        ("<<: {a: 1}", "nothing is merged"),
        ("a: 1\na: 2", "the key 'a' stands here a second time"),
        ("[1]: 2", "a key is a plain name"),
        ("- 1", "a draft is one object"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("a: [1", ""),
        ("", "the file is empty"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
    ],
)
def test_what_yaml_turns_into_something_else_is_an_error_with_its_line(line: str, said: str) -> None:
    if line == "a: 0o17":
        assert drafting.read("p.yaml", line.encode()).value == {"a": "0o17"}
        return
    why = refusal("p.yaml", line)
    assert said in why
    assert "p.yaml:" in why


@pytest.mark.parametrize(
    ("line", "code"), [("a = 1.5", "bad-value"), ("a = 2026-01-01", "bad-value"), ("a = ", "not-toml")]
)
def test_what_no_policy_can_hold_is_an_error_in_toml(line: str, code: str) -> None:
    assert refusal("p.toml", line).startswith(f"{code} p.toml:1:")


def test_a_json_draft_is_read_strictly_and_a_large_one_not_at_all() -> None:
    assert refusal("p.json", '{"a": 1, "a": 2}').startswith("not-canonical p.json")
    assert refusal("p.yaml", "a: " + "x" * (1 << 18)).startswith("too-large")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(["p.yaml", "p.toml", "p.json"]), BYTES)
def test_any_file_is_read_or_refused(name: str, raw: bytes) -> None:
    with suppress(Refused):
        assert isinstance(drafting.read(name, raw).value, dict)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(OBJECTS)
def test_what_json_says_yaml_says_too(value: dict[str, Any]) -> None:
    text = json.dumps(value).encode()
    assert drafting.read("p.yaml", text).value == drafting.read("p.json", text).value == value


@pytest.mark.parametrize("template", sorted(path.stem for path in TEMPLATES.glob("*.yaml")))
def test_a_template_builds_lints_clean_and_passes_its_own_tests(template: str, tmp_path: Path) -> None:
    draft, built = tmp_path / "new.yaml", tmp_path / "built.json"
    tally("new", "--template", template, "--name", "mine", "-o", draft)
    assert tally("lint", draft, "--strict") == "nothing suspicious\n"
    ran = json.loads(tally("test", draft, "--json"))
    assert ran["unreached"] == []
    assert all(each["holds"] for each in ran["tests"])
    said = json.loads(tally("build", draft, "--issuer", "me", "--valid-days", 30, "-o", built, "--json"))
    assert said["digest"].startswith("sha256:")
    assert json.loads(built.read_bytes())["policy_name"] == "mine"
    tally("new", "-o", draft, code="file-exists")
    assert tally("lint", built) == "nothing suspicious\n"


def test_an_error_of_the_build_points_at_file_line_and_field(tmp_path: Path) -> None:
    draft = tmp_path / "p.yaml"
    draft.write_text(YAML.replace("server: crm-mcp", "servers: crm-mcp"))
    assert "p.yaml:3:5: allowed_tools[0]:" in tally(
        "build", draft, "--issuer", "me", "-o", tmp_path / "x", code="unknown-field"
    )
    draft.write_text(YAML.replace("calls: 5", "calls: many"))
    assert "p.yaml:8:11: budgets.calls:" in tally(
        "build", draft, "--issuer", "me", "-o", tmp_path / "x", code="bad-policy"
    )
    assert not (tmp_path / "x").exists()


def test_every_failing_test_is_named_and_what_no_test_reaches(tmp_path: Path) -> None:
    draft = tmp_path / "p.yaml"
    call = "{server: crm-mcp, tool: get_case, arguments: '{\"n\": 1}'}"
    first, second = (
        f"{{name: {name}, call: {call}, expect: {said}}}" for name, said in (("one", "deny"), ("two", "hold"))
    )
    tests = f"tests:\n  - {first}\n  - {second}\n"
    draft.write_text(YAML + "denied_tools: [{id: never, kind: mcp, server: x, tools: [y]}]\n" + tests)
    said = tally("test", draft, status=1)
    assert "FAIL  one: allow by allow-1, expected deny" in said
    assert "FAIL  two: allow by allow-1" in said
    assert "2 of 2 tests fail" in said
    assert "1 of 2 rules are reached; no test reaches never" in said


def names(**draft: Any) -> list[str]:
    return [each.name for each in lint(build({"policy_name": "p", **draft}, issuer="me", now=NOW))]


def rule(**changes: Any) -> dict[str, Any]:
    return {"kind": "mcp", "server": "crm", "tools": ["get"], **changes}


CLEAN: dict[str, Any] = {
    "budgets": {"calls": 5},
    "tests": [{"name": "t", "call": {"server": "crm", "tool": "get"}, "expect": "allow"}],
}


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ({"allowed_tools": [rule()]}, []),
        *(({"allowed_tools": [rule(tools=[tool])]}, ["generic-executor"]) for tool in EXECUTORS[:3]),
        ({"allowed_tools": [rule(tools=["run*"])]}, ["generic-executor"]),
        (
            {"allowed_tools": [rule(tools=["shell"])], "denied_tools": [rule(server="*", tools=["shell"])]},
            ["unreachable-rule"],
        ),
        ({"allowed_tools": [rule(server="crm*")]}, ["wildcard-server"]),
        (
            {"allowed_tools": [rule(tools=["*"])], "denied_tools": [rule(server="*", tools=list(EXECUTORS))]},
            ["wildcard-tools"],
        ),
        ({"allowed_tools": [rule(approval="human")]}, ["nobody-approves"]),
        ({"allowed_tools": [rule(tools=["g*"], classes=["read"]), rule(classes=["read"])]}, ["shadowed-rule"]),
        ({"allowed_tools": [rule(), rule(tools=["put"])]}, []),
        ({"allowed_tools": [rule()], "denied_tools": [rule(tools=[])]}, ["empty-rule"]),
        ({"model_egress": {"provider": "x", "models": [{}, {"models": ["m"]}]}}, ["shadowed-rule"]),
        ({"budgets": {}}, ["no-budget"]),
        ({"token_constraints": {"cst_max_ttl_seconds": 901}}, ["long-token"]),
        ({"valid_from": NOW, "valid_until": NOW + 367 * 86_400_000_000}, ["long-validity"]),
        ({"tests": []}, ["no-tests"]),
        *(
            ({**draft, "token_constraints": {"max_delegation_depth": depth}}, ["undivided-limit"] * depth)
            for depth in (0, 1)
            for draft in (
                {"budgets": {"calls": 9, "per_tool": {"crm-mcp/get_case": 3}}},
                {"allowed_tools": [rule(limits={"calls_per_job": 3})]},
                {"allowed_tools": [rule(limits={"sums": {"amount": "10"}})]},
            )
        ),
        (
            {
                "allowed_tools": [rule(limits={"calls_per_minute": 3})],
                "token_constraints": {"max_delegation_depth": 1},
            },
            [],
        ),
    ],
)
def test_lint_finds_what_is_suspicious(draft: dict[str, Any], expected: list[str]) -> None:
    assert names(**{**CLEAN, **draft}) == expected


def test_lint_points_at_the_line_and_fails_for_errors(tmp_path: Path) -> None:
    draft = tmp_path / "p.yaml"
    draft.write_text(YAML.replace("[get_case]", "[shell]"))
    said = tally("lint", draft, status=1)
    assert "p.yaml:5:5: allowed_tools[0].tools: error: rule allow-1 allows 'shell'" in said
    found = json.loads(tally("lint", draft, "--json", status=1))
    first = found["found"][0]
    assert (first["name"], first["at"]) == ("generic-executor", "p.yaml:5:5: allowed_tools[0].tools")
