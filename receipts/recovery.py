"""What an earlier epoch left open is ended at the next start: calls that begun and never ended are `lost`.

A lane is taken up only when its leaves rebuild to what was written; a damaged one is left as it is, and scope seals the
last head that it witnessed.
"""

from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from receipts import store
from receipts.ledger import Ledger
from receipts.log import Log
from receipts.store import StoredLane
from service.engine import reading_elsewhere
from service.problems import Log as EventLog
from verifier.leaf import decode
from verifier.merkle import leaf_hash
from verifier.refused import Refused
from verifier.signing import KeyPair


async def recover(
    engine: AsyncEngine, ledger: Ledger, pair: KeyPair, clock: Callable[[], int], events: EventLog
) -> list[Log]:
    """Close every lane that an earlier epoch left open; return all whose closing head scope does not have yet.

    A lane without a single leaf is none of them: a `close` in the place of its `open` would be a forgery.
    """
    found = list[Log]()
    async with reading_elsewhere(engine).connect() as reader:
        for lane in await store.unfinished(reader):
            try:
                log = await _recover(reader, lane, ledger, pair, clock)
            except Refused as refused:
                events.error("lane-not-recovered", lane=lane.lane, code=refused.code)
            else:
                found += [log] if log.tree.size else []
    return found


async def _recover(
    reader: AsyncConnection, stored: StoredLane, ledger: Ledger, pair: KeyPair, clock: Callable[[], int]
) -> Log:
    if stored.kid != pair.kid:
        raise Refused("wrong-key", "this lane's heads are signed by another gateway key")
    log = Log(stored.lane, stored.job, stored.origin, pair=pair, ledger=ledger, clock=clock)
    await reader.run_sync(rebuild, log)
    if not log.tree.size:
        await ledger.done(stored.lane)  # cut off before its `open`: there is nothing to end, and scope seals it so
    elif not log.closed:
        log.end_open_calls("lost")
        await log.close("recovered")
    elif stored.closing is None:
        await log.sign_closing_head()
    else:
        log.closing_head = stored.closing
    return log


def rebuild(connection: Connection, log: Log) -> None:
    """Take in the leaves of an earlier epoch. Raises `Refused` ledger-damaged when they are not what was written."""
    for each in store.leaves_of(connection, log.lane):
        leaf, hashed = decode(each.raw), leaf_hash(each.raw)
        if each.seq != log.tree.size or leaf.seq != each.seq or hashed != each.hash:
            raise Refused("ledger-damaged", f"leaf {each.seq} of lane {log.lane} is not what was written")
        log.take(leaf, hashed)
    log.durable_size = log.tree.size
