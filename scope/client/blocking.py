"""The client for programs without an event loop: the asynchronous one, on a loop in a thread of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from threading import Thread
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import aiohttp

from scope.client.asynchronous import ScopeClient
from scope.client.details import Detail
from scope.client.fresh import FreshToken
from scope.client.tokens import IssuedToken
from scope.client.transport import Credential, Proving
from verifier.refused import Refused

P = ParamSpec("P")
T = TypeVar("T")
Snapshots = tuple[bytes, list[bytes]]


def _blocking(
    method: Callable[Concatenate[ScopeClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["BlockingScopeClient", P], T]:
    """Make a method that waits for the asynchronous one."""

    @wraps(method)
    def call(client: "BlockingScopeClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.wait(method(client.asynchronous, *args, **kwargs))

    return call


class BlockingScopeClient:
    """A `ScopeClient` whose methods wait for their answer; use it in `with`, or `stop` it.

    Any thread may call it, but not the thread of a running event loop, which would stand still meanwhile. `credential`
    runs in the client's own thread.
    """

    def __init__(self, url: str, credential: Credential) -> None:
        """Start the thread; nothing is asked yet."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="scope-client", daemon=True)
        self._thread.start()
        self._session = self.wait(_session())
        self.asynchronous = ScopeClient(self._session, url, credential)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End what runs, the connections and the thread."""
        if self._loop.is_closed():
            return
        self.wait(_end(self._session))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the client's loop until it is done; whoever interrupts the wait ends it."""
        if self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("this client was stopped")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def fresh(
        self, job: str, *details: Detail, ttl: int | None = None, proving: Proving | None = None
    ) -> "BlockingFreshToken":
        """Keep a token of a job fresh (`ScopeClient.fresh`), until the client is stopped."""
        return BlockingFreshToken(self.asynchronous.fresh(job, *details, ttl=ttl, proving=proving), self)

    def follow(self, after: int, silence: float = 2.5) -> Iterator[Snapshots]:
        """Follow the feed of revocations (`ScopeClient.follow`)."""
        feed = self.asynchronous.follow(after, silence)
        try:
            while (said := self.wait(_next(feed))) is not None:
                yield said
        finally:
            self.wait(feed.aclose())

    open = _blocking(ScopeClient.open)
    child = _blocking(ScopeClient.child)
    token = _blocking(ScopeClient.token)
    refresh = _blocking(ScopeClient.refresh)
    narrow = _blocking(ScopeClient.narrow)
    revoke_token = _blocking(ScopeClient.revoke_token)
    introspect = _blocking(ScopeClient.introspect)
    close = _blocking(ScopeClient.close)
    status = _blocking(ScopeClient.status)
    jobs = _blocking(ScopeClient.jobs)
    delete = _blocking(ScopeClient.delete)
    wait_for_seal = _blocking(ScopeClient.wait_for_seal)
    seal = _blocking(ScopeClient.seal)
    register_lane = _blocking(ScopeClient.register_lane)
    report_heads = _blocking(ScopeClient.report_heads)
    incidents = _blocking(ScopeClient.incidents)
    unsealed = _blocking(ScopeClient.unsealed)
    snapshot = _blocking(ScopeClient.snapshot)
    grant = _blocking(ScopeClient.grant)
    keys = _blocking(ScopeClient.keys)
    revocations = _blocking(ScopeClient.revocations)
    revoke = _blocking(ScopeClient.revoke)
    preview = _blocking(ScopeClient.preview)


class BlockingFreshToken:
    """A `FreshToken` for callers that wait."""

    def __init__(self, fresh: FreshToken, client: BlockingScopeClient) -> None:
        """Nothing is asked yet."""
        self._fresh = fresh
        self._client = client

    @property
    def failure(self) -> Refused | None:
        """Why the last renewal failed, while the old token still serves."""
        return self._fresh.failure

    def get(self) -> IssuedToken:
        """Give a token with time left. Raises `Refused` when there is none, and none can be had."""
        return self._client.wait(self._fresh.get())

    def drop(self, token: str) -> None:
        """Forget a token that a gateway refused (HTTP 401)."""
        self._client.wait(_dropped(self._fresh, token))


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _end(session: aiohttp.ClientSession) -> None:
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await session.close()


async def _next(feed: AsyncGenerator[Snapshots, None]) -> Snapshots | None:
    return await anext(feed, None)


async def _dropped(fresh: FreshToken, token: str) -> None:
    fresh.drop(token)
