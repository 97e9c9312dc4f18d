"""The end of a job: it expires, its lanes close, and the seal says what it amounts to (specs/seal.md).

The gateway cannot write a seal and `scope` cannot write a receipt. A job is sealed once; a sealed job never changes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import jobs, narrow, purse, retention, store
from scope.authority import SECOND, Authority, signer
from scope.narrow import Held
from scope.store import Job, Lane, UsedToken
from scope.tables import acts
from service.clients import Caller
from service.engine import is_full, reading, reading_elsewhere, writing
from verifier.encoding import canonical, digest
from verifier.envelope import Envelope, seal_up
from verifier.grant import MAX_DEPTH, Budget
from verifier.refused import Refused
from verifier.revocation import Name, Revocation, named
from verifier.seal import MOST_INCIDENTS, Child, Incident, Mark, Seal, SealedLane, SealedToken, Status

PATIENCE = 5 * SECOND  # what a gateway has to close its lanes


async def advance(authority: Authority, now: int) -> None:
    """Do what time asks for, a few times a second: expiry, due marks, seals, and what was kept for long enough.

    Each job is a transaction of its own; what cannot be done for one is logged and keeps no other waiting, but for a
    full disk, which the next turn finds again.
    """
    async with reading(authority.engine) as db:
        expired = await store.expired_jobs(db, now)
        due = await store.jobs_with_due_marks(db, now)
    await _each(authority, expired, _expire)
    await _each(authority, due, _mark)
    done = list[str]()
    for _ in range(MAX_DEPTH + 1):  # a parent after its children
        async with reading(authority.engine) as db:
            ready = await store.jobs_to_seal(db, now - PATIENCE)
        await _each(authority, [name for name in ready if name not in done], seal)
        done += ready
    await _each(authority, await retention.due(authority, now), retention.expire)


async def _each(authority: Authority, names: list[str], act: Callable[[Authority, str], Awaitable[None]]) -> None:
    for name in names:
        try:
            await act(authority, name)
        except Refused as refused:
            authority.log.error("not done", act=act.__name__, job=name, code=refused.code, why=refused.why)  # noqa: TRY400 - a refusal has no trace
        except Exception as error:
            if is_full(error):
                raise
            authority.log.exception("bug", act=act.__name__, job=name)


async def seal(authority: Authority, name: str) -> None:
    """Seal a closing job, unless somebody has or a lane still has time to close.

    The clock is read once the job is locked: its last mark is then no older than the last head that scope accepted.
    """
    async with writing(authority.engine) as db:
        last = await store.lock_sequence(db)
        job = await store.job(db, name, lock=True)
        if job is None or job.state != "closing" or job.closing_at is None:
            return
        if any(child.state != "sealed" for child in await store.children_of(db, name)):
            return
        now = authority.clock()
        found = await store.lanes_of(db, name)
        complete = all(lane.closed for lane in found)
        if not complete and now < job.closing_at + PATIENCE:
            return
        await store.write_due_marks(db, store.named([name]), now)
        await store.mark(db, store.named([name]), now)
        sealed = await _seal(db, authority, job, last, now)
        payload = canonical(sealed)
        Seal.parse(payload)
        _require_key(authority, sealed.closed)
        envelope = await asyncio.to_thread(seal_up, "seal", payload, authority.keys.seal)
        await store.add_seal(db, name, digest(payload), sealed.status, envelope)
        said = {"digest": digest(payload), "status": sealed.status}
        await acts.append(db, at=now, by=authority.issuer, act="job-sealed", subject=name, **said)


async def revocations(authority: Authority, caller: Caller, name: str) -> list[bytes]:
    """Give the revocations that touch a job: once it is sealed those that the seal names. Raises `Refused`."""
    async with reading_elsewhere(authority.engine).connect() as db:
        job = await jobs.find(db, caller, name)
        sealed = await store.seal(db, name)
        if sealed is not None:
            named = Seal.parse(Envelope.parse(sealed[2], "seal").content()).revocations
        else:
            last, grants, used = (
                await store.sequence(db),
                await narrow.of_job(db, name),
                await store.tokens_of(db, name),
            )
            touching = await _touching(db, authority, job, last, grants=grants, used=chain.from_iterable(used.values()))
            named = [each for each, _ in touching]
        return await store.revocations_named(db, named)


async def _seal(db: AsyncConnection, authority: Authority, job: Job, last: int, now: int) -> Seal:
    lanes = await store.lanes_of(db, job.job)
    tokens, marks = await store.tokens_of(db, job.job), await store.marks_of(db, job.job)
    grants = await narrow.of_job(db, job.job)
    touching = await _touching(db, authority, job, last, grants=grants, used=chain.from_iterable(tokens.values()))
    revoked = {value for _, (kind, value) in touching if kind == "key"}
    sealed = [_lane(lane, tokens.get(lane.lane, []), marks[lane.lane], revoked) for lane in lanes]
    return Seal(
        iss=authority.issuer,
        job=job.job,
        policy=job.policy,
        keys=authority.trust.digest,
        grants=[each.digest for each in grants],
        status=_status(job, lanes),
        opened=job.opened,
        closed=max(now, *(lane.marked for lane in lanes), job.opened),
        lanes=sealed,
        children=[await _child(db, child) for child in await store.children_of(db, job.job)],
        revocations=[digest for digest, _ in touching],
        incidents=await _incidents(db, job.job, lanes) or None,
    )


async def _touching(
    db: AsyncConnection, authority: Authority, job: Job, last: int, *, grants: list[Held], used: Iterable[UsedToken]
) -> list[tuple[str, Name]]:
    """Find the revocations since a job opened that can concern a call of it: digest, and what is revoked."""
    names = await store.targets_of(db, job.job)
    for each in (*grants, *await narrow.above(db, grants)):
        names |= named(each.grant.scope, each.kids)
    for jti, _, _, _, kid in used:
        names |= {("jti", jti), ("key", kid or "")}
    near = await store.revocations_near(db, job, last, [value for kind, value in names if kind != "jti"])
    read = [(digest, _revocation(authority, raw)) for digest, raw in near]
    return [(digest, each.name) for digest, each in read if each.touches(names)]


async def _incidents(db: AsyncConnection, job: str, lanes: list[Lane]) -> list[Incident]:
    """List the first incidents of a job, each once: a report that is repeated within a turn of the clock is one."""
    found = await store.incidents_of(db, job, {lane.lane for lane in lanes}, MOST_INCIDENTS)
    return sorted({Incident(time=time, lane=lane, code=code) for time, lane, code in found})


async def _child(db: AsyncConnection, job: Job) -> Child:
    sealed = await store.seal(db, job.job)
    assert sealed is not None, "a parent is sealed after its children"
    return Child(job=job.job, grant=job.grant, seal=sealed[0], share=purse.scope_of(job).limits)


def _lane(lane: Lane, tokens: list[UsedToken], marks: list[tuple[int, int]], revoked: set[str]) -> SealedLane:
    """Seal a lane; of a token whose key was revoked it says the key."""
    return SealedLane(
        lane=lane.lane,
        origin=lane.origin,
        gateway=lane.gateway,
        kid=lane.kid,
        size=lane.size,
        root="sha256:" + lane.root.hex(),
        share=msgspec.json.decode(lane.share, type=Budget),
        tokens=[
            SealedToken(jti=jti, grant=grant, iat=iat, exp=exp, kid=kid if kid in revoked else None)
            for jti, grant, iat, exp, kid in tokens
        ],
        marks=[Mark(time=time, size=size) for time, size in marks],
    )


def _status(job: Job, lanes: list[Lane]) -> Status:
    """A lane that did not close, or closed without a leaf, leaves the job interrupted, whatever ended it."""
    if not all(lane.closed and lane.size for lane in lanes):
        return "interrupted"
    assert job.reason in {"complete", "expired", "revoked"}, "a closing job has a reason"
    return job.reason  # type: ignore[return-value] # the column is text


def _require_key(authority: Authority, at: int) -> None:
    """A seal is for ever: by an expired key, or under an expired key list, it would be believed by nobody."""
    authority.trust.current(at)
    signer(authority.trust, authority.keys.seal.kid, "seal", authority.issuer, at)


def _revocation(authority: Authority, raw: bytes) -> Revocation:
    return Revocation.parse(authority.trust.open(raw, "revocation").payload)


async def _expire(authority: Authority, name: str) -> None:
    async with writing(authority.engine) as db:
        await store.lock_sequence(db)  # no child opens meanwhile
        chosen = store.with_children(store.named([name]))
        await store.lock_jobs(db, chosen)
        await store.end_jobs(db, chosen, "expired", authority.clock(), authority.issuer)


async def _mark(authority: Authority, name: str) -> None:
    async with writing(authority.engine) as db:
        chosen = store.named([name])
        await store.lock_jobs(db, chosen)
        await store.write_due_marks(db, chosen, authority.clock())
