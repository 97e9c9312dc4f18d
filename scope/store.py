"""The SQL of `scope`.

Whoever locks more than one thing locks the sequence first, then jobs by name, the record's head last of all (an entry
is what a transaction ends with): no deadlocks.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from scope.tables import (
    acts,
    counters,
    deleted,
    due_marks,
    grants,
    incidents,
    jobs,
    lane_tokens,
    lanes,
    marks,
    requests,
    revocations,
    seals,
    targets,
    tokens,
)
from service.record import Act
from verifier.revocation import Name, Revocation

SECOND = 1_000_000
SEQUENCE = "revocations"
CHANNEL = "tally_revocations"
TARGETS = ("agent", "client", "key", "policy", "user")  # what `targets` knows of
JobNames = Select[str]

# What jobs and tokens ask at every turn, written once: to put a statement together takes longer than to execute it.
_NAMES: BindParameter[Any] = bindparam("names", expanding=True)
_ISSUED = select(func.count()).where(tokens.c.job == jobs.c.job).scalar_subquery()
_JOBS_FOR_TOKENS = (
    select(jobs, _ISSUED).where(jobs.c.job.in_(_NAMES)).order_by(jobs.c.job).with_for_update(read=True, of=jobs)
)
_REVOKED = (
    select(revocations.c.kind, revocations.c.value)
    .where(
        revocations.c.kind.in_(bindparam("kinds", expanding=True)),
        revocations.c.value.in_(bindparam("values", expanding=True)),
        or_(revocations.c.until.is_(None), revocations.c.until > bindparam("at", type_=BigInteger)),
    )
    .order_by(revocations.c.sequence)
)
_GRANTS_NAMED = select(grants.c.digest, grants.c.envelope).where(grants.c.digest.in_(_NAMES))
_JOBS_OF_TOKENS = select(tokens.c.jti, tokens.c.job).where(tokens.c.jti.in_(_NAMES))
_ADD_TOKENS = insert(tokens)
_LOCK_SEQUENCE = select(counters.c.value).where(counters.c.name == SEQUENCE).with_for_update()
_ADD_JOB, _ADD_GRANT, _ADD_TARGETS, _ADD_REQUEST = insert(jobs), insert(grants), insert(targets), insert(requests)
_REQUEST = select(requests.c.job, requests.c.asked, requests.c.unavailable).where(
    requests.c.client == bindparam("client"), requests.c.request == bindparam("request")
)

UsedToken = tuple[str, str, int, int, str | None]  # jti, grant, iat, exp, kid


class Job(Struct, frozen=True):
    """A row of `jobs`."""

    position: int
    job: str
    client: str
    agent: str
    policy: str
    grant: str
    scope: bytes
    opened: int
    expires: int
    max_ttl: int
    staleness: int
    sequence: int
    state: str
    closing_at: int | None
    reason: str | None
    parent: str | None
    deepest: int


class Asked(Struct, frozen=True):
    """A row of `requests`: which job a request opened, its digest, what the answer called unavailable."""

    job: str
    asked: str
    unavailable: list[str]


class Lane(Struct, frozen=True):
    """A row of `lanes`."""

    lane: str
    job: str
    client: str
    gateway: str
    kid: str
    origin: str
    size: int
    root: bytes
    note: str | None
    marked: int
    closed: bool
    share: bytes
    spent: bytes | None = None
    running: int = 0


async def sequence(db: AsyncConnection) -> int:
    """Read the last revocation's sequence."""
    found: int = (await db.execute(select(counters.c.value).where(counters.c.name == SEQUENCE))).scalar_one()
    return found


async def lock_sequence(db: AsyncConnection) -> int:
    """Read it and keep everybody else from revoking, opening or sealing until this transaction ends."""
    found: int = (await db.execute(_LOCK_SEQUENCE)).scalar_one()
    return found


async def latest_time(db: AsyncConnection) -> int:
    """Find the latest time that was recorded: of an act, or of a mark in a job that is not sealed."""
    marked = select(func.max(lanes.c.marked)).join(jobs, jobs.c.job == lanes.c.job)
    marked = marked.where(jobs.c.state.in_(["open", "closing"]))
    return max(await acts.time(db), (await db.execute(marked)).scalar_one() or 0)


async def add_revocation(db: AsyncConnection, revocation: Revocation, digest: str, envelope: bytes) -> None:
    """Append a revocation; the sequence is locked."""
    (kind, value), number = revocation.name, revocation.sequence
    row = {"sequence": number, "digest": digest, "kind": kind, "value": value, "envelope": envelope}
    row["until"] = revocation.until
    await db.execute(insert(revocations).values(row))
    await db.execute(update(counters).where(counters.c.name == SEQUENCE).values(value=number))
    if db.dialect.name == "postgresql":
        await db.execute(text(f"NOTIFY {CHANNEL}"))  # heard by every process when, and if, this is committed


async def revocations_after(db: AsyncConnection, after: int, last: int, limit: int) -> list[bytes]:
    """Read revocations of a range of sequences, in order."""
    column = revocations.c.sequence
    wanted = select(revocations.c.envelope).where(column > after, column <= last).order_by(column).limit(limit)
    return list((await db.execute(wanted)).scalars())


async def revocations_named(db: AsyncConnection, digests: Sequence[str]) -> list[bytes]:
    """Read revocations by digest, in the order asked for."""
    wanted = select(revocations.c.digest, revocations.c.envelope).where(revocations.c.digest.in_(digests))
    found = {row.digest: row.envelope for row in await db.execute(wanted)}
    return [found[each] for each in digests]


async def revocations_near(db: AsyncConnection, job: Job, last: int, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """Read digest and envelope of those since a job opened that may touch it: `names` are what its grants name."""
    used = select(lane_tokens.c.jti).join(lanes, lanes.c.lane == lane_tokens.c.lane).where(lanes.c.job == job.job)
    column = revocations.c.sequence
    near = or_(
        revocations.c.kind.in_(["server", "tool", "model", "all"]),
        revocations.c.value.in_(sorted(set(names))),
        revocations.c.value.in_(used),
    )
    wanted = select(revocations.c.digest, revocations.c.envelope).where(column > job.sequence, column <= last, near)
    return [(row.digest, row.envelope) for row in await db.execute(wanted.order_by(column))]


async def revoked(db: AsyncConnection, names: Iterable[Name], at: int) -> Name | None:
    """Find one of these names that is revoked at a time, the first that was; None when none is."""
    wanted = set(names)
    return next((name for name in await db.run_sync(_revoked, wanted, at) if name in wanted), None)


def revoked_among(db: Connection, names: set[Name], at: int) -> set[Name]:
    """Find those of some names that are revoked at a time."""
    return names.intersection(_revoked(db, names, at))


def _revoked(db: Connection, names: set[Name], at: int) -> list[Name]:
    """Find what is revoked of these kinds and values, in sequence."""
    given = {"kinds": sorted({kind for kind, _ in names}), "values": sorted({value for _, value in names}), "at": at}
    return [(row.kind, row.value) for row in db.execute(_REVOKED, given)]


async def revoked_keys(db: AsyncConnection) -> set[str]:
    """Name the keys that were revoked."""
    return set((await db.execute(select(revocations.c.value).where(revocations.c.kind == "key"))).scalars())


async def revoked_tools(db: AsyncConnection, tools: Sequence[str], at: int) -> list[str]:
    """Find which of some tools, as a grant names them, are revoked at a time by name or with their server."""
    names: dict[str, set[Name]] = {}
    for tool in tools:
        place = tool.partition(":")[2]
        names[tool] = {("tool", place), ("server", place.partition("/")[0])}
    gone = await db.run_sync(revoked_among, set().union(*names.values()), at)
    return [tool for tool, each in names.items() if not gone.isdisjoint(each)]


async def add_job(db: AsyncConnection, values: Mapping[str, Any], envelope: bytes, names: Iterable[Name]) -> None:
    """Add a job, its grant, and by what it can be revoked."""
    await db.execute(_ADD_JOB, values)
    await db.execute(_ADD_GRANT, {"digest": values["grant"], "job": values["job"], "envelope": envelope})
    await _add_targets(db, values["job"], set(names))


async def add_request(db: AsyncConnection, client: str, request: str, opened: Asked) -> None:
    """Remember by which request of a client a job was opened."""
    row = {"job": opened.job, "asked": opened.asked, "unavailable": msgspec.json.encode(opened.unavailable)}
    await db.execute(_ADD_REQUEST, {**row, "client": client, "request": request})


async def request(db: AsyncConnection, client: str, name: str) -> Asked | None:
    """Find the job that a client's request opened."""
    row = (await db.execute(_REQUEST, {"client": client, "request": name})).one_or_none()
    return Asked(row.job, row.asked, msgspec.json.decode(row.unavailable, type=list[str])) if row else None


async def add_targets(db: AsyncConnection, name: str, names: Iterable[Name]) -> None:
    """Remember by what a job can be revoked; what is remembered already stays."""
    await _add_targets(db, name, set(names) - await targets_of(db, name))


async def _add_targets(db: AsyncConnection, name: str, fresh: set[Name]) -> None:
    rows = [{"kind": kind, "value": value, "job": name} for kind, value in sorted(fresh) if kind in TARGETS]
    if rows:
        await db.execute(_ADD_TARGETS, rows)


async def targets_of(db: AsyncConnection, name: str) -> set[Name]:
    """Name what a job that is not sealed can be revoked by, beside its own name."""
    found = await db.execute(select(targets.c.kind, targets.c.value).where(targets.c.job == name))
    return {(row.kind, row.value) for row in found}


async def job(db: AsyncConnection, name: str, *, lock: bool = False) -> Job | None:
    """Find a job; `lock` keeps others from touching it or its lanes."""
    wanted = select(jobs).where(jobs.c.job == name)
    if lock:
        wanted = wanted.with_for_update()
    row = (await db.execute(wanted)).one_or_none()
    return Job(*row) if row else None


def jobs_for_tokens(db: Connection, names: Iterable[str]) -> dict[str, tuple[Job, int]]:
    """Find jobs, each with how many tokens it was issued; others are kept from ending them."""
    found = db.execute(_JOBS_FOR_TOKENS, {"names": sorted(names)})
    return {row.job: (Job(*row[:-1]), row[-1]) for row in found}


class Chosen(Struct, frozen=True, kw_only=True):
    """Which jobs to list; None chooses all. `sealed_before` is of sealed ones, by when they began to close."""

    client: str | None = None
    state: str | None = None
    sealed_before: int | None = None


async def jobs_chosen(db: AsyncConnection, chosen: Chosen, before: int | None, limit: int) -> list[Job]:
    """List jobs, newest first."""
    wanted = select(jobs).order_by(jobs.c.position.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(jobs.c.position < before)
    if chosen.client is not None:
        wanted = wanted.where(jobs.c.client == chosen.client)
    if chosen.state is not None:
        wanted = wanted.where(jobs.c.state == chosen.state)
    if chosen.sealed_before is not None:
        wanted = wanted.where(jobs.c.state == "sealed", jobs.c.closing_at < chosen.sealed_before)
    return [Job(*row) for row in await db.execute(wanted)]


def unsealed(kind: str, value: str) -> JobNames:
    """Choose the jobs without a seal that a target can touch; servers, tools and models may be anybody's.

    What ends a job ends those that it delegated.
    """
    condition: ColumnElement[bool] = true()
    if kind == "job":
        condition = jobs.c.job == value
    if kind in TARGETS:
        by_name = select(targets.c.job).where(targets.c.kind == kind, targets.c.value == value)
        condition = jobs.c.job.in_(by_name)
    if kind == "jti":
        condition = jobs.c.job.in_(select(tokens.c.job).where(tokens.c.jti == value))
    chosen = select(jobs.c.job).where(jobs.c.state != "sealed", condition)
    return with_children(chosen) if kind in {"job", *TARGETS} else chosen


def with_children(chosen: JobNames) -> JobNames:
    """Choose jobs, and all that they delegated, however deep, that are not sealed."""
    tree = chosen.cte("tree", recursive=True)
    tree = tree.union(select(jobs.c.job).where(jobs.c.parent == tree.c.job))
    return select(jobs.c.job).where(jobs.c.job.in_(select(tree.c.job)), jobs.c.state != "sealed")


async def children_of(db: AsyncConnection, name: str) -> list[Job]:
    """List the jobs that a job delegated itself, by name."""
    wanted = select(jobs).where(jobs.c.parent == name).order_by(jobs.c.job)
    return [Job(*row) for row in await db.execute(wanted)]


def still_open(chosen: JobNames) -> JobNames:
    """Choose those of some jobs that are open."""
    return select(jobs.c.job).where(jobs.c.job.in_(chosen), jobs.c.state == "open")


async def count_jobs(db: AsyncConnection, chosen: JobNames, most: int) -> tuple[int, list[str]]:
    """Count some jobs, and name the first of them."""
    count = (await db.execute(select(func.count()).select_from(chosen.subquery()))).scalar_one()
    return count, list((await db.execute(chosen.order_by(jobs.c.position.desc()).limit(most))).scalars())


async def count_living(db: AsyncConnection, chosen: JobNames, at: int, only: Name | None) -> int:
    """Count the living tokens of some jobs at a second: all, one, or those of a key."""
    gone = select(revocations.c.value).where(revocations.c.kind == "jti")
    living = [tokens.c.job.in_(chosen), tokens.c.exp > at, tokens.c.jti.not_in(gone)]
    if only is not None:
        column = {"jti": tokens.c.jti, "key": tokens.c.kid}[only[0]]
        living.append(or_(column == only[1], column.is_(None)))
    found: int = (await db.execute(select(func.count()).select_from(tokens).where(*living))).scalar_one()
    return found


async def open_lanes(db: AsyncConnection, chosen: JobNames) -> tuple[int, int, list[str]]:
    """Count the lanes of some jobs that are not closed, and the calls under way there; name the gateways of these."""
    counts = select(lanes.c.gateway, func.count(), func.sum(lanes.c.running))
    moving = counts.where(lanes.c.job.in_(chosen), lanes.c.closed.is_(False))
    found = (await db.execute(moving.group_by(lanes.c.gateway).order_by(lanes.c.gateway))).all()
    return sum(count for _, count, _ in found), sum(int(each) for _, _, each in found), [name for name, _, _ in found]


async def scopes_of_open_jobs(db: AsyncConnection, most: int) -> list[tuple[str, bytes]]:
    """List open jobs with their scopes, the newest first."""
    wanted = select(jobs.c.job, jobs.c.scope).where(jobs.c.state == "open").order_by(jobs.c.position.desc())
    return [(row.job, row.scope) for row in await db.execute(wanted.limit(most))]


async def count_unsealed(db: AsyncConnection) -> dict[str, int]:
    """Count the jobs without a seal by state."""
    wanted = select(jobs.c.state, func.count().label("number")).where(jobs.c.state.in_(["open", "closing"]))
    found = await db.execute(wanted.group_by(jobs.c.state))
    return {row.state: row.number for row in found}


async def closing_since(db: AsyncConnection, since: int, most: int) -> list[tuple[str, str, int]]:
    """Name the jobs that have been closing since a time or longer, with reason and beginning, the longest first."""
    wanted = select(jobs.c.job, jobs.c.reason, jobs.c.closing_at)
    wanted = wanted.where(jobs.c.state == "closing", jobs.c.closing_at <= since)
    found = await db.execute(wanted.order_by(jobs.c.closing_at, jobs.c.job).limit(most))
    return [(job, reason or "", at or 0) for job, reason, at in found]


async def writing(db: AsyncConnection, most: int) -> list[tuple[str, str, int]]:
    """List gateways with lanes that are open in jobs without a seal: gateway, its client, how many."""
    wanted = select(lanes.c.gateway, lanes.c.client, func.count()).join(jobs, jobs.c.job == lanes.c.job)
    wanted = wanted.where(jobs.c.state.in_(["open", "closing"]), lanes.c.closed.is_(False))
    found = await db.execute(wanted.group_by(lanes.c.gateway, lanes.c.client).order_by(lanes.c.gateway).limit(most))
    return [(gateway, client, count) for gateway, client, count in found]


def named(names: Iterable[str]) -> JobNames:
    """Choose jobs by name."""
    return select(jobs.c.job).where(jobs.c.job.in_(sorted(names)))


async def lock_jobs(db: AsyncConnection, chosen: JobNames) -> list[str]:
    """Lock jobs, always in the same order."""
    return list((await db.execute(chosen.order_by(jobs.c.job).with_for_update())).scalars())


async def end_jobs(db: AsyncConnection, chosen: JobNames, reason: str, at: int, by: str) -> list[str]:
    """Let open jobs begin to close, and record who ended each; return which."""
    ended = update(jobs).where(jobs.c.job.in_(chosen), jobs.c.state == "open")
    closing = ended.values(state="closing", reason=reason, closing_at=at).returning(jobs.c.job)
    names = sorted((await db.execute(closing)).scalars())
    ends = [Act(by=by, act="job-closing", subject=name, details={"reason": reason}) for name in names]
    await acts.append_all(db, at, ends)
    return names


async def expired_jobs(db: AsyncConnection, at: int) -> list[str]:
    """Name the open jobs whose time is over."""
    return list((await db.execute(select(jobs.c.job).where(jobs.c.state == "open", jobs.c.expires <= at))).scalars())


async def jobs_to_seal(db: AsyncConnection, silent_since: int) -> list[str]:
    """Name the closing jobs whose lanes are all closed, or that have been closing since `silent_since` or longer.

    A parent waits for its children's seals.
    """
    moving = exists().where(lanes.c.job == jobs.c.job, lanes.c.closed.is_(False))
    child = jobs.alias("child")
    waiting = exists().where(child.c.parent == jobs.c.job, child.c.state != "sealed")
    ready = and_(or_(jobs.c.closing_at <= silent_since, ~moving), ~waiting)
    return list((await db.execute(select(jobs.c.job).where(jobs.c.state == "closing", ready))).scalars())


async def closing_for(db: AsyncConnection, client: str) -> list[tuple[str, str]]:
    """Name the closing jobs, with reasons, in which a gateway has lanes to close."""
    wanted = select(jobs.c.job, jobs.c.reason).join(lanes, lanes.c.job == jobs.c.job).distinct()
    wanted = wanted.where(lanes.c.client == client, lanes.c.closed.is_(False), jobs.c.state == "closing")
    return [(row.job, row.reason) for row in await db.execute(wanted.order_by(jobs.c.job))]


def grants_named(db: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """Find grants' envelopes."""
    found = db.execute(_GRANTS_NAMED, {"names": sorted(digests)})
    return {row.digest: row.envelope for row in found}


async def grant(db: AsyncConnection, digest: str) -> bytes | None:
    """Find a grant's envelope."""
    return (await db.execute(select(grants.c.envelope).where(grants.c.digest == digest))).scalar_one_or_none()


async def grants_of(db: AsyncConnection, name: str) -> list[tuple[str, bytes]]:
    """List a job's grants: digest, envelope."""
    found = await db.execute(select(grants.c.digest, grants.c.envelope).where(grants.c.job == name))
    return [(row.digest, row.envelope) for row in found]


async def add_grant(db: AsyncConnection, digest: str, name: str, envelope: bytes) -> None:
    """Keep another grant of a job."""
    await db.execute(insert(grants).values(digest=digest, job=name, envelope=envelope))


def add_tokens(db: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Remember tokens before anybody sees them."""
    if rows:
        db.execute(_ADD_TOKENS, [*rows])


async def count_withdrawn(db: AsyncConnection, name: str) -> int:
    """Count the tokens of a job that were revoked by name."""
    gone = exists().where(revocations.c.kind == "jti", revocations.c.value == tokens.c.jti)
    wanted = select(func.count()).where(tokens.c.job == name, gone)
    found: int = (await db.execute(wanted)).scalar_one()
    return found


async def token_job(db: AsyncConnection, jti: str) -> str | None:
    """Find the job of a token that was issued."""
    return (await db.execute(select(tokens.c.job).where(tokens.c.jti == jti))).scalar_one_or_none()


async def issued(db: AsyncConnection, jtis: Sequence[str]) -> dict[str, str]:
    """Find the jobs of tokens that were issued."""
    return await db.run_sync(jobs_of_tokens, jtis)


def jobs_of_tokens(db: Connection, jtis: Sequence[str]) -> dict[str, str]:
    """Find the jobs of tokens that were issued."""
    found = db.execute(_JOBS_OF_TOKENS, {"names": [*jtis]})
    return {row.jti: row.job for row in found}


async def add_lane(db: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Register a lane."""
    await db.execute(insert(lanes).values(**values))


async def lanes_named(db: AsyncConnection, names: Sequence[str]) -> dict[str, Lane]:
    """Find lanes by name."""
    return {row.lane: Lane(*row) for row in await db.execute(select(lanes).where(lanes.c.lane.in_(names)))}


async def lanes_of(db: AsyncConnection, name: str) -> list[Lane]:
    """List a job's lanes by name."""
    return [Lane(*row) for row in await db.execute(select(lanes).where(lanes.c.job == name).order_by(lanes.c.lane))]


async def move_lane(db: AsyncConnection, lane: str, values: Mapping[str, Any]) -> None:
    """Keep a lane's newest head."""
    await db.execute(update(lanes).where(lanes.c.lane == lane).values(**values))


async def use_tokens(db: AsyncConnection, lane: str, jtis: Iterable[str]) -> None:
    """Remember which tokens a lane has seen; those that it named before stay."""
    known = set((await db.execute(select(lane_tokens.c.jti).where(lane_tokens.c.lane == lane))).scalars())
    if fresh := sorted(set(jtis) - known):
        await db.execute(insert(lane_tokens), [{"lane": lane, "jti": jti} for jti in fresh])


async def tokens_of(db: AsyncConnection, name: str) -> dict[str, list[UsedToken]]:
    """List the tokens used in each lane of a job."""
    wanted = select(lane_tokens.c.lane, tokens).join(tokens, tokens.c.jti == lane_tokens.c.jti)
    wanted = wanted.join(lanes, lanes.c.lane == lane_tokens.c.lane).where(lanes.c.job == name)
    found: dict[str, list[UsedToken]] = {}
    for row in await db.execute(wanted.order_by(tokens.c.jti)):
        found.setdefault(row.lane, []).append((row.jti, row.grant, row.iat, row.exp, row.kid))
    return found


async def mark(db: AsyncConnection, chosen: JobNames, at: int) -> None:
    """Witness every lane of some jobs: at this time, this size was known. Times of a lane's marks never go back."""
    time = case((lanes.c.marked > at, lanes.c.marked), else_=literal(at, BigInteger))
    witnessed = select(lanes.c.lane, time, lanes.c.size).where(lanes.c.job.in_(chosen))
    await db.execute(insert(marks).from_select(["lane", "time", "size"], witnessed))
    await db.execute(update(lanes).where(lanes.c.job.in_(chosen), lanes.c.marked < at).values(marked=at))


async def mark_lane(db: AsyncConnection, lane: str, at: int, size: int) -> None:
    """Witness one lane; `at` is no earlier than its newest mark."""
    await db.execute(insert(marks).values(lane=lane, time=at, size=size))
    await db.execute(update(lanes).where(lanes.c.lane == lane).values(marked=at))


async def owe_mark(db: AsyncConnection, chosen: JobNames, revoked: int) -> None:
    """Owe each of some jobs a mark, its staleness and a second after a revocation."""
    due = literal(revoked, BigInteger) + (jobs.c.staleness + 1) * SECOND
    wanted = select(jobs.c.job, due).where(jobs.c.job.in_(chosen))
    await db.execute(insert(due_marks).from_select(["job", "time"], wanted))


async def write_due_marks(db: AsyncConnection, chosen: JobNames, at: int) -> None:
    """Write the marks that are due, each with its own time: no head was accepted in between without asking for this."""
    due = select(due_marks.c.job, due_marks.c.time).where(due_marks.c.job.in_(chosen), due_marks.c.time <= at)
    for row in (await db.execute(due.order_by(due_marks.c.time))).all():
        await mark(db, named([row.job]), row.time)
    await db.execute(delete(due_marks).where(due_marks.c.job.in_(chosen), due_marks.c.time <= at))


async def jobs_with_due_marks(db: AsyncConnection, at: int) -> list[str]:
    """Name the jobs that are owed a mark by now."""
    return list((await db.execute(select(due_marks.c.job).where(due_marks.c.time <= at).distinct())).scalars())


async def marks_of(db: AsyncConnection, name: str) -> dict[str, list[tuple[int, int]]]:
    """List the marks of each lane of a job as time and size, none twice."""
    wanted = select(marks).join(lanes, lanes.c.lane == marks.c.lane).where(lanes.c.job == name)
    found: dict[str, set[tuple[int, int]]] = {}
    for row in await db.execute(wanted):
        found.setdefault(row.lane, set()).add((row.time, row.size))
    return {lane: sorted(each) for lane, each in found.items()}


async def add_incident(db: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Record what a gateway reported and cannot be."""
    await db.execute(insert(incidents).values(**values))


async def incidents_after(db: AsyncConnection, after: int, limit: int) -> list[Mapping[str, Any]]:
    """List incidents behind a position, the oldest first."""
    wanted = select(incidents).where(incidents.c.position > after).order_by(incidents.c.position).limit(limit)
    return [dict(row) for row in (await db.execute(wanted)).mappings()]


async def incidents_of(db: AsyncConnection, job: str, named: Iterable[str], most: int) -> list[tuple[int, str, str]]:
    """List the first incidents of some lanes of a job: time, lane and code, each once."""
    wanted = select(incidents.c.time, incidents.c.lane, incidents.c.code).distinct()
    wanted = wanted.where(incidents.c.job == job, incidents.c.lane.in_(list(named)))
    found = await db.execute(wanted.order_by(incidents.c.time, incidents.c.lane, incidents.c.code).limit(most))
    return [(row.time, row.lane, row.code) for row in found]


async def add_seal(db: AsyncConnection, name: str, digest: str, status: str, envelope: bytes) -> None:
    """Keep a job's seal; the job never changes again."""
    await db.execute(insert(seals).values(job=name, digest=digest, status=status, envelope=envelope))
    await db.execute(update(jobs).where(jobs.c.job == name).values(state="sealed"))
    await db.execute(delete(due_marks).where(due_marks.c.job == name))
    await db.execute(delete(targets).where(targets.c.job == name))


async def seal(db: AsyncConnection, name: str) -> tuple[str, str, bytes] | None:
    """Find a job's seal: digest, status, envelope."""
    wanted = select(seals.c.digest, seals.c.status, seals.c.envelope).where(seals.c.job == name)
    row = (await db.execute(wanted)).one_or_none()
    return (row.digest, row.status, row.envelope) if row else None


async def jobs_to_delete(db: AsyncConnection, until: int, most: int) -> list[str]:
    """Name sealed jobs that began to close by a time, the oldest first; a job without children here or open parent."""
    child, above = jobs.alias("child"), jobs.alias("above")
    delegated = exists().where(child.c.parent == jobs.c.job)
    waited_for = exists().where(above.c.job == jobs.c.parent, above.c.state != "sealed")
    wanted = select(jobs.c.job).where(jobs.c.state == "sealed", jobs.c.closing_at <= until, ~delegated, ~waited_for)
    return list((await db.execute(wanted.order_by(jobs.c.closing_at, jobs.c.position).limit(most))).scalars())


async def delete_job(db: AsyncConnection, name: str, at: int) -> None:
    """Delete all that is kept of a sealed job, which is locked; incidents, revocations and the record stay."""
    of_job = select(lanes.c.lane).where(lanes.c.job == name)
    for each in (marks, lane_tokens):
        await db.execute(delete(each).where(each.c.lane.in_(of_job)))
    for each in (lanes, tokens, grants, due_marks, targets, seals, requests, jobs):
        await db.execute(delete(each).where(each.c.job == name))
    await db.execute(insert(deleted).values(job=name, time=at))


async def is_deleted(db: AsyncConnection, name: str) -> bool:
    """Tell whether a job was here, and was deleted."""
    return (await db.execute(select(deleted.c.job).where(deleted.c.job == name))).first() is not None
