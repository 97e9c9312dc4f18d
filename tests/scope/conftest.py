"""`scope` and the registry over real sockets, scope on each engine; the people who use them; a gateway's lanes."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import controls.app
import scope.app
from controls.client import Publisher, ServerRecord
from scope import seals
from scope.authority import Authority
from scope.client import Head, JobRequest, LaneRequest, OpenedJob, RegisteredLane, ScopeClient
from scope.restored import Memory
from service import keystore, migrate
from service.app import now
from service.clients import client_token
from service.dpop import b64url
from service.initialise import Plan, Urls, initialise
from tests.conftest import START, Clock, free_port, seeded
from tests.serving import serve_on
from verifier import leaf
from verifier.checkpoint import sign_head
from verifier.documents import Opened, open_grant, open_seal
from verifier.draft import build, read_draft
from verifier.encoding import b64, canonical
from verifier.envelope import seal_up
from verifier.grant import Grant
from verifier.keys import Pin, Trust
from verifier.manifest import Manifest, Tool
from verifier.merkle import EMPTY, consistency_proof, leaf_hash, root_of
from verifier.refused import Refused
from verifier.seal import Seal, origin
from verifier.signing import SUITE, KeyPair

SECOND = 1_000_000
DAY = 86_400  # seconds
CRM = "http://127.0.0.1:8801/mcp"
MINIMAL = Path(__file__).parents[2] / "examples" / "policies" / "minimal.json"
TOOLS = ("export_customers", "get_case", "http_request", "search_customer")


class Town:
    """One installation whose registry and scope are being served; the clock stands until it is told to move."""

    def __init__(
        self, installation: Path, urls: Urls, session: aiohttp.ClientSession, clock: Callable[[], int]
    ) -> None:
        self.installation, self.urls, self.session, self.clock = installation, urls, session, clock
        self.url = urls.scope
        self.trust = Trust.establish(
            Pin.parse((installation / "pin.json").read_bytes()), (installation / "keys.json").read_bytes()
        )
        self.authority: Authority
        self.memory: Memory
        self.stop: Callable[[], Awaitable[None]]
        self.random = seeded("scope")
        self.database_url = ""
        self.policy = ""
        self.lanes: list[GatewayLane] = []

    def key(self, holder: str, use: str) -> KeyPair:
        """Load somebody's key."""
        return keystore.load(self.installation / holder / f"{use}.key", use)

    def credential(self, client: str, audience: str | None = None) -> str:
        """Make a fresh token of a client."""
        return client_token(self.key(client, "client"), client, audience or self.urls.scope, self.clock())

    def scope(self, client: str = "orchestrator") -> ScopeClient:
        """Call scope as somebody."""
        return ScopeClient(self.session, self.url, lambda: self.credential(client))

    def registry(self, client: str) -> Publisher:
        """Call the registry as somebody."""
        return Publisher(self.session, self.urls.controls, lambda: self.credential(client, self.urls.controls))

    async def ask(self, method: str, path: str, client: str | None = None, **given: Any) -> tuple[int, Any, Any]:
        """Send one request, as a client or as nobody; gives status, headers, body."""
        headers = given.pop("headers", {})
        if client is not None:
            headers = {**headers, "Authorization": f"Bearer {self.credential(client)}"}
        async with self.session.request(method, self.url + path, headers=headers, **given) as answer:
            json = "json" in answer.content_type and "vnd" not in answer.content_type
            return answer.status, answer.headers, await (answer.json(content_type=None) if json else answer.read())

    async def publish(self, *, serial: int = 1, **changes: Any) -> str:
        """Publish the users' example, perhaps changed; gives its digest."""
        draft = read_draft(MINIMAL.read_bytes()) | changes
        payload = canonical(build(draft, issuer="example.author", now=self.clock(), serial=serial))
        return (await self.registry("author").publish(seal_up("policy", payload, self.key("author", "policy")))).digest

    async def offer(self, server: str = "crm-mcp", names: tuple[str, ...] = TOOLS) -> str:
        """Register a server and approve its manifest; gives the manifest's digest."""
        await self.registry("registrar").register(server, RECORD)
        tools = [tool(name) for name in names]
        manifest = Manifest(
            issuer="example.registrar", server=server, serial=1, issued_at=self.clock(), url=CRM, tools=tools
        )
        raw = seal_up("manifest", canonical(manifest), self.key("registrar", "registry"))
        return (await self.registry("registrar").approve(server, raw)).digest

    def job(self, **changes: Any) -> JobRequest:
        """Ask for a job as most tests do."""
        asked = {"agent": "agent-1", "policy": self.policy, "job_type": "support", "environment": "test"}
        return JobRequest(**{**asked, **changes})

    async def open(self, **changes: Any) -> OpenedJob:
        """Open a job as the orchestrator."""
        return await self.scope().open(self.job(**changes))

    async def lane(self, job: OpenedJob, name: str = "lane-1", **changes: str) -> "GatewayLane":
        """Register a lane as the gateway."""
        lane = GatewayLane(self, job, name)
        lane.registered = await self.scope("receipts").register_lane(job.job, lane.request(**changes))
        self.lanes.append(lane)
        return lane

    async def serve(self, listener: socket.socket, clock: Callable[[], int] | None = None) -> None:
        """Serve scope from its directory."""
        settings = self.installation / "scope/settings.toml"
        app = scope.app.create(settings, clock=clock or self.clock, random=self.random)
        self.stop = await serve_on(app, listener)
        self.authority, self.memory = app.state.authority, app.state.memory

    async def restart(self, clock: Callable[[], int] | None = None) -> None:
        """End scope, and start it again at the same address."""
        await self.stop()
        await self.serve(socket.create_server(("127.0.0.1", int(self.url.rpartition(":")[2]))), clock)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, where it is ours."""
        assert isinstance(self.clock, Clock)
        self.clock.pass_seconds(seconds)

    async def advance(self, seconds: float = 0) -> None:
        """Let time pass, and do what it asks for."""
        self.pass_seconds(seconds)
        await seals.advance(self.authority, self.clock())

    async def sealed(self, job: str) -> Opened[Seal]:
        """Fetch a seal and open it as an auditor does."""
        return open_seal(self.trust, await self.scope().seal(job))


class GatewayLane:
    """A lane as a gateway writes it: real receipts, a real tree, heads signed with the gateway's key."""

    def __init__(self, town: Town, job: OpenedJob, name: str) -> None:
        self.town, self.job, self.name = town, job, name
        self.key = town.key("receipts", "gateway")
        self.gateway = town.urls.receipts
        self.origin = origin(self.gateway, job.job, name)
        self.raws: list[bytes] = []
        self.reported = 0
        self.closed = False
        self.registered: RegisteredLane

    def request(self, **changes: str) -> LaneRequest:
        """Ask for the lane."""
        asked = {"lane": self.name, "gateway": self.gateway, "kid": self.key.kid, "origin": self.origin}
        return LaneRequest(**{**asked, **changes})  # type: ignore[arg-type]

    def open(self) -> None:
        """Write the first receipt."""
        trust = self.town.trust
        self._write(
            leaf.Open(
                build="test", gateway=self.gateway, job=self.job.job, keys=trust.digest, keys_version=1,
                lane=self.name, policy=self.job.policy, revocations=0, seq=0, suite=SUITE, time=self.town.clock(),
            )
        )  # fmt: skip

    def note(self, count: int = 1) -> None:
        """Write some receipts without a call."""
        for _ in range(count):
            self._write(leaf.Note(code="test", seq=len(self.raws), time=self.town.clock()))

    def close(self, reason: str = "complete") -> None:
        """Write the last receipt."""
        counts = leaf.Counts(begin=0, deny=0, end=0, note=len(self.raws) - 1, token=0)
        self._write(leaf.Close(counts=counts, reason=reason, seq=len(self.raws), time=self.town.clock()))
        self.closed = True

    def head(self, **changes: Any) -> Head:
        """Sign the newest head, with the proof that leads there from the last one that was accepted."""
        hashes = [leaf_hash(raw) for raw in self.raws]
        proof = consistency_proof(hashes, self.reported) if 0 < self.reported < len(hashes) else []
        note = self.signed(len(hashes), root_of(hashes) if hashes else EMPTY, closing=self.closed)
        asked = {"lane": self.name, "note": note, "consistency": [b64(each) for each in proof], "closed": self.closed}
        return Head(**{**asked, **changes})

    def signed(self, size: int, root: bytes, *, closing: bool = False, key: KeyPair | None = None) -> str:
        """Sign any head in this lane's name."""
        seconds = self.town.clock() // SECOND if closing else None
        return sign_head(key or self.key, self.origin, size, root, closing_at=seconds)

    async def report(self, *jtis: str, running: int = 0) -> None:
        """Report the newest head, which must be accepted."""
        answer = await self.town.scope("receipts").report_heads([self.head(jtis=list(jtis), running=running)])
        assert answer.refused == []
        self.reported = len(self.raws)

    def _write(self, written: leaf.Leaf) -> None:
        self.raws.append(leaf.encode(written))


def tool(name: str) -> Tool:
    """Describe a harmless tool."""
    return Tool(
        name=name, description=name, input_schema='{"type":"object"}', tool_class="read", sensitivity="internal",
        data_classes=["customer_provided"], approval="none",
    )  # fmt: skip


RECORD = ServerRecord(
    purpose="Customers and their cases",
    owner="crm-team",
    url=CRM,
    transport="streamable-http",
    data_classes=["customer_provided", "internal"],
    last_review=START,
    next_review=START + 90 * 86_400 * SECOND,
    status="active",
)


async def refusal(call: Awaitable[object]) -> str:
    """Name the code that a call is refused with."""
    try:
        await call
    except Refused as refused:
        return refused.code
    return "accepted"


def granted(job: OpenedJob, trust: Trust) -> Opened[Grant]:
    """Open a job's grant as an auditor does."""
    return open_grant(trust, bytes(job.grant))


@pytest.fixture
async def town(
    tmp_path: Path, database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Town, None]:
    """The users' example policy is published, one server has a manifest, scope runs on SQLite and on PostgreSQL."""
    async with running(tmp_path / "town", database_url, clock, monkeypatch) as made:
        yield made


@pytest.fixture
async def today(tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Town, None]:
    """The same by the real clock, which the commands read."""
    async with running(tmp_path / "today", sqlite, now, monkeypatch) as made:
        yield made


@asynccontextmanager
async def running(
    installation: Path, database_url: str, clock: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Town, None]:
    """Make an installation whose addresses are real, and serve its registry and its scope."""
    monkeypatch.setenv("TALLY_SCOPE_TICK_MILLISECONDS", "1000")  # tests advance time themselves
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with founded(installation, url, database_url, clock, monkeypatch) as made:
        await asyncio.to_thread(migrate.upgrade, "scope", made.database_url)
        await made.serve(listener)
        try:
            yield made
        finally:
            await made.stop()


@asynccontextmanager
async def founded(
    installation: Path,
    scope_url: str,
    database_url: str,
    clock: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Town, None]:
    """Make an installation and serve its registry; its scope, at `scope_url`, is the caller's to start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        registry = f"http://127.0.0.1:{listener.getsockname()[1]}"
        urls = Urls(controls=registry, scope=scope_url, receipts=f"http://127.0.0.1:{free_port()}")
        initialise(installation, Plan(urls=urls, demo=True), clock(), seeded("town"))
        if database_url.startswith("postgresql"):
            monkeypatch.setenv("TALLY_SCOPE_DATABASE", database_url.replace("postgresql+asyncpg://", "postgresql://"))
        else:
            database_url = f"sqlite+aiosqlite:///{installation / 'scope/scope.db'}"
        await asyncio.to_thread(
            migrate.upgrade, "controls", f"sqlite+aiosqlite:///{installation / 'controls/controls.db'}"
        )
        stop = await serve_on(controls.app.create(installation / "controls/settings.toml", clock=clock), listener)
        try:
            async with aiohttp.ClientSession() as session:
                made = Town(installation, urls, session, clock)
                made.database_url = database_url
                made.policy = await made.publish()
                await made.offer()
                yield made
        finally:
            await stop()


def jwk_of(key: KeyPair) -> dict[str, str]:
    """Write a key's public half as a JWK (RFC 8037)."""
    return {"kty": "OKP", "crv": "Ed25519", "x": b64url(key.public.raw()[0])}
