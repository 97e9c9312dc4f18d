"""Step 10: what scope saw of a lane and when, against the times that the gateway wrote (specs/verification.md §10)."""

from bisect import bisect_left, bisect_right

from verifier.revocation import Revocation
from verifier.seal import Mark

SECOND = 1_000_000
FOREVER = 2**62
GRACE = 60 * SECOND


class Marks:
    """The marks of one lane.

    Times in microseconds; `skew` is the pin's, `stale` how long a gateway may work without scope.
    """

    def __init__(self, marks: list[Mark], closed: int | None, *, skew: int, stale: int) -> None:
        """Take a sealed lane's marks and the seal's time; without a seal nothing bounds a receipt."""
        self._marks = marks
        self._sizes = [mark.size for mark in marks]
        self._times = [mark.time for mark in marks]
        self._closed = closed or 0
        self._end = FOREVER if closed is None else closed + skew
        self._skew = skew
        self._lag = max(skew, stale + SECOND)
        self._due = stale + SECOND
        self.earliest, self.latest, self.next = 0, FOREVER, 0

    def advance(self, seq: int) -> None:
        """Move to the marks around a receipt; `next` is the first place where they are others, -1 when none.

        Scope did not know the receipt at the mark before it, so it is not much older than that mark: by the skew, or by
        how long a gateway may work without scope. Scope knew it at the mark after it, so it is no younger.
        """
        passed = bisect_right(self._sizes, seq)
        more = passed < len(self._marks)
        self.earliest = self._marks[passed - 1].time - self._lag if passed else 0
        self.latest = self._marks[passed].time + self._skew if more else self._end
        self.next = self._sizes[passed] if more else -1

    def cutoff(self, revocation: Revocation) -> Mark | None:
        """Find the mark at which every gateway had to know of a revocation; None when the lane ended before."""
        known = bisect_left(self._times, revocation.time + self._due)
        return self._marks[known] if known < len(self._marks) else None

    def late(self, mark: Mark | None, revocation: Revocation, size: int) -> bool:
        """Tell whether scope set that mark too late to prove anything; one before the first receipt never is.

        Without one the seal stands for it, where the lane, of `size` in the end, went on after its last mark.
        """
        if mark is None:
            return size > self._sizes[-1] and self._closed > revocation.time + self._due + GRACE
        return mark.size > 0 and mark.time > revocation.time + self._due + GRACE
