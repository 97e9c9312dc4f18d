"""The database of a service: an asynchronous engine on SQLite or PostgreSQL, transactions that write or only read.

A commit that returned is durable on either engine, and nobody waits for ever: SQLite waits five seconds for another
process's writer, PostgreSQL five for a lock and thirty for a statement. One process's writers queue for SQLite: its own
waiting is a lottery, which somebody loses for seconds.
"""

import asyncio
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

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
WAIT = 30.0  # seconds in the queue of a process's writers


def open_engine(url: str) -> AsyncEngine:
    """Open a database by SQLAlchemy's URL (`Settings.engine_url`); errors name no values."""
    if url.startswith("sqlite"):
        engine = create_async_engine(url, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        turn = Turn()
        event.listen(engine.sync_engine, "begin", turn.begin)
        for ended in ("checkin", "close"):  # given back, or given up because a request was cancelled half-way
            event.listen(engine.sync_engine, ended, turn.end)
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


def _set_pragmas(connection: Any, _record: object) -> None:
    """Set SQLite up, and take the driver's hands off transactions: it would begin them late and of the wrong kind."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Turn:
    """Whose turn it is to write to an SQLite database, in one process: first come, first served."""

    def __init__(self) -> None:
        """Begin with nobody's."""
        self._taken = asyncio.Lock()
        self._by: object = None

    def begin(self, connection: Connection) -> None:
        """Take the write lock at once: a transaction that reads first and writes later could fail half-way."""
        reads = connection.get_execution_options().get(READS, False)
        if not reads:
            await_only(self._take(connection.connection.dbapi_connection))
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    async def _take(self, by: object) -> None:
        """Wait for one's turn; a connection that has it keeps it."""
        if self._by is not by:
            async with asyncio.timeout(WAIT):
                await self._taken.acquire()
            self._by = by

    def end(self, connection: object, _record: object) -> None:
        """Let the next one begin, where this connection had its turn."""
        if self._by is connection is not None:
            self._by = None
            self._taken.release()
