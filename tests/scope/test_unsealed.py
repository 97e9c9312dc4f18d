"""What waits for its seal is told: jobs that are late, gateways with open lanes, and when they last reported."""

from sqlalchemy import text

from scope.unsealed import LATE
from tests.conftest import START
from tests.scope.conftest import SECOND, Town


async def stuck(town: Town, parent: str, child: str, since: int) -> None:
    """Let a job close that can never be sealed: its child is open for ever."""
    async with town.authority.engine.begin() as db:
        await db.execute(
            text("UPDATE jobs SET parent = :parent WHERE job = :child"), {"parent": parent, "child": child}
        )
        closing = "UPDATE jobs SET state = 'closing', reason = 'complete', closing_at = :at WHERE job = :job"
        await db.execute(text(closing), {"at": since, "job": parent})


async def test_jobs_are_counted_and_those_that_close_for_too_long_are_named(town: Town) -> None:
    jobs = [(await town.open()).job for _ in range(4)]
    await town.scope().close(jobs[0])
    await stuck(town, jobs[1], jobs[2], START)
    auditor = town.scope("auditor")
    await town.advance((LATE - SECOND) / SECOND)
    there = await auditor.unsealed()
    assert (there.open, there.closing, there.late, there.time) == (2, 1, [], START + LATE - SECOND)
    await town.advance(1)
    (late,) = (await town.scope("responder").unsealed()).late
    assert (late.job, late.reason, late.closing_at) == (jobs[1], "complete", START)


async def test_gateways_with_open_lanes_are_named_with_their_last_report(town: Town) -> None:
    lane = await town.lane(await town.open())
    other = await town.lane(await town.open(), "lane-2")
    (there,) = (await town.scope("auditor").unsealed()).gateways
    assert (there.gateway, there.client, there.lanes, there.reported) == (town.urls.receipts, "receipts", 2, None)
    town.pass_seconds(30)
    await town.scope("receipts").report_heads([])
    (there,) = (await town.scope("auditor").unsealed()).gateways
    assert there.reported == START + 30 * SECOND
    for each in (lane, other):
        each.open()
        each.close()
        await each.report()
    assert (await town.scope("auditor").unsealed()).gateways == []


async def test_a_lane_that_was_sealed_without_its_gateway_waits_for_nobody(town: Town) -> None:
    lane = await town.lane(await town.open())
    await town.scope().close(lane.job.job)
    await town.advance(6)
    assert (await town.sealed(lane.job.job)).value.status == "interrupted"
    there = await town.scope("auditor").unsealed()
    assert (there.open, there.closing, there.gateways) == (0, 0, [])
