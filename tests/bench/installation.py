"""A whole installation in real processes before the fixed upstream, and one client on a connection that it keeps."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec
from msgspec import Struct

from examples.stage import PROVIDER, ROOT, SERVICES, Stage, free_ports
from receipts.client import ReceiptsClient
from scope.client import JobRequest, RevocationRequest, ScopeClient
from service import keystore, migrate
from service.clients import client_token
from tests.bench.upstream import ARGUMENTS, TOOL
from verifier.grant import Token

T = TypeVar("T")
SERVER, REVISION = "crm-mcp", "2026-07-28"
POLICY = ROOT / "examples" / "policies" / "minimal.json"
MANIFEST = ROOT / "examples" / "manifests" / f"{SERVER}.json"
META = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}}
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Message(Struct, frozen=True):
    """One request, the same at the upstream, through the pass-through and through the gateway but for its path."""

    path: str
    body: bytes
    headers: dict[str, str]


def chat(asks: int = 0) -> Message:
    """Ask the model, which answers with that many tool calls."""
    model = f"{PROVIDER}/asks-{asks}" if asks else f"{PROVIDER}/small-1"
    asked = {"model": model, "messages": [{"role": "user", "content": "What is case CASE-1 about?"}]}
    return Message("/v1/chat/completions", json.dumps(asked).encode(), JSON)


def call(path: str = f"/mcp/{SERVER}", tool: str = TOOL, arguments: dict[str, str] = ARGUMENTS) -> Message:
    """Call a tool."""
    params = {"_meta": META, "name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {**JSON, "MCP-Protocol-Version": REVISION, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return Message(path, json.dumps(body).encode(), headers)


class Caller:
    """A client that keeps its connection; `token` is the job's, for the gateway."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc)
        self._authorization = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(self, message: Message, *, refused: bool = False) -> None:
        """Send one request and read its answer, which must be good, or must be a refusal: else nothing is measured."""
        headers = {**message.headers, **self._authorization}
        self._connection.request("POST", message.path, message.body, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if (answer.status != HTTPStatus.OK or b'"error"' in body) is not refused:
            raise RuntimeError(f"{message.path} answered {answer.status}: {body[:300]!r}")

    def get(self, path: str) -> bytes:
        """Fetch something, which must be there."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"{path} answered {answer.status}: {body[:300]!r}")
        return body

    def time(self, message: Message, count: int) -> list[float]:
        """Send a request many times; each one's seconds from its first byte to its answer's last."""
        times = list[float]()
        for _ in range(count):
            began = time.perf_counter()
            self.send(message)
            times.append(time.perf_counter() - began)
        return times


class Installation(Stage):
    """Three services, the fixed upstream and the bare pass-through, with policy and manifest published."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.ports |= dict(zip(("upstream", "bare", "handler"), free_ports(3), strict=True))
        self.policy = ""

    def begin(self) -> None:
        """Make and start everything."""
        urls = [part for name in SERVICES for part in (f"--{name}-url", self.url(name))]
        self.tally("init", str(self.installation), *urls, "--demo")
        keystore.write_private(self.secret, b"key-of-the-upstream")
        with (self.installation / "receipts" / "settings.toml").open("a") as settings:
            settings.write(
                f'\n[models.{PROVIDER}]\nbase_url = "{self.url("upstream")}/v1"\napi_key_file = "provider.secret"\n'
                'operations = ["chat.completions"]\n'
            )
        self._launch("upstream", "tests.bench.upstream")
        self._launch("bare", "tests.bench.passthrough", "--upstream", self.url("upstream"))
        for name in SERVICES:
            self.start(name)
        self._publish()

    def begin_bare(self) -> None:
        """Start the bare Litestar handler."""
        self._launch("handler", "tests.bench.bare")

    def open(self) -> tuple[str, Caller]:
        """Open a job; return its name and a client of the gateway with its token."""

        async def act(http: aiohttp.ClientSession) -> tuple[str, str]:
            scope = self._scope(http)
            asked = JobRequest(agent="agent-1", policy=self.policy, job_type="support", environment="bench")
            job = (await scope.open(asked)).job
            return job, (await scope.token(job)).access_token

        job, token = _online(act)
        return job, Caller(self.url("receipts"), token)

    def open_jobs(self, worker: str, count: int) -> list[str]:
        """Open jobs at one worker of a scope."""

        async def act(http: aiohttp.ClientSession) -> list[str]:
            scope = ScopeClient(http, self.url(worker), self.credential("orchestrator", "scope"))
            asked = JobRequest(agent="agent-1", policy=self.policy, job_type="support", environment="bench")
            return [(await scope.open(asked)).job for _ in range(count)]

        return _online(act)

    def issue(self, worker: str, job: str) -> str:
        """Get a token of a job from one worker of a scope."""

        async def act(http: aiohttp.ClientSession) -> str:
            scope = ScopeClient(http, self.url(worker), self.credential("orchestrator", "scope"))
            return (await scope.token(job)).access_token

        return _online(act)

    def said(self, token: str) -> Token:
        """Read what a token says."""
        return msgspec.convert(jwt.decode(token, options={"verify_signature": False}), Token)

    def revoke(self, wanted: RevocationRequest) -> int:
        """Revoke as the responder; return the sequence."""

        async def act(http: aiohttp.ClientSession) -> int:
            scope = ScopeClient(http, self.url("scope"), self.credential("responder", "scope"))
            return (await scope.revoke(wanted)).sequence

        return _online(act)

    def start_scope(self, name: str, database: str) -> None:
        """Start another worker of scope, on a PostgreSQL database."""
        self.ports[name] = free_ports(1)[0]
        environment = {"TALLY_SCOPE_LISTEN": f"127.0.0.1:{self.ports[name]}", "TALLY_SCOPE_DATABASE": database}
        self._spawn(name, ["verifier", "run", "scope", "--dir", str(self._copy(name, "scope"))], environment)
        self._wait(name)

    def start_gateway(self, name: str) -> str:
        """Start another gateway, with a ledger of its own; `wait_for` it. Return its name."""
        self.ports[name] = free_ports(1)[0]
        home = self._copy(name, "receipts")
        migrate.upgrade("receipts", f"sqlite+aiosqlite:///{home}/receipts/receipts.db")
        environment = {"TALLY_RECEIPTS_LISTEN": f"127.0.0.1:{self.ports[name]}"}
        self._spawn(name, ["verifier", "run", "receipts", "--dir", str(home)], environment)
        return name

    def _copy(self, name: str, service: str) -> Path:
        """Make another directory of a service, with its keys and settings, and without what it keeps."""
        kept = shutil.ignore_patterns("*.db*", "*.lock", "newest.json")
        shutil.copytree(self.installation / service, self.directory / name / service, ignore=kept)
        return self.directory / name

    def wait_for(self, names: Iterable[str]) -> None:
        """Wait until processes that were started answer."""
        for each in names:
            self._wait(each)

    def finish(self, job: str, bundle: Path) -> None:
        """Close a job, wait for its seal, and fetch its bundle as an auditor does."""

        async def act(http: aiohttp.ClientSession) -> None:
            await self._scope(http).close(job)
            await self._scope(http).wait_for_seal(job)
            receipts = ReceiptsClient(http, self.url("receipts"), self.credential("auditor", "receipts"))
            with bundle.open("wb") as file:
                await receipts.bundle(job, file)

        _online(act)

    def _publish(self) -> None:
        home, url, crm = self.installation, self.url("controls"), self.url("upstream") + "/mcp"
        author, registrar = home / "author", home / "registrar"
        key = ("--key", str(author / "policy.key"))
        self.tally("policy", "build", str(POLICY), *key, "-o", "policy.json")
        self.tally("policy", "sign", "policy.json", *key, "-o", "policy.signed.json")
        published = self.tally("policy", "publish", "policy.signed.json", "--url", url, "--client", str(author))
        self.policy = published["digest"]
        who = ("--url", url, "--client", str(registrar))
        about = ("--server-url", crm, "--purpose", "Cases", "--owner", "crm-team")
        classes = ("--data-class", "customer_provided", "--data-class", "internal")
        self.tally("server", "register", SERVER, *about, *classes, *who)
        key = ("--key", str(registrar / "registry.key"))
        self.tally("manifest", "build", str(MANIFEST), *key, "--server-url", crm, "-o", "crm.json")
        self.tally("manifest", "sign", "crm.json", *key, "-o", "crm.signed.json")
        self.tally("manifest", "publish", "crm.signed.json", *who)

    def _launch(self, name: str, module: str, *arguments: str) -> None:
        self._spawn(name, [module, *arguments, "--port", str(self.ports[name])], {})
        self._wait(name)

    def _spawn(self, name: str, module: list[str], environment: Mapping[str, str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **environment},
            )

    def _scope(self, http: aiohttp.ClientSession) -> ScopeClient:
        return ScopeClient(http, self.url("scope"), self.credential("orchestrator", "scope"))

    def credential(self, client: str, service: str) -> Callable[[], str]:
        """Give what makes a client's own JWTs for a service."""
        key = keystore.load(self.installation / client / "client.key", "client")
        return lambda: client_token(key, client, self.url(service), time.time_ns() // 1000)


def _online(act: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession() as http:
            return await act(http)

    return asyncio.run(run())
