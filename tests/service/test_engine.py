"""One transaction a request, on either engine, and nobody waits for ever."""

import asyncio
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.engine import open_engine, ping, reading


async def prepare(engine: AsyncEngine) -> None:
    async with engine.begin() as db:
        await db.execute(text("CREATE TABLE counter (name VARCHAR(10) PRIMARY KEY, value INTEGER NOT NULL)"))
        await db.execute(text("INSERT INTO counter VALUES ('a', 0)"))


async def value(engine: AsyncEngine) -> int:
    async with reading(engine).connect() as db:
        found: int = (await db.execute(text("SELECT value FROM counter"))).scalar_one()
        return found


async def test_what_fails_half_way_leaves_nothing(engine: AsyncEngine) -> None:
    await prepare(engine)
    try:
        async with engine.begin() as db:
            await db.execute(text("UPDATE counter SET value = 7"))
            await db.execute(text("INSERT INTO counter VALUES ('a', 1)"))
    except DBAPIError:
        pass
    assert await value(engine) == 0


async def test_transactions_that_read_and_then_write_do_not_lose_each_other(engine: AsyncEngine) -> None:
    await prepare(engine)

    async def add() -> None:
        lock = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""
        async with engine.begin() as db:
            seen = (await db.execute(text(f"SELECT value FROM counter WHERE name = 'a'{lock}"))).scalar_one()
            await asyncio.sleep(0.001)
            await db.execute(text("UPDATE counter SET value = :next"), {"next": seen + 1})

    await asyncio.gather(*(add() for _ in range(10)))
    assert await value(engine) == 10


async def test_a_reader_does_not_wait_for_the_writer(engine: AsyncEngine) -> None:
    await prepare(engine)
    async with engine.begin() as db:
        await db.execute(text("UPDATE counter SET value = 1"))
        assert await value(engine) == 0
    assert await value(engine) == 1


async def test_a_reader_sees_one_moment_however_often_it_asks(engine: AsyncEngine) -> None:
    await prepare(engine)
    async with reading(engine).connect() as reader:
        before = (await reader.execute(text("SELECT value FROM counter"))).scalar_one()
        async with engine.begin() as db:
            await db.execute(text("UPDATE counter SET value = 9"))
        after = (await reader.execute(text("SELECT value FROM counter"))).scalar_one()
    assert (before, after, await value(engine)) == (0, 0, 9)


async def test_sqlite_is_durable_and_keeps_foreign_keys(sqlite: str) -> None:
    engine = open_engine(sqlite)
    async with engine.connect() as db:
        found = [
            (await db.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    await engine.dispose()
    assert found == ["wal", 2, 1]


async def test_postgresql_gives_up_on_a_lock(postgres: str) -> None:
    engine = open_engine(postgres)
    async with engine.connect() as db:
        found = [
            (await db.execute(text(f"SHOW {name}"))).scalar_one() for name in ("lock_timeout", "statement_timeout")
        ]
    await ping(engine)
    await engine.dispose()
    assert found == ["5s", "30s"]


async def test_sqlites_writers_take_turns_as_they_come(sqlite: str) -> None:
    engine = open_engine(sqlite)
    await prepare(engine)
    turns = list[int]()

    async def write(number: int) -> None:
        async with engine.begin() as db:
            await db.execute(text("UPDATE counter SET value = :value"), {"value": number})
            await asyncio.sleep(0.02)
            turns.append(number)

    async with engine.begin():
        queue = []
        for number in range(10):
            queue.append(asyncio.create_task(write(number)))
            await asyncio.sleep(0.05)
    await asyncio.gather(*queue)
    await engine.dispose()
    assert turns == list(range(10))


async def test_a_writer_that_fails_or_gives_up_leaves_its_turn_to_the_next(sqlite: str) -> None:
    engine = open_engine(sqlite)
    await prepare(engine)
    for _ in range(20):  # more than there are connections
        with suppress(DBAPIError):
            async with engine.begin() as db:
                await db.execute(text("INSERT INTO counter VALUES ('a', 1)"))
        waiting, holding = asyncio.Event(), asyncio.Event()

        async def hold(began: asyncio.Event) -> None:
            began.set()
            async with engine.begin():
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(hold(began)) for began in (holding, waiting)]
        await holding.wait()
        await waiting.wait()
        await asyncio.sleep(0.02)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with engine.connect() as db:
        await db.execute(text("UPDATE counter SET value = 2"))
        await db.invalidate()
    async with asyncio.timeout(20), engine.begin() as db:
        await db.execute(text("UPDATE counter SET value = 3"))
        async with db.begin_nested():
            await db.execute(text("UPDATE counter SET value = 4"))
    async with engine.connect() as db:  # several transactions on one connection
        for number in (5, 6):
            async with db.begin():
                await db.execute(text("UPDATE counter SET value = :value"), {"value": number})
    assert await value(engine) == 6
    await engine.dispose()
