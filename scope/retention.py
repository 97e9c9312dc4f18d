"""Deletion of sealed jobs: by time, or because a responder asks for it (specs/operating.md §9).

What is deleted is all that scope keeps of the job, but for the record of acts, which tells of the deletion with the
seal's digest, and the revocations and incidents. A job goes after the jobs that it delegated, whose bundles need its
grants, and no child before its parent is sealed, whose seal names it.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from scope import jobs, store
from scope.authority import OVERSEERS, Authority
from scope.client import DeletedJob, JobStatus
from scope.store import Job
from scope.tables import acts
from service.clients import Caller
from service.engine import reading, writing
from verifier.refused import Refused

A_TURN = 8  # jobs: on SQLite their transactions keep those of callers waiting


async def due(authority: Authority, now: int) -> list[str]:
    """Name some jobs that have been sealed for as long as the settings keep them; none where they are kept for ever."""
    if authority.retention is None or not authority.clock.trusted:
        return []
    async with reading(authority.engine) as db:
        return await store.jobs_to_delete(db, now - authority.retention, A_TURN)


async def expire(authority: Authority, name: str) -> None:
    """Delete a job whose time is over, unless another process was faster."""
    async with writing(authority.engine) as db:
        job = await store.job(db, name, lock=True)
        if job is not None and await _why_not(db, job) is None:
            await _delete(db, authority, job, by=authority.issuer, reason="retention")


async def delete(authority: Authority, caller: Caller, name: str, reason: str, ticket: str | None = None) -> DeletedJob:
    """Delete a sealed job because somebody says so.

    Raises `Refused`: unknown-job, job-deleted, job-not-sealed, job-has-children, parent-not-sealed.
    """
    async with writing(authority.engine) as db:
        job = await store.job(db, name, lock=True)
        if job is None:
            raise await _missing(db, name)
        if (refused := await _why_not(db, job)) is not None:
            raise refused
        return await _delete(db, authority, job, by=caller.client, reason=reason, ticket=ticket)


async def status(authority: Authority, caller: Caller, name: str) -> JobStatus:
    """Tell where a job stands; who may ask about any is told that it was deleted.

    Gateways delete its receipts then, and of a job that is unknown they do not: an older database has lost it.
    Raises `Refused`: unknown-job, job-deleted.
    """
    try:
        return await jobs.status(authority, caller, name)
    except Refused as refused:
        if refused.code != "unknown-job" or caller.roles.isdisjoint(OVERSEERS):
            raise
        async with reading(authority.engine) as db:
            raise await _missing(db, name) from refused


async def _missing(db: AsyncConnection, name: str) -> Refused:
    if await store.is_deleted(db, name):
        return Refused("job-deleted", "this job was deleted", hint="The record of acts has its seal's digest.")
    return Refused("unknown-job", "there is no such job")


async def _why_not(db: AsyncConnection, job: Job) -> Refused | None:
    """Tell why a job, which is locked, has to stay for now."""
    if job.state != "sealed":
        hint = "Close it and wait for its seal: the seal is what the record keeps of it."
        return Refused("job-not-sealed", f"the job is {job.state}", hint=hint)
    if below := await store.children_of(db, job.job):
        why = f"{len(below)} jobs that it delegated are still here, {below[0].job} among them"
        return Refused("job-has-children", why, hint="Delete these first: their bundles need this job's grants.")
    above = None if job.parent is None else await store.job(db, job.parent)
    if above is not None and above.state != "sealed":
        return Refused("parent-not-sealed", f"the seal of {above.job} will name this job's", hint="Close it first.")
    return None


async def _delete(
    db: AsyncConnection, authority: Authority, job: Job, *, by: str, reason: str, ticket: str | None = None
) -> DeletedJob:
    sealed = await store.seal(db, job.job)
    assert sealed is not None, "the job is sealed"
    (digest, status, _), now = sealed, authority.clock()
    await store.delete_job(db, job.job, now)
    said = {"status": status, "reason": reason, "ticket": ticket}
    await acts.append(db, at=now, by=by, act="job-deleted", subject=job.job, digest=digest, **said)
    return DeletedJob(job=job.job, seal=digest, status=status, time=now)
