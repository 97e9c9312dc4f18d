"""The registry over HTTP (specs/http.md §1): documents by digest are public for ever, all else asks who calls.

What is served by digest is answered before the framework (serving.py); its routes here describe it, and answer when
that cannot. A route opens its transaction itself, when caller and body are known: the framework resolves dependencies
side by side, and one that raises would leave the connection of another open.
"""

from litestar import Controller, Response, get, post, put
from litestar.params import RawBody
from litestar.types import ControllerRouterHandler
from msgspec.structs import replace

from controls import listing, pricing, publish, register, store
from controls.asked import Ask, At, Before, By, Here, Named, OfIssuer, OfKey, OfName, Page, Position, Wider, read
from controls.client import PolicyEntry, PolicyPage, PolicyStatus, ServerEntry, ServerPage, ServerRecord, Withdrawal
from controls.questions import Questions, exported
from controls.register import Registered
from controls.scan import Scan, compare, draft, warn
from controls.serving import ENVELOPE, FOR_EVER, matches
from controls.store import StoredPolicy
from controls.tables import audit
from service.described import envelope_body, json_body
from service.reach import networks
from service.record import AuditPage
from verifier.keys import key_list_digest
from verifier.refused import Refused

ASK_AGAIN = "no-cache"


class Policies(Controller):
    """The policy registry."""

    path = "/policies"
    tags = ("policies",)

    @put("/{digest:str}", summary="Publish a signed policy", operation_class=envelope_body())
    async def publish(
        self, *, digest: At, body: RawBody, caller: By, registry: Here, allow_wider: Wider = False
    ) -> Response[bytes]:
        """Publish a signed policy; 201 the first time, 200 with the same frozen envelope after.

        One that lets more through than the newest of its name is refused unless `allow_wider` says that it is meant.
        """
        caller.require("author")
        now = registry.clock()
        compared = await publish.compared(body, digest, registry, allow_wider=allow_wider)
        async with registry.writing() as db:
            done = await publish.publish(db, body, digest, registry, compared=compared, by=caller.client, now=now)
        return _stored(done.envelope, done.digest, new=done.new)

    @get("/{digest:str}", summary="A published policy, byte for byte")
    async def policy(self, digest: At, request: Ask, registry: Here) -> Response[bytes]:
        """Serve the exact bytes of a published policy."""
        async with registry.reading() as db:
            found = await publish.find(db, digest)
        return _document(request, found.envelope, digest, FOR_EVER)

    @get("/{digest:str}/status", summary="Whether a new job may pin a policy")
    async def status(self, digest: At, caller: By, registry: Here) -> Response[PolicyStatus]:  # noqa: ARG002 - any caller may ask
        """Tell published from withdrawn; of a published one also which manifests a new job gets."""
        async with registry.reading() as db:
            found, withdrawn = await publish.standing(db, digest)
            manifests = None if withdrawn else await register.offered(db, publish.read(found.envelope))
        status = replace(_status(found, withdrawn), manifests=manifests)
        return Response(status, headers={"Cache-Control": "no-store"})

    @post(
        "/{digest:str}/withdraw",
        status_code=200,
        summary="Withdraw a policy from new jobs",
        operation_class=json_body(Withdrawal),
    )
    async def withdraw(self, digest: At, body: RawBody, caller: By, registry: Here) -> PolicyStatus:
        """Withdraw a policy; the first withdrawal stays as it was."""
        caller.require("author", "responder")
        reason = read(body, Withdrawal).reason
        async with registry.writing() as db:
            found = await publish.withdraw(db, digest, by=caller.client, reason=reason, now=registry.clock())
        return _status(found)

    @get("/", summary="The history of policies")
    async def history(
        self,
        *,
        caller: By,  # noqa: ARG002 - any caller may ask
        registry: Here,
        name: OfName = None,
        issuer: OfIssuer = None,
        kid: OfKey = None,
        before: Before = None,
        limit: Page = 50,
    ) -> PolicyPage:
        """List policies, the newest first, of one name, issuer or signing key when asked."""
        async with registry.reading() as db:
            found = await store.history(db, name=name, issuer=issuer, kid=kid, before=before, limit=limit + 1)
        more = found[limit - 1].position if len(found) > limit else None
        return PolicyPage([_entry(each) for each in found[:limit]], more)

    @get("/{name:str}/latest", summary="The newest policy of a name, signed")
    async def latest(
        self,
        *,
        name: Named,
        caller: By,  # noqa: ARG002 - any caller may ask
        registry: Here,
        issuer: OfIssuer = None,
    ) -> Response[bytes]:
        """Say, signed and with the time, which policy of a name is the newest."""
        async with registry.reading() as db:
            raw = await publish.latest(db, name, issuer, registry, now=registry.clock())
        return Response(raw, media_type=ENVELOPE, headers={"Cache-Control": "no-store"})


class Servers(Controller):
    """The register of MCP servers."""

    path = "/servers"
    tags = ("servers",)

    @put("/{name:str}", summary="Register a server", operation_class=json_body(ServerRecord))
    async def register(self, name: Named, body: RawBody, caller: By, registry: Here) -> Response[ServerEntry]:
        """Register a server, or replace its record: 201 the first time, 200 after."""
        caller.require("registrar")
        record = read(body, ServerRecord)
        async with registry.writing() as db:
            found, new = await register.register(db, name, record, by=caller.client, now=registry.clock())
        return Response(_server(found), status_code=201 if new else 200)

    @get("/", summary="The registered servers")
    async def servers(self, caller: By, registry: Here, after: OfName = None, limit: Page = 50) -> ServerPage:  # noqa: ARG002 - any caller may ask
        """List servers by name."""
        async with registry.reading() as db:
            found = await store.list_servers(db, after=after or "", limit=limit + 1)
        items = [_server(register.registered(each)) for each in found[:limit]]
        return ServerPage(items, items[-1].name if len(found) > limit else None)

    @get("/due", summary="Servers whose review is due")
    async def due(self, caller: By, registry: Here, after: OfName = None, limit: Page = 50) -> ServerPage:
        """List the servers in use whose next review has come, by name."""
        caller.require("registrar", "auditor", "responder")
        async with registry.reading() as db:
            found = await register.due(db, after=after or "", limit=limit + 1, now=registry.clock())
        items = [_server(each) for each in found[:limit]]
        return ServerPage(items, items[-1].name if len(found) > limit else None)

    @get("/{name:str}", summary="One server")
    async def server(self, name: Named, caller: By, registry: Here) -> ServerEntry:  # noqa: ARG002 - any caller may ask
        """Show one server's record."""
        async with registry.reading() as db:
            return _server(await register.find(db, name))

    @put(
        "/{name:str}/manifests/{digest:str}",
        summary="Approve a signed tool manifest",
        operation_class=envelope_body(),
    )
    async def approve(self, *, name: Named, digest: At, body: RawBody, caller: By, registry: Here) -> Response[bytes]:
        """Approve a manifest for a server: 201 the first time, 200 with the same bytes after."""
        caller.require("registrar")
        async with registry.writing() as db:
            done = await register.approve(
                db, body, name, digest, registry.trust, by=caller.client, now=registry.clock()
            )
        return _stored(done.envelope, done.digest, new=done.new)

    @post("/{name:str}/scan", status_code=200, summary="Hold a server's tools against its approved manifest")
    async def scan(self, name: Named, caller: By, registry: Here) -> Scan:
        """Ask the server itself for its tools; nothing is approved by it."""
        caller.require("registrar")
        async with registry.reading() as db:
            server, newest, others = await register.as_reviewed(db, name)
        if server.record.url is None:
            raise Refused("scan-failed", "these are tools that the runtime runs itself: there is no server to ask")
        listed = await listing.fetch(server.record.url, networks(registry.reachable))
        approved = None if newest is None else register.read(newest)
        found = Scan(
            server=name,
            manifest=None if newest is None else newest.digest,
            tools=len(listed),
            drift=compare(approved, listed),
            warnings=warn(listed, others),
            draft=draft(name, server.record.url, approved, listed),
        )
        async with registry.writing() as db:
            said = {"drift": len(found.drift), "warnings": len(found.warnings)}
            await audit.append(
                db,
                at=registry.clock(),
                by=caller.client,
                act="server-scanned",
                subject=name,
                digest=found.manifest,
                **said,
            )
        return found

    @get("/{name:str}/manifest", summary="The manifest that a new job gets")
    async def approved(self, name: Named, request: Ask, caller: By, registry: Here) -> Response[bytes]:  # noqa: ARG002 - any caller may ask
        """Serve a server's newest manifest, while the server is active and has not moved."""
        async with registry.reading() as db:
            found = await register.approved(db, name)
        return _document(request, found.envelope, found.digest, ASK_AGAIN)


@get("/manifests/{digest:str}", tags=["servers"], summary="An approved manifest, byte for byte")
async def manifest(digest: At, request: Ask, registry: Here) -> Response[bytes]:
    """Serve the exact bytes of an approved manifest."""
    async with registry.reading() as db:
        found = await register.find_manifest(db, digest)
    return _document(request, found.envelope, digest, FOR_EVER)


@put("/prices/{digest:str}", tags=["prices"], summary="Publish a signed price table", operation_class=envelope_body())
async def publish_prices(digest: At, body: RawBody, caller: By, registry: Here) -> Response[bytes]:
    """Publish a price table: 201 the first time, 200 with the same bytes after."""
    caller.require("registrar")
    async with registry.writing() as db:
        done = await pricing.publish(db, body, digest, registry.trust, by=caller.client, now=registry.clock())
    return _stored(done.envelope, done.digest, new=done.new)


@get("/prices/{digest:str}", tags=["prices"], summary="A published price table, byte for byte")
async def prices(digest: At, request: Ask, registry: Here) -> Response[bytes]:
    """Serve the exact bytes of a price table."""
    async with registry.reading() as db:
        found = await pricing.find(db, digest)
    return _document(request, found, digest, FOR_EVER)


@get("/keys", tags=["keys"], summary="The signed key list")
async def keys(request: Ask, registry: Here) -> Response[bytes]:
    """Serve the key list that this registry believes; whoever reads it opens it with a pin of their own."""
    return _document(request, registry.key_list, key_list_digest(registry.key_list), ASK_AGAIN)


@get("/audit", tags=["audit"], summary="What was done in the registry")
async def audit_page(caller: By, registry: Here, after: Position = 0, limit: Page = 50) -> AuditPage:
    """Give the append-only record, the oldest first."""
    caller.require("auditor")
    async with registry.reading() as db:
        return await audit.page(db, after, limit)


ROUTES: list[ControllerRouterHandler] = [
    Policies, Questions, Servers, exported, manifest, publish_prices, prices, keys, audit_page,
]  # fmt: skip


def _document(request: Ask, raw: bytes, digest: str, caching: str) -> Response[bytes]:
    """Answer with exact bytes, or 304 to somebody who has them (RFC 9110 §13.1.2)."""
    tag = f'"{digest}"'
    asked = request.headers.get("if-none-match")
    headers = {"ETag": tag, "Cache-Control": caching}
    if asked is not None and matches(asked, tag):
        return Response(b"", status_code=304, media_type=ENVELOPE, headers=headers)
    return Response(raw, media_type=ENVELOPE, headers=headers)


def _stored(raw: bytes, digest: str, *, new: bool) -> Response[bytes]:
    return Response(raw, status_code=201 if new else 200, media_type=ENVELOPE, headers={"ETag": f'"{digest}"'})


def _entry(policy: StoredPolicy) -> PolicyEntry:
    shared = {name: getattr(policy, name) for name in PolicyEntry.__struct_fields__ if name != "status"}
    return PolicyEntry(**shared, status=_status(policy).status)


def _status(policy: StoredPolicy, withdrawn: StoredPolicy | None = None) -> PolicyStatus:
    """Tell where a policy stands: what was withdrawn is itself, or an ancestor."""
    ended = withdrawn or policy
    return PolicyStatus(
        digest=policy.digest,
        status="published" if ended.withdrawn_at is None else "withdrawn",
        withdrawn_at=ended.withdrawn_at,
        withdrawn_by=ended.withdrawn_by,
        reason=ended.withdrawn_reason,
        ancestor=ended.digest if ended.digest != policy.digest else None,
    )


def _server(found: Registered) -> ServerEntry:
    server = found.server
    return ServerEntry(
        name=server.name,
        record=found.record,
        registered_at=server.registered_at,
        updated_at=server.updated_at,
        updated_by=server.updated_by,
        manifest_serial=server.manifest_serial,
    )
