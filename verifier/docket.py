"""The documents of one bundle while they are opened: every refusal becomes a finding (specs/bundle.md §1)."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from verifier.bundle import Line
from verifier.documents import Opened
from verifier.grant import Grant
from verifier.keys import Trust
from verifier.refused import Refused
from verifier.report import Report
from verifier.revocation import Revocation

T = TypeVar("T")


class Docket:
    """The lines before the lanes, and the report on them."""

    def __init__(self, job: str, trust: Trust, lines: list[Line], report: Report) -> None:
        """Take the lines as read, after the key lists."""
        self.job = job
        self.trust = trust
        self.report = report
        self.lines = lines

    def of(self, kind: str) -> list[Line]:
        """Give the lines of one kind."""
        return [line for line in self.lines if line.kind == kind]

    def open(self, kind: str, step: int, open_one: Callable[[bytes], Opened[T]]) -> dict[str, Opened[T]]:
        """Open every document of a kind, by digest."""
        found: dict[str, Opened[T]] = {}
        last = (-1, "")
        for line in self.of(kind):
            one = self.open_line(line, step, open_one)
            if one is None:
                continue
            if _place(one) <= last:
                why = f"documents of a kind stand in one order, none twice; this {kind} does not"
                self.report.add("bad-line", 1, why, line=line.number)
            last = max(last, _place(one))
            found.setdefault(one.digest, one)
        return found

    def open_line(self, line: Line, step: int, open_one: Callable[[bytes], Opened[T]]) -> Opened[T] | None:
        """Open one document, or report why it cannot be used."""
        try:
            return open_one(line.raw)
        except Refused as refused:
            self.report.refuse(refused, step, line=line.number)
            return None

    def named(self, kind: str, found: Iterable[str], wanted: set[str], step: int) -> None:
        """Hold what is there against what is named: neither more nor less."""
        there = set(found)
        for name in sorted(wanted - there):
            why = f"the {kind} {name} is named and not in the bundle, or cannot be used"
            self.report.add("missing-document", step, why, place=kind)
        for name in sorted(there - wanted):
            self.report.add("unnamed-document", step, f"the {kind} {name} is named by nothing", place=kind)

    def expected(self, name: str, wanted: str | None, found: str) -> None:
        """Hold the job against what the pin expects of it."""
        if wanted is not None and wanted != found:
            self.report.add("not-expected", 5, f"the pin expects the {name} {wanted}, this is {found}", place=name)


def _place(one: Opened[T]) -> tuple[int, str]:
    """Where a document stands among its kind: grants as they were issued, revocations in sequence, else by digest."""
    value = one.value
    number = value.issued_at if isinstance(value, Grant) else value.sequence if isinstance(value, Revocation) else 0
    return number, one.digest


def values(opened: dict[str, Opened[T]]) -> dict[str, T]:
    """Give the documents without their payloads."""
    return {name: each.value for name, each in opened.items()}
