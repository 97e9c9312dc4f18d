"""Jobs: opened under one policy for life, closed by whoever opened them (specs/grant.md §2).

What a job may do is planned before (`plan`); it opens in one transaction, a child job together with its share of its
parent's purse. A job that ends takes the jobs that it delegated with it.
"""

import asyncio
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import children, narrow, repeated, store
from scope.authority import OVERSEERS, SECOND, Authority
from scope.client import JobLane, JobPage, JobRequest, JobStatus, OpenedJob
from scope.plan import Planned, plan
from scope.store import Asked, Chosen, Job
from scope.tables import acts
from service.clients import Caller
from service.engine import reading, reading_elsewhere, writing
from verifier.chain import terms
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Grant, Scope
from verifier.refused import Refused
from verifier.revocation import Name, named

LIFETIME = 3600  # seconds of a job that asks for none


async def open_job(authority: Authority, caller: Caller, wanted: JobRequest) -> OpenedJob:
    """Open a job.

    One that this client's request of the same name opened before is told of again, wherever it stands by now.

    Raises `Refused`: the policy's own, policy-withdrawn, not-admitted, unknown-server, scope-too-wide, revoked, those
    of the user's token, of a child job bad-parent-token, job-not-open, too-many-children, and request-differs.
    """
    async with reading(authority.engine) as db:
        if (before := await repeated.answered(db, authority, caller, wanted)) is not None:
            return before
    planned = await plan(authority, caller, wanted)
    async with writing(authority.engine) as db:
        sequence = await store.lock_sequence(db)
        if (before := await repeated.answered(db, authority, caller, wanted)) is not None:
            return before  # it was asked twice at once
        await _refuse_revoked(db, authority, planned)
        scope = await _admitted(db, authority, planned)
        now = authority.clock()
        authority.keys.require(authority.trust, authority.issuer, now)
        grant = _grant(planned, scope, now)
        payload = canonical(grant)
        Grant.parse(payload)
        envelope = await asyncio.to_thread(seal_up, "grant", payload, authority.keys.grant)
        row, names = _row(planned, grant, digest(payload), sequence), _names(planned, scope, authority.keys.grant.kid)
        await store.add_job(db, row, envelope, names)
        if wanted.request_id is not None:
            told = Asked(scope.job, repeated.asked(wanted), planned.unavailable)
            await store.add_request(db, caller.client, wanted.request_id, told)
        await _record(db, planned, grant, digest(payload))
    return repeated.answer(row, envelope, planned.unavailable)


async def close_job(authority: Authority, caller: Caller, name: str) -> JobStatus:
    """Let a job begin to close, for the client that opened it; one that closes or is sealed already stays as it is."""
    async with writing(authority.engine) as db:
        await store.lock_sequence(db)  # no child opens meanwhile
        job = await store.job(db, name)
        if job is None or job.client != caller.client:
            raise _unknown()
        chosen = store.with_children(store.named([name]))
        await store.lock_jobs(db, chosen)
        await store.end_jobs(db, chosen, "complete", authority.clock(), caller.client)
    return await status(authority, caller, name)


async def status(authority: Authority, caller: Caller, name: str) -> JobStatus:
    """Tell where a job stands. Raises `Refused` unknown-job."""
    async with reading(authority.engine) as db:
        return await _status(db, await find(db, caller, name))


async def page(authority: Authority, chosen: Chosen, before: int | None, limit: int) -> JobPage:
    """List jobs, newest first."""
    async with reading_elsewhere(authority.engine).connect() as db:
        found = await store.jobs_chosen(db, chosen, before, limit + 1)
        shown = [await _status(db, job) for job in found[:limit]]
    return JobPage(jobs=shown, next=found[limit - 1].position if len(found) > limit else None)


async def seal(authority: Authority, caller: Caller, name: str) -> tuple[str, bytes]:
    """Find a job's seal: digest and envelope. Raises `Refused`: unknown-job, not-sealed."""
    async with reading(authority.engine) as db:
        job = await find(db, caller, name)
        found = await store.seal(db, name)
    if found is None:
        raise Refused("not-sealed", f"the job is {job.state}; it has no seal yet", hint="Close it, and ask again.")
    return found[0], found[2]


async def find(db: AsyncConnection, caller: Caller, name: str) -> Job:
    """Find a job that the caller may know of: its own, or any for a gateway, a responder or an auditor."""
    job = await store.job(db, name)
    if job is None or (job.client != caller.client and caller.roles.isdisjoint(OVERSEERS)):
        raise _unknown()
    return job


async def _admitted(db: AsyncConnection, authority: Authority, planned: Planned) -> Scope:
    if planned.parent is None:
        return planned.scope
    return await children.admit(db, authority, planned.parent, planned.asked, planned.scope)


def _grant(planned: Planned, scope: Scope, now: int) -> Grant:
    """Write the grant. Raises `Refused` scope-too-wide for a child that goes beyond its parent."""
    end, parent = _end(planned, scope, now), planned.parent
    if parent is None:
        return Grant(opened=now, issued_at=now, expires=end, scope=scope)
    now = max(now, parent.held.grant.issued_at)
    grant = Grant(opened=now, issued_at=now, expires=end, parent=parent.held.digest, scope=scope)
    children.require_inside(grant, parent)
    return grant


def _end(planned: Planned, scope: Scope, opened: int) -> int:
    """When the job ends: with its policy, its wall time or its parent at the latest. Raises `Refused` for more."""
    latest = min(policy.valid_until for policy in planned.chain)
    if planned.parent is not None:
        latest = min(latest, planned.parent.held.grant.expires)
    if scope.limits.wall_seconds is not None:
        latest = min(latest, opened + scope.limits.wall_seconds * SECOND)
    if latest <= opened:
        raise Refused("policy-not-valid", "the policy, or the time it allows, ends now", field="policy")
    wanted = planned.asked.expires_in
    if wanted is None:
        return min(opened + LIFETIME * SECOND, latest)
    if opened + wanted * SECOND > latest:
        left = (latest - opened) // SECOND
        raise Refused("scope-too-wide", f"policy and parent leave this job {left} seconds", field="expires_in")
    return opened + wanted * SECOND


def _row(planned: Planned, grant: Grant, grant_digest: str, sequence: int) -> dict[str, Any]:
    scope, tokens = grant.scope, terms(planned.chain).token_constraints
    return {
        "job": scope.job,
        "client": scope.client,
        "agent": scope.agent,
        "policy": scope.policy,
        "grant": grant_digest,
        "scope": canonical(scope),
        "opened": grant.opened,
        "expires": grant.expires,
        "max_ttl": tokens.cst_max_ttl_seconds,
        "staleness": tokens.max_staleness_seconds,
        "parent": None if planned.parent is None else planned.parent.job,
        "deepest": tokens.max_delegation_depth,
        "sequence": sequence,
        "state": "open",
    }


async def _record(db: AsyncConnection, planned: Planned, grant: Grant, grant_digest: str) -> None:
    scope = grant.scope
    await acts.append(
        db,
        at=grant.opened,
        by=scope.client,
        act="job-opened",
        subject=scope.job,
        digest=grant_digest,
        agent=scope.agent,
        parent=None if planned.parent is None else planned.parent.job,
        policy=scope.policy,
        user=scope.user,
    )


async def _refuse_revoked(db: AsyncConnection, authority: Authority, planned: Planned) -> None:
    keys, now = authority.keys, authority.clock()
    names = _names(planned, planned.scope, keys.grant.kid, keys.token.kid)
    if (found := await store.revoked(db, names, now)) is not None:
        raise Refused("revoked", "everything is revoked" if found[0] == "all" else f"the job's {found[0]} is revoked")
    if gone := await store.revoked_tools(db, planned.scope.tools, now):
        raise Refused("revoked", f"{gone[0]} was revoked", field="tools")


def _names(planned: Planned, scope: Scope, *kids: str) -> set[Name]:
    """Name what can end the job, when these keys sign for it."""
    return named(scope, kids, [each.parent for each in planned.chain if each.parent is not None])


async def _status(db: AsyncConnection, job: Job) -> JobStatus:
    sealed = await store.seal(db, job.job)
    below = [child.job for child in await store.children_of(db, job.job)]
    grants = [each.digest for each in await narrow.of_job(db, job.job)]
    lanes = await store.lanes_of(db, job.job)
    always = ("job", "agent", "client", "policy", "grant", "state", "opened", "expires")
    shown = {name: getattr(job, name) for name in always}
    ended: dict[str, Any] = {"reason": job.reason, "closing_at": job.closing_at} if job.reason else {}
    if sealed is not None:
        ended |= {"seal": sealed[0], "status": sealed[1]}
    listed = [JobLane(lane=lane.lane, gateway=lane.gateway, size=lane.size, closed=lane.closed) for lane in lanes]
    kin = {"grants": grants, "children": below} | ({"parent": job.parent} if job.parent else {})
    return msgspec.convert({**shown, **ended, **kin, "lanes": listed}, JobStatus)


def _unknown() -> Refused:
    return Refused("unknown-job", "there is no such job for this caller")
