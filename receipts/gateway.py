"""The gateway's own paths on the bare ASGI interface: `/v1/*`, `/mcp/*`, `/authorize` (specs/http.md §3, §4, §5)."""

import re
from collections.abc import Callable
from urllib.parse import quote

from litestar.types import HTTPScope, Receive, Send

from receipts import completion, local, mcp_answers
from receipts.call import Path
from receipts.completion import Completion
from receipts.denials import Denials
from receipts.identity import Identity
from receipts.inputs import Inputs
from receipts.lanes import Lanes
from receipts.local import Local
from receipts.mcp import McpCall
from receipts.models import CHAT, EMBEDDINGS, ModelProvider
from receipts.pipeline import Pipeline
from receipts.request import Answer, Request
from receipts.revocations import Revocations
from receipts.sessions import Sessions
from receipts.settings import ReceiptsSettings
from receipts.upstream import Upstream
from service.problems import Log as EventLog
from service.reach import networks
from verifier.refused import Refused

MCP, MODELS, AUTHORIZE = "/mcp/", "/v1/", "/authorize"
_result = re.compile(r"/authorize/([A-Za-z0-9_-]{1,64})/result").fullmatch
WELL_KNOWN = "/.well-known/oauth-protected-resource"
OPERATIONS = {"/v1/chat/completions": CHAT, "/v1/embeddings": EMBEDDINGS}


class Gateway:
    """An ASGI application; what each call goes through is the pipeline's."""

    def __init__(
        self,
        *,
        settings: ReceiptsSettings,
        identity: Identity,
        sessions: Sessions,
        lanes: Lanes,
        revocations: Revocations,
        clock: Callable[[], int],
        log: EventLog,
    ) -> None:
        """Take the parts; belongs to the event loop that it is made on."""
        self._sessions = sessions
        self._upstream = Upstream(networks(settings.upstream_networks))
        self.denials = Denials(lanes, revocations, log)
        self._pipeline = Pipeline(
            sessions, revocations, lanes, denials=self.denials, clock=clock, max_body=settings.max_request
        )
        self._providers = {
            name: ModelProvider(
                base_url=each.base_url, api_key=identity.api_keys[name], operations=frozenset(each.operations)
            )
            for name, each in settings.models.items()
        }
        self._local = Local(self._pipeline, sessions, settings.max_request)
        self._inputs = Inputs()
        self._clock = clock
        self._server_keys = identity.server_keys
        self._issuer = settings.issuer
        self._scope_url = settings.scope_url
        self._log = log

    async def close(self) -> None:
        """Close the connections to the upstreams."""
        await self._upstream.close()

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever is not a refusal is a bug and answers 500 without detail."""
        request = Request(scope, receive, send)
        try:
            await self._route(request)
        except Refused as refused:
            await request.answer(self._shape(request)(refused))
        except Exception:  # noqa: BLE001 - the outermost frame: the caller learns nothing of a bug, the log does
            self._log.exception("bug", path=request.path)
            if not request.started:
                bug = Refused("internal-error", "this is our fault; the server's log says more")
                await request.answer(self._shape(request)(bug))

    async def _route(self, request: Request) -> None:
        path = request.path
        if path.startswith(MCP):
            await self._mcp(request, path.removeprefix(MCP))
        elif path.startswith(WELL_KNOWN + MCP) and request.method == "GET":
            name = path.removeprefix(WELL_KNOWN + MCP)
            address = f"{self._issuer}{MCP}{quote(name)}"
            await request.answer(mcp_answers.protected_resource(address, self._scope_url, name))
        elif path == AUTHORIZE and request.method == "POST":
            await self._local.authorize(request)
        elif (found := _result(path)) is not None and request.method == "POST":
            await self._local.result(request, found.group(1))
        elif path == "/v1/models" and request.method == "GET":
            await self._models(request)
        elif path in OPERATIONS and request.method == "POST":
            await self._pipeline.run(request, Completion(OPERATIONS[path], request, self._providers, self._upstream))
        else:
            await request.answer(self._nothing(request))

    async def _mcp(self, request: Request, name: str) -> None:
        if request.method != "POST":
            await request.answer(Answer(405, b"", {"allow": "POST"}))
            return
        call: Path = McpCall(
            name,
            request,
            self._sessions,
            self._upstream,
            keys=self._server_keys,
            metadata=self._metadata(name),
            waiting=self._inputs,
            clock=self._clock,
        )
        if (origin := request.header("origin")) is not None and origin != self._issuer:
            # A page in a browser must not speak to a gateway on its reader's own machine (MCP, Streamable HTTP §2).
            await request.answer(
                Answer(403, call.refusal(Refused("wrong-origin", "requests of other origins are not read"), None).body)
            )
            return
        await self._pipeline.run(request, call)

    async def _models(self, request: Request) -> None:
        """List what the token may name; nothing is called, so there is no receipt."""
        try:
            session = await self._pipeline.admit(request)
            self._pipeline.require_fresh(session)
        except Refused as refused:
            await request.answer(completion.refusal(refused))
            return
        await request.answer(completion.model_list(session.scope.models))

    def _nothing(self, request: Request) -> Answer:
        known = request.path in OPERATIONS or request.path == "/v1/models"
        if known:
            return completion.refusal(Refused("method-not-allowed", "this address does not know that method"))
        return completion.refusal(
            Refused("not-found", "there is nothing here; this version serves chat completions and embeddings")
        )

    def _shape(self, request: Request) -> Callable[[Refused], Answer]:
        """Find the shape in which this request's client reads a refusal."""
        if request.path.startswith(MCP):
            metadata = self._metadata(request.path.removeprefix(MCP))
            return lambda refused: mcp_answers.refusal(None, refused, metadata, None)
        return local.refusal if request.path.startswith(AUTHORIZE) else completion.refusal

    def _metadata(self, name: str) -> str:
        """Write where RFC 9728's document of a server lies; the name is the caller's, and goes into a header."""
        return f"{self._issuer}{WELL_KNOWN}{MCP}{quote(name)}"
