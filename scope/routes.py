"""Jobs, lanes, revocations and seals over HTTP (specs/http.md §2). Decides nothing but whose role may ask."""

from typing import Annotated, Any, TypeVar, cast, get_args

from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter, RawBody
from litestar.response import Stream
from litestar.types import ControllerRouterHandler
from msgspec import Raw

from scope import discovery, examples, jobs, lanes, oauth, preview, retention, revoke, seals, store, unsealed
from scope.authority import Authority
from scope.client import (
    Code,
    DeletedJob,
    Documents,
    HeadsAnswer,
    HeadsReport,
    Incident,
    IncidentPage,
    JobPage,
    JobRequest,
    JobStatus,
    LaneRequest,
    OpenedJob,
    Preview,
    RegisteredLane,
    RevocationRequest,
    Revoked,
    Snapshot,
    State,
    Unsealed,
)
from scope.store import Chosen
from scope.tables import acts
from service.clients import Caller
from service.described import json_body
from service.engine import reading
from service.protocol import LEAVING
from service.record import AuditPage
from verifier.encoding import MAX_INT, Digest, Id, SafeText, parse, reject_duplicates
from verifier.keys import key_list_digest
from verifier.refused import Refused

T = TypeVar("T")
Ask = Request[Any, Any, Any]
Here = NamedDependency[Authority]
By = NamedDependency[Caller]
ID, DIGEST, CODE, SAFE = (get_args(kind)[1].pattern for kind in (Id, Digest, Code, SafeText))
Job = Annotated[str, PathParameter(pattern=ID)]
At = Annotated[str, PathParameter(pattern=DIGEST)]
Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_INT)]
After = Annotated[int, QueryParameter(ge=0, le=MAX_INT)]
Limit = Annotated[int, QueryParameter(ge=1, le=100)]
Everybody = Annotated[bool, QueryParameter(name="all")]
Standing = Annotated[State | None, QueryParameter(name="state")]
Why = Annotated[str, QueryParameter(pattern=CODE)]
Ticket = Annotated[str | None, QueryParameter(pattern=SAFE)]

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
PRIVATE = {"Cache-Control": "no-store"}
MAX_REQUEST = 1 << 20
MAX_REPORT = 1 << 22
MAX_PAGE = 1000


class Jobs(Controller):
    """Jobs and their lanes."""

    path = "/jobs"
    tags = ("jobs",)

    @post("/", summary="Open a job under one policy", operation_class=json_body(JobRequest, examples.JOB))
    async def open(self, body: RawBody, caller: By, authority: Here) -> OpenedJob:
        """Open a job; the answer holds its signed grant."""
        caller.require("orchestrator")
        return await jobs.open_job(authority, caller, _read(body, JobRequest))

    @get("/", summary="Jobs, newest first: one's own, or everybody's")
    async def page(  # noqa: PLR0917 - Litestar gives them by name
        self,
        caller: By,
        authority: Here,
        before: Before = None,
        limit: Limit = 50,
        everybody: Everybody = False,  # noqa: FBT002 - Litestar gives it by name
        standing: Standing = None,
        sealed_before: Before = None,
    ) -> Response[JobPage]:
        """List the jobs that the caller opened; `next` of the answer is the next page's `before`.

        `all=true` lists those of all clients, for auditors and responders. `sealed_before` chooses those that have a
        seal and began to close before a time.
        """
        caller.require(*(("auditor", "responder") if everybody else ("orchestrator",)))
        chosen = Chosen(client=None if everybody else caller.client, state=standing, sealed_before=sealed_before)
        return Response(await jobs.page(authority, chosen, before, limit), headers=PRIVATE)

    @get("/{job:str}", summary="Where a job stands")
    async def status(self, job: Job, caller: By, authority: Here) -> Response[JobStatus]:
        """Tell a job's state; once sealed also its seal."""
        return Response(await retention.status(authority, caller, job), headers=PRIVATE)

    @post("/{job:str}/close", status_code=200, summary="Close a job")
    async def close(self, job: Job, caller: By, authority: Here) -> JobStatus:
        """Let a job begin to close; the seal follows when its lanes have closed, or after five seconds."""
        caller.require("orchestrator")
        return await jobs.close_job(authority, caller, job)

    @delete("/{job:str}", status_code=200, summary="Delete a sealed job")
    async def delete(self, job: Job, caller: By, authority: Here, reason: Why, ticket: Ticket = None) -> DeletedJob:
        """Delete what is kept of a sealed job; the record of acts keeps who did it, why, and the digest of its seal."""
        caller.require("responder")
        return await retention.delete(authority, caller, job, reason, ticket)

    @get("/{job:str}/seal", summary="A job's seal, byte for byte")
    async def seal(self, job: Job, caller: By, authority: Here) -> Response[bytes]:
        """Serve the exact bytes of the seal."""
        digest, raw = await jobs.seal(authority, caller, job)
        return Response(raw, media_type=ENVELOPE, headers={"ETag": f'"{digest}"', **PRIVATE})

    @post(
        "/{job:str}/lanes",
        status_code=200,
        summary="Register a lane",
        operation_class=json_body(LaneRequest, examples.LANE),
    )
    async def register(self, job: Job, body: RawBody, caller: By, authority: Here) -> RegisteredLane:
        """Register a lane before its first leaf and learn its share; the same request again is answered the same."""
        caller.require("gateway")
        return await lanes.register(authority, caller, job, _read(body, LaneRequest))

    @get("/{job:str}/revocations", summary="The revocations that touch a job")
    async def revocations(self, job: Job, caller: By, authority: Here) -> Documents:
        """Serve those that the seal names, in its order; of a job without a seal those so far."""
        caller.require("gateway", "auditor")
        found = await seals.revocations(authority, caller, job)
        return Documents(documents=[Raw(each) for each in found])


@post(
    "/heads",
    status_code=200,
    tags=["jobs"],
    summary="Report all moving lanes",
    operation_class=json_body(HeadsReport, examples.HEADS),
)
async def heads(body: RawBody, caller: By, authority: Here) -> HeadsAnswer:
    """Witness heads, each accepted or refused by itself; the answer names the jobs whose lanes are to be closed."""
    caller.require("gateway")
    return await lanes.report(authority, caller, _read(body, HeadsReport, limit=MAX_REPORT).heads)


class Revocations(Controller):
    """Revocation and the feed of it."""

    path = "/revocations"
    tags = ("revocations",)

    @post("/", summary="Revoke", operation_class=json_body(RevocationRequest, examples.REVOCATION))
    async def revoke(self, body: RawBody, caller: By, authority: Here) -> Revoked:
        """Revoke a target for ever; the answer comes when it is durable."""
        caller.require("responder")
        return await revoke.revoke(authority, _read(body, RevocationRequest), caller.client)

    @post(
        "/preview",
        status_code=200,
        summary="What a revocation would touch",
        operation_class=json_body(RevocationRequest, examples.REVOCATION),
    )
    async def preview(self, body: RawBody, caller: By, authority: Here) -> Response[Preview]:
        """Count the jobs, tokens and lanes that a revocation would touch now; nothing is revoked."""
        caller.require("responder")
        return Response(await preview.preview(authority, _read(body, RevocationRequest)), headers=PRIVATE)

    @get("/snapshot", summary="What was revoked after a sequence, and a heartbeat")
    async def snapshot(self, caller: By, authority: Here, after: After = 0) -> Response[Snapshot]:
        """Serve a signed heartbeat and at most a thousand signed revocations, in order."""
        caller.require("gateway", "auditor", "responder")
        return Response((await authority.feed.page(after, MAX_PAGE)).said, headers=PRIVATE)

    @get("/stream", summary="The feed: a snapshot a line, as things are revoked and each second")
    async def stream(self, request: Ask, caller: By, authority: Here, after: After = 0) -> Stream:
        """Follow what is revoked after a sequence; ends after ten minutes, and when this process does."""
        caller.require("gateway", "auditor", "responder")
        cast("dict[str, Any]", request.scope)[LEAVING] = authority.feed.close
        headers = {**PRIVATE, "X-Accel-Buffering": "no"}
        return Stream(authority.feed.follow(after), media_type="application/x-ndjson", headers=headers)


@get("/incidents", tags=["revocations"], summary="What gateways reported and cannot be")
async def incidents(
    caller: By,
    authority: Here,
    after: After = 0,
    limit: Limit = 50,
) -> Response[IncidentPage]:
    """List forks, rollbacks and tokens that nobody issued, the oldest first."""
    caller.require("auditor", "responder")
    async with reading(authority.engine) as db:
        found = [Incident(**each) for each in await store.incidents_after(db, after, limit + 1)]
    more = found[limit - 1].position if len(found) > limit else None
    return Response(IncidentPage(incidents=found[:limit], next=more), headers=PRIVATE)


@get("/unsealed", tags=["jobs"], summary="What waits for its seal")
async def waiting(caller: By, authority: Here) -> Response[Unsealed]:
    """Count the jobs that are not sealed; name those that are late, and the gateways that write."""
    caller.require("auditor", "responder")
    return Response(await unsealed.unsealed(authority), headers=PRIVATE)


@get("/audit", tags=["audit"], summary="What was done with jobs, and what was revoked")
async def audit(caller: By, authority: Here, after: After = 0, limit: Limit = 50) -> Response[AuditPage]:
    """Give the append-only record, the oldest first."""
    caller.require("auditor")
    async with reading(authority.engine) as db:
        return Response(await acts.page(db, after, limit), headers=PRIVATE)


@get("/grants/{digest:str}", tags=["documents"], summary="A grant, byte for byte")
async def grant(digest: At, request: Ask, authority: Here) -> Response[bytes]:
    """Serve the exact bytes of a grant to whoever knows its digest."""
    async with reading(authority.engine) as db:
        raw = await store.grant(db, digest)
    if raw is None:
        raise Refused("unknown-grant", "no grant has this digest")
    return _document(request, raw, digest, FOR_EVER)


@get("/keys", tags=["documents"], summary="The signed key list")
async def keys(request: Ask, authority: Here) -> Response[bytes]:
    """Serve the key list that seals name; a reader opens it with a pin of its own."""
    return _document(request, authority.key_list, key_list_digest(authority.key_list), ASK_AGAIN)


ROUTES: list[ControllerRouterHandler] = [
    Jobs,
    heads,
    Revocations,
    incidents,
    waiting,
    audit,
    grant,
    keys,
    *discovery.ROUTES,
    *oauth.ROUTES,
]


def _read(body: bytes, kind: type[T], *, limit: int = MAX_REQUEST) -> T:
    """Read a JSON body as a client wrote it, duplicate keys refused."""
    value = parse(body, kind, limit=limit)
    reject_duplicates(body)
    return value


def _document(request: Ask, raw: bytes, digest: str, caching: str) -> Response[bytes]:
    """Answer with exact bytes, or 304 to somebody who has them (RFC 9110 §13.1.2)."""
    headers = {"ETag": f'"{digest}"', "Cache-Control": caching}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(b"", status_code=304, media_type=ENVELOPE, headers=headers)
    return Response(raw, media_type=ENVELOPE, headers=headers)
