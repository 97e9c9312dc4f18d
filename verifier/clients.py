"""What a client adds to its calls: an echo of the last receipt it saw, and a counter (specs/receipts.md §6)."""

from verifier.findings import LaneFindings
from verifier.leaf import Begin, Deny, Echo, Hold

WINDOW = 4096


class Hashes:
    """The leaf hashes of the last receipts of a lane, at least 4,096 of them."""

    def __init__(self) -> None:
        """Start before leaf 0."""
        self._hashes: list[bytes] = []
        self._first = 0  # the place of the first one kept

    def extend(self, hashes: list[bytes]) -> None:
        """Take in the next ones, and forget old ones now and then."""
        if len(self._hashes) > 4 * WINDOW:
            forgotten = len(self._hashes) - WINDOW
            del self._hashes[:forgotten]
            self._first += forgotten
        self._hashes += hashes

    def digest(self, seq: int) -> str:
        """Return the leaf digest of a receipt among the last ones; of no other place, one that nothing can name."""
        at = seq - self._first
        return "sha256:" + (self._hashes[at].hex() if 0 <= at < len(self._hashes) else "none")


class Clients:
    """Echoes and counters of one lane."""

    def __init__(self, hashes: Hashes, found: LaneFindings) -> None:
        """Start with nothing seen."""
        self._hashes = hashes
        self._found = found
        self._next = 1  # every counter below was seen, or its absence reported
        self._ahead: set[int] = set()  # seen, though one below was not

    def check(self, leaf: Begin | Deny | Hold, *, required: bool) -> None:
        """Judge what a call's client added."""
        if leaf.echo is not None:
            self._check_echo(leaf.echo, leaf.seq)
        if leaf.counter is not None:
            self._count(leaf.counter, leaf.seq)
        elif required:
            why = "the grant requires a client's counter, and this call has none"
            self._found.add("counter-gap", 12, why, leaf.seq, "counter")

    def _check_echo(self, echo: Echo, seq: int) -> None:
        """Step 14: an echo names an earlier receipt of this lane, at most 4,096 back."""
        if not seq - WINDOW <= echo.seq < seq or self._hashes.digest(echo.seq) != echo.hash:
            why = f"the client had seen another receipt {echo.seq} than this lane has, or one too old to tell"
            self._found.add("bad-echo", 14, why, seq, "echo")

    def _count(self, counter: int, seq: int) -> None:
        if counter < self._next or counter in self._ahead:
            why = f"the client's counter {counter} stands twice, or comes more than {WINDOW} calls late"
            self._found.add("counter-used", 14, why, seq, "counter")
            return
        self._ahead.add(counter)
        self._advance()
        if len(self._ahead) > WINDOW:
            self._report_gap()

    def _advance(self) -> None:
        while self._next in self._ahead:
            self._ahead.discard(self._next)
            self._next += 1

    def _report_gap(self) -> None:
        """Report the lowest gap: what has not come within 4,096 calls will not."""
        lowest = min(self._ahead)
        said = f"{self._next}" if lowest == self._next + 1 else f"{self._next} to {lowest - 1}"
        self._found.add("counter-gap", 12, f"no receipt has the client's counter {said}", place="counter")
        self._next = lowest
        self._advance()

    def finish(self) -> None:
        """Report every gap that is left."""
        while self._ahead:
            self._report_gap()
