"""What the gateway remembers beside its ledger: how many receipts it wrote, how many revocations it has seen.

With an older ledger it would sign other heads over lanes that it signed before; an older scope would have it forget
revocations (specs/operating.md §10).
"""

import asyncio

from msgspec import Struct, structs
from sqlalchemy.ext.asyncio import AsyncEngine

from receipts import store
from receipts.history import Known
from receipts.ledger import Ledger
from receipts.revocations import Revocations
from service.engine import is_full, reading_elsewhere
from service.newest import Newest, restored
from service.problems import Log

EVERY = 1.0  # seconds


class Seen(Struct, frozen=True):
    """Receipts that were ever durable, and the last revocation: its sequence and its digest."""

    leaves: int
    revocations: int
    digest: str = ""

    @property
    def last(self) -> Known:
        """Name the last revocation."""
        return Known(self.revocations, self.digest)


async def require_newest(newest: Newest[Seen], engine: AsyncEngine, ledger: Ledger, accepted: str) -> None:
    """Refuse to start on an older ledger. Raises `Refused` database-restored, unless just this was accepted.

    An accepted one writes nothing more to the lanes that it has: scope seals the heads that it witnessed.
    """
    known = newest.known
    if known is None or known.leaves <= ledger.leaves:
        return
    if accepted != str(known.leaves):
        raise restored(f"{known.leaves - ledger.leaves} receipts are missing", str(known.leaves))
    async with reading_elsewhere(engine).connect() as reader:
        lanes = await store.unfinished(reader)
    for lane in lanes:
        await ledger.done(lane.lane)
    newest.remember(structs.replace(known, leaves=ledger.leaves))


async def remember(newest: Newest[Seen], ledger: Ledger, revocations: Revocations, log: Log) -> None:
    """Remember what is new each second, for ever; one failure is logged and the next turn tries again."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            seen = revocations.seen
            await asyncio.to_thread(newest.remember, Seen(ledger.leaves, seen.number, seen.digest))
        except OSError as error:
            log.warning("disk-full" if is_full(error) else "not-remembered", why=type(error).__name__)
