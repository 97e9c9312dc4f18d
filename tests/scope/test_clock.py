"""A clock that is stepped under scope: no heartbeat, mark or act says an earlier time than the one before it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import text

import scope.app
from scope import feed, seals
from scope.client import RevocationRequest
from scope.tables import acts
from service.audit import check
from service.engine import reading
from service.steady import Steady
from tests.conftest import START, Clock
from tests.scope.conftest import Town, refusal
from verifier.documents import open_heartbeat, open_revocation
from verifier.encoding import canonical
from verifier.refused import Refused

HOUR = 3600
WANTED = RevocationRequest(kind="agent", value="agent-2", reason="incident")
SECOND = 1_000_000


async def rows(town: Town) -> dict[str, int]:
    """Count what is kept."""
    names = ("acts", "grants", "jobs", "lanes", "marks", "revocations", "seals", "tokens")
    async with reading(town.authority.engine) as db:
        return {name: (await db.execute(text(f"SELECT count(*) FROM {name}"))).scalar_one() for name in names}


async def test_after_a_step_back_nothing_is_said_or_signed_until_the_clock_is_right(town: Town) -> None:
    job = await town.open(expires_in=60)
    lane = await town.lane(job)
    token = (await town.scope().token(job.job)).access_token
    await town.scope("responder").revoke(WANTED)
    before = await rows(town)
    town.pass_seconds(-HOUR)
    lane.note()
    tries: list[Callable[[], Awaitable[Any]]] = [
        town.open,
        lambda: town.lane(job, "lane-2"),
        lane.report,
        lambda: town.scope("responder").revoke(WANTED),
        lambda: town.scope("receipts").snapshot(0),
        lambda: town.scope().token(job.job),
        lambda: town.scope().introspect(token),
        lambda: town.scope().revoke_token(token),
        lambda: town.scope().close(job.job),
    ]
    assert [await refusal(each()) for each in tries] == ["clock-stepped"] * len(tries)
    assert await rows(town) == before
    status, _, problem = await town.ask("POST", "/jobs", "orchestrator", data=b"{}")
    assert (status, "3600 s behind" in problem["detail"], "(NTP)" in problem["hint"]) == (503, True, True)
    status, _, problem = await town.ask("GET", "/readyz")
    assert (status, problem["code"], problem["detail"][:6]) == (503, "not-ready", "clock:")
    assert (await town.ask("GET", "/livez"))[0] == 200
    town.pass_seconds(HOUR)
    assert (await town.ask("GET", "/readyz"))[0] == 200
    await lane.report()
    await town.scope("responder").revoke(WANTED)
    assert await times(town) == sorted(await times(town))


async def times(town: Town) -> list[int]:
    """Check that the record is one chain; gives the times of its acts."""
    page = (await town.ask("GET", "/audit?limit=100", "auditor"))[2]["items"]
    check(canonical(each) for each in page)
    return [each["entry"]["time"] for each in page]


async def test_a_follower_of_the_feed_hears_no_earlier_heartbeat(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "EVERY", 0.05)
    town.authority.feed.wake()
    heard = list[int]()
    async with aclosing(town.scope("receipts").follow(0, 0.5)) as lines:
        for step in (0, 1, -3, 1, 1, -HOUR):
            heartbeat, _ = await anext(lines)
            heard.append(open_heartbeat(town.trust, heartbeat).value.time)
            town.pass_seconds(step)
        with pytest.raises(Refused, match="feed ends"):
            heard += [open_heartbeat(town.trust, each).value.time async for each, _ in lines]  # what was on its way
    assert heard == sorted(heard)
    assert heard[-1] > START - 5 * SECOND


async def test_a_step_back_of_a_few_seconds_lets_time_stand_still(town: Town) -> None:
    job = await town.open()
    lane = await town.lane(job)
    await town.scope("responder").revoke(WANTED)
    town.pass_seconds(-4)
    lane.open()
    await lane.report()
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=job.job, reason="incident"))
    lane.close("revoked")
    await lane.report()
    await town.advance(10)
    found = [open_revocation(town.trust, each).value.time for each in (await town.scope("auditor").snapshot(0))[1]]
    assert found == [START, START]
    seal = (await town.sealed(job.job)).value
    marks = [each.time for each in seal.lanes[0].marks]
    assert marks == sorted(marks)
    assert seal.closed >= marks[-1]
    assert await times(town) == sorted(await times(town))


async def test_a_scope_that_is_started_with_an_earlier_clock_knows_what_it_recorded(town: Town) -> None:
    await town.scope("responder").revoke(WANTED)
    town.pass_seconds(HOUR)
    lane = await town.lane(await town.open())
    town.pass_seconds(120)
    lane.open()
    await lane.report()  # a mark is the latest of all
    for earlier, expected in (
        (START, "clock-stepped"),
        (town.clock() - 6 * SECOND, "clock-stepped"),
        (town.clock(), ""),
    ):
        app = scope.app.create(town.installation / "scope/settings.toml", clock=Clock(earlier))
        async with app.lifespan():
            try:
                app.state.authority.clock()
                said = ""
            except Refused as refused:
                said = refused.code
        assert said == expected


async def test_another_process_whose_clock_is_behind_acts_no_more(town: Town) -> None:
    app = scope.app.create(town.installation / "scope/settings.toml", clock=Clock(START))
    async with app.lifespan():
        town.pass_seconds(HOUR)
        await town.open()
        other = app.state.authority
        async with other.engine.begin() as db:
            with pytest.raises(Refused, match="3600 s behind"):
                await acts.append(db, at=START, by="x", act="revoked", subject="y")
        for _ in range(50):
            await asyncio.sleep(0.1)  # its own turn, once a second, reads what was recorded
            if (code := _code(other.clock)) == "clock-stepped":
                break
        assert code == "clock-stepped"
    assert (await rows(town))["acts"] == 1


def _code(clock: Steady) -> str:
    try:
        clock()
    except Refused as refused:
        return refused.code
    return ""


async def test_a_jump_ahead_ends_no_job_unless_it_lasts(town: Town) -> None:
    counted = Clock()
    town.authority.clock.uptime = counted
    town.authority.clock()
    job = (await town.open(expires_in=60)).job
    town.pass_seconds(HOUR)
    assert await refusal(town.open()) == "clock-stepped"
    assert "believed" in (await town.ask("GET", "/readyz"))[2]["detail"]
    await asyncio.sleep(1.5)  # scope's own turn
    assert await states(town, job) == "open"
    town.pass_seconds(-HOUR)
    await town.scope().token(job)
    assert (await town.ask("GET", "/readyz"))[0] == 200
    town.pass_seconds(HOUR)
    assert await refusal(town.open()) == "clock-stepped"
    for each in (town.clock, counted):
        assert isinstance(each, Clock)
        each.pass_seconds(60)
    await town.open()
    await seals.advance(town.authority, town.authority.clock())
    assert await states(town, job) == "sealed"


async def states(town: Town, job: str) -> str:
    """Read a job's state where it is kept."""
    async with reading(town.authority.engine) as db:
        found: str = (await db.execute(text("SELECT state FROM jobs WHERE job = :job"), {"job": job})).scalar_one()
    return found
