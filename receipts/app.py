"""The gateway's application: where its clock, keys, engine, settings and clients enter, and what runs beside."""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from controls.client import ControlsClient
from receipts.archive import Archive
from receipts.bundles import Bundles
from receipts.gateway import Gateway
from receipts.history import Known
from receipts.identity import Identity, read_identity
from receipts.lanes import Lanes
from receipts.ledger import Ledger
from receipts.lookup import Lookup
from receipts.memory import Seen, remember, require_newest
from receipts.recovery import recover
from receipts.report import Reporter
from receipts.retention import Retention
from receipts.revocations import Revocations
from receipts.routes import ROUTES, provide_visitor
from receipts.sessions import Sessions
from receipts.settings import ReceiptsSettings
from scope.client import ScopeClient
from service.app import build, counter, now
from service.clients import Clients, Clock
from service.dpop import Proofs
from service.engine import open_engine
from service.keystore import Random
from service.newest import Newest
from service.settings import load
from service.steady import Steady
from verifier.refused import Refused

GATEWAY = ("/v1/", "/mcp/", "/authorize", "/.well-known/oauth-protected-resource/")
STATUSES = {
    "unknown-call": 404,
    "unknown-job": 404,
    "job-deleted": 410,
    "job-not-deleted": 409,
    "receipts-deleted": 410,
    "not-sealed": 404,
    "revoked": 403,
    "stale-revocations": 503,
    "too-many-proofs": 503,
    "ledger-unavailable": 503,
    "scope-unavailable": 503,
    "controls-unavailable": 503,
}


class Given(Struct, frozen=True, kw_only=True):
    """What the parts are made of."""

    settings: ReceiptsSettings
    identity: Identity
    ledger: Ledger
    clock: Clock
    random: Random
    counted: Clock


def create(
    settings_path: Path,
    *,
    clock: Clock = now,
    counted: Clock | None = None,
    random: Random = os.urandom,
    make_ledger: Callable[[Path], Ledger] = Ledger,
) -> ASGIApp:
    """Build the gateway from the directory that its settings lie in: the hot paths bare, the rest on Litestar.

    `counted` is the machine's own count of time; beside a clock that is given it is that clock itself.
    """
    settings = load(ReceiptsSettings, "receipts", settings_path, os.environ)
    if settings.database != "sqlite":
        raise Refused("bad-settings", "database: the ledger of this version is kept on SQLite")
    ledger = make_ledger(settings.directory / f"{settings.name}.db")
    identity = read_identity(settings, clock())
    given = Given(
        settings=settings, identity=identity, ledger=ledger, clock=clock, random=random, counted=counter(clock, counted)
    )

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            await _open(app.state, given, stack)
            yield

    site = build(
        settings,
        ROUTES,
        engine=open_engine(settings.engine_url),
        clients=Clients.load(settings.directory / "clients.toml", settings.issuer, clock, settings.writes_per_minute),
        dependencies={
            "visitor": Provide(provide_visitor),
            **{name: _provide(name) for name in PARTS},
        },
        statuses=STATUSES,
        checks={"ledger": ledger.check, "running": lambda: _check_running(site.state)},
        lifespan=[running],
    )

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"].startswith(GATEWAY):
            await site.state.gateway(scope, receive, send)
        else:
            await site(scope, receive, send)

    return application


PARTS = ("bundles", "lookup", "retention", "revocations", "sessions")


async def _open(state: State, given: Given, stack: AsyncExitStack) -> None:
    """Put the parts together, end what an earlier epoch left open, and start what runs beside."""
    settings, identity, ledger, clock = given.settings, given.identity, given.ledger, given.clock
    stack.enter_context(_alone(settings.directory))
    pair, trust, keys = identity.pair, identity.trust, settings.directory / "lanes"
    session = await stack.enter_async_context(aiohttp.ClientSession())
    scope = ScopeClient(session, settings.scope_url, identity.credential(settings.scope_url, clock))
    controls = ControlsClient(session, settings.controls_url, trust, identity.credential(settings.controls_url, clock))
    newest = Newest(settings.directory, Seen)
    ledger.open()
    stack.push_async_callback(ledger.close)
    await require_newest(newest, state.engine, ledger, settings.accept_restored)
    await ledger.keep(trust.digest, "keys", identity.key_list)
    archive = Archive(state.engine, ledger, trust, scope, controls)
    seen = Known() if newest.known is None else newest.known.last
    state.revocations = revocations = Revocations(scope, trust, settings.scope_url, clock, seen, counted=given.counted)
    proofs = Proofs(settings.issuer, given.random(32), clock)
    state.sessions = sessions = Sessions(archive, trust, settings.scope_url, settings.issuer, clock, proofs=proofs)
    lanes = Lanes(
        directory=keys,
        gateway=settings.issuer,
        pair=pair,
        trust=trust,
        ledger=ledger,
        scope=scope,
        clock=clock,
        random=given.random,
        revocations=lambda: revocations.sequence,
        share=settings.share,
    )
    reporter = Reporter(lanes, ledger, scope, state.log)

    def changed() -> None:
        lanes.ask()
        reporter.wake()

    revocations.changed = changed
    for log in await recover(state.engine, ledger, pair, clock, state.log, scope=scope):
        reporter.add(log)
    with suppress(Refused):  # what an earlier epoch left of a job's purse is there before the first call
        await reporter.report()
    state.lookup = Lookup(lanes, keys, pair)
    state.bundles = Bundles(
        directory=settings.directory, engine=state.engine, archive=archive, scope=scope, trust=trust, pair=pair
    )
    state.retention = retention = Retention(
        directory=keys,
        issuer=settings.issuer,
        keep=settings.retention,
        engine=state.engine,
        ledger=ledger,
        lanes=lanes,
        scope=scope,
        clock=Steady(clock, given.counted),
        log=state.log,
    )
    state.gateway = gateway = Gateway(
        settings=settings,
        identity=identity,
        sessions=sessions,
        lanes=lanes,
        revocations=revocations,
        clock=clock,
        log=state.log,
    )
    stack.push_async_callback(gateway.close)
    remembering = remember(newest, ledger, revocations, state.log)
    beside = (revocations.follow(), reporter.run(), retention.run(), remembering)
    state.tasks = [asyncio.create_task(work) for work in beside]
    stack.push_async_callback(_cancel, state.tasks)


def _alone(directory: Path) -> BinaryIO:
    """Hold the ledger for this process until it ends: the recovery of a second one would end the first one's calls."""
    lock = (directory / "ledger.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise Refused(
            "ledger-unavailable", "another process works on this ledger", hint="End it before you start this one."
        ) from error
    return lock


async def _check_running(state: State) -> None:
    """Raise when one of the tasks that never end has ended, or scope has not been heard yet (`/readyz`)."""
    for task in state.tasks:
        if task.done():
            task.result()
    state.revocations.require_heard()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _provide(name: str) -> Provide:
    """Give routes one of the parts."""

    def part(state: State) -> Any:
        return state[name]

    return Provide(part, sync_to_thread=False)
