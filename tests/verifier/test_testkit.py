"""The published testkit: every code, many places, sums, and the runner that its page shows."""

import hashlib
import re

import pytest

from tests.conftest import Counted
from tests.vectors.case import SPECS, VECTORS, Case
from tests.vectors.judge import FOLDERS, judge
from tests.vectors.places import read, with_places
from verifier.bundle import kind_of
from verifier.codes import CODES

KIT = [
    (folder, path.name, Case.parse(path.read_bytes()))
    for folder in FOLDERS
    for path in sorted((VECTORS / folder).iterdir())
]
BUNDLES = [case for folder, _, case in KIT if folder == "bundles"]


def standing(case: Case, place: dict[str, str]) -> str:
    """Name what a finding stands on by its kind, not by its number: `grant`, `begin`, the file itself."""
    if "line" not in place:
        return "bundle"
    lines = [*case.raw.splitlines(), b""]
    line = lines[min(int(place["line"]), len(lines)) - 1]
    kind = re.search(rb'"kind":"([a-z]+)"', line)
    return kind_of(line) or (kind[1].decode() if kind else "line")


def test_every_code_of_a_document_has_a_case(counted: Counted) -> None:
    shown = {code for _, _, case in KIT for code in case.codes}
    assert set(CODES) == shown
    counted("codes with a case in the testkit", len(shown))
    counted("cases in the testkit", len(KIT))


def test_the_bundles_show_at_least_120_findings_that_differ_in_code_step_or_place(counted: Counted) -> None:
    """Counted twice: by the place as it is reported, and by what stands there, whatever its number."""
    reported = {(code, step, *sorted(place.items())) for code, step, place in found()}
    kinds = {
        (each.code, each.step, standing(case, each.place), each.place.get("field"))
        for case in BUNDLES
        for each in map(read, case.finds)
    }
    counted("distinct (code, step, place) in the testkit", len(reported))
    counted("distinct (code, step, kind of line, field) in the testkit", len(kinds))
    assert len(reported) >= 120
    assert len(kinds) >= 120


def found() -> list[tuple[str, int | None, dict[str, str]]]:
    """Read every finding of every bundle."""
    return [read(line) for case in BUNDLES for line in case.finds]


def test_every_finding_of_a_bundle_has_a_step_that_the_specification_has() -> None:
    text = (SPECS / "verification.md").read_text()
    steps = {step for _, step, _ in found()}
    assert None not in steps
    assert all(f"\n## {step}. " in text for step in steps)
    assert steps >= set(range(1, 14))


@pytest.mark.parametrize(("folder", "name", "case"), KIT, ids=[f"{folder}/{name}" for folder, name, _ in KIT])
def test_the_header_agrees_with_itself(folder: str, name: str, case: Case) -> None:
    """The codes that are written by hand are those of the findings that were recorded; the worst is named first."""
    assert Case.parse(case.encode()) == case
    assert {read(line).code for line in case.finds} == case.codes
    _, *named = case.expect.split()
    assert len(named) == (0 if case.verdict == "PASS" else 1)
    assert bool(case.also) == (len(case.codes) > 1)
    if named:
        worst = max(CODES[code].verdict for code in case.codes)
        assert case.verdict == CODES[named[0]].verdict.name == worst.name, (folder, name)


def test_the_sums_are_those_of_the_files() -> None:
    lines = [line.split("  ") for line in (VECTORS / "SHA256SUMS").read_text().splitlines()]
    named = {VECTORS / name: digest for digest, name in lines}
    there = {path for path in VECTORS.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert set(named) == there
    assert [
        str(path) for path, digest in named.items() if hashlib.sha256(path.read_bytes()).hexdigest() != digest
    ] == []


def test_the_table_of_places_is_what_the_vectors_show() -> None:
    page = (SPECS / "errors.md").read_text()
    assert with_places(page, [(folder, case) for folder, _, case in KIT]) == page


def test_the_runner_that_the_page_shows_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this project's verifier behind it; and it notices a verifier that finds nothing."""
    program = re.findall(r"```python\n(.*?)```", (VECTORS / "README.md").read_text(), re.DOTALL)[0]
    monkeypatch.chdir(SPECS.parent)

    def ours(folder: str, header: dict[str, object], raw: bytes, _: object) -> tuple[str, set[str]]:
        fields = {name: value for name, value in header.items() if name not in {"finds", "at"}}
        at = header.get("at")
        judged = judge(folder, Case(raw=raw, at=int(str(at)) if at else None, **fields))  # type: ignore[arg-type]
        return judged.verdict, judged.codes

    code = compile(program.replace("from my_verifier import judge", "pass"), "runner", "exec")
    for verifier, wrong in ((ours, False), (lambda *_: ("PASS", set()), True)):
        with pytest.raises(SystemExit) as ended:
            exec(code, {"judge": verifier})  # noqa: S102 - the page's own program
        assert ended.value.code == wrong
