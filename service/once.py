"""What counts once counts once in all processes on one PostgreSQL: assertions of clients, proofs of possession.

A process remembers what it has seen itself; on SQLite that is enough, there is one. On PostgreSQL each also enters it
in a table that all share. The table is unlogged and written outside of any transaction: nobody waits for the disk, and
what came meanwhile goes in together, in one statement. PostgreSQL empties it when it crashes (specs/threats.md §3).
"""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine

SECOND = 1_000_000
SWEEP = 30 * SECOND  # how often what has expired is forgotten
AGAIN = 0.1  # seconds between connections
GRACE = 60 * SECOND  # kept beyond its time: another process's clock may be behind


def used_table(metadata: MetaData) -> Table:
    """Add the table to a service's: SHA-256 of what was used, and until when it would count."""
    return Table(
        "used",
        metadata,
        Column("name", LargeBinary, primary_key=True),
        Column("until", BigInteger, nullable=False),
    )


TAKE = "INSERT INTO used SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT DO NOTHING RETURNING name"
FORGET = "DELETE FROM used WHERE until < $1"


class Once:
    """The shared memory of one process; `engine` is of the PostgreSQL that has the table."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], int]) -> None:
        """Start with nothing on its way; somebody has to `run` it."""
        self._engine = engine
        self._clock = clock
        self._waiting: list[tuple[bytes, int, asyncio.Future[bool]]] = []
        self._given = asyncio.Event()
        self._swept = clock()

    async def take(self, what: str, until: int) -> bool:
        """Tell whether nobody took this before; it is remembered until a time in microseconds, and somewhat longer."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((sha256(what.encode()).digest(), until, taken))
        self._given.set()
        return await taken

    async def run(self) -> None:
        """Enter what is taken, for ever, by a connection of its own; who waits while there is none is told why."""
        while True:
            try:
                async with self._engine.connect() as db:
                    driver: Any = (await db.get_raw_connection()).driver_connection
                    await self._given.wait()
                    while not driver.is_closed():
                        await self._enter(driver)
                        await self._given.wait()
            except Exception as error:  # noqa: BLE001 - it is theirs who wait, each of whom fails with it
                for _, _, taken in self._waiting:
                    if not taken.done():
                        taken.set_exception(error)
                self._waiting.clear()
            await asyncio.sleep(AGAIN)

    async def _enter(self, driver: Any) -> None:
        """Enter what waits, together and in order: two processes never wait for each other in a circle."""
        self._given.clear()
        now, waiting = self._clock(), sorted(self._waiting, key=lambda each: each[0])
        rows = await driver.fetch(TAKE, [name for name, _, _ in waiting], [until for _, until, _ in waiting])
        fresh = {bytes(row["name"]) for row in rows}
        entered = len(waiting)
        del self._waiting[:entered]
        for name, _, taken in waiting:
            if not taken.done():
                taken.set_result(name in fresh)
            fresh.discard(name)  # the same twice at once counts once
        if now >= self._swept + SWEEP:
            self._swept = now
            await driver.execute(FORGET, now - GRACE)
