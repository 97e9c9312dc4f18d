"""What counts once counts once in all processes on one PostgreSQL."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service import migrate
from service.engine import open_engine
from service.once import GRACE, SECOND, SWEEP, Once
from tests.conftest import START, Clock


@asynccontextmanager
async def process(url: str, clock: Clock) -> AsyncGenerator[tuple[Once, AsyncEngine], None]:
    """Share as one process does."""
    engine = open_engine(url)
    once = Once(engine, clock)
    running = asyncio.create_task(once.run())
    try:
        yield once, engine
    finally:
        running.cancel()
        await asyncio.wait([running])
        await engine.dispose()


@pytest.fixture
async def shared(postgres: str) -> str:
    """A database with the table."""
    await asyncio.to_thread(migrate.upgrade, "scope", postgres)
    return postgres


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as db:
        found: int = (await db.execute(text("SELECT count(*) FROM used"))).scalar_one()
        return found


async def test_of_many_who_take_the_same_at_once_one_gets_it(shared: str, clock: Clock) -> None:
    async with AsyncExitStack() as stack:
        all_of_them = [(await stack.enter_async_context(process(shared, clock)))[0] for _ in range(3)]
        for turn in range(10):
            names = [f"{turn}/{n % 20}" for n in range(60)]
            asked = [once.take(name, START + SECOND) for once in all_of_them for name in names]
            taken = [name for name, got in zip(names * 3, await asyncio.gather(*asked), strict=True) if got]
            assert sorted(taken) == sorted(set(names))


async def test_what_was_taken_is_known_to_a_process_that_starts_later_and_forgotten_in_the_end(
    shared: str, clock: Clock
) -> None:
    async with process(shared, clock) as (once, engine):
        assert await once.take("a", START + 60 * SECOND)
    clock.now += 60 * SECOND
    async with process(shared, clock) as (once, engine):
        assert not await once.take("a", START + 120 * SECOND)
        clock.now += GRACE + SWEEP
        assert await once.take("b", clock.now + SECOND)
        assert not await once.take("b", clock.now + SECOND)  # what is forgotten was forgotten before this answer
        assert await count(engine) == 1


async def test_a_connection_that_was_lost_is_made_again(shared: str, clock: Clock) -> None:
    async with process(shared, clock) as (once, engine):
        assert await once.take("a", START + SECOND)
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        async with engine.connect() as db:
            await db.execute(text(f"{ours} AND pid <> pg_backend_pid()"))
        await asyncio.sleep(0.2)
        assert not await once.take("a", START + SECOND)
        assert await once.take("b", START + SECOND)


async def test_without_the_database_nothing_counts(shared: str, clock: Clock) -> None:
    async with process(shared, clock) as (once, engine):
        assert await once.take("a", START + SECOND)
        async with engine.begin() as db:
            await db.execute(text("ALTER TABLE used RENAME TO gone"))
        for _ in range(2):
            with pytest.raises(asyncpg.PostgresError, match="used"):
                await once.take("b", START + SECOND)
        async with engine.begin() as db:
            await db.execute(text("ALTER TABLE gone RENAME TO used"))
        assert await once.take("b", START + SECOND)
