"""What is read from the ledger's database; the one writer is `ledger.py`."""

from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct
from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from receipts.tables import documents, lanes, leaves


class StoredLane(Struct, frozen=True, kw_only=True):
    """A lane as registered; `closing` is its closing head, if it was closed."""

    lane: str
    job: str
    origin: str
    kid: str
    closing: str | None


class StoredLeaf(Struct, frozen=True):
    """One leaf's bytes and its hash, as they were written."""

    seq: int
    raw: bytes
    hash: bytes


_lane = select(lanes.c.lane, lanes.c.job, lanes.c.origin, lanes.c.kid, lanes.c.closing)


async def unfinished(reader: AsyncConnection) -> list[StoredLane]:
    """List the lanes that scope has not done with."""
    return await _lanes(reader, _lane.where(lanes.c.done == 0).order_by(lanes.c.lane))


async def lanes_of(reader: AsyncConnection, job: str) -> list[StoredLane]:
    """List a job's lanes in the order of their names."""
    return await _lanes(reader, _lane.where(lanes.c.job == job).order_by(lanes.c.lane))


async def lane(reader: AsyncConnection, name: str) -> StoredLane | None:
    """Find one lane."""
    return next(iter(await _lanes(reader, _lane.where(lanes.c.lane == name))), None)


async def leaves_of(reader: AsyncConnection, name: str, size: int | None = None) -> AsyncIterator[StoredLeaf]:
    """Stream a lane's leaves in order, the first `size` where that is given."""
    wanted = _leaf.where(leaves.c.lane == name)
    async with reader.stream(wanted if size is None else wanted.where(leaves.c.seq < size)) as rows:
        async for row in rows:
            yield _stored(row)


async def page(reader: AsyncConnection, name: str, after: int, limit: int) -> list[StoredLeaf]:
    """Return some of a lane's leaves, from seq `after` on."""
    rows = await reader.execute(_leaf.where(leaves.c.lane == name, leaves.c.seq >= after).limit(limit))
    return [_stored(row) for row in rows]


async def end_of(reader: AsyncConnection, call: str) -> tuple[str, StoredLeaf] | None:
    """Find the `end` leaf of a call, and its lane."""
    wanted = select(leaves.c.seq, leaves.c.raw, leaves.c.hash, leaves.c.lane).where(leaves.c.call == call)
    row = (await reader.execute(wanted)).first()
    return None if row is None else (row.lane, _stored(row))


async def document(reader: AsyncConnection, digest: str) -> bytes | None:
    """Return a signed document that was kept."""
    raw: bytes | None = await reader.scalar(select(documents.c.raw).where(documents.c.digest == digest))
    return raw


_leaf = select(leaves.c.seq, leaves.c.raw, leaves.c.hash).order_by(leaves.c.seq)


async def _lanes(reader: AsyncConnection, wanted: Select[str, str, str, str, str | None]) -> list[StoredLane]:
    rows = (await reader.execute(wanted)).all()
    return [StoredLane(lane=row.lane, job=row.job, origin=row.origin, kid=row.kid, closing=row.closing) for row in rows]


def _stored(row: Row[*tuple[Any, ...]]) -> StoredLeaf:
    return StoredLeaf(row.seq, row.raw, row.hash)
