"""A registry over real sockets, on each engine; the people who use it; documents as they sign them."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec import Struct

from controls.app import create
from controls.settings import ControlsSettings
from service import keystore, migrate
from service.clients import client_token
from service.settings import load
from tests.conftest import START, Clock, Serve
from verifier.draft import build
from verifier.encoding import canonical, digest
from verifier.envelope import Envelope, seal_up
from verifier.keys import Pin, Trust
from verifier.manifest import Manifest, Tool
from verifier.prices import Price, Prices
from verifier.signing import KeyPair

ISSUER = "http://127.0.0.1:8701"
AUTHOR = "example.author"
REGISTRAR = "example.registrar"
CRM = "http://127.0.0.1:8801/mcp"
SCHEMA = '{"type":"object","properties":{"case_id":{"type":"string"}},"required":["case_id"]}'
DRAFT: dict[str, Any] = {
    "policy_name": "crm-read",
    "allowed_tools": [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}],
    "tests": [{"name": "reads cases", "call": {"server": "crm-mcp", "tool": "get_case"}, "expect": "allow"}],
}


WorldOf = Callable[..., Awaitable["World"]]


class Answer(Struct, frozen=True):
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    json: Any = None

    @property
    def code(self) -> str:
        """The public code of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json"
        code: str = self.json["code"]
        return code


class World:
    """One registry being served, and everybody's keys."""

    def __init__(self, url: str, installation: Path, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.url = url
        self.installation = installation
        self.session = session
        self.clock = clock
        self.pin = Pin.parse((installation / "pin.json").read_bytes())
        self.trust = Trust.establish(self.pin, (installation / "keys.json").read_bytes())
        self.author = keystore.load(installation / "author/policy.key", "policy")
        self.registrar = keystore.load(installation / "registrar/registry.key", "registry")

    def token(self, client: str, audience: str = ISSUER) -> str:
        """Make a fresh token of a client."""
        key = keystore.load(self.installation / client / "client.key", "client")
        return client_token(key, client, audience, self.clock())

    async def ask(self, method: str, path: str, client: str | None = None, **given: Any) -> Answer:
        """Send one request, as a client or as nobody."""
        headers = dict(given.pop("headers", {}))
        if client is not None:
            headers["Authorization"] = f"Bearer {self.token(client)}"
        async with self.session.request(method, self.url + path, headers=headers, **given) as answer:
            body = await answer.read()
            parsed = msgspec.json.decode(body) if "json" in answer.content_type and body else None
            return Answer(answer.status, body, answer.headers, parsed)

    async def publish(self, raw: bytes, at: str | None = None, client: str = "author") -> Answer:
        """PUT a policy under its own digest, or under another."""
        return await self.ask("PUT", f"/policies/{at or address(raw)}", client, data=raw)

    async def register(self, name: str = "crm-mcp", **changes: Any) -> Answer:
        """PUT a server's record."""
        return await self.ask("PUT", f"/servers/{name}", "registrar", json={**RECORD, **changes})

    async def approve(self, raw: bytes, name: str = "crm-mcp", at: str | None = None) -> Answer:
        """PUT a manifest under its own digest, or under another."""
        return await self.ask("PUT", f"/servers/{name}/manifests/{at or address(raw)}", "registrar", data=raw)

    def policy(self, *keys: KeyPair, issuer: str = AUTHOR, serial: int = 1, **changes: Any) -> bytes:
        """Build a policy and sign it: by the author unless other keys are given."""
        payload = canonical(build({**DRAFT, **changes}, issuer=issuer, now=self.clock(), serial=serial))
        return seal_up("policy", payload, *(keys or (self.author,)))

    def edited(self, **fields: Any) -> bytes:
        """Change a built policy as `build` would not, and sign that."""
        built = msgspec.json.decode(Envelope.parse(self.policy(), "policy").content())
        return seal_up("policy", canonical({**built, **fields}), self.author)

    def manifest(self, *keys: KeyPair, serial: int = 1, **changes: Any) -> bytes:
        """Write a manifest of one tool and sign it: by the registrar unless other keys are given."""
        fields = {"issuer": REGISTRAR, "server": "crm-mcp", "issued_at": START, "url": CRM, "tools": [TOOL], **changes}
        return seal_up("manifest", canonical(Manifest(serial=serial, **fields)), *(keys or (self.registrar,)))

    def prices(self, *keys: KeyPair, serial: int = 1, **changes: Any) -> bytes:
        """Write a price table and sign it: by the registrar unless other keys are given."""
        fields = {"issuer": REGISTRAR, "name": "list", "issued_at": START, "prices": [PRICE], **changes}
        return seal_up("prices", canonical(Prices(serial=serial, **fields)), *(keys or (self.registrar,)))


PRICE = Price(provider="openai", models=["*"], operations=["*"], input=1, output=2)
TOOL = Tool(
    name="get_case",
    description="Read one support case.",
    input_schema=SCHEMA,
    tool_class="read",
    sensitivity="internal",
    data_classes=["customer_provided"],
    approval="none",
)
RECORD = {
    "purpose": "Customers and their cases",
    "owner": "crm-team",
    "url": CRM,
    "transport": "streamable-http",
    "data_classes": ["customer_provided", "internal"],
    "last_review": START,
    "next_review": START + 90 * 86_400 * 1_000_000,
    "status": "active",
}


def address(raw: bytes) -> str:
    """Compute the digest of an envelope's payload, whoever signed it."""
    return digest(msgspec.json.decode(raw, type=Envelope).content())


@pytest.fixture
async def world_of(
    database_url: str, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[WorldOf, None]:
    """Serve the registry of an installation, on SQLite and on PostgreSQL."""
    if database_url.startswith("postgresql"):
        monkeypatch.setenv("TALLY_CONTROLS_DATABASE", database_url.replace("postgresql+asyncpg://", "postgresql://"))
    async with aiohttp.ClientSession() as session:

        async def start(installation: Path, time: Callable[[], int] = clock) -> World:
            settings = load(ControlsSettings, "controls", installation / "controls/settings.toml", os.environ)
            await asyncio.to_thread(migrate.upgrade, "controls", settings.engine_url)
            url = await serve(create(installation / "controls/settings.toml", clock=time))
            return World(url, installation, session, clock)

        yield start


@pytest.fixture
async def world(installation: Path, world_of: WorldOf) -> World:
    """A registry as `tally init` makes it."""
    return await world_of(installation)
