"""The registry's own record: every publication, withdrawal and change of the register, in the act's own transaction."""

from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from controls.tables import audit, audit_head
from service.audit import Entry, Line
from verifier.encoding import canonical


async def claim(db: AsyncConnection) -> None:
    """Keep other writers of the record waiting until this transaction has ended."""
    await db.execute(select(audit_head).with_for_update())


async def append(
    db: AsyncConnection, *, at: int, by: str, act: str, subject: str, digest: str | None = None, **details: Any
) -> None:
    """Add one entry; the chain's one head keeps other writers waiting until this transaction has ended."""
    head = (await db.execute(select(audit_head).with_for_update())).mappings().one()
    said = {name: value for name, value in details.items() if value is not None}
    entry = Entry(
        position=head["position"] + 1,
        time=max(at, head["time"]),
        actor=by,
        act=act,
        subject=subject,
        digest=digest,
        details=canonical(said).decode(),
        previous=head["hash"],
    )
    await db.execute(insert(audit).values(position=entry.position, entry=canonical(entry), hash=entry.hash()))
    await db.execute(update(audit_head).values(position=entry.position, time=entry.time, hash=entry.hash()))


class AuditPage(Struct, frozen=True, omit_defaults=True):
    """A page of the record, the oldest first; `next` is the `after` of the following page."""

    items: list[Line]
    next: int | None = None


async def page(db: AsyncConnection, *, after: int, limit: int) -> list[Line]:
    """List entries behind a position, the oldest first."""
    query = select(audit).where(audit.c.position > after).order_by(audit.c.position).limit(limit)
    found = (await db.execute(query)).mappings()
    return [Line(entry=msgspec.json.decode(row["entry"], type=Entry), hash=row["hash"]) for row in found]
