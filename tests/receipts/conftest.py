"""A registry and a scope on real sockets, a published policy, an approved manifest, and jobs to write receipts for."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest
import structlog
import uvicorn
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

import controls.app
import scope.app
from controls.client import ControlsClient, Publisher, ServerRecord
from receipts.archive import Archive
from receipts.bundles import Bundles, Contents
from receipts.identity import Identity, read_identity
from receipts.lanes import Lane, Lanes
from receipts.ledger import Ledger
from receipts.recovery import recover
from receipts.report import Reporter
from receipts.settings import ReceiptsSettings
from scope.client import JobRequest, ScopeClient
from service import keystore, migrate
from service.app import now
from service.clients import client_token
from service.engine import open_engine
from service.initialise import Plan, Urls, initialise
from service.settings import load
from tests.conftest import free_port
from verifier.audit import verify
from verifier.commitment import Side, call_key, commit
from verifier.draft import build, read_draft
from verifier.encoding import canonical
from verifier.envelope import Envelope, seal_up
from verifier.grant import Grant, Token
from verifier.keys import Pin
from verifier.leaf import Begin, Commitment, Deny, End, Facts, Reservation, Target, ToolCall, Usage
from verifier.manifest import Manifest, Tool
from verifier.policy import Policy
from verifier.report import Report

MINIMAL = Path("examples/policies/minimal.json").read_bytes()
SCHEMA = '{"type":"object","properties":{"case_id":{"type":"string"}}}'
DAY = 86_400_000_000


class Job(Struct, frozen=True):
    """An open job with a token and its claims."""

    name: str
    grant: Grant
    policy: Policy
    claims: Token
    token: str


class Town:
    """Everything around a gateway, and the parts of one."""

    def __init__(self, directory: Path, urls: Urls, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.urls = urls
        self.session = session
        self.settings = load(ReceiptsSettings, "receipts", directory / "receipts/settings.toml", {})
        self.identity: Identity = read_identity(self.settings, now())
        self.pin = Pin.parse((directory / "pin.json").read_bytes())
        self.policy_digest = ""

    def scope(self, client: str) -> ScopeClient:
        """Ask scope as somebody."""
        return ScopeClient(self.session, self.urls.scope, self._credential(client, self.urls.scope))

    async def publish(self) -> None:
        """Publish the example policy, register the CRM and approve its manifest."""
        author = keystore.load(self.directory / "author/policy.key", "policy")
        registrar = keystore.load(self.directory / "registrar/registry.key", "registry")
        built = canonical(build(read_draft(MINIMAL), issuer="example.author", now=now() - DAY))
        publisher = Publisher(self.session, self.urls.controls, self._credential("author", self.urls.controls))
        self.policy_digest = (await publisher.publish(seal_up("policy", built, author))).digest
        registering = Publisher(self.session, self.urls.controls, self._credential("registrar", self.urls.controls))
        await registering.register("crm-mcp", RECORD)
        manifest = Manifest(
            issuer="example.registrar", server="crm-mcp", serial=1, issued_at=now() - DAY, url=RECORD.url, tools=TOOLS
        )
        await registering.approve("crm-mcp", seal_up("manifest", canonical(manifest), registrar))

    async def job(self, **asked: Any) -> Job:
        """Open a job and get a token for it."""
        orchestrator = self.scope("orchestrator")
        opened = await orchestrator.open(
            JobRequest(agent="agent-1", policy=self.policy_digest, job_type="support", environment="test", **asked)
        )
        issued = await orchestrator.token(opened.job)
        claims = msgspec.convert(jwt.decode(issued.access_token, options={"verify_signature": False}), Token)
        grant = Grant.parse(Envelope.parse(bytes(opened.grant), "grant").content())
        controls_client = ControlsClient(self.session, self.urls.controls, self.identity.trust)
        policy = (await controls_client.policy(grant.scope.policy, grant.opened)).value
        return Job(opened.job, grant, policy, claims, issued.access_token)

    def _credential(self, client: str, audience: str) -> Callable[[], str]:
        key = keystore.load(self.directory / client / "client.key", "client")
        return lambda: client_token(key, client, audience, now())


class Epoch:
    """One life of a gateway's ledger: from a start to the next."""

    def __init__(self, town: Town, ledger: Ledger, engine: AsyncEngine) -> None:
        identity, settings = town.identity, town.settings
        self.town, self.ledger, self.engine = town, ledger, engine
        self.scope = town.scope("receipts")
        self.lanes = Lanes(
            directory=settings.directory / "lanes",
            gateway=settings.issuer,
            pair=identity.pair,
            trust=identity.trust,
            ledger=ledger,
            scope=self.scope,
            clock=now,
            random=os.urandom,
            revocations=lambda: 0,
        )
        self.reporter = Reporter(self.lanes, ledger, self.scope, structlog.get_logger())

    async def recover(self) -> int:
        """End what an earlier epoch left open; how many lanes is the answer."""
        pair, log = self.town.identity.pair, structlog.get_logger()
        found = await recover(self.engine, self.ledger, pair, now, log, scope=self.scope)
        for log in found:
            self.reporter.add(log)
        return len(found)

    async def finish(self, job: Job) -> None:
        """Close a job as the orchestrator, and report until it is sealed."""
        await self.town.scope("orchestrator").close(job.name)
        reporting = asyncio.create_task(self.reporter.run())
        await self.town.scope("orchestrator").wait_for_seal(job.name)
        reporting.cancel()

    async def bundle(self, job: Job) -> bytes:
        """Assemble a sealed job's bundle."""
        bundles = await self.bundles()
        return await self.assembled(bundles, await bundles.sealed(job.name))

    async def bundles(self) -> Bundles:
        """Make what assembles bundles."""
        identity, urls = self.town.identity, self.town.urls
        controls_client = ControlsClient(self.town.session, urls.controls, identity.trust)
        await self.ledger.keep(identity.trust.digest, "keys", identity.key_list)
        archive = Archive(self.engine, self.ledger, identity.trust, self.scope, controls_client)
        return Bundles(
            directory=Path(tempfile.gettempdir()),
            engine=self.engine,
            archive=archive,
            scope=self.scope,
            trust=identity.trust,
            pair=identity.pair,
        )

    async def assembled(self, bundles: Bundles, contents: Contents) -> bytes:
        """Assemble a bundle of these contents."""
        made = await bundles.assemble(contents)
        with made.file as file:
            raw = file.read()
        assert len(raw) == made.size
        assert made.verdict == self.verify(raw).verdict
        return raw

    def verify(self, raw: bytes) -> Report:
        """Ask the auditor."""
        return verify(BytesIO(raw), self.town.pin)


class Calls:
    """Calls as the pipeline writes them into a lane."""

    def __init__(self, lane: Lane, job: Job) -> None:
        self.lane, self.job = lane, job

    def begin(self, target: Target, rule: str) -> str:
        """Begin a call; a tool answers the oldest tool call that a model asked for."""
        lane, call = self.lane, self.lane.next_call()
        parent = lane.fold.model_calls.find(target.tool, lane.tree.size) if target.tool else None
        manifest = self.job.grant.scope.manifests.get(target.server or "")
        lane.append(
            lambda seq, time: Begin(
                call=call,
                facts=Facts(labels=["customer_provided"] if target.tool else []),
                jti=self.job.claims.jti,
                manifest=manifest,
                parent=parent,
                req=self.commit(call, "req"),
                reservation=Reservation(tokens=20 if lane.fold.purse.share.tokens and target.provider else None),
                revocations=0,
                rule=rule,
                sent=self.commit(call, "sent"),
                seq=seq,
                staleness=1000,
                target=target,
                time=time,
            )
        )
        return call

    def end(self, call: str, *asked: str) -> None:
        """End a call well; a model's answer asks for tools."""
        tool_calls = [ToolCall(id=f"id-{number}", name=name) for number, name in enumerate(asked)]
        self.lane.append(
            lambda seq, time: End(
                call=call,
                dlv=self.commit(call, "dlv"),
                flags=[],
                labels=[],
                recv=self.commit(call, "recv"),
                redactions=0,
                screens=["size"],
                seq=seq,
                status="ok",
                time=time,
                tool_calls=tool_calls,
                usage=Usage(input=10, output=5) if asked else None,
            )
        )

    def model(self, *asked: str) -> str:
        """One whole model call."""
        call = self.begin(MODEL, "model-1")
        self.end(call, *asked)
        return call

    def tool(self, name: str = "get_case") -> str:
        """One whole tool call."""
        call = self.begin(Target(server="crm-mcp", tool=name), "allow-1")
        self.end(call)
        return call

    def deny(self) -> object:
        """One denial by the gateway."""
        call = self.lane.next_call()
        return self.lane.deny(
            lambda seq, time: Deny(
                by="gateway",
                call=call,
                code="no-model-call",
                jti=self.job.claims.jti,
                revocations=0,
                seq=seq,
                staleness=1000,
                time=time,
            )
        )

    def commit(self, call: str, side: Side) -> Commitment:
        """Commit to some body."""
        return commit(call_key(self.lane.key, call, side), [f"{call} {side}".encode()])


MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
RECORD = ServerRecord(
    purpose="Customers and their cases",
    owner="crm-team",
    url="http://127.0.0.1:8801/mcp",
    transport="streamable-http",
    data_classes=["customer_provided", "internal"],
    last_review=now() - DAY,
    next_review=now() + 90 * DAY,
    status="active",
)
TOOLS = [
    Tool(
        name=name,
        description=name,
        input_schema=SCHEMA,
        tool_class="read",
        sensitivity="internal",
        data_classes=["customer_provided"],
        approval="none",
    )
    for name in ("get_case", "search_customer")
]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncGenerator[Town, None]:
    """An installation whose registry and scope are being served, with the example policy published."""
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in ("controls", "scope")}
    ports = {name: each.getsockname()[1] for name, each in listeners.items()} | {"receipts": free_port()}
    urls = Urls(**{name: f"http://127.0.0.1:{port}" for name, port in ports.items()})
    directory = tmp_path / "installation"
    initialise(directory, Plan(urls=urls, demo=True), now() - DAY, os.urandom)
    for name in ports:
        url = f"sqlite+aiosqlite:///{directory / name / name}.db"
        await asyncio.to_thread(migrate.upgrade, name, url)
    apps = {"controls": controls.app.create, "scope": scope.app.create}
    running = [
        await serve_on(create(directory / name / "settings.toml"), listeners[name]) for name, create in apps.items()
    ]
    async with aiohttp.ClientSession() as session:
        made = Town(directory, urls, session)
        await made.publish()
        yield made
    for server, task in running:
        server.should_exit = True
        await task


async def serve_on(app: object, listener: socket.socket) -> tuple[uvicorn.Server, asyncio.Task[None]]:
    """Serve an application on a socket that listens already."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the application did not start")
        await asyncio.sleep(0.01)
    return server, task


@pytest.fixture
async def epoch(town: Town) -> AsyncGenerator[Epoch, None]:
    """One life of a gateway in this town."""
    engine = open_engine(town.settings.engine_url)
    ledger = Ledger(town.settings.directory / "receipts.db")
    ledger.open()
    yield Epoch(town, ledger, engine)
    await ledger.close()
    await engine.dispose()
