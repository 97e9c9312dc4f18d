"""A disk without room: 503 with a name of its own, nothing half done, and well again by itself."""

import errno
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from scope import seals
from scope.client import RevocationRequest
from service.audit import check
from service.engine import WRITER, is_full, reading
from tests.scope.conftest import Town, refusal
from verifier.documents import open_heartbeat, open_revocation
from verifier.encoding import canonical

TABLES = ("acts", "grants", "jobs", "lanes", "marks", "revocations", "seals", "targets", "tokens")
FULL = """CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"""


@asynccontextmanager
async def no_room(town: Town) -> AsyncGenerator[None, None]:
    """Let SQLite have no page beyond those that it has, and PostgreSQL say of every new row that the disk is full."""
    engine = town.authority.engine

    def bounded(connection: Any, *_: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 1")  # it is never less than what is there

    if engine.dialect.name == "sqlite":
        both = engine.sync_engine, engine.sync_engine.get_execution_options()[WRITER].engine
        for each in both:
            event.listen(each, "checkout", bounded)
        yield
        for each in both:
            event.remove(each, "checkout", bounded)
        await engine.dispose()
        return
    async with engine.begin() as db:
        await db.execute(text(FULL))
        for table in TABLES:
            await db.execute(text(f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} EXECUTE FUNCTION no_room()"))
    yield
    async with engine.begin() as db:
        await db.execute(text("DROP FUNCTION no_room CASCADE"))


async def until_full(act: Callable[[], Awaitable[object]]) -> int:
    """Do something until there is no room for it, which has to come; gives how often it was done."""
    for done in range(500):
        if (code := await refusal(act())) != "accepted":
            assert code == "disk-full"
            return done
    raise AssertionError("there was room")


async def rows(town: Town, *tables: str) -> list[int]:
    """Count the rows of some tables."""
    async with reading(town.authority.engine) as db:
        return [(await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() for table in tables]


async def record(town: Town) -> list[str]:
    """Check that the record is one chain; gives its acts."""
    found = list[dict[str, Any]]()
    while page := (await town.ask("GET", f"/audit?limit=100&after={len(found)}", "auditor"))[2]["items"]:
        found += page
    assert check(canonical(each) for each in found).entries == len(found)
    return [each["entry"]["act"] for each in found]


async def test_without_room_a_job_is_opened_whole_or_not_at_all(town: Town) -> None:
    async with no_room(town):
        done = await until_full(town.open)
        status, headers, problem = await town.ask("POST", "/jobs", "orchestrator", json=asked(town))
        assert (status, problem["code"], headers["Retry-After"]) == (503, "disk-full", "30")
        assert "nothing has to be restarted" in problem["hint"]
        assert await rows(town, "jobs", "grants", "acts") == [done] * 3
        assert (await town.ask("GET", "/readyz"))[0] == 200  # what only reads goes on
        assert len((await town.scope().jobs()).jobs) == min(done, 50)
    await town.open()
    assert await rows(town, "jobs", "grants", "acts") == [done + 1] * 3
    assert await record(town) == ["job-opened"] * (done + 1)


async def test_without_room_nothing_is_revoked_and_no_number_is_lost(town: Town) -> None:
    responder = town.scope("responder")
    job = await town.open()
    await town.lane(job)
    wanted = RevocationRequest(kind="agent", value="agent-2", reason="incident")
    async with no_room(town):
        done = await until_full(lambda: responder.revoke(wanted))
        assert open_heartbeat(town.trust, (await responder.snapshot(0))[0]).value.sequence == done
        assert await rows(town, "revocations") == [done]
    await responder.revoke(wanted)
    found = [open_revocation(town.trust, each).value.sequence for each in (await responder.snapshot(0))[1]]
    assert found == list(range(1, done + 2))
    assert (await record(town)).count("revoked") == done + 1


async def test_without_room_no_token_is_issued_that_is_not_stored(town: Town) -> None:
    job = (await town.open()).job
    async with no_room(town):
        done = await until_full(lambda: town.scope().token(job))
        assert await rows(town, "tokens") == [done]
    await town.scope().token(job)
    assert await rows(town, "tokens") == [done + 1]


async def test_a_lane_that_was_reported_when_there_was_no_room_is_not_given_up(town: Town) -> None:
    lane = await town.lane(await town.open(expires_in=86_400))
    lane.open()
    await lane.report()

    async def more() -> None:
        town.pass_seconds(61)  # a mark a minute: a row each
        lane.note()
        await town.scope("receipts").report_heads([lane.head()])
        lane.reported = len(lane.raws)

    async with no_room(town):
        await until_full(more)
        (known,) = (await town.scope().status(lane.job.job)).lanes
        assert known.size == lane.reported
    await lane.report()
    assert (await town.scope().status(lane.job.job)).lanes[0].size == len(lane.raws)


async def test_a_seal_that_found_no_room_follows_when_there_is_some(town: Town) -> None:
    job = (await town.open()).job
    await town.scope().close(job)
    async with no_room(town):
        if town.authority.engine.dialect.name == "sqlite":
            await until_full(town.open)
        with pytest.raises(DBAPIError) as failed:
            await seals.advance(town.authority, town.clock())
        assert is_full(failed.value)
        assert (await town.scope().status(job)).state == "closing"
    await town.advance()
    assert (await town.sealed(job)).value.status == "complete"


def test_what_is_no_want_of_room_is_none() -> None:
    assert is_full(OSError(errno.ENOSPC, "no space"))
    assert not is_full(OSError(errno.EACCES, "no permission"))
    assert not is_full(ValueError("database or disk is full"))


def asked(town: Town) -> dict[str, str]:
    """Write the request for a job."""
    return {"agent": "a-1", "policy": town.policy, "job_type": "support", "environment": "test"}
