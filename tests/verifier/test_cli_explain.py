"""`tally explain`: every code of the specifications, and a suggestion for one that there is not."""

import json
from pathlib import Path

import pytest

from tests.verifier.conftest import Run
from verifier import explanation
from verifier.codes import CODES
from verifier.explanation import _listed, explain


def test_a_code_of_the_audit_has_verdict_steps_and_a_sentence_of_the_specification(run: Run) -> None:
    status, out, _ = run("explain", "wrong-root")
    assert status == 0
    assert "  verdict  FAIL, exit status 1\n  step     6 Lanes\n" in out
    assert "(verification.md §6)\n" in out


def test_verify_explains_as_well_and_needs_nothing_else(run: Run) -> None:
    assert run("verify", "--explain", "wrong-root") == run("explain", "wrong-root")
    status, out, _ = run("verify", "--explain", "upstream-timeout", "--json")
    assert (status, json.loads(out)["columns"]) == (0, {"HTTP": "504", "receipt": "end"})
    assert "  HTTP     504\n  receipt  end\n" in run("explain", "upstream-timeout")[1]


def test_every_code_of_the_specifications_is_explained() -> None:
    assert set(CODES) < set(_listed())
    for code in _listed():
        assert explain(code).meaning
        assert explain(code).action


def test_an_unknown_code_brings_the_near_ones(run: Run) -> None:
    status, _, err = run("explain", "Wrong_Root")
    assert status == 64
    assert "hint: Did you mean wrong-root" in err
    assert "specs/errors.md lists them all" in run("explain", "zzzzzzzz")[2]


def test_a_pin_that_cannot_be_used_is_a_matter_of_usage(run: Run) -> None:
    assert json.loads(run("explain", "bad-pin", "--json")[1])["exit_code"] == 64


def test_without_the_specifications_the_program_still_knows_its_own_codes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(explanation, "SPECS", tmp_path)
    _listed.cache_clear()
    try:
        assert set(_listed()) == set(CODES)
        assert explain("wrong-root").steps == []
        table = "## 1. Where\n| code | steps | single documents |\n| - | - | - |\n| `of-later` | 3 | none |\n"
        (tmp_path / "errors.md").write_text(f"{table}\n## 2. Nothing\nNo table.\n")
        _listed.cache_clear()
        assert set(_listed()) == set(CODES)
    finally:
        _listed.cache_clear()
