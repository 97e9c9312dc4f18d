"""The ledger: what is in it is on the disk before anybody acts on it.

One thread writes, on SQLite in WAL mode with `synchronous = FULL`: a commit is one fdatasync. Whatever waits when the
writer is free goes into one transaction, so a busy gateway shares a flush among many calls and an idle one never waits
for company. A commit that fails ends the epoch: what was in it may or may not have reached the disk, so nothing more is
accepted, and the recovery of the next start tells.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct

from service.newest import identity
from verifier.refused import Refused

MAX_WAITING = 10_000
MAX_COMMIT = 4096
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "busy_timeout = 5000",
    "temp_store = MEMORY",
)

LANE = "INSERT INTO lanes (lane, job, policy, origin, kid, opened, share, done) VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
LEAF = "INSERT INTO leaves (lane, seq, raw, hash, call) VALUES (?, ?, ?, ?, ?)"
CLOSED = "UPDATE lanes SET closing = ? WHERE lane = ?"
DONE = "UPDATE lanes SET done = 1 WHERE lane = ?"
WRITTEN = "UPDATE progress SET leaves = leaves + ? WHERE leaves >= ?"
DELETED = "UPDATE lanes SET deleted = ?, deleted_by = ?, deleted_for = ?, done = 1 WHERE lane = ? AND deleted IS NULL"
ERASE = "DELETE FROM leaves WHERE lane = ? AND seq < ?"
FORGET = "DELETE FROM documents WHERE job = ?"
DOCUMENT = "INSERT OR IGNORE INTO documents (digest, kind, raw, job) VALUES (?, ?, ?, ?)"


class Write(Struct, frozen=True):
    """One row on its way, and who waits for it."""

    statement: str
    row: tuple[Any, ...]
    committed: asyncio.Future[None]


class LaneRow(Struct, frozen=True, kw_only=True):
    """A lane as it is registered."""

    lane: str
    job: str
    policy: str
    origin: str
    kid: str
    opened: int
    share: bytes


class Ledger:
    """The one writer of the gateway's database. Used from one event loop; readers have connections of their own."""

    def __init__(self, path: Path) -> None:
        """Take the database that the migrations made; `open` starts the writer."""
        self._path = path
        self._waiting: SimpleQueue[Write | None] = SimpleQueue()
        self._failure: Exception | None = None
        self.leaves = 0  # that were ever durable

    def open(self) -> None:
        """Start the writer. Raises `sqlite3.Error` when the database cannot be opened."""
        self._loop = asyncio.get_running_loop()
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        self._file = identity(self._path)
        (self.leaves,) = connection.execute("SELECT leaves FROM progress").fetchone()
        self._written = self.leaves  # as the writer knows it
        self._thread = threading.Thread(target=self._run, args=[connection], name="ledger", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Commit what waits, and end the writer."""
        self._waiting.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._failure = self._failure or RuntimeError("closed")

    async def check(self) -> None:
        """Raise when the epoch has ended (`/readyz`)."""
        self._refuse_after_failure()

    def append(self, lane: str, seq: int, raw: bytes, hashed: bytes, call: str | None = None) -> asyncio.Future[None]:
        """Store a leaf; the future is done once it is durable, and fails with `Refused` ledger-unavailable.

        Raises that at once after an earlier failure.
        """
        return self._put(LEAF, (lane, seq, raw, hashed, call))

    def add_lane(self, row: LaneRow) -> asyncio.Future[None]:
        """Store a lane, before its first leaf."""
        return self._put(LANE, (row.lane, row.job, row.policy, row.origin, row.kid, row.opened, row.share))

    def closed(self, lane: str, note: str) -> asyncio.Future[None]:
        """Keep a lane's closing head."""
        return self._put(CLOSED, (note, lane))

    def done(self, lane: str) -> asyncio.Future[None]:
        """Note that scope has the closing head, or has sealed without it."""
        return self._put(DONE, (lane,))

    def deleted(self, lane: str, at: int, by: str, reason: str) -> asyncio.Future[None]:
        """Note that a lane's leaves are deleted from now on: when, by whom and why."""
        return self._put(DELETED, (at, by, reason, lane))

    def erase(self, lane: str, below: int) -> asyncio.Future[None]:
        """Delete the leaves of a deleted lane below a seq."""
        return self._put(ERASE, (lane, below))

    def forget(self, job: str) -> asyncio.Future[None]:
        """Delete the documents of one job, which are its grants."""
        return self._put(FORGET, (job,))

    def keep(self, digest: str, kind: str, raw: bytes, job: str | None = None) -> asyncio.Future[None]:
        """Keep a signed document for the bundles that will name it; of one `job` alone where it names one."""
        return self._put(DOCUMENT, (digest, kind, raw, job))

    def _put(self, statement: str, row: tuple[Any, ...]) -> asyncio.Future[None]:
        self._refuse_after_failure()
        if self._waiting.qsize() >= MAX_WAITING:
            raise Refused("ledger-unavailable", "the ledger cannot keep up", hint="Try again in a moment.")
        committed: asyncio.Future[None] = self._loop.create_future()
        committed.add_done_callback(_retrieved)
        self._waiting.put(Write(statement, row, committed))
        return committed

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise _unavailable(self._failure)

    def _run(self, connection: sqlite3.Connection) -> None:
        """Commit batch after batch until the end, or until one fails."""
        failure = None
        while failure is None and (batch := self._take()):
            failure = self._commit(connection, batch)
            self._loop.call_soon_threadsafe(self._settle, batch, failure)
        connection.close()

    def _take(self) -> list[Write]:
        """Wait for one write, and take all that wait with it; empty at the end."""
        batch = list[Write]()
        write = self._waiting.get()
        with suppress(Empty):
            while write is not None:
                batch.append(write)
                if len(batch) == MAX_COMMIT:
                    break
                write = self._waiting.get_nowait()
        if write is None and batch:
            self._waiting.put(None)
        return batch

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[Write]) -> Exception | None:
        """Make a batch durable, all of it or nothing; return what went wrong."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in _grouped(batch):
                connection.executemany(statement, rows)
            leaves = _leaves(batch)
            if connection.execute(WRITTEN, [leaves, self._written]).rowcount != 1:
                raise sqlite3.DatabaseError("fewer receipts are in the ledger than were written to it")
            connection.execute("COMMIT")
            self._written += leaves
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return error
        if identity(self._path) != self._file:
            return FileNotFoundError("another file was put in the ledger's place, and this one has no name")
        return None

    def _settle(self, batch: Sequence[Write], failure: Exception | None) -> None:
        """Tell those who wait, on the event loop; after a failure also those who are still in the queue."""
        if failure is None:
            self.leaves += _leaves(batch)
            for write in batch:
                _resolve(write.committed, None)
            return
        self._failure = failure
        for write in [*batch, *self._drain()]:
            _resolve(write.committed, _unavailable(failure))

    def _drain(self) -> Iterable[Write]:
        with suppress(Empty):
            while write := self._waiting.get_nowait():
                yield write


def _grouped(batch: Sequence[Write]) -> Iterable[tuple[str, list[tuple[Any, ...]]]]:
    """Group neighbours with the same statement, keeping their order."""
    pairs = [(write.statement, write.row) for write in batch]
    by_statement: Callable[[tuple[str, Any]], str] = itemgetter(0)
    for statement, group in groupby(pairs, by_statement):
        yield statement, [row for _, row in group]


def _leaves(batch: Sequence[Write]) -> int:
    return sum(write.statement is LEAF for write in batch)


def _resolve(future: asyncio.Future[None], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


def _retrieved(future: asyncio.Future[None]) -> None:
    """Look at a failure, so that a leaf nobody waits for (a denial's) does not complain of its own."""
    if not future.cancelled():
        future.exception()


def _unavailable(failure: Exception) -> Refused:
    hint = "Restart the gateway when its disk is well."
    refused = Refused("ledger-unavailable", "receipts cannot be stored, so nothing is done", hint=hint)
    refused.__cause__ = failure
    return refused
