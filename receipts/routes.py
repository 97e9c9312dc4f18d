"""Receipts and bundles over HTTP (specs/http.md §3). The gateway's own paths are `gateway.py`.

A route opens its view of the database itself, when the visitor is known: the framework resolves dependencies side by
side, and one that raises would leave the connection of another open.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO

import jwt
from litestar import Controller, Request, Response, delete, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from receipts.bundles import Bundles
from receipts.client import DeletedReceipts, Receipt, ReceiptPage
from receipts.lookup import Lookup
from receipts.retention import Retention
from receipts.revocations import Revocations
from receipts.sessions import Sessions
from receipts.tokens import OF_PROOF, BadToken, Credential, challenge
from service.clients import Caller, provide_caller
from service.engine import reading_elsewhere
from service.problems import MEDIA_TYPE, problem
from verifier.refused import Refused

ID = r"^[A-Za-z0-9_-]{1,64}\Z"
CODE = r"^[a-z][a-z0-9-]{0,63}\Z"
MAX_PAGE = 1000
PIECE = 1 << 16

JobId = Annotated[str, PathParameter(pattern=ID)]
CallId = Annotated[str, PathParameter(pattern=ID)]
After = Annotated[str, QueryParameter(pattern=r"^([A-Za-z0-9_-]{1,64}:[0-9]{1,16})?\Z")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]
Why = Annotated[str, QueryParameter(pattern=CODE)]
Underway = Annotated[bool, QueryParameter()]


class Visitor(Struct, frozen=True):
    """Who asks for receipts: an agent with a token of `job`, or an auditor, who may see every job."""

    job: str | None

    def require(self, job: str) -> None:
        """Let only those pass who may read this job's receipts. Raises `Refused` with forbidden."""
        if self.job not in {None, job}:
            raise Refused("forbidden", "the token is of another job")


def _bad_token(_request: Request[Any, Any, Any], refused: BadToken) -> Response[bytes]:
    """Answer 401 with how to come again."""
    shown = refused if refused.code in OF_PROOF else Refused("unauthenticated", refused.why, hint=refused.hint)
    headers = {**challenge(refused), "cache-control": "no-store"}
    return Response(problem(shown, 401), status_code=401, media_type=MEDIA_TYPE, headers=headers)


class Receipts(Controller):
    """Receipts, each with its proof."""

    tags = ("receipts",)
    exception_handlers = {BadToken: _bad_token}  # noqa: RUF012 - Litestar's own way to say it

    @get("/receipts/{call:str}", summary="A call's receipt with its proof")
    async def receipt(
        self, call: CallId, visitor: NamedDependency[Visitor], lookup: NamedDependency[Lookup], state: State
    ) -> Receipt:
        """Prove how a call ended, under a signed head, and give the keys of its commitments to whoever may read it."""
        async with reading_elsewhere(state.engine).connect() as reader:
            job = await lookup.job_of(reader, call)
            visitor.require(job)
            return await lookup.receipt(reader, job, call)

    @get("/jobs/{job:str}/receipts", summary="A job's receipts")
    async def page(  # noqa: PLR0917 - Litestar gives them by name
        self,
        job: JobId,
        visitor: NamedDependency[Visitor],
        lookup: NamedDependency[Lookup],
        state: State,
        after: After = "",
        limit: Limit = 100,
    ) -> ReceiptPage:
        """Return a job's receipts, lane after lane, from behind `after`."""
        visitor.require(job)
        async with reading_elsewhere(state.engine).connect() as reader:
            return await lookup.page(reader, job, after, limit)

    @delete("/jobs/{job:str}", status_code=200, summary="Delete the receipts of a job that scope has deleted")
    async def delete(
        self, job: JobId, caller: NamedDependency[Caller], retention: NamedDependency[Retention], reason: Why
    ) -> DeletedReceipts:
        """Delete a job's lane keys and receipts, for a reason that is a code; scope's record has told of it before."""
        caller.require("responder")
        return await retention.delete(job, caller.client, reason)


class BundleRoutes(Controller):
    """Proof bundles."""

    tags = ("bundles",)

    @get("/bundles/{job:str}", summary="A job's proof bundle")
    async def bundle(
        self,
        job: JobId,
        caller: NamedDependency[Caller],
        bundles: NamedDependency[Bundles],
        underway: Underway = False,  # noqa: FBT002 - Litestar gives it by name
    ) -> Stream:
        """Hand out a job's bundle with the verifier's verdict: to auditors, and to who opened the job.

        `underway=true` is for a job that has no seal yet: what is durable by now, INCOMPLETE.
        """
        caller.require("auditor", "orchestrator")
        contents = await (bundles.underway(job) if underway else bundles.sealed(job))
        if "auditor" not in caller.roles and caller.client not in contents.owners:
            raise Refused("forbidden", "this job was opened by another client")
        made = await bundles.assemble(contents)
        headers = {
            "Content-Disposition": f'attachment; filename="{job}.tally"',
            "Content-Length": str(made.size),
            "Tally-Verdict": made.verdict,
        }
        return Stream(_content(made.file), media_type="application/vnd.tallystick.bundle.v1+jsonl", headers=headers)


ROUTES = (Receipts, BundleRoutes)


async def provide_visitor(
    request: Request[Any, Any, Any], sessions: NamedDependency[Sessions], revocations: NamedDependency[Revocations]
) -> Visitor:
    """Find out who asks: a job-scoped token says what it is in its header, anything else must be a client's own."""
    proofs = request.headers.getall("dpop", [])
    credential = Credential(request.headers.get("authorization"), proofs, request.method, request.url.path)
    if not _job_scoped(credential):
        (await provide_caller(request)).require("auditor")
        return Visitor(None)
    session = await sessions.open(credential)
    revocations.require_live(session.names)
    return Visitor(session.scope.job)


def _job_scoped(credential: Credential) -> bool:
    try:
        return jwt.get_unverified_header(credential.token()[1]).get("typ") == "at+jwt"
    except (jwt.PyJWTError, Refused):
        return False


async def _content(file: BinaryIO) -> AsyncIterator[bytes]:
    """Read a file to its end, and close it."""
    with file:
        while piece := file.read(PIECE):
            yield piece
