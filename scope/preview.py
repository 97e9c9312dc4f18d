"""What a revocation would touch, asked before it is made (specs/revocation.md §1)."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import revoke, store
from scope.authority import SECOND, Authority
from scope.client import Preview, RevocationRequest
from scope.store import JobNames
from service.engine import reading_elsewhere
from verifier.conditions import any_glob, glob_matches
from verifier.grant import Scope
from verifier.revocation import OF_CALL

MOST_NAMES = 20  # jobs that are named
MOST_JOBS = 10_000  # whose scopes are looked at for a server, tool or model
MOST_GATEWAYS = 20


async def preview(authority: Authority, wanted: RevocationRequest) -> Preview:
    """Tell what a revocation would touch; refused as it would be, and nothing happens."""
    revoke.check_target(authority, wanted)
    now, name = authority.clock(), (wanted.kind, wanted.value)
    ends = revoke.ends(authority, wanted)
    revoke.written(authority, wanted, actor=authority.issuer, sequence=1, at=now)
    async with reading_elsewhere(authority.engine).connect() as db:
        await revoke.require_job(db, wanted)
        chosen, complete = await _chosen(db, authority, wanted)
        jobs, names = await store.count_jobs(db, chosen, MOST_NAMES)
        only = name if wanted.kind in {"jti", "key"} and not ends else None
        tokens = await store.count_living(db, chosen, now // SECOND, only)
        lanes, running, gateways = await store.open_lanes(db, chosen)
        again = await store.revoked(db, [name], now) is not None
    return Preview(
        ends=ends,
        jobs=jobs,
        names=names,
        tokens=tokens,
        lanes=lanes,
        running=running,
        gateways=gateways[:MOST_GATEWAYS],
        again=again,
        complete=complete,
    )


async def _chosen(db: AsyncConnection, authority: Authority, wanted: RevocationRequest) -> tuple[JobNames, bool]:
    """Choose the open jobs that it would end, or that may do what it is about; and tell whether these are all."""
    if wanted.kind not in OF_CALL:
        return store.still_open(revoke.touched(authority, wanted)), True
    found = await store.scopes_of_open_jobs(db, MOST_JOBS + 1)
    names = [job for job, raw in found[:MOST_JOBS] if _may(msgspec.json.decode(raw, type=Scope), wanted)]
    return store.named(names), len(found) <= MOST_JOBS


def _may(scope: Scope, wanted: RevocationRequest) -> bool:
    """Tell whether a job's scope lets it call a server, tool or model."""
    if wanted.kind == "server":
        return wanted.value in scope.manifests
    if wanted.kind == "model":
        return any_glob(scope.models, wanted.value)
    return any(glob_matches(tool.partition(":")[2], wanted.value) for tool in scope.tools)
