"""The database of a service: an asynchronous engine on SQLite or PostgreSQL, transactions that write or only read.

A commit that returned is durable on either engine, and nobody waits for ever: SQLite waits five seconds for its one
writer, PostgreSQL five for a lock and thirty for a statement.
"""

import sqlite3
from errno import EDQUOT, ENOSPC
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "busy_timeout = 5000",
    "temp_store = MEMORY",  # the process may write nowhere but in its own directory
    "trusted_schema = OFF",
)
TIMEOUTS = {"lock_timeout": "5s", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}
READS = "tally_reads"
PG_DISK_FULL = "53100"
SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}  # the second where a first connection finds no room


def open_engine(url: str) -> AsyncEngine:
    """Open a database by SQLAlchemy's URL (`Settings.engine_url`); errors name no values."""
    if url.startswith("sqlite"):
        engine = create_async_engine(url, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine
    connect = {"server_settings": TIMEOUTS, "timeout": 5}
    return create_async_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=connect)


def reading(engine: AsyncEngine) -> AsyncEngine:
    """Give the same engine for transactions that only read, each one consistent view of the database.

    On SQLite they do not queue behind the writer; PostgreSQL would show each statement another view unless told.
    """
    view = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    return engine.execution_options(**{READS: True}, **view)


async def ping(engine: AsyncEngine) -> None:
    """Raise when the database does not answer."""
    async with reading(engine).connect() as connection:
        await connection.execute(text("SELECT 1"))


def is_full(error: BaseException) -> bool:
    """Tell whether a write failed for want of room; its transaction left nothing, and the next may go well again."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        return cause.errno in {ENOSPC, EDQUOT}
    said = getattr(cause, "sqlite_errorcode", None), getattr(cause, "sqlstate", None)
    return said[0] in SQLITE_FULL or said[1] == PG_DISK_FULL


def _set_pragmas(connection: Any, _record: object) -> None:
    """Set SQLite up, and take the driver's hands off transactions: it would begin them late and of the wrong kind."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Take the write lock at once: a transaction that reads first and writes later could fail half-way."""
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
