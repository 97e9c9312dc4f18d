"""Deletion of sealed jobs: by time, or because a responder asks for it (specs/operating.md §9).

What is deleted is all that scope keeps of the job, but for the record of acts, which tells of the deletion with the
seal's digest, and the revocations and incidents. A job goes after the jobs that it delegated, whose bundles need its
grants, and no child before its parent is sealed, whose seal names it.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from scope import store
from scope.authority import Authority
from scope.client import DeletedJob
from scope.store import Job
from scope.tables import acts
from service.clients import Caller
from service.engine import reading, writing
from verifier.refused import Refused

A_TURN = 8  # jobs: on SQLite their transactions keep those of callers waiting


async def due(authority: Authority, now: int) -> list[str]:
    """Name some jobs that have been sealed for as long as the settings keep them; none where they are kept for ever."""
    if authority.retention is None:
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

    Raises `Refused`: unknown-job, job-not-sealed, job-has-children, parent-not-sealed.
    """
    async with writing(authority.engine) as db:
        job = await store.job(db, name, lock=True)
        if job is None:
            raise Refused("unknown-job", "there is no such job, or it was deleted before")
        if (refused := await _why_not(db, job)) is not None:
            raise refused
        return await _delete(db, authority, job, by=caller.client, reason=reason, ticket=ticket)


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
    digest, status, _ = sealed
    await store.delete_job(db, job.job)
    now = authority.clock()
    said = {"status": status, "reason": reason, "ticket": ticket}
    await acts.append(db, at=now, by=by, act="job-deleted", subject=job.job, digest=digest, **said)
    return DeletedJob(job=job.job, seal=digest, status=status, time=now)
