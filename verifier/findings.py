"""Where in a lane something was found: the line in the file, the lane, the receipt."""

from array import array
from bisect import bisect_left

from verifier.refused import Refused
from verifier.report import Report

MAX_PLACES = 1 << 16


class LaneFindings:
    """The findings of one lane.

    Receipts stand on consecutive lines, with disclosures and sealed payloads between them: `attached` counts those.
    """

    def __init__(self, report: Report, lane: str, line: int) -> None:
        """Begin at the lane's head line."""
        self.report = report
        self.lane = lane
        self.line = line
        self.attached = 0
        self._last = -1  # the last receipt that lines stood behind
        self._places = array("q")  # of the first receipts that lines stand behind
        self._behind = array("q")  # how many lines had stood behind receipts by then

    def add(self, code: str, step: int, why: str, seq: int | None = None, place: str = "") -> None:
        """Record a finding, at receipt `seq` or at the lane's head."""
        self.report.add(code, step, why, line=self._line(seq), lane=self.lane, seq=seq, place=place)

    def refuse(self, refused: Refused, step: int, seq: int | None = None, *, behind: int = 0) -> None:
        """Record a refusal, of a receipt or of the line that stands so far behind it."""
        self.report.refuse(refused, step, line=self._line(seq, behind), lane=self.lane, seq=seq)

    def passed(self, seq: int, behind: int) -> None:
        """Count the lines that stood behind a receipt; where the first of them stood is kept."""
        if behind:
            self.attached, self._last = self.attached + behind, seq
            if len(self._places) < MAX_PLACES:
                self._places.append(seq)
                self._behind.append(self.attached)

    def _line(self, seq: int | None, behind: int = 0) -> int | None:
        """Find the line of a receipt, of one long ago as well; None when too many stood between to tell."""
        if seq is None:
            return self.line
        before = bisect_left(self._places, seq)
        if seq > self._last:
            attached = self.attached
        elif before < len(self._places):
            attached = self._behind[before - 1] if before else 0
        else:
            return None
        return self.line + 1 + seq + attached + behind
