"""Where in a lane something was found: the line in the file, the lane, the receipt."""

from verifier.refused import Refused
from verifier.report import Report


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

    def add(self, code: str, step: int, why: str, seq: int | None = None, place: str = "") -> None:
        """Record a finding, at receipt `seq` or at the lane's head."""
        self.report.add(code, step, why, line=self._line(seq), lane=self.lane, seq=seq, place=place)

    def refuse(self, refused: Refused, step: int, seq: int | None = None, *, behind: int = 0) -> None:
        """Record a refusal, of a receipt or of the line that stands so far behind it."""
        self.report.refuse(refused, step, line=self._line(seq) + behind, lane=self.lane, seq=seq)

    def _line(self, seq: int | None) -> int:
        return self.line if seq is None else self.line + 1 + seq + self.attached
