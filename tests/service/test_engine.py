"""One transaction a request, on either engine, and nobody waits for ever."""

import asyncio

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from service import commands, migrate
from service import engine as engines
from service.engine import open_engine, ping, reading, transact, writing
from verifier.refused import Refused


async def prepare(engine: AsyncEngine) -> None:
    async with writing(engine) as db:
        await db.execute(text("CREATE TABLE counter (name VARCHAR(10) PRIMARY KEY, value INTEGER NOT NULL)"))
        await db.execute(text("INSERT INTO counter VALUES ('a', 0)"))


async def value(engine: AsyncEngine) -> int:
    async with reading(engine) as db:
        found: int = (await db.execute(text("SELECT value FROM counter"))).scalar_one()
        return found


async def test_what_fails_half_way_leaves_nothing(engine: AsyncEngine) -> None:
    await prepare(engine)
    try:
        async with writing(engine) as db:
            await db.execute(text("UPDATE counter SET value = 7"))
            await db.execute(text("INSERT INTO counter VALUES ('a', 1)"))
    except DBAPIError:
        pass
    assert await value(engine) == 0


async def test_transactions_that_read_and_then_write_do_not_lose_each_other(engine: AsyncEngine) -> None:
    await prepare(engine)

    async def add() -> None:
        lock = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""
        async with writing(engine) as db:
            seen = (await db.execute(text(f"SELECT value FROM counter WHERE name = 'a'{lock}"))).scalar_one()
            await asyncio.sleep(0.001)
            await db.execute(text("UPDATE counter SET value = :next"), {"next": seen + 1})

    await asyncio.gather(*(add() for _ in range(10)))
    assert await value(engine) == 10


async def test_work_in_one_step_is_kept_whole_or_not_at_all(engine: AsyncEngine) -> None:
    await prepare(engine)

    def add(db: Connection) -> int:
        db.execute(text("UPDATE counter SET value = value + 1"))
        return db.execute(text("SELECT value FROM counter")).scalar_one()  # type: ignore[no-any-return]

    def fail(db: Connection) -> None:
        add(db)
        raise RuntimeError("half way")

    assert sorted(await asyncio.gather(*(transact(engine, add) for _ in range(5)))) == [1, 2, 3, 4, 5]
    with pytest.raises(RuntimeError, match="half way"):
        await transact(engine, fail)
    assert await value(engine) == 5


async def test_writers_of_sqlite_take_turns_as_they_come(sqlite: str) -> None:
    engine = open_engine(sqlite)
    await prepare(engine)
    turns = list[int]()

    async def write(number: int) -> None:
        async with writing(engine) as db:
            await db.execute(text("UPDATE counter SET value = :value"), {"value": number})
            await asyncio.sleep(0.02)
            turns.append(number)

    async with writing(engine):
        queue = []
        for number in range(10):
            queue.append(asyncio.create_task(write(number)))
            await asyncio.sleep(0.05)
    await asyncio.gather(*queue)
    await engine.dispose()
    assert turns == list(range(10))


async def test_a_writer_that_gives_up_leaves_its_turn_to_the_next(sqlite: str) -> None:
    engine = open_engine(sqlite)
    await prepare(engine)

    async def hold() -> None:
        async with writing(engine):
            await asyncio.sleep(60)

    for _ in range(20):  # more than there are connections
        tasks = [asyncio.create_task(hold()) for _ in range(2)]
        await asyncio.sleep(0.01)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(20), writing(engine) as db:
        await db.execute(text("UPDATE counter SET value = 3"))
    assert await value(engine) == 3
    await engine.dispose()


async def test_many_writers_each_get_their_turn(engine: AsyncEngine) -> None:
    await prepare(engine)

    async def add() -> None:
        async with writing(engine) as db:
            await db.execute(text("UPDATE counter SET value = value + 1"))
            await asyncio.sleep(0.002)  # SQLite's own waiting would let some of them down

    await asyncio.gather(*(add() for _ in range(300)))
    assert await value(engine) == 300


async def test_a_reader_does_not_wait_for_the_writer(engine: AsyncEngine) -> None:
    await prepare(engine)
    async with writing(engine) as db:
        await db.execute(text("UPDATE counter SET value = 1"))
        assert await value(engine) == 0
    assert await value(engine) == 1


async def test_a_reader_sees_one_moment_however_often_it_asks(engine: AsyncEngine) -> None:
    await prepare(engine)
    async with reading(engine) as reader:
        before = (await reader.execute(text("SELECT value FROM counter"))).scalar_one()
        async with writing(engine) as db:
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


def test_a_service_that_finds_no_room_for_its_database_says_so(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(engines, "PRAGMAS", (*engines.PRAGMAS, "max_page_count = 5"))
        with pytest.raises(Refused, match="no room to open scope's database") as refused:
            commands._migrate("scope", sqlite)
    assert refused.value.code == "disk-full"
    commands._migrate("scope", sqlite)
    migrate.check("scope", sqlite)
