"""One lane's leaves, in order: appended here, made durable by the ledger, and vouched for by signed heads.

A head is signed over durable leaves alone: a promise about a receipt that a power cut could take back would be a lie.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from receipts.ledger import Ledger
from receipts.tree import LaneTree
from verifier.checkpoint import proof, sign_head
from verifier.grant import Budget
from verifier.leaf import Begin, Close, Counts, End, Leaf, Status, Token, encode
from verifier.merkle import leaf_hash
from verifier.refused import Refused
from verifier.signing import KeyPair

Build = Callable[[int, int], Leaf]


class Appended(Struct, frozen=True):
    """A leaf with its place; `committed` is done once it is durable."""

    leaf: Leaf
    raw: bytes
    seq: int
    committed: asyncio.Future[None]


class Log:
    """The leaves of one lane. A leaf is built and placed without an await between: what it says of the state holds."""

    def __init__(
        self, lane: str, job: str, origin: str, *, pair: KeyPair, ledger: Ledger, clock: Callable[[], int]
    ) -> None:
        """Start empty."""
        self.lane = lane
        self.job = job
        self.origin = origin
        self.tree = LaneTree()
        self.time = 0
        self.counts: Counter[str] = Counter()
        self.open_calls: dict[str, Begin] = {}
        self.jtis: dict[str, int] = {}  # where each token was first used
        self._spent = {"calls": 0, "cost_nano_usd": 0, "tokens": 0}
        self.durable_size = 0
        self.witnessed: int | None = None  # the size that scope has accepted, when that is known
        self.closed = False
        self.closing_head = ""
        self._pair = pair
        self._ledger = ledger
        self._clock = clock
        self._head: tuple[int, str] = (0, "")
        self._ahead: tuple[int, str] = (0, "")  # never handed out before its leaves are durable

    def write(self, build: Build) -> Appended:
        """Build the next leaf from its seq and time, and hand it to the ledger.

        Raises `Refused`: lane-closed, ledger-unavailable, too-large or bad-value of the leaf; then nothing happened.
        """
        if self.closed:
            raise Refused("lane-closed", "this lane takes no more receipts: its job has ended")
        leaf = build(self.tree.size, max(self._clock(), self.time))
        raw = encode(leaf)
        hashed = leaf_hash(raw)
        committed = self._ledger.append(self.lane, leaf.seq, raw, hashed, leaf.call if isinstance(leaf, End) else None)
        committed.add_done_callback(partial(self._advance, leaf.seq + 1))
        self.take(leaf, hashed)
        return Appended(leaf, raw, leaf.seq, committed)

    def take(self, leaf: Leaf, hashed: bytes) -> None:
        """Count a leaf in: one just appended, or one that an earlier epoch wrote."""
        self.tree.append(hashed)
        self.time = leaf.time
        self.counts[leaf.kind] += 1
        if isinstance(leaf, Begin):
            self.open_calls[leaf.call] = leaf
            self._spend(1, leaf.reservation.tokens or 0, leaf.reservation.cost_nano_usd or 0)
        elif isinstance(leaf, End):
            begun = self.open_calls.pop(leaf.call, None)
            if begun is not None and leaf.usage is not None and leaf.status != "lost":
                self._spend(0, leaf.usage.input + leaf.usage.output - (begun.reservation.tokens or 0), 0)
        elif isinstance(leaf, Token):
            self.jtis[leaf.jti] = leaf.seq
        elif isinstance(leaf, Close):
            self.closed = True

    @property
    def spent(self) -> Budget:
        """What the lane's calls came to; without a price table, costs are what was reserved for them."""
        return Budget(**self._spent)

    def _spend(self, calls: int, tokens: int, cost: int) -> None:
        self._spent["calls"] += calls
        self._spent["tokens"] += tokens
        self._spent["cost_nano_usd"] += cost

    async def durable(self, appended: Appended) -> None:
        """Wait until a leaf is on the disk. Raises `Refused` ledger-unavailable."""
        await asyncio.shield(appended.committed)

    @property
    def head(self) -> str:
        """The signed head over all durable leaves; signed once for each size that somebody asks about."""
        if self._head[0] != self.durable_size or not self._head[1]:
            ahead = self._ahead[0] == self.durable_size and self._ahead[1]
            self._head = self._ahead if ahead else self._signed(self.durable_size)
        return self._head[1]

    def sign_ahead(self) -> None:
        """Use a flush's wait to sign the head that it will make true; where more calls are open, theirs will be."""
        if not self.open_calls:
            self._ahead = self._signed(self.tree.size)

    def _signed(self, size: int) -> tuple[int, str]:
        return size, sign_head(self._pair, self.origin, size, self.tree.root(size))

    async def close(self, reason: str) -> None:
        """Write `close` as the last leaf, make it durable and sign the closing head."""
        counts = Counts(**{kind: self.counts[kind] for kind in ("begin", "deny", "end", "note", "token")})
        close = partial(_close, counts, reason)
        await self.durable(self.write(close))
        await self.sign_closing_head()

    async def sign_closing_head(self) -> None:
        """Sign the head over the whole closed lane, and keep it in the ledger."""
        size = self.durable_size
        seconds = self.time // 1_000_000
        note = await asyncio.to_thread(
            sign_head, self._pair, self.origin, size, self.tree.root(size), closing_at=seconds
        )
        await self._ledger.closed(self.lane, note)
        self.closing_head = note

    def end_open_calls(self, status: Status) -> None:
        """Write the `end` of every call that will have no other: `policy_cut` or `lost`."""
        for call in list(self.open_calls):
            self.write(partial(_unanswered, call, status))

    def proof(self, appended: Appended) -> str:
        """Prove a durable leaf under the newest head: a tlog-proof that carries the leaf."""
        note = self.head
        return proof(appended.raw, appended.seq, self.tree.inclusion(appended.seq, self._head[0]), note)

    def _advance(self, size: int, committed: asyncio.Future[None]) -> None:
        if not committed.cancelled() and committed.exception() is None:
            self.durable_size = max(self.durable_size, size)


def _unanswered(call: str, status: Status, seq: int, time: int) -> End:
    return End(
        call=call,
        flags=(),
        labels=(),
        redactions=0,
        screens=(),
        seq=seq,
        status=status,
        time=time,
        tool_calls=(),
    )


def _close(counts: Counts, reason: str, seq: int, time: int) -> Close:
    return Close(counts=counts, reason=reason, seq=seq, time=time)
