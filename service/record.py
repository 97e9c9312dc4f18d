"""The table of a service's append-only record, and the one row that its writers queue for (specs/audit.md).

An entry is written in the transaction of the act that it tells of: neither is ever there without the other. Triggers
refuse every change of a row (migrations/append_only.py).
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, String, Table, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit import Entry, Line
from service.steady import require_onward
from verifier.encoding import canonical


class Act(Struct, frozen=True, kw_only=True):
    """What was done, as a service tells it; a detail that is None is left out."""

    by: str
    act: str
    subject: str
    digest: str | None = None
    details: dict[str, Any] = {}


class AuditPage(Struct, frozen=True, omit_defaults=True):
    """A page of the record, the oldest first; `next` is the `after` of the following page."""

    items: list[Line]
    next: int | None = None


class Record:
    """The record of one service; `name` keeps two services apart that share a database."""

    def __init__(self, name: str, metadata: MetaData) -> None:
        """Describe the tables; `entry` is canonical JSON."""
        self._entries = Table(
            name,
            metadata,
            Column("position", BigInteger, primary_key=True, autoincrement=False),
            Column("entry", LargeBinary, nullable=False),
            Column("hash", String(71), nullable=False),
        )
        self._head = Table(
            f"{name}_head",
            metadata,
            Column("position", BigInteger, nullable=False),
            Column("time", BigInteger, nullable=False),
            Column("hash", String(71), nullable=False),
        )
        # Asked at every act, written once: to put a statement together takes longer than to execute it.
        self._claimed = select(self._head).with_for_update()
        self._added = insert(self._entries)
        moved: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("position", "time", "hash")}
        self._moved = update(self._head).values(moved)

    async def time(self, db: AsyncConnection) -> int:
        """Read the time of the newest entry; 0 before the first."""
        found: int = (await db.execute(select(self._head.c.time))).scalar_one()
        return found

    async def newest(self, db: AsyncConnection) -> tuple[int, str]:
        """Read position and hash of the newest entry; 0 and the beginning's hash before the first."""
        row = (await db.execute(select(self._head.c.position, self._head.c.hash))).one()
        return row.position, row.hash

    async def hash(self, db: AsyncConnection, position: int) -> str | None:
        """Read the hash of an entry; None when there is none."""
        wanted = select(self._entries.c.hash).where(self._entries.c.position == position)
        found: str | None = (await db.execute(wanted)).scalar_one_or_none()
        return found

    async def claim(self, db: AsyncConnection) -> None:
        """Keep other writers of the record waiting until this transaction has ended."""
        await db.execute(self._claimed)

    async def append(
        self,
        db: AsyncConnection,
        *,
        at: int,
        by: str,
        act: str,
        subject: str,
        digest: str | None = None,
        **details: Any,
    ) -> None:
        """Add one entry; other writers wait until this transaction has ended."""
        await self.append_all(db, at, [Act(by=by, act=act, subject=subject, digest=digest, details=details)])

    async def append_all(self, db: AsyncConnection, at: int, acts: Iterable[Act]) -> None:
        """Add an entry an act, in order; no other writer's stand between. Nothing to add locks nothing.

        Raises `Refused` clock-stepped for a time before the newest entry's, by more than clocks may differ.
        """
        waiting = list(acts)
        if not waiting:
            return
        head = (await db.execute(self._claimed)).one()
        require_onward(at, head.time)
        time, previous, rows = max(at, head.time), head.hash, []
        for position, each in enumerate(waiting, start=head.position + 1):
            entry = _entry(each, position, time, previous)
            previous = entry.hash()
            rows.append({"position": position, "entry": canonical(entry), "hash": previous})
        await db.execute(self._added, rows)
        await db.execute(self._moved, {"new_position": position, "new_time": time, "new_hash": previous})

    async def page(self, db: AsyncConnection, after: int, limit: int) -> AuditPage:
        """List entries behind a position, the oldest first."""
        column = self._entries.c.position
        query = select(self._entries).where(column > after).order_by(column).limit(limit + 1)
        rows = (await db.execute(query)).mappings()
        found = [Line(entry=msgspec.json.decode(row["entry"], type=Entry), hash=row["hash"]) for row in rows]
        return AuditPage(found[:limit], found[limit - 1].entry.position if len(found) > limit else None)


def _entry(act: Act, position: int, time: int, previous: str) -> Entry:
    said = {name: value for name, value in act.details.items() if value is not None}
    return Entry(
        position=position,
        time=time,
        actor=act.by,
        act=act.act,
        subject=act.subject,
        digest=act.digest,
        details=canonical(said).decode(),
        previous=previous,
    )
