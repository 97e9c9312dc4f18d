"""The feed of revocations: what is new goes to every follower at once, and a heartbeat each second.

specs/revocation.md §2:

    GET /revocations/stream?after=N     one snapshot a line (JSON Lines), each from where the last one ended

A follower that has seen all so far gets the same bytes as all others, made and signed once; any other gets what it
lacks from the database first. Several processes on one PostgreSQL give one sequence: who commits a revocation says so
(NOTIFY), and every process reads it. A word that is lost costs a second, no more.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import msgspec
from msgspec import Raw, Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from scope import store
from scope.client import Snapshot
from service.engine import reading
from service.problems import Log
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.refused import Refused
from verifier.revocation import Heartbeat
from verifier.signing import KeyPair

EVERY = 1.0  # seconds between heartbeats
MOST_FOLLOWERS = 512  # of one process
MOST_WAITING = 16  # beats that a slow follower may be behind before it is left to begin again
A_LINE = 100  # revocations
LIFETIME = 600.0  # seconds of one stream: then its client says anew who it is
LISTENING_AGAIN = 1.0


class Page(Struct, frozen=True):
    """One snapshot as it is sent, and where it ends: `more` is to come of what was revoked before its heartbeat."""

    said: Snapshot
    last: int
    more: bool

    def line(self) -> bytes:
        """Write it as followers get it."""
        return msgspec.json.encode(self.said) + b"\n"


class Beat(Struct, frozen=True):
    """What is new since sequence `after`, up to `last`, as one line; too much for one has none."""

    after: int
    last: int
    line: bytes | None


class Feed:
    """The followers of one process."""

    def __init__(self, engine: AsyncEngine, issuer: str, key: KeyPair, clock: Callable[[], int], log: Log) -> None:
        """Start without followers; `key` signs heartbeats."""
        self._engine = engine
        self._postgresql = engine.dialect.name == "postgresql"
        self._issuer = issuer
        self._key = key
        self._clock = clock
        self._log = log
        self._woken = asyncio.Event()
        self._leaving = False
        self._over = asyncio.Event()  # the listening connection is, or we leave
        self._followers: set[asyncio.Queue[Beat | None]] = set()
        self._last = 0

    def wake(self) -> None:
        """Say that a revocation was committed."""
        self._woken.set()

    def close(self) -> None:
        """End every stream: the server leaves."""
        for waiting in list(self._followers):
            self._drop(waiting)

    async def run(self) -> None:
        """Beat for ever; one failure is logged and the next turn tries again."""
        listening = asyncio.create_task(self._listen()) if self._postgresql else None
        try:
            while True:
                self._woken.clear()
                try:
                    if self._followers:
                        await self._beat()
                except Refused as refused:
                    self._log.error("no heartbeat", code=refused.code, why=refused.why)
                except Exception:  # noqa: BLE001 - logged with its trace; a feed that ends would stop every gateway
                    self._log.exception("bug", task="feed")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), EVERY)
        finally:
            if listening is not None:  # ends by itself: a driver that is cancelled while it connects makes a mess
                self._leaving = True
                self._over.set()
                await listening

    async def page(self, after: int, limit: int) -> Page:
        """Read what was revoked after a sequence, in order, under a heartbeat that never says too much.

        The clock is read before the database.
        """
        now = self._clock()
        async with reading(self._engine) as db:
            last = await store.sequence(db)
            found = await store.revocations_after(db, after, last, limit)
        heartbeat = canonical(Heartbeat(iss=self._issuer, sequence=last, time=now))
        said = Snapshot(heartbeat=Raw(seal_up("heartbeat", heartbeat, self._key)), revocations=[*map(Raw, found)])
        return Page(said, after + len(found) if found else last, after + len(found) < last and bool(found))

    def follow(self, after: int) -> AsyncIterator[bytes]:
        """Give lines until the server leaves, the stream is old, or its reader too slow.

        Raises `Refused` too-many-requests.
        """
        if len(self._followers) >= MOST_FOLLOWERS:
            raise Refused("too-many-requests", "too many follow the feed of this process", hint="Read the snapshot.")
        return self._follow(after)

    async def _follow(self, after: int) -> AsyncIterator[bytes]:
        waiting: asyncio.Queue[Beat | None] = asyncio.Queue(MOST_WAITING)
        self._followers.add(waiting)
        until, seen, behind = asyncio.get_running_loop().time() + LIFETIME, after, True
        try:
            while waiting in self._followers and asyncio.get_running_loop().time() < until:
                while behind:
                    page = await self.page(seen, A_LINE)
                    seen, behind = page.last, page.more
                    yield page.line()
                beat = await waiting.get()
                if beat is None:
                    return
                if beat.after == seen and beat.line is not None:
                    seen = beat.last
                    yield beat.line
                else:
                    behind = beat.last >= seen
        finally:
            self._followers.discard(waiting)

    async def _beat(self) -> None:
        """Give every follower what is new; one that is too far behind is dropped, and comes again where it was."""
        page = await self.page(self._last, A_LINE)
        beat = Beat(self._last, page.last, None if page.more else page.line())
        self._last = page.last
        if page.more:
            self.wake()
        for waiting in list(self._followers):
            try:
                waiting.put_nowait(beat)
            except asyncio.QueueFull:
                self._drop(waiting)

    def _drop(self, waiting: asyncio.Queue[Beat | None]) -> None:
        """End one stream once its reader has what was given to it before."""
        self._followers.discard(waiting)
        with suppress(asyncio.QueueFull):
            waiting.put_nowait(None)

    async def _listen(self) -> None:
        """Wake up when another process commits a revocation."""
        while not self._leaving:
            self._over.clear()
            try:
                async with reading(self._engine) as db:
                    await self._listen_on(db)
            except Exception as error:  # noqa: BLE001 - without it the feed is a second later, and no worse
                self._log.warning("not listening", why=type(error).__name__)
            if not self._leaving:
                self._over.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), LISTENING_AGAIN)

    async def _listen_on(self, db: AsyncConnection) -> None:
        driver = (await db.get_raw_connection()).driver_connection
        assert driver is not None, "an open connection has one"
        driver.add_termination_listener(lambda _: self._over.set())
        await driver.add_listener(store.CHANNEL, lambda *_: self.wake())
        if not self._leaving:
            await self._over.wait()
