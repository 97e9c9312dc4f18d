"""What an earlier epoch left open is ended at the next start: calls that begun and never ended are `lost`.

A lane is taken up only when its leaves rebuild to what was written; a damaged one is left as it is, and scope seals the
last head that it witnessed. So it does where it witnessed more than there is: the ledger is an older one, and a `close`
would stand where something else was signed before.
"""

from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from receipts import store
from receipts.ledger import Ledger
from receipts.log import Log
from receipts.store import StoredLane
from scope.client import ScopeClient
from service.engine import reading_elsewhere
from service.problems import Log as EventLog
from verifier.leaf import decode
from verifier.merkle import leaf_hash
from verifier.refused import Refused
from verifier.signing import KeyPair


class Witness:
    """Scope, asked how much of lanes it has witnessed; where it is away it is not asked again."""

    def __init__(self, scope: ScopeClient) -> None:
        """Take the client."""
        self._scope = scope
        self._away = False

    async def require(self, log: Log) -> None:
        """Raise `Refused` database-restored where scope has witnessed more of a lane than there is."""
        if self._away:
            return
        try:
            lanes = (await self._scope.status(log.job)).lanes
        except Refused as refused:
            self._away = refused.code not in {"unknown-job", "job-deleted"}
            return
        known = next((each.size for each in lanes if each.lane == log.lane), 0)
        if known > log.tree.size:
            why = f"scope witnessed {known} receipts of a lane with {log.tree.size}: the ledger is an older one"
            raise Refused("database-restored", why)


async def recover(
    engine: AsyncEngine,
    ledger: Ledger,
    pair: KeyPair,
    clock: Callable[[], int],
    events: EventLog,
    *,
    scope: ScopeClient,
) -> list[Log]:
    """Close every lane that an earlier epoch left open; return all whose closing head scope does not have yet.

    A lane without a single leaf is none of them: a `close` in the place of its `open` would be a forgery.
    """
    found, witness = list[Log](), Witness(scope)
    async with reading_elsewhere(engine).connect() as reader:
        for lane in await store.unfinished(reader):
            try:
                log = await _rebuilt(reader, lane, ledger, pair, clock)
                await witness.require(log)
                await _end(log, lane, ledger)
            except Refused as refused:
                events.error("lane-not-recovered", lane=lane.lane, code=refused.code, why=refused.why)
                if refused.code == "database-restored":
                    await ledger.done(lane.lane)  # nor is it written to by a start without scope
            else:
                found += [log] if log.tree.size else []
    return found


async def _rebuilt(
    reader: AsyncConnection, stored: StoredLane, ledger: Ledger, pair: KeyPair, clock: Callable[[], int]
) -> Log:
    if stored.kid != pair.kid:
        raise Refused("wrong-key", "this lane's heads are signed by another gateway key")
    log = Log(stored.lane, stored.job, stored.origin, pair=pair, ledger=ledger, clock=clock)
    await reader.run_sync(rebuild, log)
    return log


async def _end(log: Log, stored: StoredLane, ledger: Ledger) -> None:
    if not log.tree.size:
        await ledger.done(stored.lane)  # cut off before its `open`: there is nothing to end, and scope seals it so
    elif not log.closed:
        log.end_open_calls("lost")
        await log.close("recovered")
    elif stored.closing is None:
        await log.sign_closing_head()
    else:
        log.closing_head = stored.closing


def rebuild(connection: Connection, log: Log) -> None:
    """Take in the leaves of an earlier epoch. Raises `Refused` ledger-damaged when they are not what was written."""
    for each in store.leaves_of(connection, log.lane):
        leaf, hashed = decode(each.raw), leaf_hash(each.raw)
        if each.seq != log.tree.size or leaf.seq != each.seq or hashed != each.hash:
            raise Refused("ledger-damaged", f"leaf {each.seq} of lane {log.lane} is not what was written")
        log.take(leaf, hashed)
    log.durable_size = log.tree.size
