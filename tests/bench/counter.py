"""A gateway in memory, without disk, network and upstream: its clock stands still, its ledger has no disk.

What is left of a call is the gateway's own work, in two halves: up to the moment when it would be sent, and from its
answer to the moment when that would be delivered.
"""

import asyncio
import base64
import time
from http import HTTPStatus
from pathlib import Path as FilePath
from typing import Any

import aiohttp
import msgspec
import structlog

from receipts.call import Asked, Exchange, Path
from receipts.completion import Completion
from receipts.denials import Denials
from receipts.inputs import Inputs
from receipts.lanes import Lanes
from receipts.ledger import LaneRow, Ledger
from receipts.mcp import McpCall
from receipts.models import CHAT, ModelProvider
from receipts.pipeline import Pipeline
from receipts.request import Answer, Request
from receipts.revocations import Revocations
from receipts.sessions import Session, Sessions
from receipts.tokens import Credential
from receipts.upstream import Upstream
from scope.client import ScopeClient
from service.dpop import Proofs
from service.reach import networks
from tests.bench.installation import Message
from tests.bench.upstream import RESULT, completion
from tests.world import GATEWAY, NOW, SCOPE, SECOND, World, pair
from verifier.documents import Opened, open_manifest, open_policy, open_prices
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.fold import Fold
from verifier.grant import Budget, Token, authorization_details
from verifier.keys import Trust
from verifier.leaf import ToolCall
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.seal import origin

LATER = NOW + 2 * SECOND
LANE = "lane-1"
PROVIDER = "openrouter_via_fal"


class Shelf:
    """The world's signed documents (`receipts.sessions.Documents`)."""

    def __init__(self, world: World, trust: Trust) -> None:
        self._documents, self._trust = world.documents(None), trust

    async def grant(self, digest: str) -> bytes:
        """Return the grant."""
        del digest
        return self._documents.grants[0]

    async def policy(self, digest: str, at: int) -> Opened[Policy]:
        """Return the policy."""
        del digest
        return open_policy(self._trust, self._documents.policies[0], at)

    async def manifest(self, digest: str, at: int) -> Opened[Manifest]:
        """Return the manifest."""
        del digest
        return open_manifest(self._trust, self._documents.manifests[0], at)

    async def prices(self, digest: str, at: int) -> Opened[Prices]:
        """Return the price table, of which there is none."""
        del digest
        return open_prices(self._trust, self._documents.prices[0], at)


class Paper(Ledger):
    """A ledger without a disk: what is put is done at the next turn of the event loop."""

    def open(self) -> None:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Start no writer."""
        self._loop = asyncio.get_running_loop()

    def _put(  # type: ignore[explicit-override] # see above
        self, statement: str, row: tuple[Any, ...]
    ) -> asyncio.Future[None]:
        del statement, row
        done: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_soon(done.set_result, None)
        return done


class Answered:
    """A path whose upstream answers at once; `sent` and `answered` are the times of that."""

    def __init__(self, path: Path, body: bytes, asks: list[ToolCall]) -> None:
        self._path, self._body, self._asks = path, body, asks
        self.read, self.failed, self.refusal = path.read, path.failed, path.refusal
        self.sent = self.answered = 0.0

    async def forward(self, asked: Asked, exchange: Exchange) -> None:
        """Take in the answer."""
        del asked
        self.sent = time.perf_counter()
        exchange.received(self._body)
        exchange.tool_calls = self._asks
        exchange.answer = Answer(200, self._body)
        self.answered = time.perf_counter()


class Counter:
    """One job of an honest world at a gateway that is all there but for what it would wait for."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        world = World()
        trust = Trust.establish(world.pin(), seal_up("keys", world.keys_payload, pair("root")))
        self.policy = world.policy
        self.trust = trust
        self.token = _token(world)
        self.authorization = f"Bearer {self.token}"
        self.credential = Credential(self.authorization, (), "POST", "/")
        self.ledger = Paper(FilePath())
        self.ledger.open()
        scope = ScopeClient(http, SCOPE, lambda: "")
        self.revocations = Revocations(scope, trust, SCOPE, clock)
        self.revocations.heard = LATER
        self.sessions = Sessions(
            Shelf(world, trust), trust, SCOPE, GATEWAY, clock, proofs=Proofs(GATEWAY, bytes(32), clock)
        )
        self.upstream = Upstream(networks(["127.0.0.0/8"]))
        self._pipeline = self._assemble(world, scope)
        self._providers = {
            PROVIDER: ModelProvider(
                base_url="http://127.0.0.1:1/v1", api_key="key-of-the-upstream", operations=frozenset({CHAT})
            )
        }

    def session(self) -> Session:
        """Open the session of a token that is known: nothing there waits for anything."""
        try:
            self.sessions.open(self.credential).send(None)
        except StopIteration as opened:
            session: Session = opened.value
            return session
        raise RuntimeError("the token is not known")

    async def chat(self, message: Message) -> tuple[float, float]:
        """Let a model be asked, which asks for one tool call; return the seconds of both halves."""
        request = self._request(message)
        path = Completion(CHAT, request, self._providers, self.upstream)
        return await self._run(request, Answered(path, completion(1), [ToolCall(id="call_0", name="get_case")]))

    async def call(self, message: Message) -> tuple[float, float]:
        """Let that tool be called."""
        request = self._request(message)
        path = McpCall(
            "crm-mcp", request, self.sessions, self.upstream, keys={}, metadata="", waiting=Inputs(), clock=clock
        )
        return await self._run(request, Answered(path, RESULT, []))

    async def _run(self, request: Request, path: Answered) -> tuple[float, float]:
        began = time.perf_counter()
        await self._pipeline.run(request, path)
        ended = time.perf_counter()
        if not path.sent:
            raise RuntimeError("the call was not sent")
        return path.sent - began, ended - path.answered

    def _request(self, message: Message) -> Request:
        """Make a request as a server hands it over, whose client stays."""
        named = {**message.headers, "Authorization": self.authorization, "Host": "127.0.0.1:8703"}
        headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        waiting = [{"type": "http.request", "body": message.body, "more_body": False}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != HTTPStatus.OK:
                raise RuntimeError(f"the gateway answered {message['status']}")

        scope: Any = {"method": "POST", "path": message.path, "headers": headers, "client": ("127.0.0.1", 1)}
        return Request(scope, receive, send)

    def _assemble(self, world: World, scope: ScopeClient) -> Pipeline:
        """Put the pipeline together around a lane that scope has registered already."""
        lanes = Lanes(
            directory=FilePath(), gateway=GATEWAY, pair=pair("gateway"), trust=self.trust, ledger=self.ledger,
            scope=scope, clock=clock, random=bytes, revocations=lambda: 0,
        )  # fmt: skip
        row = LaneRow(
            lane=LANE, job=world.job, policy=world.policy_digest, origin=origin(GATEWAY, world.job, LANE),
            kid=pair("gateway").kid, opened=NOW, share=canonical(Budget()),
        )  # fmt: skip
        lanes._begin(row, bytes(32), Fold.of((world.policy,), Budget(), row.opened), alone=True)
        denials = Denials(lanes, self.revocations, structlog.get_logger())
        return Pipeline(self.sessions, self.revocations, lanes, denials=denials, clock=clock, max_body=1 << 20)


def clock() -> int:
    """Tell the one time that there is here."""
    return LATER


def _token(world: World) -> str:
    """Sign a token as scope does."""
    scope = world.grant.scope
    claims = Token(
        iss=scope.iss, sub=scope.agent, aud=scope.audience, client_id=scope.client, iat=world.iat, nbf=world.iat,
        exp=world.exp, jti=world.jti, txn=scope.job, policy_hash=scope.policy, scope_hash=scope.hash(),
        grant=world.grant_digest, authorization_details=authorization_details(scope),
    )  # fmt: skip
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": pair("token").kid}
    signed = ".".join(_b64url(msgspec.json.encode(each)) for each in (header, claims))
    return f"{signed}.{_b64url(pair('token').ed25519(signed.encode()))}"


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
