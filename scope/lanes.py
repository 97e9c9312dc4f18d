"""Lanes: where a gateway writes a job's receipts, and what `scope` witnesses of them (specs/seal.md §2).

A gateway reports all its moving lanes once a second. A head counts when the lane's own key signed it and it extends the
last one; what cannot be is an incident, kept beside the lane that it concerns, and never an answer to somebody else.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import purse, revoke, store
from scope.authority import SECOND, Authority
from scope.client import Closing, Head, HeadsAnswer, LaneRequest, Reason, RefusedHead, RegisteredLane, RevocationRequest
from scope.store import Job, Lane
from scope.tables import acts
from service.clients import Caller
from service.engine import reading, writing
from service.record import Act
from verifier.checkpoint import Checkpoint
from verifier.encoding import MAX_INT, canonical, unb64
from verifier.merkle import EMPTY, check_consistency
from verifier.refused import Refused
from verifier.seal import origin

MINUTE = 60 * SECOND
MOST_MARKS = 4000  # ordinary marks of one lane: a seal carries at most ten thousand of all kinds
MOST_LANES = 64  # of one job: what a seal can carry, and far more epochs than a gateway lives through in a job
MOST_STRANGERS = 16  # unknown tokens of one report; each is a revocation
INCIDENTS = {"inconsistent-head", "bad-signature", "unknown-signer", "missing-signature", "bad-checkpoint"}


async def register(authority: Authority, caller: Caller, job: str, wanted: LaneRequest) -> RegisteredLane:
    """Register a lane of an open job and give it its share: all that is left of the purse, or half of that.

    Half where the gateway asks for half, and where the job may delegate: its children get their part of the rest.

    The same request again is answered the same. Raises `Refused`: unknown-job, job-not-open, wrong-gateway,
    wrong-origin, lane-taken, too-many-lanes, and the codes of a key that is no gateway's.
    """
    if wanted.gateway != authority.audience:
        raise Refused("wrong-gateway", "tokens of this scope are for another gateway", field="gateway")
    if wanted.origin != origin(wanted.gateway, job, wanted.lane):
        raise Refused("wrong-origin", "the origin is not the one of this gateway, job and lane", field="origin")
    async with writing(authority.engine) as db:
        found = await store.job(db, job, lock=True)
        if found is None:
            raise Refused("unknown-job", "there is no such job")
        lane = await _known(db, caller, job, wanted) or await _add(db, authority, caller, found, wanted)
        alone = found.parent is None and len(await store.lanes_of(db, job)) == 1
    return RegisteredLane(share=purse.read_budget(lane.share), opened=found.opened, alone=alone)


async def report(authority: Authority, caller: Caller, heads: Sequence[Head]) -> HeadsAnswer:
    """Witness heads: each is accepted or refused by itself, and the answer names the jobs that are closing."""
    if len({head.lane for head in heads}) != len(heads):
        raise Refused("bad-value", "a lane is reported once in a report", field="heads")
    authority.reports.last[caller.client] = authority.clock()
    await _revoke_strangers(authority, caller, heads)
    async with writing(authority.engine) as db:
        chosen = store.named({lane.job for lane in (await _own_lanes(db, caller, heads)).values()})
        locked = await store.lock_jobs(db, chosen)
        now = authority.clock()
        await store.write_due_marks(db, chosen, now)
        mine = {name: lane for name, lane in (await _own_lanes(db, caller, heads)).items() if lane.job in locked}
        refused = [each for head in heads if (each := await _witness(db, authority, mine.get(head.lane), head, now))]
        found = [(mine[each.lane], (each.code, str(each.size))) for each in refused if each.code in INCIDENTS]
        await _incidents(db, authority, found, now)
        closing = await store.closing_for(db, caller.client)
    return HeadsAnswer(closing=[Closing(job=job, reason=cast("Reason", why)) for job, why in closing], refused=refused)


async def _add(db: AsyncConnection, authority: Authority, caller: Caller, job: Job, wanted: LaneRequest) -> Lane:
    now = authority.clock()
    if job.state != "open" or now >= job.expires:
        raise Refused("job-not-open", "the job is closed, revoked or over")
    authority.gateway_key(wanted.kid, wanted.gateway, now)
    earlier = await store.lanes_of(db, job.job)
    if len(earlier) >= MOST_LANES:
        raise Refused("too-many-lanes", f"a job has at most {MOST_LANES} lanes")
    left = purse.left(job, earlier, await store.children_of(db, job.job))
    share = purse.half(left) if wanted.share == "half" or _delegates(job) else left
    lane = Lane(
        wanted.lane, job.job, caller.client, wanted.gateway, wanted.kid, wanted.origin,
        size=0, root=EMPTY, note=None, marked=now, closed=False, share=canonical(share),
    )  # fmt: skip
    await store.add_lane(db, structs.asdict(lane))
    await store.mark_lane(db, wanted.lane, now, 0)
    said = {"gateway": wanted.gateway, "job": job.job, "kid": wanted.kid}
    await acts.append(db, at=now, by=caller.client, act="lane-registered", subject=wanted.lane, **said)
    return lane


async def _known(db: AsyncConnection, caller: Caller, job: str, wanted: LaneRequest) -> Lane | None:
    known = (await store.lanes_named(db, [wanted.lane])).get(wanted.lane)
    if known is None:
        return None
    said = (job, caller.client, wanted.gateway, wanted.kid, wanted.origin)
    if said != (known.job, known.client, known.gateway, known.kid, known.origin):
        raise Refused("lane-taken", "another lane has this name", field="lane")
    return known


async def _own_lanes(db: AsyncConnection, caller: Caller, heads: Sequence[Head]) -> dict[str, Lane]:
    found = await store.lanes_named(db, [head.lane for head in heads])
    return {name: lane for name, lane in found.items() if lane.client == caller.client}


async def _revoke_strangers(authority: Authority, caller: Caller, heads: Sequence[Head]) -> None:
    """Revoke every token that a gateway saw and that was never issued for that job: somebody signs with our key.

    Each in a transaction of its own: it is seen as soon as it has its time, and waits for no lock of a lane.
    """
    async with reading(authority.engine) as db:
        strangers = await _strangers(db, await _own_lanes(db, caller, heads), heads, authority.clock())
    for lane, jti in strangers[:MOST_STRANGERS]:
        async with revoke.revoking(authority) as db:
            await store.lock_sequence(db)
            if await store.revoked(db, [("jti", jti)], authority.clock()) is None:
                wanted = RevocationRequest(kind="jti", value=jti, reason="unknown-token")
                done = await revoke.write(db, authority, wanted, caller.client)
                await _incidents(db, authority, [(lane, ("unknown-token", jti))], done.time)
    if len(strangers) > MOST_STRANGERS:
        raise Refused("too-many-requests", f"more than {MOST_STRANGERS} unknown tokens in one report: report again")


async def _strangers(
    db: AsyncConnection, mine: Mapping[str, Lane], heads: Sequence[Head], at: int
) -> list[tuple[Lane, str]]:
    """Find tokens that were not issued for the job of the lane that used them, and are not revoked yet."""
    found = []
    for head in heads:
        lane = mine.get(head.lane)
        if lane is not None and head.jtis:
            issued = await store.issued(db, head.jtis)
            found += [(lane, jti) for jti in sorted(set(head.jtis)) if issued.get(jti) != lane.job]
    return [(lane, jti) for lane, jti in found if await store.revoked(db, [("jti", jti)], at) is None]


async def _witness(
    db: AsyncConnection, authority: Authority, lane: Lane | None, head: Head, now: int
) -> RefusedHead | None:
    """Keep one head, or say why not."""
    if lane is None:
        return RefusedHead(lane=head.lane, code="unknown-lane", why="this gateway registered no such lane", size=0)
    try:
        job = await store.job(db, lane.job)
        assert job is not None, "a lane's row names its job's"
        await _accept(db, authority, job, lane, head=head, now=now)
    except Refused as refused:
        return RefusedHead(lane=lane.lane, code=refused.code, why=refused.why, size=lane.size)
    return None


async def _accept(db: AsyncConnection, authority: Authority, job: Job, lane: Lane, *, head: Head, now: int) -> None:
    if job.state == "sealed":
        raise Refused("job-sealed", "the job is sealed and never changes again")
    checkpoint = Checkpoint.parse(head.note)
    if lane.closed:
        if (checkpoint.size, checkpoint.root) != (lane.size, lane.root):
            raise Refused("lane-closed", "the lane's closing head was accepted before")
        return
    _check_extends(authority, lane, head, checkpoint, now)
    issued = await store.issued(db, head.jtis)
    await store.use_tokens(db, lane.lane, [jti for jti in head.jtis if issued.get(jti) == lane.job])
    values: dict[str, Any] = {"size": checkpoint.size, "root": checkpoint.root, "note": head.note}
    values["running"] = head.running
    values |= {"closed": head.closed, "spent": canonical(head.spent) if head.closed and head.spent else None}
    await store.move_lane(db, lane.lane, values)
    if head.closed or now - lane.marked >= _between_marks(job):
        await store.mark_lane(db, lane.lane, max(now, lane.marked), checkpoint.size)


def _check_extends(authority: Authority, lane: Lane, head: Head, checkpoint: Checkpoint, now: int) -> None:
    """Check that a head is this lane's, signed by its key, and extends the last one."""
    if checkpoint.origin != lane.origin:
        raise Refused("inconsistent-head", "the head is another lane's")
    checkpoint.check(authority.gateway_key(lane.kid, lane.gateway, now).pair(), closing=head.closed)
    if checkpoint.size > MAX_INT:
        raise Refused("inconsistent-head", "no lane has so many leaves, and no seal could name them")
    proof = [unb64(each, field="consistency") for each in head.consistency]
    if not lane.size and (proof or (checkpoint.size == 0) != (checkpoint.root == EMPTY)):
        raise Refused("inconsistent-head", "an empty tree needs no proof, and only an empty tree has its root")
    try:
        if lane.size:
            check_consistency(lane.size, checkpoint.size, proof, lane.root, checkpoint.root)
    except Refused as refused:
        raise Refused("inconsistent-head", f"the head does not extend the last one: {refused.why}") from refused


def _between_marks(job: Job) -> int:
    """At most one ordinary mark a minute; in a job of many days fewer, so that its seal stays readable."""
    return max(MINUTE, (job.expires - job.opened) // MOST_MARKS)


async def _incidents(
    db: AsyncConnection, authority: Authority, found: Sequence[tuple[Lane, tuple[str, str]]], now: int
) -> None:
    """Record what cannot be: lane, code and value of each."""
    told = []
    for lane, (code, value) in found:
        said = {"job": lane.job, "code": code, "value": value}
        await store.add_incident(db, {"time": now, "lane": lane.lane, **said})
        authority.log.warning("incident", code=code, job=lane.job, lane=lane.lane, client=lane.client)
        told.append(Act(by=lane.client, act="incident", subject=lane.lane, details=said))
    await acts.append_all(db, now, told)


def _delegates(job: Job) -> bool:
    """Tell whether a job may have children yet: then no lane takes the whole purse."""
    return purse.scope_of(job).depth < job.deepest
