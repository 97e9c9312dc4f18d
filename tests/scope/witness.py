"""A gateway whose scope goes away: all its moving lanes in one report, and after a lost answer it asks first.

It does as `receipts/report.py` does, with lanes that hold receipts without calls.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from scope.client import Head, LaneRequest, OpenedJob, ScopeClient
from tests.scope.conftest import GatewayLane, Town
from verifier import leaf
from verifier.grant import Token
from verifier.refused import Refused

T = TypeVar("T")
EVERY = 0.03  # seconds between reports: a real gateway's second would be most of a life
PATIENCE = 120.0  # seconds that anything may take, restarts of scope included


class Ask(Protocol):
    """One way to call scope: once, or until it answers."""

    def __call__(self, name: str, ask: Callable[[ScopeClient], Awaitable[T]], /) -> Awaitable[T]:
        """Call as somebody."""


class Lane(GatewayLane):
    """A lane as its gateway remembers it: `reported` is the size that scope acknowledged last."""

    def __init__(self, town: Town, job: OpenedJob, name: str) -> None:
        super().__init__(town, job, name)
        self.jtis: dict[str, int] = {}
        self.unsure = self.over = False
        self.newest = ""

    def use(self, token: Token) -> None:
        """Write the first use of a token."""
        if token.jti not in self.jtis and not self.closed:
            self.jtis[token.jti] = len(self.raws)
            self._write(
                leaf.Token(
                    exp=token.exp, grant=token.grant, iat=token.iat, jti=token.jti, scope_hash=token.scope_hash,
                    seq=len(self.raws), time=self.town.clock(),
                )
            )  # fmt: skip

    def note(self, count: int = 1) -> None:
        """Write some receipts without a call, while the lane is open."""
        super().note(0 if self.closed else count)

    def close(self, reason: str = "complete") -> None:
        """Write the last receipt, once."""
        if not self.closed:
            notes, tokens = len(self.raws) - 1 - len(self.jtis), len(self.jtis)
            counts = leaf.Counts(begin=0, deny=0, end=0, note=notes, token=tokens)
            self._write(leaf.Close(counts=counts, reason=reason, seq=len(self.raws), time=self.town.clock()))
            self.closed = True

    def moved(self) -> bool:
        """Tell whether there is news for scope."""
        return not self.over and len(self.raws) > self.reported

    def news(self) -> Head:
        """Sign the newest head, with the tokens first used since the last that was acknowledged."""
        head = self.head(jtis=[jti for jti, seq in self.jtis.items() if seq >= self.reported])
        self.newest = head.note
        return head

    def acknowledged(self, size: int) -> None:
        """Remember what scope has, and that it has all of a closed lane."""
        self.reported = max(self.reported, size)
        self.over = self.closed and size == len(self.raws)

    async def reach(self, size: int) -> None:
        """Wait until scope has acknowledged so many receipts, or wants no more."""
        async with asyncio.timeout(PATIENCE):
            while self.reported < size and not self.over:  # noqa: ASYNC110 - the gateway's own pace
                await asyncio.sleep(0.01)


class Gateway:
    """Every lane of one gateway. `once` asks scope once, `insist` until it answers."""

    def __init__(self, town: Town, once: Ask, insist: Ask) -> None:
        self._town, self._once, self._insist = town, once, insist
        self.lanes: dict[str, Lane] = {}
        self.unheard = 0

    async def register(self, job: OpenedJob, name: str) -> Lane:
        """Register a lane and write its first receipt."""
        lane = Lane(self._town, job, name)
        request: LaneRequest = lane.request()
        lane.registered = await self._insist("receipts", lambda scope: scope.register_lane(job.job, request))
        lane.open()
        self.lanes[name] = lane
        return lane

    async def run(self) -> None:
        """Report for ever."""
        while True:
            try:
                await self.report()
            except Refused as refused:
                if refused.code != "scope-unavailable":
                    raise
            await asyncio.sleep(EVERY)

    async def report(self) -> None:
        """Report every lane that moved, and close those that scope names."""
        for lane in [each for each in self.lanes.values() if each.unsure]:
            await self._learn(lane)
        moving = [each for each in self.lanes.values() if each.moved()]
        heads, sizes = [each.news() for each in moving], [len(each.raws) for each in moving]
        try:
            answer = await self._once("receipts", lambda scope: scope.report_heads(heads))
        except Refused:
            for lane in moving:
                lane.unsure = True
            raise
        refused = {each.lane: each.code for each in answer.refused}
        for lane, size in zip(moving, sizes, strict=True):
            if lane.name in refused:
                assert refused[lane.name] == "job-sealed", refused
                lane.over = True
            else:
                lane.acknowledged(size)
        reasons = {each.job: each.reason for each in answer.closing}
        for lane in [each for each in self.lanes.values() if each.job.job in reasons]:
            lane.close(reasons[lane.job.job])

    async def _learn(self, lane: Lane) -> None:
        """Ask how much of a lane scope has witnessed: the answer to its last head was lost."""
        status = await self._once("receipts", lambda scope: scope.status(lane.job.job))
        known = next(each for each in status.lanes if each.lane == lane.name)
        assert lane.reported <= known.size <= len(lane.raws), "what scope acknowledged it has"
        self.unheard += known.size > lane.reported
        lane.acknowledged(known.size)
        lane.over = lane.over or status.state == "sealed"
        lane.unsure = False
