"""A whole installation on real sockets: registry, scope, gateway, an upstream that does as it is told, clients."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import msgspec
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from msgspec import structs
from openai import AsyncOpenAI

import controls.app
import receipts.app
import scope.app
from controls.client import Publisher, ServerRecord
from scope.client import JobRequest, RevocationRequest, ScopeClient
from service import keystore, migrate
from service.app import now
from service.clients import client_token
from service.initialise import Plan, Urls, initialise
from tests.conftest import Serve, seeded
from tests.serving import serve_on
from verifier import leaf
from verifier.audit import verify
from verifier.draft import build, read_draft
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.keys import Pin
from verifier.leaf import Leaf
from verifier.manifest import Manifest, Tool
from verifier.prices import Prices
from verifier.report import Report
from verifier.signing import KeyPair, PublicPair

ROOT = Path(__file__).parents[2]
MINIMAL = ROOT / "examples" / "policies" / "minimal.json"
PROVIDER = "openrouter_via_fal"
MODEL_KEY, CRM_KEY = "upstream-model-key", "upstream-crm-key"
SECOND = 1_000_000
REVISION = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}}
CASE = {"type": "object", "properties": {"case_id": {"type": "string"}}, "required": ["case_id"]}
ANY = {"type": "object", "properties": {"query": {"type": "string"}, "url": {"type": "string"}, "format": {}}}


class Clock:
    """This machine's time, which a test may move on."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now() + self.ahead

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.ahead += int(seconds * SECOND)


class Upstream:
    """An upstream that notes what it gets and answers what the test says: status, headers, pieces of a body."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.headers = {"content-type": "application/json"}
        self.pieces: Sequence[bytes] = (tool_result("done"),)
        self.hold: asyncio.Event | None = None
        self.reached = asyncio.Event()

    def say(self, *pieces: bytes, status: int = 200, **headers: str) -> None:
        """Set the next answers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status, self.pieces, self.headers = status, pieces, {"content-type": "application/json", **named}

    async def __call__(self, scope_: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope_["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append(({name.decode(): value.decode() for name, value in scope_["headers"]}, body))
        self.reached.set()
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, piece in enumerate(self.pieces):
            if self.hold is not None and number == len(self.pieces) - 1:
                await self.hold.wait()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Gatehouse:
    """The installation as a test sees it: `token` is of the job that is open."""

    def __init__(
        self, directory: Path, urls: Urls, session: aiohttp.ClientSession, clock: Clock, upstream: Upstream
    ) -> None:
        self.directory, self.urls, self.session, self.clock, self.upstream = directory, urls, session, clock, upstream
        self.gateway = urls.receipts
        self.policy = self.job = self.token = ""
        self.offered = False
        self.stops: dict[str, Callable[[], Awaitable[None]]] = {}
        self.gateway_key: PublicPair = self.key("receipts", "gateway").public

    def scope(self, client: str = "orchestrator") -> ScopeClient:
        """Ask scope as somebody."""
        return ScopeClient(self.session, self.urls.scope, self._credential(client, self.urls.scope))

    async def open(self, **asked: Any) -> None:
        """Open a job and get a token for it."""
        request = JobRequest(agent="agent-1", policy=self.policy, job_type="support", environment="test", **asked)
        self.job = (await self.scope().open(request)).job
        self.token = (await self.scope().token(self.job)).access_token

    async def publish(self, crm: str, serial: int = 1, **policy: Any) -> None:
        """Publish the example policy, perhaps changed, and the manifest of the CRM at this URL."""
        draft = read_draft(MINIMAL.read_bytes())
        changes = {name: value for name, value in policy.items() if not isinstance(value, dict)}
        draft |= {
            name: {**draft.get(name, {}), **value} for name, value in policy.items() if name not in changes
        } | changes
        built = canonical(build(draft, issuer="example.author", now=self.clock() - SECOND, serial=serial))
        author = Publisher(self.session, self.urls.controls, self._credential("author", self.urls.controls))
        self.policy = (await author.publish(seal_up("policy", built, self.key("author", "policy")))).digest
        if serial == 1 and not self.offered:
            await self.offer(crm)

    async def price(self, table: Prices) -> None:
        """Publish a price table."""
        registrar = Publisher(self.session, self.urls.controls, self._credential("registrar", self.urls.controls))
        await registrar.price(seal_up("prices", canonical(table), self.key("registrar", "registry")))

    async def offer(self, crm: str, local: Manifest | None = None, **reviewed: Any) -> None:
        """Register the CRM and approve its manifest, and that of the runtime's own tools."""
        self.offered = True
        registrar = Publisher(self.session, self.urls.controls, self._credential("registrar", self.urls.controls))
        record = ServerRecord(
            purpose="Customers", owner="crm-team", url=crm, transport="streamable-http",
            data_classes=["customer_provided", "internal"], last_review=0, next_review=self.clock(), status="active",
        )  # fmt: skip
        await registrar.register("crm-mcp", record)
        manifest = Manifest(
            issuer="example.registrar", server="crm-mcp", serial=1, issued_at=self.clock() - SECOND, url=crm,
            tools=[tool("export_customers"), tool("get_case", CASE), tool("http_request"), tool("search_customer")],
            **reviewed,
        )  # fmt: skip
        raw = seal_up("manifest", canonical(manifest), self.key("registrar", "registry"))
        await registrar.approve("crm-mcp", raw)
        if local is not None:
            await registrar.register("runtime", structs.replace(record, url=None, transport="local"))
            raw = seal_up("manifest", canonical(local), self.key("registrar", "registry"))
            await registrar.approve("runtime", raw)

    async def ready(self) -> None:
        """Wait until the gateway has heard scope."""
        while (await self.session.get(f"{self.gateway}/readyz")).status != 200:  # noqa: ASYNC110 - as an operator asks
            await asyncio.sleep(0.02)

    async def revoke(self, kind: Any, value: str) -> None:
        """Revoke something as the responder."""
        await self.scope("responder").revoke(RevocationRequest(kind=kind, value=value, reason="incident"))

    async def leaves(self, *kinds: str) -> list[Any]:
        """Read the job's receipts from the ledger's own pages."""
        url = f"{self.gateway}/jobs/{self.job}/receipts?limit=1000"
        auditor = self._credential("auditor", self.gateway)()
        async with self.session.get(url, headers={"Authorization": f"Bearer {auditor}"}) as answer:
            items = msgspec.json.decode(await answer.read(), type=dict[str, Any])["items"]
        found: list[Leaf] = [leaf.decode(msgspec.json.Encoder(order="sorted").encode(each["leaf"])) for each in items]
        return [each for each in found if not kinds or each.kind in kinds]

    async def bundle(self, asked: str = "", client: str = "auditor") -> bytes:
        """Fetch the job's bundle, as the auditor unless told otherwise."""
        headers = {"Authorization": f"Bearer {self._credential(client, self.gateway)()}"}
        async with self.session.get(f"{self.gateway}/bundles/{self.job}{asked}", headers=headers) as answer:
            return await answer.read()

    def judge(self, raw: bytes) -> Report:
        """Say what an auditor says of a bundle."""
        return verify(BytesIO(raw), Pin.parse((self.directory / "pin.json").read_bytes()))

    async def audited(self) -> tuple[bytes, Report]:
        """Close the job, wait for its seal; give its bundle and what an auditor says of it."""
        await self.scope().close(self.job)
        await self.scope().wait_for_seal(self.job)
        raw = await self.bundle()
        return raw, self.judge(raw)

    async def last(self) -> Any:
        """Return the newest receipt."""
        return (await self.leaves())[-1]

    async def post(self, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, Any, Any]:
        """Send anything; gives status, headers and the parsed body."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **named}
        async with self.session.post(self.gateway + path, data=BytesIO(raw), headers=sent) as answer:
            content = await answer.read()
            return answer.status, answer.headers, json.loads(content) if content else None

    async def chat(self, *prompts: str, **changes: Any) -> tuple[int, Any, Any]:
        """Ask the model in one request of our own making."""
        messages = [{"role": "user", "content": prompt} for prompt in prompts or ("hello",)]
        return await self.post(
            "/v1/chat/completions", {"model": f"{PROVIDER}/small-1", "messages": messages, **changes}
        )

    async def rpc(
        self, method: str = "tools/call", name: str | None = "get_case", arguments: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Speak MCP by hand."""
        params: dict[str, Any] = {"_meta": META}
        named = {
            "mcp_method": method,
            "mcp_protocol_version": REVISION,
            "accept": "application/json, text/event-stream",
        }
        if method == "tools/call":
            params |= {"name": name, "arguments": {"case_id": "CASE-1"} if arguments is None else arguments}
            named["mcp_name"] = str(name)
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return await self.post("/mcp/crm-mcp", body, **{**named, **headers})

    async def asked_for(self, *tools: str) -> None:
        """Let the model ask for these tools."""
        self.upstream.say(completion(*tools))
        status, _, _ = await self.chat()
        assert status == 200
        self.upstream.say(tool_result("done"))

    @asynccontextmanager
    async def openai(self) -> AsyncIterator[AsyncOpenAI]:
        """The official client of models, changed in nothing but URL and key."""
        async with AsyncOpenAI(base_url=f"{self.gateway}/v1", api_key=self.token, max_retries=0) as client:
            yield client

    @asynccontextmanager
    async def mcp(self, mode: Any = REVISION) -> AsyncIterator[Client]:
        """The official client of tools."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(f"{self.gateway}/mcp/crm-mcp", http_client=http)
            async with Client(transport, mode=mode, cache=None) as client:
                yield client

    async def stop(self, service: str) -> None:
        """End one service."""
        await self.stops.pop(service)()

    def key(self, holder: str, use: str) -> KeyPair:
        """Load somebody's key."""
        return keystore.load(self.directory / holder / f"{use}.key", use)

    def _credential(self, client: str, audience: str) -> Callable[[], str]:
        key = self.key(client, "client")
        return lambda: client_token(key, client, audience, self.clock())


def tool(name: str, schema: dict[str, Any] | None = None) -> Tool:
    """Describe a tool."""
    return Tool(
        name=name, description=f"What {name} does.", input_schema=json.dumps(schema or ANY), tool_class="read",
        sensitivity="internal", data_classes=["customer_provided"], approval="none",
    )  # fmt: skip


def tool_result(text: str, **more: Any) -> bytes:
    """Answer a tools/call."""
    result = {"content": [{"type": "text", "text": text}], "isError": False, "resultType": "complete", **more}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, ensure_ascii=False).encode()


def completion(*tools: str) -> bytes:
    """Answer a chat, asking for tools."""
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in enumerate(tools)
    ]
    message = {"role": "assistant", "content": None if calls else "hi", **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small-1"}
    return json.dumps({**head, "choices": [choice], "usage": usage}).encode()


@asynccontextmanager
async def gatehouse(
    tmp_path: Path,
    serve: Serve,
    *,
    crm: str = "",
    model: str = "",
    prices: Prices | None = None,
    local: Manifest | None = None,
    reviewed: dict[str, Any] | None = None,
    opened: bool = True,
    **policy: Any,
) -> AsyncIterator[Gatehouse]:
    """Run everything, with the example policy published and, unless told not to, a job open."""
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in ("controls", "scope", "receipts")}
    urls = Urls(**{name: f"http://127.0.0.1:{each.getsockname()[1]}" for name, each in listeners.items()})
    directory, clock, upstream = tmp_path / "house", Clock(), Upstream()
    address = await serve(upstream)
    initialise(directory, Plan(urls=urls, demo=True), clock() - 60 * SECOND, seeded("gatehouse"))
    _configure(directory / "receipts", model or f"{address}/v1")
    async with aiohttp.ClientSession() as session:
        house = Gatehouse(directory, urls, session, clock, upstream)
        try:
            for name, module in (("controls", controls.app), ("scope", scope.app), ("receipts", receipts.app)):
                database = f"sqlite+aiosqlite:///{directory / name}/{name}.db"
                await asyncio.to_thread(migrate.upgrade, name, database)
                app: Any = module.create(directory / name / "settings.toml", clock=clock)
                house.stops[name] = await serve_on(app, listeners[name])
                if name == "scope":
                    if prices is not None:
                        await house.price(prices)
                    await house.offer(crm or f"{address}/mcp", local, **(reviewed or {}))
                    await house.publish(crm or f"{address}/mcp", **policy)
            await house.ready()
            if opened:
                await house.open()
            yield house
        finally:
            await asyncio.gather(*(stop() for stop in house.stops.values()))


def _configure(directory: Path, model_url: str) -> None:
    for name, key in (("model.secret", MODEL_KEY), ("crm.secret", CRM_KEY)):
        keystore.write_private(directory / name, key.encode() + b"\n")
    with (directory / "settings.toml").open("a") as settings:
        settings.write(
            f'[models.{PROVIDER}]\nbase_url = "{model_url}"\napi_key_file = "model.secret"\n'
            'operations = ["chat.completions", "embeddings"]\n[servers.crm-mcp]\napi_key_file = "crm.secret"\n'
        )
