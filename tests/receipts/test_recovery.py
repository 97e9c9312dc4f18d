"""What the next start makes of an epoch that ended in the middle."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import receipts.app
from receipts.ledger import Ledger
from service.engine import open_engine
from tests.receipts.conftest import MODEL, Calls, Epoch, Job, Town, serve_on
from verifier.grant import Budget
from verifier.refused import Refused


@pytest.fixture
async def next_epoch(town: Town) -> AsyncGenerator[Epoch, None]:
    """The gateway's next life, on the same ledger."""
    engine = open_engine(town.settings.engine_url)
    ledger = Ledger(town.settings.directory / "receipts.db")
    ledger.open()
    yield Epoch(town, ledger, engine)
    await ledger.close()
    await engine.dispose()


async def interrupted(epoch: Epoch, town: Town) -> tuple[Job, Calls]:
    """Leave a job with an open call."""
    job = await town.job()
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    lane.token(job.claims)
    calls = Calls(lane, job)
    calls.model("get_case")
    calls.begin(MODEL, "model-1")
    await asyncio.sleep(0.05)
    return job, calls


def change(town: Town, statement: str) -> None:
    with sqlite3.connect(town.settings.directory / "receipts.db") as connection:
        connection.execute(statement)


async def test_open_calls_are_lost_and_the_lane_is_closed_as_recovered(
    epoch: Epoch, next_epoch: Epoch, town: Town
) -> None:
    job, _ = await interrupted(epoch, town)
    await epoch.reporter.report()
    assert await next_epoch.recover() == 1
    await next_epoch.finish(job)
    raw = await next_epoch.bundle(job)
    report = next_epoch.verify(raw)
    assert b'"reason":"recovered"' in raw
    assert (report.verdict, report.status) == ("INCOMPLETE", "complete")
    assert [each.code for each in report.findings] == ["lost-call"]


async def test_what_a_crashed_gateway_left_of_a_budget_is_there_after_its_restart(
    epoch: Epoch, next_epoch: Epoch, town: Town
) -> None:
    job = await town.job(limits=Budget(calls=5, tokens=1000))
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    lane.token(job.claims)
    calls = Calls(lane, job)
    calls.model("get_case")
    calls.tool()
    await asyncio.sleep(0.05)
    assert lane.spent == Budget(calls=2, cost_nano_usd=0, tokens=15)
    assert await next_epoch.recover() == 1
    await next_epoch.reporter.report()
    again = await next_epoch.lanes.of(job.grant, (job.policy,))
    assert again.fold.purse.share == Budget(calls=3, tokens=985)
    again.token(job.claims)
    Calls(again, job).model()
    await next_epoch.finish(job)
    assert next_epoch.verify(await next_epoch.bundle(job)).findings == []


async def test_a_lane_cut_off_before_its_open_is_sealed_empty_and_never_closed(
    epoch: Epoch, next_epoch: Epoch, town: Town
) -> None:
    job = await town.job()
    await epoch.lanes.of(job.grant, (job.policy,))
    await asyncio.sleep(0.05)
    change(town, "DELETE FROM leaves")
    assert (await next_epoch.recover(), await next_epoch.recover()) == (0, 0)
    await next_epoch.finish(job)
    report = next_epoch.verify(await next_epoch.bundle(job))
    assert (report.verdict, {each.code for each in report.findings}) == ("INCOMPLETE", {"interrupted"})


async def test_what_is_recovered_and_reported_is_recovered_once(epoch: Epoch, next_epoch: Epoch, town: Town) -> None:
    await interrupted(epoch, town)
    await next_epoch.recover()
    await next_epoch.reporter.report()
    await next_epoch.ledger.done("none")  # writes are committed in order: what the report noted is on the disk
    assert await next_epoch.recover() == 0


async def test_a_closing_head_that_was_never_reported_is_reported_later(
    epoch: Epoch, next_epoch: Epoch, town: Town
) -> None:
    job, calls = await interrupted(epoch, town)
    await calls.lane.end("complete")
    await next_epoch.recover()
    await next_epoch.finish(job)
    assert b"policy_cut" in await next_epoch.bundle(job)


async def test_a_lane_that_closed_without_its_head_is_signed_later(epoch: Epoch, next_epoch: Epoch, town: Town) -> None:
    job, calls = await interrupted(epoch, town)
    await calls.lane.end("complete")
    change(town, "UPDATE lanes SET closing = NULL")
    await next_epoch.recover()
    await next_epoch.finish(job)
    assert next_epoch.verify(await next_epoch.bundle(job)).verdict == "PASS"


async def test_a_job_that_scope_has_sealed_meanwhile_is_left_as_it_was_sealed(
    epoch: Epoch, next_epoch: Epoch, town: Town
) -> None:
    job, _ = await interrupted(epoch, town)
    await epoch.reporter.report()
    await town.scope("orchestrator").close(job.name)
    await town.scope("orchestrator").wait_for_seal(job.name)
    await next_epoch.recover()
    await next_epoch.reporter.report()
    report = next_epoch.verify(await next_epoch.bundle(job))
    assert (report.verdict, report.status) == ("INCOMPLETE", "interrupted")
    assert {each.code for each in report.findings} == {"interrupted", "no-answer"}
    assert await next_epoch.recover() == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE leaves SET raw = CAST(replace(raw, 'model-1', 'model-2') AS BLOB)",
        "DELETE FROM leaves WHERE seq = 2",
        "UPDATE leaves SET hash = zeroblob(32) WHERE seq = 1",
    ],
)
async def test_a_damaged_lane_is_left_alone_and_others_are_recovered(
    epoch: Epoch, next_epoch: Epoch, town: Town, damage: str
) -> None:
    await interrupted(epoch, town)
    change(town, damage)
    job, _ = await interrupted(epoch, town)
    assert await next_epoch.recover() == 1
    await next_epoch.finish(job)
    assert next_epoch.verify(await next_epoch.bundle(job)).verdict == "INCOMPLETE"


async def test_a_ledger_that_came_back_shorter_closes_nothing(epoch: Epoch, next_epoch: Epoch, town: Town) -> None:
    job, _ = await interrupted(epoch, town)
    await epoch.reporter.report()
    change(town, "DELETE FROM leaves WHERE seq >= 2")
    await next_epoch.recover()
    await next_epoch.reporter.report()
    await town.scope("orchestrator").close(job.name)
    await town.scope("orchestrator").wait_for_seal(job.name)
    report = next_epoch.verify(await next_epoch.bundle(job))
    assert (report.verdict, report.status) == ("FAIL", "interrupted")


async def test_a_second_process_on_a_ledger_does_not_start_and_ends_nothing_of_the_first(
    epoch: Epoch, town: Town
) -> None:
    settings, listener = town.settings.directory / "settings.toml", socket.create_server(("127.0.0.1", 0))
    server, task = await serve_on(receipts.app.create(settings), listener)
    _, calls = await interrupted(epoch, town)
    said = list[Any]()

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message["type"])

    with pytest.raises(BaseExceptionGroup) as failed:
        await receipts.app.create(settings)({"type": "lifespan", "state": {}}, receive, send)  # type: ignore[arg-type, typeddict-item]
    assert failed.group_contains(Refused, match="another process")
    assert "lifespan.startup.complete" not in said
    calls.model()
    await asyncio.sleep(0.05)
    await epoch.ledger.check()
    server.should_exit = True
    await task


async def test_a_lane_of_another_gateway_key_is_left_alone(epoch: Epoch, next_epoch: Epoch, town: Town) -> None:
    await interrupted(epoch, town)
    change(town, "UPDATE lanes SET kid = 'another'")
    assert await next_epoch.recover() == 0
