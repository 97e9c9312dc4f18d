"""Runs one service's migrations: the section that `-n` selects names the service, its history and its tables.

Many processes may start at once on one PostgreSQL database: an advisory lock lets the first migrate, the others wait.
"""

import asyncio
import importlib
import zlib

from alembic import context
from sqlalchemy import Connection, MetaData, text

from service import NAMES
from service.engine import open_engine

NAME = context.config.config_ini_section


def main() -> None:
    """Migrate; there is no offline mode: what was not run was not tested."""
    if NAME not in NAMES:
        raise SystemExit(f"tally: name a history: alembic -n {'|'.join(NAMES)}")
    asyncio.run(online(context.config.attributes.get("url") or context.get_x_argument(as_dictionary=True)["url"]))


async def online(url: str) -> None:
    """Run in one transaction, so that a migration that fails leaves nothing behind."""
    engine = open_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def migrate(connection: Connection) -> None:
    """Run the selected history on a connection."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(f"tally-{NAME}".encode())})
    context.configure(
        connection=connection,
        target_metadata=tables(),
        version_table=f"{NAME}_version",
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
    )
    context.run_migrations()


def tables() -> MetaData:
    """The service's tables; its code is found by name, so that nothing below imports a service."""
    metadata: MetaData = importlib.import_module(f"{NAME}.tables").metadata
    return metadata


main()
