"""Every history goes up, down and up again, and makes exactly the tables that the code names; on both engines."""

import asyncio

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from service import NAMES, migrate
from service.engine import open_engine


@pytest.mark.parametrize("name", NAMES)
def test_the_migrations_make_the_tables_that_the_code_names(name: str, database_url: str) -> None:
    migrate.upgrade(name, database_url)
    migrate.check(name, database_url)
    assert len(tables(database_url)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_up_comes_down_and_goes_up_again(name: str, database_url: str) -> None:
    migrate.upgrade(name, database_url)
    up = tables(database_url)
    migrate.downgrade(name, database_url)
    assert tables(database_url) == {f"{name}_version"}
    migrate.upgrade(name, database_url)
    assert tables(database_url) == up


@pytest.mark.parametrize("name", NAMES)
def test_upgrading_twice_changes_nothing(name: str, database_url: str) -> None:
    migrate.upgrade(name, database_url)
    up = tables(database_url)
    migrate.upgrade(name, database_url)
    assert tables(database_url) == up


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_one_straight_line(name: str) -> None:
    script = ScriptDirectory.from_config(migrate.configuration(name, "sqlite+aiosqlite://"))
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def tables(url: str) -> set[str]:
    """Name the tables of a database."""

    async def names() -> set[str]:
        engine = open_engine(url)
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        await engine.dispose()
        return set(found)

    return asyncio.run(names())
