"""What is read from the ledger's database; the one writer is `ledger.py`."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, Select, exists, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from receipts.tables import documents, lanes, leaves

CHUNK = 500


class StoredLane(Struct, frozen=True, kw_only=True):
    """A lane as registered; `closing` is its closing head, if it was closed; `deleted` when its leaves were deleted."""

    lane: str
    job: str
    origin: str
    kid: str
    opened: int
    closing: str | None
    done: bool
    deleted: int | None


class StoredLeaf(Struct, frozen=True):
    """One leaf's bytes and its hash, as they were written."""

    lane: str
    seq: int
    raw: bytes
    hash: bytes


_lane = select(
    lanes.c.lane,
    lanes.c.job,
    lanes.c.origin,
    lanes.c.kid,
    lanes.c.opened,
    lanes.c.closing,
    lanes.c.done,
    lanes.c.deleted,
)
_leaf = select(leaves.c.lane, leaves.c.seq, leaves.c.raw, leaves.c.hash)


async def unfinished(reader: AsyncConnection) -> list[StoredLane]:
    """List the lanes that scope has not done with."""
    return await _lanes(reader, _lane.where(lanes.c.done == 0).order_by(lanes.c.lane))


async def lane(reader: AsyncConnection, name: str) -> StoredLane | None:
    """Find one lane."""
    return next(iter(await _lanes(reader, _lane.where(lanes.c.lane == name))), None)


async def lanes_of(reader: AsyncConnection, job: str) -> list[StoredLane]:
    """List a job's lanes by name."""
    return await _lanes(reader, _lane.where(lanes.c.job == job).order_by(lanes.c.lane))


async def opened_until(reader: AsyncConnection, time: int, after: tuple[int, str], limit: int) -> list[StoredLane]:
    """List lanes that are kept and were opened by a time, the oldest first, from behind an `opened` and lane."""
    wanted = _lane.where(lanes.c.deleted.is_(None), lanes.c.opened <= time)
    place = tuple_(lanes.c.opened, lanes.c.lane)
    return await _lanes(reader, wanted.where(place > after).order_by(lanes.c.opened, lanes.c.lane).limit(limit))


async def half_deleted(reader: AsyncConnection) -> list[StoredLane]:
    """List lanes that are deleted and still have leaves."""
    left = exists().where(leaves.c.lane == lanes.c.lane)
    return await _lanes(reader, _lane.where(lanes.c.deleted.is_not(None), left))


async def grants_alone(reader: AsyncConnection, after: str, limit: int) -> list[str]:
    """Name jobs by name, from behind one, whose grants are kept without a receipt: none was written, or all went."""
    kept = exists().where(lanes.c.job == documents.c.job, lanes.c.deleted.is_(None))
    wanted = select(documents.c.job).distinct().where(documents.c.job > after, ~kept)
    return list(await reader.scalars(wanted.order_by(documents.c.job).limit(limit)))


async def is_deleted(reader: AsyncConnection, job: str) -> bool:
    """Tell whether receipts of a job were here, and were deleted."""
    found = await reader.execute(select(lanes.c.lane).where(lanes.c.job == job, lanes.c.deleted.is_not(None)).limit(1))
    return found.first() is not None


async def page(reader: AsyncConnection, job: str, after: tuple[str, int], limit: int) -> list[StoredLeaf]:
    """Return some of a job's leaves behind a lane and seq, lane after lane."""
    wanted = _leaf.join(lanes, lanes.c.lane == leaves.c.lane).where(lanes.c.job == job)
    place = tuple_(leaves.c.lane, leaves.c.seq)
    rows = await reader.execute(wanted.where(place > after).order_by(leaves.c.lane, leaves.c.seq).limit(limit))
    return [_stored(row) for row in rows]


async def end_of(reader: AsyncConnection, call: str) -> StoredLeaf | None:
    """Find the `end` leaf of a call."""
    row = (await reader.execute(_leaf.where(leaves.c.call == call))).first()
    return None if row is None else _stored(row)


async def last_leaf(reader: AsyncConnection, name: str) -> StoredLeaf | None:
    """Find the newest leaf of a lane."""
    row = (await reader.execute(_leaf.where(leaves.c.lane == name).order_by(leaves.c.seq.desc()).limit(1))).first()
    return None if row is None else _stored(row)


async def hashes(reader: AsyncConnection, name: str) -> list[bytes]:
    """Return the hashes of a lane's leaves."""
    wanted = select(leaves.c.hash).where(leaves.c.lane == name).order_by(leaves.c.seq)
    return list(await reader.scalars(wanted))


async def document(reader: AsyncConnection, digest: str) -> bytes | None:
    """Return a signed document that was kept."""
    raw: bytes | None = await reader.scalar(select(documents.c.raw).where(documents.c.digest == digest))
    return raw


def leaves_of(connection: Connection, name: str, size: int | None = None) -> Iterator[StoredLeaf]:
    """Read a lane's leaves in order, the first `size` where that is given, a few hundred at a time.

    For `AsyncConnection.run_sync`: recovery and bundles go through whole lanes.
    """
    wanted = _leaf.where(leaves.c.lane == name).order_by(leaves.c.seq)
    wanted = wanted if size is None else wanted.where(leaves.c.seq < size)
    for row in connection.execute(wanted, execution_options={"yield_per": CHUNK}):
        yield _stored(row)


def lane_of(connection: Connection, job: str, name: str) -> StoredLane | None:
    """Find one lane of a job."""
    row = connection.execute(_lane.where(lanes.c.lane == name, lanes.c.job == job)).first()
    return None if row is None else _stored_lane(row)


async def _lanes(reader: AsyncConnection, wanted: Select[*tuple[Any, ...]]) -> list[StoredLane]:
    return [_stored_lane(row) for row in (await reader.execute(wanted)).all()]


def _stored_lane(row: Row[*tuple[Any, ...]]) -> StoredLane:
    return StoredLane(
        lane=row.lane,
        job=row.job,
        origin=row.origin,
        kid=row.kid,
        opened=row.opened,
        closing=row.closing,
        done=bool(row.done),
        deleted=row.deleted,
    )


def _stored(row: Row[*tuple[Any, ...]]) -> StoredLeaf:
    return StoredLeaf(row.lane, row.seq, row.raw, row.hash)
