"""The revocations of one scope, one after another: is what it says now the continuation of what it said before?

Whoever asks for what is new asks for the last one that he has, too. A scope that gives another under its number, or
counts fewer, goes on from an older database: all that it has is read anew, and it is believed again once it has ended
everything under a number that nobody has seen.
"""

from msgspec import Struct

from verifier.documents import Opened
from verifier.refused import Refused
from verifier.revocation import Revocation

EVERYTHING = ("all", "*")


class Known(Struct, frozen=True):
    """The last revocation of a scope that was believed; without a digest its number alone is known."""

    number: int = 0
    digest: str = ""


class History:
    """What was read: `sequence` is the last revocation of it."""

    def __init__(self, seen: Known) -> None:
        """Start having read nothing; `seen` is what an earlier run had seen, which scope must have still."""
        self.sequence = 0
        self._digest = ""
        self._before = seen
        self._other = False  # whether scope has another revocation in the place of one that was seen

    @property
    def seen(self) -> Known:
        """Name the last revocation that scope must have still, now and for the next run."""
        if self._other or self.sequence < self._before.number:
            return self._before
        return Known(self.sequence, self._digest)

    @property
    def after(self) -> int:
        """Name the sequence to ask after: the answer begins with the last one that is known."""
        return max(0, self.sequence - 1)

    def require_onward(self, count: int) -> None:
        """Raise `Refused` scope-restored where scope counts fewer revocations than were seen."""
        if count < (seen := max(self.sequence, self._before.number)):
            raise _restored(f"scope counts {count} revocations and had signed {seen}")

    def require_same(self) -> None:
        """Raise `Refused` scope-restored while scope goes on otherwise than it did."""
        if self._other:
            raise self._another()

    def add(self, opened: Opened[Revocation]) -> bool:
        """Take the next revocation, and tell so, or hold the last one against the one that is known.

        Raises `Refused`: bad-snapshot out of sequence; scope-restored where all has to be read anew.
        """
        number, before = opened.value.sequence, self._before
        if number == self.sequence:
            self._compare(opened.digest)
            return False
        if number != self.sequence + 1:
            raise Refused("bad-snapshot", "a revocation out of sequence")
        self.sequence, self._digest = number, opened.digest
        if number == before.number and before.digest not in {"", opened.digest}:
            self._other = True
        if number > before.number and opened.value.name == EVERYTHING:
            self._other = False
        return True

    def _compare(self, digest: str) -> None:
        if digest != self._digest:
            self._before = self.seen
            self.sequence, self._digest = 0, ""
            raise self._another()

    def _another(self) -> Refused:
        return _restored(f"scope's revocation {self._before.number} is another than the one it had signed")


def _restored(why: str) -> Refused:
    return Refused(
        "scope-restored",
        f"{why}: its database is an older one",
        hint="Restore the newest backup of scope's database; the manual says what to do if there is none.",
    )
