"""Jobs: opened under one policy for life, closed by whoever opened them (specs/grant.md §2).

The grant says all that the job may do, in exact names. A scope asked for outside the policy is refused by name, never
quietly narrowed; no scope asked is all that the policy allows on servers with an approved manifest. No grant names a
tool that is revoked: an auditor of a later job need not know of it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from controls.client import Document
from scope import store
from scope.authority import SECOND, Authority
from scope.client import Detail, JobLane, JobPage, JobRequest, JobStatus, Models, OpenedJob
from scope.store import Job
from service.chains import with_ancestors
from service.clients import Caller
from service.engine import reading
from verifier.admission import admits, expand, within
from verifier.chain import terms
from verifier.conditions import glob_matches
from verifier.decision import Subject
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import LIMITS, Budget, Grant, Scope, server_of
from verifier.manifest import Manifest
from verifier.policy import Chain, Policy, check_enforceable
from verifier.refused import Refused

LIFETIME = 3600  # seconds of a job that asks for none
WITHOUT_MANIFEST = {"unknown-server", "no-manifest", "server-not-active"}

Manifests = dict[str, Document[Manifest]]


class Planned(Struct, frozen=True):
    """A job that may be opened: its scope under its policy, the seconds it asked for, what it cannot get."""

    scope: Scope
    chain: Chain
    expires_in: int | None
    unavailable: list[str]


async def open_job(authority: Authority, caller: Caller, wanted: JobRequest) -> OpenedJob:
    """Open a job.

    Raises `Refused`: the policy's own, policy-withdrawn, not-admitted, unknown-server, scope-too-wide, revoked, and
    those of the user's token.
    """
    planned = await _plan(authority, caller, wanted)
    async with authority.engine.begin() as db:
        sequence = await store.lock_sequence(db)
        await _refuse_revoked(db, planned)
        now = authority.clock()
        authority.keys.require(authority.trust, authority.issuer, now)
        grant = Grant(opened=now, issued_at=now, expires=_end(planned, now), scope=planned.scope)
        payload = canonical(grant)
        Grant.parse(payload)
        envelope = await asyncio.to_thread(seal_up, "grant", payload, authority.keys.grant)
        await store.add_job(db, _row(planned, grant, digest(payload), sequence), envelope)
    return OpenedJob(
        job=planned.scope.job,
        grant=Raw(envelope),
        grant_digest=digest(payload),
        policy=planned.scope.policy,
        opened=now,
        expires=grant.expires,
        unavailable=planned.unavailable,
    )


async def close_job(authority: Authority, caller: Caller, name: str) -> JobStatus:
    """Let a job begin to close, for the client that opened it; one that closes or is sealed already stays as it is."""
    async with authority.engine.begin() as db:
        job = await store.job(db, name, lock=True)
        if job is None or job.client != caller.client:
            raise _unknown()
        await store.end_jobs(db, store.named([name]), "complete", authority.clock())
    return await status(authority, caller, name)


async def status(authority: Authority, caller: Caller, name: str) -> JobStatus:
    """Tell where a job stands. Raises `Refused` unknown-job."""
    async with reading(authority.engine).connect() as db:
        return await _status(db, await find(db, caller, name))


async def page(authority: Authority, caller: Caller, before: int | None, limit: int) -> JobPage:
    """List the caller's own jobs, newest first."""
    async with reading(authority.engine).connect() as db:
        found = await store.jobs_of(db, caller.client, before, limit + 1)
        shown = [await _status(db, job) for job in found[:limit]]
    return JobPage(jobs=shown, next=found[limit - 1].position if len(found) > limit else None)


async def seal(authority: Authority, caller: Caller, name: str) -> tuple[str, bytes]:
    """Find a job's seal: digest and envelope. Raises `Refused`: unknown-job, not-sealed."""
    async with reading(authority.engine).connect() as db:
        job = await find(db, caller, name)
        found = await store.seal(db, name)
    if found is None:
        raise Refused("not-sealed", f"the job is {job.state}; it has no seal yet", hint="Close it, and ask again.")
    return found[0], found[2]


async def find(db: AsyncConnection, caller: Caller, name: str) -> Job:
    """Find a job that the caller may know of: its own, or any for a gateway, a responder or an auditor."""
    job = await store.job(db, name)
    if job is None or (job.client != caller.client and not caller.roles & {"gateway", "responder", "auditor"}):
        raise _unknown()
    return job


async def _plan(authority: Authority, caller: Caller, wanted: JobRequest) -> Planned:
    now = authority.clock()
    chain = await _chain(authority, wanted.policy, now)
    if (await authority.registry.status(wanted.policy)).status != "published":
        raise Refused("policy-withdrawn", "the policy was withdrawn: no new job may pin it", field="policy")
    admits(chain, agent=wanted.agent, job_type=wanted.job_type, environment=wanted.environment)
    job = f"job-{authority.random(12).hex()}"
    user = None if wanted.user_token is None else await authority.users.verify(wanted.user_token, now)
    subject = Subject(wanted.agent, caller.client, job, wanted.job_type, wanted.environment)
    if user is not None:
        subject = replace(subject, user=user.name, claims=user.claims)
    if wanted.authorization_details is None:
        manifests = await _available(authority, chain[0], now)
        tools, models, unavailable = expand(chain, _values(manifests), subject)
        revoked = await _revoked(authority, tools)
        tools, unavailable = sorted(set(tools) - set(revoked)), sorted([*unavailable, *revoked])
    else:
        tools, models = _asked(wanted.authorization_details)
        manifests, unavailable = await _named(authority, tools, now), []
    used = {server: each.digest for server, each in manifests.items() if server in {server_of(tool) for tool in tools}}
    scope = _scope(authority, wanted, subject, chain, manifests=used, tools=tools, models=models)
    within(scope, chain, _values(manifests))
    return Planned(scope, chain, wanted.expires_in, unavailable)


async def _chain(authority: Authority, wanted: str, now: int) -> Chain:
    """Fetch a policy and its ancestors, each in force now. Raises `Refused`: theirs, bad-policy, unsupported."""

    async def fetch(digest: str) -> Policy:
        policy = (await authority.registry.policy(digest, now)).value
        check_enforceable(policy)
        return policy

    return await with_ancestors(await fetch(wanted), fetch)


async def _revoked(authority: Authority, tools: list[str]) -> list[str]:
    async with reading(authority.engine).connect() as db:
        return await store.revoked_tools(db, tools)


def _scope(
    authority: Authority,
    wanted: JobRequest,
    subject: Subject,
    chain: Chain,
    **granted: Any,
) -> Scope:
    return Scope(
        iss=authority.issuer,
        job=subject.job,
        job_type=subject.job_type,
        environment=subject.environment,
        agent=subject.agent,
        client=subject.client,
        user=subject.user,
        claims=dict(subject.claims) or None,
        audience=authority.audience,
        binding="none",
        policy=wanted.policy,
        limits=_limits(chain, wanted.limits),
        depth=0,
        **granted,
    )


def _asked(details: Sequence[Detail]) -> tuple[list[str], list[str]]:
    """Read RFC 9396 authorization details as sorted sets of tools and models."""
    tools = {name for each in details if not isinstance(each, Models) for name in each.names()}
    models = {model for each in details if isinstance(each, Models) for model in each.models}
    return sorted(tools), sorted(models)


async def _named(authority: Authority, tools: list[str], now: int) -> Manifests:
    """Fetch the manifests of servers that were asked for by name; one that cannot be had is a refusal."""
    servers = sorted({server_of(tool) for tool in tools})
    found = await asyncio.gather(*(authority.registry.approved_manifest(server, now) for server in servers))
    return dict(zip(servers, found, strict=True))


async def _available(authority: Authority, policy: Policy, now: int) -> Manifests:
    """Fetch the manifests of every server that the policy names and the registry offers."""
    patterns = {rule.server for rule in policy.allowed_tools}
    if not patterns:
        return {}
    registered = [each.name async for each in authority.registry.servers() if each.manifest_serial]
    servers = [name for name in registered if any(glob_matches(pattern, name) for pattern in patterns)]
    found = await asyncio.gather(*(_perhaps(authority, server, now) for server in servers))
    return {server: manifest for server, manifest in zip(servers, found, strict=True) if manifest is not None}


async def _perhaps(authority: Authority, server: str, now: int) -> Document[Manifest] | None:
    try:
        return await authority.registry.approved_manifest(server, now)
    except Refused as refused:
        if refused.code in WITHOUT_MANIFEST:
            return None
        raise


def _limits(chain: Chain, asked: Budget) -> Budget:
    """Take what was asked for, and the policies' budget where nothing was; `within` refuses more."""
    budgets = terms(chain).budgets
    values = {name: getattr(asked, name) for name in LIMITS}
    return Budget(**{name: getattr(budgets, name) if value is None else value for name, value in values.items()})


def _end(planned: Planned, opened: int) -> int:
    """When the job ends: with its policy or its wall time at the latest. Raises `Refused` when more was asked for."""
    latest = min(policy.valid_until for policy in planned.chain)
    if planned.scope.limits.wall_seconds is not None:
        latest = min(latest, opened + planned.scope.limits.wall_seconds * SECOND)
    if latest <= opened:
        raise Refused("policy-not-valid", "the policy, or the time it allows, ends now", field="policy")
    if planned.expires_in is None:
        return min(opened + LIFETIME * SECOND, latest)
    if opened + planned.expires_in * SECOND > latest:
        left = (latest - opened) // SECOND
        raise Refused("scope-too-wide", f"the policy leaves this job {left} seconds", field="expires_in")
    return opened + planned.expires_in * SECOND


def _row(planned: Planned, grant: Grant, grant_digest: str, sequence: int) -> dict[str, Any]:
    scope, tokens = planned.scope, terms(planned.chain).token_constraints
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
        "sequence": sequence,
        "state": "open",
    }


async def _refuse_revoked(db: AsyncConnection, planned: Planned) -> None:
    scope, ancestors = planned.scope, [each.parent for each in planned.chain if each.parent is not None]
    named = [("agent", scope.agent), ("client", scope.client), ("policy", scope.policy), ("all", "*")]
    named += [("policy", each) for each in ancestors]
    if await store.is_revoked(db, named):
        raise Refused("revoked", "the agent, the client, the policy or everything was revoked")
    if gone := await store.revoked_tools(db, scope.tools):
        raise Refused("revoked", f"{gone[0]} was revoked", field="tools")


async def _status(db: AsyncConnection, job: Job) -> JobStatus:
    sealed = await store.seal(db, job.job)
    lanes = await store.lanes_of(db, job.job)
    shown = {name: getattr(job, name) for name in ("job", "agent", "policy", "grant", "state", "opened", "expires")}
    ended: dict[str, Any] = {"reason": job.reason} if job.reason else {}
    if sealed is not None:
        ended |= {"seal": sealed[0], "status": sealed[1]}
    listed = [JobLane(lane=lane.lane, gateway=lane.gateway, size=lane.size, closed=lane.closed) for lane in lanes]
    return msgspec.convert({**shown, **ended, "lanes": listed}, JobStatus)


def _values(manifests: Manifests) -> dict[str, Manifest]:
    return {server: each.value for server, each in manifests.items()}


def _unknown() -> Refused:
    return Refused("unknown-job", "there is no such job for this caller")
