"""The public codes: every refusal has one that is listed, every listed one is raised, and some test expects it."""

import ast
from pathlib import Path

import pytest

import verifier
from verifier.codes import CODES, USAGE, Code, Verdict
from verifier.refused import MAX_WHY, Refused

PACKAGE = Path(verifier.__file__).parent
TESTS = Path(__file__).parent
OF_THE_COMMAND_LINE = {"loose-mode", "no-key", "not-empty", "usage", "worker-died"}  # specs/errors.md §4


def literals(path: Path) -> set[str]:
    """Collect the string literals of a file."""
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def raised(path: Path) -> set[str]:
    """Collect the literal codes of `Refused(…)` and of findings added in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name == "Refused" or (name == "add" and len(node.args) > 2):
                found.add(node.args[0].value)
    return found


def test_every_code_that_is_raised_is_listed() -> None:
    codes = set().union(*(raised(path) for path in PACKAGE.rglob("*.py")))
    assert len(codes) > 50
    assert codes - OF_THE_COMMAND_LINE <= set(CODES)


def test_every_listed_code_is_raised_somewhere() -> None:
    used = set().union(*(literals(path) for path in PACKAGE.rglob("*.py") if path.name != "codes.py"))
    assert set(CODES) <= used


@pytest.mark.parametrize("code", CODES)
def test_every_listed_code_is_expected_by_a_test(code: str) -> None:
    assert any(code in literals(path) for path in TESTS.glob("test_*.py") if path.name != Path(__file__).name)


@pytest.mark.parametrize(("code", "known"), CODES.items())
def test_a_code_says_what_it_means_and_what_to_do(code: str, known: Code) -> None:
    assert code == code.lower().replace("_", "-")
    assert known.says
    assert known.hint.endswith(".")
    assert known.verdict is not Verdict.PASS


def test_a_worse_verdict_is_larger_and_has_its_exit_code() -> None:
    assert [(each.name, each.exit_code) for each in Verdict] == [
        ("PASS", 0),
        ("INCOMPLETE", 3),
        ("FAIL", 1),
        ("UNTRUSTED", 4),
        ("MALFORMED", 2),
    ]
    assert USAGE == 64


def test_what_a_refusal_says_is_short_and_printable() -> None:
    refused = Refused("not-json", "\x1b[31m\u202e\n" + "x" * 1000, hint="h", field="f")
    assert refused.why.isprintable()
    assert len(refused.why) == MAX_WHY
    assert str(refused) == f"not-json: {refused.why}"
    assert (refused.hint, refused.field) == ("h", "f")
