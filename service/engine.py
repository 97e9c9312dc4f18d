"""The database of a service: an asynchronous engine on SQLite or PostgreSQL, transactions that write or only read.

A commit that returned is durable on either engine, and nobody waits for ever: SQLite waits five seconds for its one
writer, PostgreSQL five for a lock and thirty for a statement.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from errno import EDQUOT, ENOSPC
from functools import partial
from typing import Any, TypeVar, cast

from msgspec import Struct
from sqlalchemy import Connection, CursorResult, Engine, Executable, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

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
WRITER = "tally_writer"
WAIT = 30.0  # seconds in the queue of a process's writers
PG_DISK_FULL = "53100"
SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}  # the second where a first connection finds no room

T = TypeVar("T")


class Writer(Struct, frozen=True):
    """The one writer of an SQLite database in this process: whose turn it is, and an engine that waits for the disk."""

    turn: asyncio.Lock
    engine: Engine


def open_engine(url: str) -> AsyncEngine:
    """Open a database by SQLAlchemy's URL (`Settings.engine_url`); errors name no values."""
    if url.startswith("sqlite"):
        direct = create_engine(url.replace("+aiosqlite", ""), hide_parameters=True, max_overflow=-1)
        writer = Writer(asyncio.Lock(), direct)  # nobody waits for a connection: it would be the event loop
        engine = create_async_engine(url, hide_parameters=True, execution_options={WRITER: writer})
        for each in (engine.sync_engine, writer.engine):
            event.listen(each, "connect", _set_pragmas)
            event.listen(each, "begin", _begin)
        event.listen(engine.sync_engine, "engine_disposed", lambda _: writer.engine.dispose())
        return engine
    connect = {"server_settings": TIMEOUTS, "timeout": 5}
    return create_async_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=connect)


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """Open a transaction that writes; it is durable when the block is left, and undone when that raises.

    On SQLite the writers of this process queue here, each in its turn: SQLite itself lets those who wait try again
    now and then, and under load one of them gives up. Only what may wait, for another process or the disk, leaves the
    event loop: a statement takes less time than the way to a thread and back.
    """
    writer = _writer(engine)
    if writer is None:
        async with engine.begin() as db:
            yield db
        return
    async with _turn(writer):
        with writer.engine.connect() as connection:  # and what was begun and not committed is undone
            begun = await _elsewhere(connection.begin)
            yield cast("AsyncConnection", Direct(connection))
            await _elsewhere(begun.commit)


async def transact(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    """Run short work in a transaction that writes; as `writing`, but on SQLite in one step of one thread.

    There each statement of `writing` goes to the connection's thread and back, which takes longer than the statement.
    """
    writer = _writer(engine)
    if writer is None:
        async with engine.begin() as db:
            return await db.run_sync(work)
    async with _turn(writer):
        return await _elsewhere(partial(_transact, writer.engine, work))


class Direct:
    """A connection of the event loop's own thread, as code for an asynchronous one uses it."""

    def __init__(self, db: Connection) -> None:
        """Take a connection whose transaction has begun."""
        self._db = db
        self.dialect = db.dialect

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute a statement at once."""
        return self._db.execute(statement, parameters)

    async def run_sync(self, work: Callable[..., T], *given: Any) -> T:
        """Call something with the connection."""
        return work(self._db, *given)


async def _elsewhere(work: Callable[[], T]) -> T:
    """Do something in a thread, to its end even when nobody waits for it any more: half a transaction is none.

    The turn is not given on before.
    """
    done = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


@asynccontextmanager
async def _turn(writer: Writer) -> AsyncGenerator[None, None]:
    """Wait for one's turn, first come, first served, and not for ever."""
    async with asyncio.timeout(WAIT):
        await writer.turn.acquire()
    try:
        yield
    finally:
        writer.turn.release()


def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as db:
        return work(db)


def _writer(engine: AsyncEngine) -> Writer | None:
    found: Writer | None = engine.sync_engine.get_execution_options().get(WRITER)
    return found


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """Open one consistent view of the database for a few short statements; on SQLite they queue behind no writer.

    There they stay in the event loop's own thread: most take less time than the way to another and back.
    """
    writer = _writer(engine)
    if writer is None:
        async with reading_elsewhere(engine).connect() as db:
            yield db
        return
    with writer.engine.connect().execution_options(**{READS: True}) as connection:
        yield cast("AsyncConnection", Direct(connection))


def reading_elsewhere(engine: AsyncEngine) -> AsyncEngine:
    """Give the same engine for long transactions that only read, each one consistent view; they leave the event loop.

    PostgreSQL would show each statement another view unless told.
    """
    view = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    return engine.execution_options(**{READS: True}, **view)


async def ping(engine: AsyncEngine) -> None:
    """Raise when the database does not answer."""
    async with reading(engine) as db:
        await db.execute(text("SELECT 1"))


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
    cursor = connection.connection.cursor()  # the driver's: SQLAlchemy's own way there costs more than the statement
    cursor.execute("BEGIN" if reads else "BEGIN IMMEDIATE")
    cursor.close()
