"""The application of `scope`: where its clock, randomness, keys, engine, settings and HTTP client enter."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import aiohttp
import structlog
from litestar import Litestar
from litestar.di import Provide
from sqlalchemy.ext.asyncio import AsyncEngine

from controls.client import ControlsClient
from scope import seals, store
from scope.authority import Authority, Keys, Reports, given
from scope.desk import Desk
from scope.feed import Feed
from scope.restored import Memory, Seen
from scope.routes import ROUTES
from scope.settings import ScopeSettings
from scope.tables import acts
from scope.users import Users
from service import keystore
from service.app import build, counter, now
from service.clients import Clients, Clock, client_token
from service.dpop import Proofs
from service.engine import is_full, open_engine, reading
from service.keystore import Random
from service.newest import Newest
from service.once import Once
from service.problems import Log
from service.reach import networks
from service.settings import load
from service.steady import Steady
from verifier.keys import Pin, Trust
from verifier.refused import Refused

STATUSES = {
    "unknown-job": 404,
    "unknown-grant": 404,
    "unknown-policy": 404,
    "not-sealed": 404,
    "revoked": 403,
    "not-admitted": 403,
    "scope-too-wide": 403,
    "policy-withdrawn": 409,
    "job-not-open": 409,
    "request-differs": 409,
    "lane-taken": 409,
    "controls-unavailable": 503,
    "bad-user-token": 403,
    "bad-parent-token": 403,
    "too-many-proofs": 503,
    "too-many-children": 409,
    "job-deleted": 410,
    "job-not-sealed": 409,
    "job-has-children": 409,
    "parent-not-sealed": 409,
    "unknown-issuer": 403,
    "identity-unavailable": 503,
    "database-restored": 503,
}
NAME = "scope"


def create(
    settings_path: Path, *, clock: Clock = now, counted: Clock | None = None, random: Random = os.urandom
) -> Litestar:
    """Build `scope` from the directory that its settings lie in.

    `counted` is the machine's own count of time, by which a jump of the clock shows; beside a clock that is given it is
    that clock itself, unless it is given too.
    """
    settings = load(ScopeSettings, "scope", settings_path, os.environ)
    engine = open_engine(settings.engine_url)
    steady = Steady(clock, counter(clock, counted))
    beside = open_engine(settings.engine_url)  # the feed's: requests that queue for a lock keep no heartbeat back
    once = Once(beside, clock) if beside.dialect.name == "postgresql" else None
    memory = Memory(Newest(settings.directory, Seen))
    prepare = _authority(settings, (engine, beside), once, steady, clock=clock, random=random)

    @asynccontextmanager
    async def working(app: Litestar) -> AsyncGenerator[None, None]:
        async with aiohttp.ClientSession() as session:
            authority = app.state.authority = prepare(session)
            async with reading(engine) as db:
                authority.clock.learn(await store.latest_time(db))
            await memory.start(authority, settings.accept_restored)
            running = [keep_time(authority, memory, settings.tick_milliseconds / 1000), authority.feed.run()]
            running += [] if once is None else [once.run()]
            tasks = [asyncio.create_task(each) for each in running]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await beside.dispose()

    return build(
        settings,
        ROUTES,
        engine=engine,
        clients=Clients.load(
            settings.directory / "clients.toml", settings.issuer, steady, settings.writes_per_minute, once
        ),
        dependencies={"authority": Provide(given, sync_to_thread=False)},
        statuses=STATUSES,
        state={"memory": memory},
        checks={"clock": steady.check, "newest": memory.ready},
        lifespan=[working],
    )


async def keep_time(authority: Authority, memory: Memory, seconds: float) -> None:
    """Do what time asks for, for ever: what fails is logged, if it has a code once, and the next turn tries again."""
    told = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            async with reading(authority.engine) as db:
                authority.clock.learn(await acts.time(db))  # another process may have written it
            await memory.look(authority)
            await seals.advance(authority, authority.clock())
            told = ""
        except Exception as error:
            code = error.code if isinstance(error, Refused) else "disk-full" if is_full(error) else "bug"
            if code == "bug" or code != told:
                authority.log.exception(code, task="keep_time")
            told = code


def _authority(
    settings: ScopeSettings,
    engines: tuple[AsyncEngine, AsyncEngine],
    once: Once | None,
    steady: Steady,
    *,
    clock: Clock,
    random: Random,
) -> Callable[[aiohttp.ClientSession], Authority]:
    """Read keys and trust, and check them, before anything is served; what is left to add is the HTTP session."""
    (engine, beside), directory = engines, settings.directory
    key_list = (directory / "keys.json").read_bytes()
    trust = Trust.establish(Pin.parse((directory / "pin.json").read_bytes()), key_list)
    keys = Keys.load(directory)
    keys.require(trust, settings.issuer, clock())
    client = keystore.load(directory / "client.key", "client")
    users = Users(settings.identity_providers, directory, networks(settings.identity_networks), random)

    def credential() -> str:
        return client_token(client, NAME, settings.controls_url, clock())

    log: Log = structlog.get_logger(service=NAME)

    def prepare(session: aiohttp.ClientSession) -> Authority:
        return Authority(
            issuer=settings.issuer,
            audience=settings.receipts_url,
            keys=keys,
            trust=trust,
            key_list=key_list,
            registry=ControlsClient(session, settings.controls_url, trust, credential),
            engine=engine,
            clock=steady,
            random=random,
            users=users,
            reports=Reports(clock()),
            retention=settings.retention,
            proofs=Proofs(settings.issuer, _nonces(keys), clock, once),
            desk=Desk(),
            feed=Feed(beside, settings.issuer, keys.revocation, steady, log),
            log=log,
        )

    return prepare


def _nonces(keys: Keys) -> bytes:
    """Derive the secret of DPoP nonces: every process of this scope has the same, and it needs no file of its own."""
    return sha256(keys.token.ed25519(b"tally-dpop-nonces/1")).digest()
