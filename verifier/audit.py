"""The audit of one bundle, offline and alone (specs/verification.md).

 1 read within limits            6 lanes: sealed, rebuilt, head signed     11 approvals
 2 pin and key lists             7 receipts: places, kinds, pairs          12 completeness; model and tool calls tied
 3 policies and their parents    8 bindings: token, time, grant, manifest  13 disclosures and sealed payloads
 4 grants: inside the policy     9 decisions replayed                      14 the caller's half
 5 seal                         10 time and revocation

What a step cannot judge is refused `unsupported`, never passed. The verdict is the worst of the findings' (report.py).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from verifier import kept as clients
from verifier.bundle import (
    MAX_BYTES,
    MAX_DOCUMENTS,
    MAX_LEAF,
    ORDER,
    Head,
    Header,
    Line,
    Reader,
    content,
    kind_of,
)
from verifier.delegation import overdrawn
from verifier.encoding import read
from verifier.evidence import Evidence, establish, establish_trust
from verifier.fold import Several
from verifier.keys import Pin, Trust
from verifier.lane import LaneCheck
from verifier.narrowed import Narrowed
from verifier.refused import Refused
from verifier.report import Report
from verifier.signing import SUITE

# A head line: its note is at most 16 KiB, and JSON writes a newline as two bytes.
MAX_LANE_LINE = 4 * MAX_LEAF
MAX_LANES = 1000


def verify(
    source: BinaryIO | Path | str,
    pin: Pin,
    at: int | None = None,
    *,
    keys: bytes | None = None,
    kept: Iterable[tuple[str, bytes]] = (),
    max_bytes: int = MAX_BYTES,
) -> Report:
    """Judge one bundle against a pin: read once, in constant memory, offline (specs/verification.md).

    `source` is a path, or a binary file that is read to its end. With `at` (microseconds) the key list must also be
    current then. `keys` holds newer key lists, one envelope a line; `kept` what clients hold: names and tlog-proofs.
    Never raises for what a bundle contains, a `Report` says all of it; `OSError` is the caller's.
    """
    if isinstance(source, Path | str):
        with Path(source).open("rb") as file:
            return verify(file, pin, at, keys=keys, kept=kept, max_bytes=max_bytes)
    report = Report()
    reader = Reader(source, max_bytes)
    try:
        Audit(reader, pin, at, report, keys=keys, kept=kept).run()
    except Refused as refused:
        report.refuse(refused, 1, line=reader.number)
    report.conclude()
    return report


class Audit:
    """One pass over one bundle."""

    def __init__(
        self,
        reader: Reader,
        pin: Pin,
        at: int | None,
        report: Report,
        *,
        keys: bytes | None = None,
        kept: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Take the parts."""
        self.reader = reader
        self.pin = pin
        self.at = at
        self.report = report
        self.keys = keys
        self.kept = kept
        self._head: bytes | None = None

    def run(self) -> None:
        """Walk the steps."""
        header = self._header()
        lines = self._documents()
        trust = establish_trust(self.pin, lines, self.report, self.keys)
        if header is None or trust is None:
            return
        evidence = establish(header.job, trust, lines, self.report)
        if evidence is None:
            return
        self.report.job, self.report.policy = evidence.job, evidence.policy_digest
        if any(policy.regulated for policy in evidence.policies):
            self.report.regulate()
        last = self._lanes(evidence)
        self._current(trust, evidence, last)

    # Step 1 ---------------------------------------------------------------------------------------------------------

    def _header(self) -> Header | None:
        """Read the first line; its claims are checked like everything else."""
        raw = self.reader.line()
        try:
            return _read_header(raw, self.pin)
        except Refused as refused:
            self.report.refuse(refused, 1, line=1)
            return None

    def _documents(self) -> list[Line]:
        """Read up to the first lane, in order and within limits."""
        lines: list[Line] = []
        reached, size = 1, 0
        while (raw := self.reader.line()) is not None:
            kind = kind_of(raw)
            if kind == "head":
                self._head = raw
                break
            if kind is None or kind not in ORDER or ORDER.index(kind) < reached:
                self.report.add("bad-line", 1, "a line of no known kind, or out of order", line=self.reader.number)
                continue
            reached, size = ORDER.index(kind), size + len(raw)
            if size > MAX_DOCUMENTS:
                raise Refused("too-large", f"the documents before the lanes have more than {MAX_DOCUMENTS} bytes")
            try:
                lines.append(Line(self.reader.number, kind, content(raw, kind)))
            except Refused as refused:
                self.report.refuse(refused, 1, line=self.reader.number)
        return lines

    # Steps 6 to 14 --------------------------------------------------------------------------------------------------

    def _lanes(self, evidence: Evidence) -> int:
        """Judge every lane; return the time of the last receipt."""
        kept = clients.establish(self.kept, evidence, self.report)
        seen: set[str] = set()
        approvals: set[str] = set()
        last, several, narrowed = 0, Several(), Narrowed(evidence.policies)
        raw = self._head
        while raw is not None:
            number = self.reader.number
            head = self._lane_head(raw, number, seen)
            check = LaneCheck(head, evidence, self.report, number, narrowed=narrowed, kept=kept.get(head.lane, ()))
            raw = self._receipts(check)
            check.finish()
            last = max(last, check.time)
            several.add(check.fold.purse)
            for name in sorted(approvals & check.calls.releases.named):
                why = (
                    f"the approval {name} releases a call of another lane already: a hold is one lane's, and used once"
                )
                self.report.add("wrong-approval", 11, why, lane=head.lane, place="approvals")
            approvals |= check.calls.releases.named
        self._total(evidence, several)
        for lane in evidence.seal.lanes if evidence.seal else ():
            if lane.lane not in seen:
                why = f"lane {lane.lane} is sealed with {lane.size} receipts and not in the bundle"
                self.report.add("missing-lane", 6, why, lane=lane.lane)
        for name in sorted(set(evidence.approvals) - approvals):
            self.report.add("unnamed-document", 11, f"the approval {name} is named by no receipt", place="approval")
        clients.missing(kept, seen, self.report)
        return last

    def _lane_head(self, raw: bytes, number: int, seen: set[str]) -> Head:
        """Read a lane's first line."""
        try:
            head = read(content(raw, "head"), Head, limit=MAX_LANE_LINE)
        except Refused as refused:
            self.report.refuse(refused, 6, line=number)
            head = Head(lane="unreadable", note="")
        if head.lane in seen or head.lane < max(seen, default=""):
            self.report.add("bad-line", 1, "lanes stand in order, none twice", line=number, lane=head.lane)
        seen.add(head.lane)
        if len(seen) > MAX_LANES:
            raise Refused("too-large", f"more than {MAX_LANES} lanes")
        return head

    def _total(self, evidence: Evidence, several: Several) -> None:
        """Step 9, its end: all lanes and children's shares together stay inside the job's one purse and its limits."""
        children = evidence.seal.children if evidence.seal else []
        limits = evidence.first.scope.limits
        spent = overdrawn(limits, children, several.spent)
        for why in (*spent, *several.over()):
            self.report.add("over-budget", 9, why, place="limits")

    def _receipts(self, check: LaneCheck) -> bytes | None:
        """Feed a lane its receipts; return the next head line, None at the end."""
        try:
            while lines := self.reader.receipts():
                check.feed(lines)
            return self.reader.line()
        except Refused as refused:
            self.report.refuse(refused, 1, line=self.reader.number, lane=check.head.lane, seq=check.reached)
            return None

    def _current(self, trust: Trust, evidence: Evidence, last: int) -> None:
        """Step 2, its second half: the key list was current at the seal (else at the last receipt) and at `--at`."""
        for at, newest in ((evidence.seal.closed if evidence.seal else last, False), (self.at, True)):
            if at is not None:
                try:
                    trust.current(at, newest=newest)
                except Refused as refused:
                    self.report.refuse(refused, 2)
        totals = self.report.totals
        if self.pin.require_full_replay and totals.replayed_fully < totals.replayed:
            self.report.add(
                "partial-replay", 9, f"{totals.replayed_fully} of {totals.replayed} decisions could be replayed fully"
            )


def _read_header(raw: bytes | None, pin: Pin) -> Header:
    if raw is None or kind_of(raw) != "header":
        raise Refused("missing-line", "the first line is not a bundle's header", hint="Is this a .tally file?")
    header = read(content(raw, "header"), Header, limit=MAX_LEAF)
    if header.suite != SUITE or SUITE not in pin.suites:
        raise Refused("wrong-suite", f"suite {header.suite}: this verifier and the pin accept another", field="suite")
    return header
