"""Deletion of receipts whose job is over: by time, or once scope has deleted the job (specs/operating.md §9).

First the lane's key, which erases what the commitments hide, then grants and leaves; the lane's row stays, and says
when, by whom and why: a leaf that is still on its way finds it, and whoever asks is told. Nothing of a job goes before
scope has sealed it and its parent, or has deleted it; who deleted it there, and why, is on scope's record.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from receipts import store
from receipts.client import DeletedReceipts
from receipts.lanes import Lanes, discard_keys
from receipts.ledger import Ledger
from receipts.store import StoredLane
from scope.client import JobStatus, ScopeClient
from service.engine import reading_elsewhere
from service.problems import Log as EventLog
from service.steady import Steady
from verifier.leaf import decode
from verifier.refused import Refused

A_TURN = 100  # lanes that are looked at
UNAVAILABLE = {"scope-unavailable", "ledger-unavailable"}  # then so it is for every other job
PIECE = 1000  # leaves in one transaction: calls wait for it


class Retention:
    """Deletes receipts. `keep` is how long they are kept, in microseconds; None is for ever."""

    def __init__(
        self,
        *,
        directory: Path,
        issuer: str,
        keep: int | None,
        engine: AsyncEngine,
        ledger: Ledger,
        lanes: Lanes,
        scope: ScopeClient,
        clock: Steady,
        log: EventLog,
        every: float = 60.0,
    ) -> None:
        """Take the parts, and the directory of lane keys; `every` in seconds."""
        self._directory = directory
        self._issuer = issuer
        self._keep = keep
        self._reader = reading_elsewhere(engine)
        self._ledger = ledger
        self._lanes = lanes
        self._scope = scope
        self._clock = clock
        self._log = log
        self._every = every
        self._behind, self._after = (0, ""), ""
        self._half = True  # whether leaves may be left of a lane that is deleted

    async def run(self) -> None:
        """Finish what was begun, then look for ever for what is old enough; scope may be away."""
        while True:
            try:
                await self.finish()
                await self.turn()
            except Refused as refused:
                self._log.warning("retention-failed", code=refused.code)
            except Exception:  # noqa: BLE001 - logged with its trace; the next turn tries again
                self._log.exception("bug", task="retention")
            await asyncio.sleep(self._every)

    async def finish(self) -> None:
        """Delete the leaves that a deletion left which did not come to its end, in this epoch or an earlier one."""
        if not self._half:
            return
        self._half = False
        async with self._reader.connect() as reader:
            found = await store.half_deleted(reader)
        self._half = self._half or bool(found)
        for lane in found:
            await self._erase(lane)

    async def turn(self) -> None:
        """Look at some lanes of the oldest, and delete the receipts of their jobs where that is due; then at grants."""
        if self._keep is None:
            return
        until = self._clock() - self._keep
        if not self._clock.trusted:
            return
        await self._receipts(until)
        await self._grants(until)

    async def _receipts(self, until: int) -> None:
        async with self._reader.connect() as reader:
            found = await store.opened_until(reader, until, self._behind, A_TURN)
        self._behind = (found[-1].opened, found[-1].lane) if len(found) == A_TURN else (0, "")
        for job in dict.fromkeys(each.job for each in found):
            with self._noted(job):
                if await self._rests(job, until) and await self._settled(job):
                    await self._delete(job, self._issuer, "retention")

    async def _grants(self, until: int) -> None:
        """Delete grants without receipts: of jobs that were only refused here, or that delegated and did not call."""
        async with self._reader.connect() as reader:
            found = await store.grants_alone(reader, self._after, A_TURN)
        self._after = found[-1] if len(found) == A_TURN else ""
        for job in found:
            with self._noted(job):
                status = await self._status(job)
                old = status is None or (status.closing_at is not None and status.closing_at <= until)
                if old and await self._settled(job):
                    await self._ledger.forget(job)

    @contextmanager
    def _noted(self, job: str) -> Iterator[None]:
        """Log why what is kept of one job stays, unless it is so for every other."""
        try:
            yield
        except Refused as refused:
            if refused.code in UNAVAILABLE:
                raise
            self._log.warning("receipts-not-deleted", job=job, code=refused.code)

    async def delete(self, job: str, by: str, reason: str) -> DeletedReceipts:
        """Delete the receipts of a job that scope has deleted.

        Raises `Refused`: unknown-job, receipts-deleted, job-not-deleted while scope has it or a lane of it is open, or
        where scope does not know it, scope-unavailable, ledger-unavailable.
        """
        async with self._reader.connect() as reader:
            lanes = await store.lanes_of(reader, job)
        if not lanes:
            raise Refused("unknown-job", "there are no receipts of such a job here")
        await self._require_deleted(job)
        if self._lanes.find(job) is not None:
            raise Refused("job-not-deleted", "a lane of the job is still open here", hint="Try again in a moment.")
        if all(each.deleted for each in lanes):
            raise deleted()
        return await self._delete(job, by, reason)

    async def _require_deleted(self, job: str) -> None:
        try:
            there = await self._status(job)
        except Refused as refused:
            if refused.code != "unknown-job":
                raise
            hint = "Its database may be an older one: these receipts are all that is left of the job."
            raise Refused("job-not-deleted", "scope does not know this job", hint=hint) from refused
        if there is not None:
            hint = "Delete it at scope first, where it is recorded: tally job delete."
            raise Refused("job-not-deleted", "scope still has this job", hint=hint)

    async def _rests(self, job: str, until: int) -> bool:
        """Tell whether scope is done with all lanes of a job, and no receipt of it is younger than a time."""
        async with self._reader.connect() as reader:
            for lane in await store.lanes_of(reader, job):
                last = await store.last_leaf(reader, lane.lane)
                if not lane.done or (last is not None and decode(last.raw).time > until):
                    return False
        return True

    async def _settled(self, job: str) -> bool:
        """Tell whether scope needs nothing of a job any more: it is sealed, and so is its parent; or they were deleted.

        Raises `Refused` unknown-job where scope knows nothing of one.
        """
        status = await self._status(job)
        if status is None or status.state != "sealed":
            return status is None
        above = None if status.parent is None else await self._status(status.parent)
        return above is None or above.state == "sealed"

    async def _status(self, job: str) -> JobStatus | None:
        """Ask scope where a job stands; None when scope says that it has deleted it.

        A job that scope merely does not know may have been lost with a newer database: its receipts are all there is.
        """
        try:
            return await self._scope.status(job)
        except Refused as refused:
            if refused.code != "job-deleted":
                raise
            return None

    async def _delete(self, job: str, by: str, reason: str) -> DeletedReceipts:
        async with self._reader.connect() as reader:
            lanes = [each for each in await store.lanes_of(reader, job) if not each.deleted]
        await asyncio.to_thread(discard_keys, self._directory, [each.lane for each in lanes])
        self._half, now = True, self._clock()
        await asyncio.gather(*(self._ledger.deleted(each.lane, now, by, reason) for each in lanes))
        leaves = sum([await self._erase(each) for each in lanes])
        self._log.info("receipts-deleted", job=job, by=by, reason=reason, lanes=len(lanes), leaves=leaves)
        return DeletedReceipts(job=job, lanes=len(lanes), receipts=leaves)

    async def _erase(self, lane: StoredLane) -> int:
        """Delete the grants of a lane's job, and its leaves piece by piece, calls in between; return how many."""
        await self._ledger.forget(lane.job)
        async with self._reader.connect() as reader:
            last = await store.last_leaf(reader, lane.lane)
        size = 0 if last is None else last.seq + 1
        for below in range(PIECE, size + PIECE, PIECE):
            await self._ledger.erase(lane.lane, below)
        return size


def deleted() -> Refused:
    """Say that there were receipts, and that they were deleted."""
    hint = "Whoever kept the job's bundle has them; scope's record of acts keeps its seal's digest."
    return Refused("receipts-deleted", "the receipts of this job were deleted", hint=hint)
