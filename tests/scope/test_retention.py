"""What is sealed is kept for as long as the settings say, or until a responder deletes it; the record tells of it."""

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from controls.client import Connection, audit_lines
from scope import retention, seals
from scope.client import JobPage, OpenedJob, RevocationRequest, claims_of
from scope.tables import metadata
from service import migrate
from service.audit import Entry, Line, check
from tests.scope.conftest import DAY, SECOND, GatewayLane, Town, refusal

DEEP = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required",
        "max_delegation_depth": 2}  # fmt: skip
OF_JOBS = {"jobs", "grants", "tokens", "lanes", "lane_tokens", "marks", "due_marks", "targets", "seals", "requests"}
KEPT = {"revocations", "counters", "incidents", "acts", "acts_head", "deleted"}
PASSING = "used"  # of requests, and not of jobs


@pytest.fixture
async def keeping(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """Let scope keep sealed jobs for 30 days."""
    monkeypatch.setenv("TALLY_SCOPE_RETENTION_DAYS", "30")
    await town.restart()
    return town


async def lived(town: Town, name: str = "lane-1", job: OpenedJob | None = None) -> GatewayLane:
    """Let a job use a token, tell of something that cannot be, be touched by a revocation, and be sealed."""
    job = job or await town.open()
    jti = claims_of((await town.scope().token(job.job)).access_token).jti
    lane = await town.lane(job, name)
    lane.open()
    await lane.report(jti)
    fork = GatewayLane(town, job, name)
    fork.open()
    fork.note(3)
    await town.scope("receipts").report_heads([fork.head()])
    await town.scope("responder").revoke(RevocationRequest(kind="tool", value="crm-mcp/x", reason="incident"))
    await town.scope().close(job.job)
    lane.close()
    await lane.report()
    await town.advance()
    return lane


async def rows(town: Town) -> dict[str, int]:
    """Count what is in each table that is about jobs."""
    async with town.authority.engine.connect() as db:
        return {
            table: (await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()
            for table in sorted(metadata.tables.keys() - {PASSING})
        }


async def deletions(town: Town) -> list[Entry]:
    """Read the deletions on the record, which must be one chain."""
    http = Connection(town.session, town.urls.scope, lambda: town.credential("auditor"))
    lines = [line async for line in audit_lines(http)]
    check(lines)
    found = [msgspec.json.decode(line, type=Line).entry for line in lines]
    return [each for each in found if each.act == "job-deleted"]


async def gone(town: Town, job: str) -> bool:
    """Tell whether nobody finds a job any more."""
    codes = {await refusal(town.scope(who).status(job)) for who in ("orchestrator", "auditor", "receipts", "responder")}
    return codes == {"unknown-job", "job-deleted"}  # whoever opened it cannot tell it from another's


async def test_a_sealed_job_goes_when_it_was_kept_for_long_enough(keeping: Town) -> None:
    town = keeping
    assert set(metadata.tables) == OF_JOBS | KEPT | {PASSING}
    lane = await lived(town)
    job, seal, before = lane.job.job, (await town.sealed(lane.job.job)).digest, await rows(town)
    assert all(before[table] for table in OF_JOBS - {"due_marks", "targets"})  # these two go with the seal
    await town.advance(30 * DAY - 1)
    assert not await gone(town, job)
    town.pass_seconds(1)
    at = town.clock()
    await town.advance()
    assert await gone(town, job)
    assert await refusal(town.scope("auditor").seal(job)) == "unknown-job"
    assert await refusal(town.scope("receipts").revocations(job)) == "unknown-job"
    assert await refusal(town.scope().grant(lane.job.grant_digest)) == "unknown-grant"
    after = await rows(town)
    assert {table: after[table] for table in OF_JOBS} == dict.fromkeys(OF_JOBS, 0)
    assert {table: after[table] - before[table] for table in KEPT} == dict.fromkeys(KEPT, 0) | {"acts": 1, "deleted": 1}
    (entry,) = await deletions(town)
    assert (entry.subject, entry.actor, entry.digest, entry.time) == (job, town.urls.scope, seal, at)
    assert msgspec.json.decode(entry.details) == {"reason": "retention", "status": "complete"}


async def test_a_clock_that_was_wrong_from_the_start_deletes_nothing_for_an_hour(keeping: Town) -> None:
    lane = await lived(keeping)
    keeping.pass_seconds(40 * DAY)
    await keeping.restart()
    await keeping.advance(3599)
    assert not await gone(keeping, lane.job.job)
    await keeping.advance(1)
    assert await gone(keeping, lane.job.job)


async def test_without_the_setting_jobs_are_kept_for_ever(town: Town) -> None:
    lane = await lived(town)
    await town.advance(300 * DAY)
    assert not await gone(town, lane.job.job)
    assert await deletions(town) == []


async def test_what_has_no_seal_is_never_deleted(keeping: Town) -> None:
    opened, closing = await keeping.open(expires_in=90 * DAY), await keeping.open()
    async with keeping.authority.engine.begin() as db:  # a child that never ends keeps it from its seal
        await db.execute(
            text("UPDATE jobs SET parent = :above WHERE job = :job"), {"above": closing.job, "job": opened.job}
        )
        stuck = "UPDATE jobs SET state = 'closing', reason = 'complete', closing_at = :at WHERE job = :job"
        await db.execute(text(stuck), {"at": keeping.clock(), "job": closing.job})
    await keeping.advance(60 * DAY)
    assert [(await keeping.scope().status(each.job)).state for each in (opened, closing)] == ["open", "closing"]


async def test_a_child_waits_for_its_parents_seal_and_goes_before_it(keeping: Town) -> None:
    town = keeping
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
    parent = await town.open(expires_in=90 * DAY)
    token = (await town.scope().token(parent.job)).access_token
    child = await town.scope().child(token, town.job())
    await town.scope().close(child.job)
    await town.advance()
    assert await refusal(town.scope("responder").delete(child.job, "asked-for")) == "parent-not-sealed"
    await town.advance(60 * DAY)
    assert (await town.scope().status(child.job)).state == "sealed"  # old enough, and its parent is open
    await town.scope().close(parent.job)
    await town.advance()
    sealed = (await town.sealed(parent.job)).value
    assert [each.job for each in sealed.children] == [child.job]
    await town.advance(30 * DAY)
    await town.advance()
    assert await gone(town, child.job)
    assert await gone(town, parent.job)
    assert [each.subject for each in await deletions(town)] == [child.job, parent.job]


async def test_a_turn_deletes_a_bounded_number(keeping: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "A_TURN", 2)
    jobs = [(await keeping.open()).job for _ in range(5)]
    for job in jobs:
        await keeping.scope().close(job)
    await keeping.advance()
    keeping.pass_seconds(31 * DAY)
    left = []
    for _ in range(3):
        await seals.advance(keeping.authority, keeping.clock())
        left.append((await rows(keeping))["jobs"])
    assert left == [3, 1, 0]
    assert [each.subject for each in await deletions(keeping)] == jobs


async def test_two_processes_delete_a_job_once(keeping: Town) -> None:
    lane = await lived(keeping)
    keeping.pass_seconds(31 * DAY)
    await asyncio.gather(*(retention.expire(keeping.authority, lane.job.job) for _ in range(4)))
    assert [each.subject for each in await deletions(keeping)] == [lane.job.job]


async def test_a_deletion_that_fails_leaves_the_job_whole(keeping: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = await lived(keeping)
    before = await rows(keeping)

    async def failing(*_args: Any, **_said: Any) -> None:
        raise RuntimeError("the record cannot be written")

    with monkeypatch.context() as broken:
        broken.setattr(retention.acts, "append", failing)
        await keeping.advance(31 * DAY)
    assert await rows(keeping) == before
    await keeping.advance()
    assert await gone(keeping, lane.job.job)


async def test_a_responder_deletes_a_sealed_job_and_the_record_says_who_and_why(town: Town) -> None:
    lane = await lived(town)
    job, seal = lane.job.job, (await town.sealed(lane.job.job)).digest
    deleted = await town.scope("responder").delete(job, "erasure-request", "CASE-9")
    assert (deleted.job, deleted.seal, deleted.status, deleted.time) == (job, seal, "complete", town.clock())
    assert await gone(town, job)
    (entry,) = await deletions(town)
    assert (entry.subject, entry.actor, entry.digest) == (job, "responder", seal)
    assert msgspec.json.decode(entry.details) == {
        "reason": "erasure-request", "status": "complete", "ticket": "CASE-9"
    }  # fmt: skip
    assert await refusal(town.scope("responder").delete(job, "erasure-request")) == "job-deleted"
    assert len(await deletions(town)) == 1


async def test_what_was_deleted_before_there_was_a_list_is_on_it(town: Town) -> None:
    lane = await lived(town)
    await town.scope("responder").delete(lane.job.job, "erasure-request")
    url = town.authority.engine.url.render_as_string(hide_password=False)
    await asyncio.to_thread(migrate.downgrade, "scope", url, "0007")
    await asyncio.to_thread(migrate.upgrade, "scope", url)
    for who in ("auditor", "receipts", "responder"):
        assert await refusal(town.scope(who).status(lane.job.job)) == "job-deleted"
        assert await refusal(town.scope(who).status("job-none")) == "unknown-job"
    assert await refusal(town.scope().status(lane.job.job)) == "unknown-job"


async def test_only_a_sealed_job_is_deleted_and_by_a_responder_alone(town: Town) -> None:
    job = (await town.open()).job
    responder = town.scope("responder")
    assert await refusal(responder.delete(job, "asked-for")) == "job-not-sealed"
    await town.scope().close(job)
    await town.advance()
    for who in ("orchestrator", "auditor", "receipts"):
        assert await refusal(town.scope(who).delete(job, "asked-for")) == "forbidden", who
    for query in ("", "?reason=", "?reason=No%20code", "?reason=ok&ticket=a%20b"):
        status, _, problem = await town.ask("DELETE", f"/jobs/{job}{query}", "responder")
        assert (status, problem["code"]) == (400, "bad-request"), query
    assert not await gone(town, job)
    assert await deletions(town) == []
    assert await refusal(responder.delete("job-none", "asked-for")) == "unknown-job"


async def test_a_parent_stays_while_its_children_are_here(town: Town) -> None:
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
    parent = await town.open()
    token = (await town.scope().token(parent.job)).access_token
    child = await town.scope().child(token, town.job())
    await town.scope().close(parent.job)
    await town.advance()
    await town.advance()
    responder = town.scope("responder")
    assert await refusal(responder.delete(parent.job, "asked-for")) == "job-has-children"
    for job in (child.job, parent.job):
        await responder.delete(job, "asked-for")
        assert await gone(town, job)


async def test_a_gateway_that_still_reports_a_deleted_job_is_told_and_nothing_is_revoked(town: Town) -> None:
    lane = await lived(town)
    jti = claims_of((await town.scope().token((await town.open()).job)).access_token).jti
    await town.scope("responder").delete(lane.job.job, "asked-for")
    before = await rows(town)
    lane.note()
    answer = await town.scope("receipts").report_heads([lane.head(jtis=[jti])])
    assert [each.code for each in answer.refused] == ["unknown-lane"]
    assert await refusal(town.scope("receipts").register_lane(lane.job.job, lane.request())) == "unknown-job"
    assert await rows(town) == before


async def test_the_tokens_of_a_deleted_job_are_nobodys(town: Town) -> None:
    job = await town.open()
    token = (await town.scope().token(job.job)).access_token
    await town.scope().close(job.job)
    await town.advance()
    await town.scope("responder").delete(job.job, "asked-for")
    assert await town.scope().introspect(token) == {"active": False}
    assert await refusal(town.scope().refresh(token)) not in {"accepted", "internal-error"}
    assert await refusal(town.scope().token(job.job)) not in {"accepted", "internal-error"}


async def test_overseers_list_everybodys_jobs_in_pages_by_state_and_age(town: Town) -> None:
    jobs = [await town.open() for _ in range(6)]
    for number in (0, 1, 3):
        await town.scope().close(jobs[number].job)
        await town.advance()
        town.pass_seconds(10)
    names = [each.job for each in jobs]
    for who in ("auditor", "responder"):
        scope = town.scope(who)
        first = await scope.jobs(limit=4, everybody=True)
        rest = await scope.jobs(first.next, limit=4, everybody=True)
        assert ([each.job for each in (*first.jobs, *rest.jobs)], rest.next) == (names[::-1], None)
        assert {each.client for each in first.jobs} == {"orchestrator"}
        sealed = await scope.jobs(everybody=True, state="sealed")
        assert listed(sealed) == [names[3], names[1], names[0]]
        ended = sealed.jobs[0].closing_at
        assert ended is not None
        assert listed(await scope.jobs(everybody=True, sealed_before=ended)) == [names[1], names[0]]
        assert listed(await scope.jobs(everybody=True, sealed_before=ended + SECOND, limit=2)) == [names[3], names[1]]
        assert listed(await scope.jobs(everybody=True, state="open", sealed_before=ended)) == []
        assert await refusal(scope.jobs()) == "forbidden"
    for who in ("orchestrator", "receipts"):
        assert await refusal(town.scope(who).jobs(everybody=True)) == "forbidden", who
    assert listed(await town.scope().jobs(state="open")) == [names[5], names[4], names[2]]
    assert (await town.ask("GET", "/jobs?state=lost", "orchestrator"))[2]["code"] == "bad-request"


def listed(page: JobPage) -> list[str]:
    return [each.job for each in page.jobs]
