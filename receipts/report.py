"""Once a second scope witnesses the heads of the lanes that moved, and says which jobs are closing."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

from receipts.lanes import Lane, Lanes
from receipts.ledger import Ledger
from receipts.log import Log
from scope.client import MAX_HEADS, Closing, Head, RefusedHead, ScopeClient
from service.problems import Log as EventLog
from verifier.encoding import b64
from verifier.refused import Refused


class Reporter:
    """Reports lanes to scope and closes them when scope says so. `add` gives it what recovery closed."""

    def __init__(self, lanes: Lanes, ledger: Ledger, scope: ScopeClient, log: EventLog, *, every: float = 1.0) -> None:
        """Take the parts; `every` in seconds."""
        self._lanes = lanes
        self._ledger = ledger
        self._scope = scope
        self._log = log
        self._every = every
        self._recovered: dict[str, Log] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def add(self, log: Log) -> None:
        """Report a lane of an earlier epoch, until scope has its closing head or has sealed without it."""
        self._recovered[log.lane] = log

    def wake(self) -> None:
        """Report now: something was revoked, and jobs may be closing."""
        self._wake.set()

    async def run(self) -> None:
        """Report for ever; scope may be away for a while."""
        while True:
            try:
                await self.report()
            except Refused as refused:
                self._log.warning("report-failed", code=refused.code)
            except Exception:  # noqa: BLE001 - logged with its trace; a reporter that ends would leave jobs open
                self._log.exception("bug", task="report")
            try:
                await asyncio.wait_for(self._wake.wait(), self._every)
            except TimeoutError:
                continue
            self._wake.clear()

    async def report(self) -> None:
        """Report every lane that moved, and begin to close the jobs that scope names."""
        for log in self._logs():
            if log.witnessed is None:
                await self._learn(log)
        moving = [log for log in self._logs() if _moved(log)]
        for part in _parts(moving, MAX_HEADS):
            for each in await self._send(part):
                self.close(each.job, each.reason)

    def _logs(self) -> list[Log]:
        return [*self._lanes, *self._recovered.values()]

    async def _learn(self, log: Log) -> None:
        """Ask how much of a lane scope has witnessed: after a crash, or when an answer was lost, only scope knows."""
        try:
            status = await self._scope.status(log.job)
        except Refused as refused:
            if refused.code not in {"unknown-job", "job-deleted"}:  # what scope says of itself is no word of the lane
                raise
            self._refused(log, RefusedHead(lane=log.lane, code=refused.code, why=refused.why, size=0))
            return
        known = next((each for each in status.lanes if each.lane == log.lane), None)
        if known is None or known.closed or status.state == "sealed" or known.size > log.durable_size:
            if known is None or not known.closed:
                self._log.warning("lane-not-reported", lane=log.lane, state=status.state)
            self._done(log)
        else:
            log.witnessed = known.size

    async def _send(self, part: list[Log]) -> list[Closing]:
        """Report these lanes in one request."""
        sizes = {log.lane: log.durable_size for log in part}
        try:
            answer = await self._scope.report_heads([_head(log) for log in part])
        except Refused:
            for log in part:
                log.witnessed = None
            raise
        refused = {each.lane: each for each in answer.refused}
        for log in part:
            if log.lane in refused:
                self._refused(log, refused[log.lane])
            else:
                self._accepted(log, sizes[log.lane])
        return answer.closing

    def close(self, job: str, reason: str) -> None:
        """Begin to close a job's lane, if it is open here and not closing already."""
        lane = self._lanes.find(job)
        if lane is not None and lane.lane not in self._closing:
            self._closing[lane.lane] = asyncio.create_task(self._close(lane, reason))

    async def _close(self, lane: Lane, reason: str) -> None:
        try:
            await lane.end(reason)
        except Refused as refused:  # the ledger failed: scope will seal what it last witnessed
            self._log.warning("close-failed", lane=lane.lane, code=refused.code)
        except Exception:  # noqa: BLE001 - logged with its trace; the lane is sealed without us
            self._log.exception("bug", task="close", lane=lane.lane)
        self._wake.set()

    def _accepted(self, log: Log, size: int) -> None:
        log.witnessed = size
        if log.closing_head and size == log.tree.size:
            self._done(log)

    def _refused(self, log: Log, refused: RefusedHead) -> None:
        """Give a lane up that scope does not take: sealed without us, or not what scope had witnessed before.

        Where scope knows less of it than it had accepted, it is asked anew, and told again from there on.
        """
        if log.witnessed is not None and refused.code == "inconsistent-head" and refused.size < log.witnessed:
            self._log.error("scope-went-back", lane=log.lane, known=refused.size, accepted=log.witnessed)
            log.witnessed = None
            return
        self._log.warning("head-refused", lane=log.lane, code=refused.code, size=refused.size)
        self._done(log)

    def _done(self, log: Log) -> None:
        self._lanes.forget(log.lane)
        self._recovered.pop(log.lane, None)
        self._closing.pop(log.lane, None)
        self._ledger.done(log.lane)


def _moved(log: Log) -> bool:
    """Tell whether there is news: more durable leaves, and of a closed lane only all of them, with the closing head."""
    news = log.witnessed is not None and log.durable_size > log.witnessed
    return news and (not log.closed or bool(log.closing_head))


def _head(log: Log) -> Head:
    size, known = log.durable_size, log.witnessed or 0
    return Head(
        lane=log.lane,
        note=log.closing_head or log.head,
        consistency=[b64(each) for each in log.tree.consistency(known, size)] if known else [],
        jtis=[jti for jti, seq in log.jtis.items() if known <= seq < size],
        closed=bool(log.closing_head),
        spent=log.spent if log.closing_head else None,
        running=len(log.open_calls),
    )


def _parts(logs: Sequence[Log], most: int) -> Iterable[list[Log]]:
    """Cut a report into requests; one that is empty still asks which jobs are closing."""
    rest = iter(logs)
    yield list(islice(rest, most))
    while part := list(islice(rest, most)):
        yield part
