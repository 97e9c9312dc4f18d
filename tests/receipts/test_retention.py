"""Receipts go with their job, key first: when they are old enough, or once scope has deleted the job; never before."""

import asyncio
import socket
import sqlite3
from collections.abc import Awaitable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import structlog

import receipts.app
from receipts import ledger, retention
from receipts.client import ReceiptsClient
from receipts.lanes import Lane
from receipts.ledger import Ledger
from receipts.lookup import Lookup
from receipts.retention import Retention
from scope.client import ScopeClient
from service import migrate, steady
from service.app import now
from service.clients import client_token
from service.engine import open_engine
from service.steady import TRUSTED, Steady
from tests.conftest import Serve, free_port
from tests.receipts.conftest import Calls, Epoch, Job, Town
from tests.receipts.gatehouse import gatehouse
from tests.serving import serve_on
from verifier.refused import Refused

DAY = 86_400_000_000
MINUTE = 60_000_000


class Keeper:
    """The part of a gateway that deletes, in a time of its own: `ahead` microseconds from now."""

    def __init__(self, epoch: Epoch, *, scope: ScopeClient | None = None) -> None:
        self.ahead, settings = 0, epoch.town.settings
        self.directory = settings.directory
        self.retention = Retention(
            directory=settings.directory / "lanes",
            issuer=settings.issuer,
            keep=30 * DAY,
            engine=epoch.engine,
            ledger=epoch.ledger,
            lanes=epoch.lanes,
            scope=scope or epoch.scope,
            clock=Steady(self.clock, self.clock),
            log=structlog.get_logger(),
        )
        self.lookup = Lookup(epoch.lanes, settings.directory / "lanes", epoch.town.identity.pair)

    def clock(self) -> int:
        """Tell its time."""
        return now() + self.ahead

    async def turn(self, ahead: int) -> None:
        """Take a turn at another time."""
        self.ahead = ahead
        await self.retention.turn()

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger's database."""
        with sqlite3.connect(self.directory / "receipts.db") as connection:
            return list(connection.execute(statement, values))

    def left(self, lane: str) -> tuple[bool, int]:
        """Tell whether a lane's key is there, and how many of its leaves."""
        ((count,),) = self.query("SELECT count(*) FROM leaves WHERE lane = ?", lane)
        return (self.directory / "lanes" / f"{lane}.key").exists(), count

    def noted(self, lane: str) -> tuple[str, str] | None:
        """Tell by whom and why a lane was deleted."""
        ((at, by, reason),) = self.query("SELECT deleted, deleted_by, deleted_for FROM lanes WHERE lane = ?", lane)
        return None if at is None else (by, reason)


async def worked(town: Town, epoch: Epoch) -> tuple[Job, Lane, str]:
    """Let a job make two calls; gives the name of the first."""
    job = await town.job()
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    lane.token(job.claims)
    calls = Calls(lane, job)
    call = calls.model("get_case")
    calls.tool()
    await asyncio.sleep(0.05)
    return job, lane, call


async def finished(town: Town, epoch: Epoch) -> tuple[Job, Lane, str]:
    """Let a job make two calls and be sealed."""
    job, lane, call = await worked(town, epoch)
    await epoch.finish(job)
    await asyncio.sleep(0.05)
    return job, lane, call


async def refusal(call: Awaitable[object]) -> str:
    try:
        await call
    except Refused as refused:
        return refused.code
    return "accepted"


def in_scope(town: Town, statement: str, *values: str) -> None:
    """Change scope's database behind its back."""
    with sqlite3.connect(town.directory / "scope/scope.db") as connection:
        connection.execute(statement, values)


async def reads(epoch: Epoch, keeper: Keeper, job: Job, call: str) -> list[str]:
    """Name what a call's receipt, a page of receipts and the bundle are refused with."""
    async with epoch.engine.connect() as reader:
        found = await keeper.lookup.job_of(reader, call)
        assert found == job.name
        codes = [await refusal(keeper.lookup.receipt(reader, job.name, call))]
        codes.append(await refusal(keeper.lookup.page(reader, job.name, "", 10)))
    return [*codes, await refusal(epoch.bundle(job))]


async def test_what_is_old_enough_and_sealed_goes_key_and_leaves_and_is_named(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    job, lane, call = await finished(town, epoch)
    _, other, _ = await worked(town, epoch)  # not sealed
    await keeper.turn(30 * DAY - MINUTE)
    assert (keeper.left(lane.lane), keeper.noted(lane.lane)) == ((True, 7), None)
    assert await reads(epoch, keeper, job, call) == ["accepted"] * 3
    await keeper.turn(30 * DAY + MINUTE)
    assert keeper.left(lane.lane) == (False, 0)
    assert keeper.noted(lane.lane) == (town.settings.issuer, "retention")
    assert await reads(epoch, keeper, job, call) == ["receipts-deleted"] * 3
    assert (keeper.left(other.lane), keeper.noted(other.lane)) == ((True, 6), None)
    async with epoch.engine.connect() as reader:
        assert await refusal(keeper.lookup.job_of(reader, "no-such-1")) == "unknown-call"
        assert await refusal(keeper.lookup.job_of(reader, f"{other.lane}-9")) == "unknown-call"
    ((policies,), (grants,)) = keeper.query("SELECT sum(kind = 'policy') FROM documents UNION ALL "
                                            "SELECT sum(kind = 'grant') FROM documents")  # fmt: skip
    assert (policies, grants) == (1, 0)


async def test_a_job_that_goes_on_keeps_the_lanes_of_earlier_epochs(town: Town, epoch: Epoch) -> None:
    job, first, call = await worked(town, epoch)
    await epoch.ledger.close()
    ledger, engine = Ledger(town.settings.directory / "receipts.db"), open_engine(town.settings.engine_url)
    ledger.open()
    later = Epoch(town, ledger, engine)
    keeper = Keeper(later)
    assert await later.recover() == 1
    await later.reporter.report()
    await later.reporter.report()
    await asyncio.sleep(0.05)
    assert keeper.query("SELECT done FROM lanes") == [(1,)]
    await keeper.turn(40 * DAY)
    assert keeper.left(first.lane) == (True, 7)  # its bundle is still to come
    second = await later.lanes.of(job.grant, (job.policy,))
    await later.finish(job)
    await asyncio.sleep(0.05)
    in_scope(town, "UPDATE jobs SET parent = job WHERE job = ?", job.name)
    in_scope(town, "UPDATE jobs SET state = 'closing' WHERE job = ?", job.name)
    await keeper.turn(40 * DAY)
    assert keeper.noted(second.lane) is None
    in_scope(town, "UPDATE jobs SET state = 'sealed', parent = NULL WHERE job = ?", job.name)
    assert await reads(later, keeper, job, call) == ["accepted"] * 3
    await keeper.turn(40 * DAY)
    assert [keeper.left(each.lane) for each in (first, second)] == [(False, 0)] * 2
    await ledger.close()
    await engine.dispose()


async def test_a_clock_that_jumped_deletes_nothing_for_an_hour(town: Town, epoch: Epoch) -> None:
    keeper, counted = Keeper(epoch), 0
    _, lane, _ = await finished(town, epoch)
    keeper.retention._clock = Steady(keeper.clock, lambda: now() + counted)
    assert await refusal(keeper.turn(40 * DAY)) == "clock-stepped"
    counted = MINUTE  # it is believed
    await keeper.turn(40 * DAY + counted)
    counted += TRUSTED - MINUTE
    await keeper.turn(40 * DAY + counted)
    assert keeper.left(lane.lane) == (True, 7)
    counted += MINUTE
    await keeper.turn(40 * DAY + counted)
    assert keeper.left(lane.lane) == (False, 0)


async def test_a_child_waits_for_its_parents_seal(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    parent, (job, lane, _) = await town.job(), await finished(town, epoch)
    in_scope(town, "UPDATE jobs SET parent = ? WHERE job = ?", parent.name, job.name)
    await keeper.turn(40 * DAY)
    assert keeper.left(lane.lane) == (True, 7)
    in_scope(town, "UPDATE jobs SET parent = 'gone' WHERE job = ?", job.name)
    await keeper.turn(40 * DAY)
    assert keeper.left(lane.lane) == (True, 7)
    in_scope(town, "INSERT INTO deleted VALUES ('gone', 1)")
    await keeper.turn(40 * DAY)
    assert keeper.left(lane.lane) == (False, 0)


async def test_receipts_of_a_job_that_scope_has_lost_are_all_there_is_and_stay(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    job, lane, _ = await finished(town, epoch)
    in_scope(town, "DELETE FROM seals WHERE job = ?", job.name)
    in_scope(town, "DELETE FROM jobs WHERE job = ?", job.name)  # as an older database has it
    await keeper.turn(40 * DAY)
    assert await refusal(keeper.retention.delete(job.name, "responder", "asked-for")) == "job-not-deleted"
    away = ScopeClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: "token")
    delete = Keeper(epoch, scope=away).retention.delete
    assert await refusal(delete(job.name, "responder", "asked-for")) == "scope-unavailable"
    assert keeper.left(lane.lane) == (True, 7)
    in_scope(town, "INSERT INTO deleted VALUES (?, 1)", job.name)
    await keeper.turn(40 * DAY)
    assert keeper.left(lane.lane) == (False, 0)


async def test_without_scopes_word_nothing_is_deleted(town: Town, epoch: Epoch) -> None:
    _, lane, _ = await finished(town, epoch)
    away = ScopeClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: "token")
    keeper = Keeper(epoch, scope=away)
    assert await refusal(keeper.turn(40 * DAY)) == "scope-unavailable"
    assert (keeper.left(lane.lane), keeper.noted(lane.lane)) == ((True, 7), None)


async def test_what_scope_deleted_goes_when_it_is_old_enough(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    job, lane, _ = await finished(town, epoch)
    await town.scope("responder").delete(job.name, "asked-for")
    await keeper.turn(0)
    assert keeper.left(lane.lane) == (True, 7)
    await keeper.turn(30 * DAY + MINUTE)
    assert keeper.left(lane.lane) == (False, 0)


async def test_what_cannot_be_deleted_keeps_no_other_waiting(
    town: Town, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "A_TURN", 1)
    keeper = Keeper(epoch)
    lanes = [(await finished(town, epoch))[1] for _ in range(2)]
    _, running, _ = await worked(town, epoch)
    lanes.append((await finished(town, epoch))[1])
    with sqlite3.connect(keeper.directory / "receipts.db") as connection:
        connection.execute("UPDATE leaves SET raw = x'00' WHERE lane = ?", (lanes[0].lane,))
    for _ in range(5):
        await keeper.turn(40 * DAY)
    assert [keeper.noted(each.lane) is not None for each in lanes] == [False, True, True]
    assert keeper.noted(running.lane) is None


async def test_on_demand_receipts_go_only_once_scope_has_deleted_the_job(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    job, lane, call = await finished(town, epoch)
    delete = keeper.retention.delete
    assert await refusal(delete(job.name, "responder", "asked-for")) == "job-not-deleted"
    assert await refusal(delete("no-such-job", "responder", "asked-for")) == "unknown-job"
    assert keeper.left(lane.lane) == (True, 7)
    await town.scope("responder").delete(job.name, "asked-for")
    done = await delete(job.name, "responder", "asked-for")
    assert (done.job, done.lanes, done.receipts) == (job.name, 1, 7)
    assert (keeper.left(lane.lane), keeper.noted(lane.lane)) == ((False, 0), ("responder", "asked-for"))
    assert await reads(epoch, keeper, job, call) == ["receipts-deleted"] * 3
    assert await refusal(delete(job.name, "responder", "again")) == "receipts-deleted"
    assert keeper.noted(lane.lane) == ("responder", "asked-for")


async def test_grants_that_an_older_ledger_kept_go_with_their_job(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    jobs = [await finished(town, epoch) for _ in range(2)]
    for job, _, _ in jobs:
        await epoch.bundle(job)
    assert keeper.query("SELECT count(*) FROM documents WHERE kind = 'grant'") == [(2,)]
    url = town.settings.engine_url
    await asyncio.to_thread(migrate.downgrade, "receipts", url, "0001")
    await asyncio.to_thread(migrate.upgrade, "receipts", url)
    await town.scope("responder").delete(jobs[0][0].name, "asked-for")
    await keeper.retention.delete(jobs[0][0].name, "responder", "asked-for")
    assert keeper.query("SELECT job FROM documents WHERE kind = 'grant'") == [(jobs[1][0].name,)]


async def test_an_open_lane_is_never_deleted_and_a_late_leaf_ends_no_epoch(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    job, lane, _ = await worked(town, epoch)
    in_scope(town, "DELETE FROM jobs WHERE job = ?", job.name)
    in_scope(town, "INSERT INTO deleted VALUES (?, 1)", job.name)
    assert await refusal(keeper.retention.delete(job.name, "responder", "asked-for")) == "job-not-deleted"
    epoch.lanes.forget(lane.lane)
    await keeper.retention.delete(job.name, "responder", "asked-for")
    assert keeper.left(lane.lane) == (False, 0)
    await epoch.ledger.append(lane.lane, 7, b"late", b"0" * 32)
    await epoch.ledger.check()
    await keeper.retention.finish()
    assert keeper.left(lane.lane) == (False, 0)


async def test_a_deletion_that_was_cut_off_is_finished_by_the_next_epoch(
    town: Town, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PIECE", 2)
    keeper = Keeper(epoch)
    job, lane, call = await finished(town, epoch)
    await epoch.ledger.deleted(lane.lane, now(), "responder", "asked-for")
    await epoch.ledger.erase(lane.lane, 3)
    assert keeper.left(lane.lane)[1] == 4
    assert await reads(epoch, keeper, job, call) == ["receipts-deleted"] * 3
    assert await epoch.recover() == 0
    await keeper.retention.finish()
    assert keeper.left(lane.lane)[1] == 0
    _, other, _ = await finished(town, epoch)
    await keeper.turn(40 * DAY)
    assert keeper.left(other.lane) == (False, 0)


async def test_grants_without_receipts_go_as_well(town: Town, epoch: Epoch) -> None:
    keeper = Keeper(epoch)
    (sealed, _, _), open_job = await finished(town, epoch), await town.job()
    deleted, lost = await town.job(), await town.job()
    for job in (sealed, open_job, deleted, lost):
        await epoch.ledger.keep(f"sha256:{job.name}", "grant", b"grant", job.name)
    await town.scope("orchestrator").close(deleted.name)
    await town.scope("orchestrator").wait_for_seal(deleted.name)
    await town.scope("responder").delete(deleted.name, "asked-for")
    in_scope(town, "DELETE FROM targets WHERE job = ?", lost.name)
    in_scope(town, "DELETE FROM jobs WHERE job = ?", lost.name)

    def kept() -> set[str]:
        return {name for (name,) in keeper.query("SELECT job FROM documents WHERE kind = 'grant'")}

    await keeper.turn(TRUSTED)
    assert kept() == {sealed.name, open_job.name, lost.name}
    await keeper.turn(40 * DAY)
    assert kept() == {open_job.name, lost.name}
    await epoch.ledger.keep("sha256:again", "grant", b"grant", sealed.name)  # for the bundle of a job that it delegated
    await keeper.turn(40 * DAY)
    assert kept() == {open_job.name, lost.name}


async def test_a_deletion_that_the_ledger_was_too_busy_for_is_finished_by_the_next_turn(
    town: Town, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(epoch)
    job, lane, _ = await finished(town, epoch)
    await keeper.retention.finish()
    await town.scope("responder").delete(job.name, "asked-for")
    forget = epoch.ledger.forget

    def busy(name: str) -> Any:
        monkeypatch.setattr(ledger, "MAX_WAITING", 0)
        return forget(name)

    with monkeypatch.context() as within:
        within.setattr(epoch.ledger, "forget", busy)
        assert await refusal(keeper.retention.delete(job.name, "responder", "asked-for")) == "ledger-unavailable"
    monkeypatch.undo()
    assert keeper.left(lane.lane) == (False, 7)
    running = asyncio.create_task(keeper.retention.run())
    async with asyncio.timeout(10):
        while keeper.left(lane.lane)[1]:  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.05)
    running.cancel()


async def test_a_gateway_deletes_by_itself_and_for_a_responder_and_says_so(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as house:

        def ask(client: str) -> ReceiptsClient:
            key = house.key(client, "client")
            return ReceiptsClient(
                house.session, house.gateway, lambda: client_token(key, client, house.gateway, house.clock())
            )

        jobs, calls = [], []
        for _ in range(2):
            await house.open()
            answer = await house.rpc()
            assert answer[0] == 200
            calls.append(answer[1]["Tally-Receipt"])
            jobs.append(house.job)
            await house.scope().close(house.job)
            await house.scope().wait_for_seal(house.job)
        for who in ("auditor", "orchestrator"):
            assert await refusal(ask(who).delete(jobs[0], "asked-for")) == "forbidden", who
        assert await refusal(ask("responder").delete(jobs[0], "asked-for")) == "job-not-deleted"
        await house.scope("responder").delete(jobs[0], "asked-for")
        assert (await ask("responder").delete(jobs[0], "asked-for")).lanes == 1
        await gone(ask("auditor"), jobs[0], calls[0])
        assert await ask("auditor").bundle(jobs[1], BytesIO()) == "PASS"
        await house.stop("receipts")
        house.clock.pass_seconds(31 * 86_400)
        monkeypatch.setenv("TALLY_RECEIPTS_RETENTION_DAYS", "30")
        monkeypatch.setattr(steady, "TRUSTED", 0)
        listener = socket.create_server(("127.0.0.1", int(house.gateway.rpartition(":")[2])))
        app: Any = receipts.app.create(house.directory / "receipts/settings.toml", clock=house.clock)
        house.stops["receipts"] = await serve_on(app, listener)
        async with asyncio.timeout(30):
            while await refusal(ask("auditor").receipt(calls[1])) == "accepted":  # noqa: ASYNC110 - as an auditor asks
                await asyncio.sleep(0.05)
        await gone(ask("auditor"), jobs[1], calls[1])
        assert list((house.directory / "receipts/lanes").iterdir()) == []


async def gone(auditor: ReceiptsClient, job: str, call: str) -> None:
    """Check what an auditor is told of a job whose receipts were deleted."""
    assert await refusal(auditor.receipt(call)) == "receipts-deleted"
    assert await refusal(auditor.receipts(job)) == "receipts-deleted"
    assert await refusal(auditor.bundle(job, BytesIO())) == "receipts-deleted"
