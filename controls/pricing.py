"""Price tables: signed by a registrar, published once, served by digest (specs/prices.md)."""

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controls.register import Approved
from controls.tables import audit, prices
from verifier.documents import open_prices
from verifier.keys import Trust
from verifier.refused import Refused


async def publish(db: AsyncConnection, raw: bytes, digest: str, trust: Trust, *, by: str, now: int) -> Approved:
    """Check a signed table as the verifier will, and store the bytes as they came.

    Raises `Refused`: the envelope's and the table's codes, wrong-digest, stale-serial.
    """
    if trust.open(raw, "prices").digest != digest:
        raise Refused("wrong-digest", "the address is not the digest of this price table")
    await audit.claim(db)
    known = await _find(db, digest)
    if known is not None:
        return Approved(known, digest, new=False)
    table = open_prices(trust, raw, now).value
    query = select(prices.c.serial).where(prices.c.issuer == table.issuer, prices.c.name == table.name)
    newest = (await db.execute(query.order_by(prices.c.serial.desc()).limit(1))).scalar()
    if newest is not None and table.serial <= newest:
        raise Refused(
            "stale-serial",
            f"serial {table.serial} is not higher than the last of {table.name} by {table.issuer}",
            hint="Build the table with a higher serial and sign it again.",
            field="serial",
        )
    row = {"digest": digest, "issuer": table.issuer, "name": table.name, "serial": table.serial}
    await db.execute(insert(prices).values({**row, "envelope": raw, "published_at": now, "published_by": by}))
    await audit.append(
        db, at=now, by=by, act="prices-published", subject=table.name, digest=digest, serial=table.serial
    )
    return Approved(raw, digest, new=True)


async def find(db: AsyncConnection, digest: str) -> bytes:
    """Find a table's envelope by digest. Raises `Refused` unknown-prices."""
    found = await _find(db, digest)
    if found is None:
        raise Refused("unknown-prices", "no price table is published under this digest", field="prices")
    return found


async def _find(db: AsyncConnection, digest: str) -> bytes | None:
    return (await db.execute(select(prices.c.envelope).where(prices.c.digest == digest))).scalar()
