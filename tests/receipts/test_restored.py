"""An older copy of the ledger, or of scope's database, is noticed, and accepting it forges nothing."""

import asyncio
import shutil
import socket
import sqlite3
import sys
from asyncio.subprocess import PIPE, STDOUT
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import receipts.app
from receipts.history import Known
from receipts.memory import Seen
from receipts.revocations import Revocations
from service.newest import Newest
from tests.conftest import Serve
from tests.receipts.gatehouse import Gatehouse, gatehouse
from tests.receipts.test_revocations import Snapshots
from tests.serving import serve_on
from tests.world import SCOPE, World
from verifier.chain import terms
from verifier.refused import Refused

FREE: dict[str, Any] = {"model_egress": {"require_proxy_receipts": False}}


def fresh(scope: Snapshots) -> str:
    """Say why calls are refused; nothing when they are not."""
    try:
        scope.gateway.require_fresh(terms(scope.world.chain), scope.now)
        scope.gateway.require_heard()
    except Refused as refused:
        return f"{refused.code}: {refused.why}"
    return ""


async def test_a_scope_that_lost_revocations_is_believed_no_more() -> None:
    scope = Snapshots(World())
    await scope.revoke("agent", "agent-2")
    await scope.revoke("agent", "agent-3")
    assert fresh(scope) == ""
    kept = scope.world.revocations.pop()
    with pytest.raises(Refused) as refused:
        await scope.gateway.poll()
    assert refused.value.code == "scope-restored"
    assert (
        fresh(scope) == "stale-revocations: scope counts 1 revocations and had signed 2: its database is an older one"
    )
    scope.world.revocations.append(kept)
    await scope.gateway.poll()
    assert fresh(scope) == ""


async def test_what_an_earlier_run_had_seen_counts_as_well() -> None:
    scope = Snapshots(World())
    scope.gateway = Revocations(scope, scope.trust, SCOPE, lambda: scope.now, Known(number=1))
    with pytest.raises(Refused) as refused:
        await scope.gateway.poll()
    assert refused.value.code == "scope-restored"
    await scope.revoke("agent", "agent-2")
    assert fresh(scope) == ""


async def remembered(house: Gatehouse, leaves: int) -> Seen:
    """Wait until the gateway remembers so many receipts."""
    async with asyncio.timeout(20):
        while True:
            known = Newest(house.directory / "receipts", Seen).known
            if known is not None and known.leaves >= leaves:
                return known
            await asyncio.sleep(0.1)


async def start(house: Gatehouse) -> None:
    """Start the gateway at its address."""
    app = receipts.app.create(house.directory / "receipts/settings.toml", clock=house.clock)
    listener = socket.create_server(("127.0.0.1", int(house.gateway.rpartition(":")[2])))
    house.stops["receipts"] = await serve_on(app, listener)
    await house.ready()


async def swapped(house: Gatehouse, backup: Path) -> int:
    """Back the ledger up in the middle of a job, go on, and put the backup in its place; gives what was remembered."""
    live = house.directory / "receipts/receipts.db"
    await house.rpc()
    await reported(house, 4)
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    await house.rpc()
    await reported(house, 6)
    known = await remembered(house, 6)
    await house.stops["receipts"]()
    for each in live.parent.glob("receipts.db-*"):
        each.unlink()
    shutil.copy(backup, live)
    return known.leaves


async def reported(house: Gatehouse, size: int) -> None:
    """Wait until scope has witnessed so many receipts of the job."""
    async with asyncio.timeout(20):
        while [lane.size for lane in (await house.scope().status(house.job)).lanes] != [size]:  # noqa: ASYNC110 - as an operator asks
            await asyncio.sleep(0.1)


async def said_by(house: Gatehouse) -> str:
    """Run the gateway as a process that must not start; gives what it said."""
    command = sys.executable, "-m", "verifier", "run", "receipts", "--dir", str(house.directory)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode
    return said.decode()


async def test_an_older_ledger_is_not_written_to(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        word = await swapped(house, tmp_path / "backup.db")
        for accepted in ("", "1"):
            monkeypatch.setenv("TALLY_RECEIPTS_ACCEPT_RESTORED", accepted)
            said = await said_by(house)
            assert "database-restored" in said
            assert "Restore the newest backup" in said
        monkeypatch.setenv("TALLY_RECEIPTS_ACCEPT_RESTORED", str(word))
        await start(house)
        lost = house.job
        await house.open()
        await house.rpc()
        _, report = await house.audited()
        assert report.verdict == "PASS"
        house.job = lost
        raw, report = await house.audited()
        assert (report.verdict, report.status) == ("FAIL", "interrupted")
        assert "wrong-size" in {each.code for each in report.findings}
        assert b'"kind":"close"' not in raw  # nothing was signed that says otherwise than before
        [incidents] = [(await house.scope("auditor").incidents()).incidents]
        assert incidents == []


async def test_with_the_newest_ledger_it_starts_again(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.rpc()
        await remembered(house, 4)
        await house.stops["receipts"]()
        await start(house)
        _, report = await house.audited()
        assert report.verdict == "PASS"


async def test_scope_that_knows_less_of_a_lane_is_told_again(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.rpc()
        await reported(house, 4)
        database = house.directory / "scope/scope.db"
        with closing(sqlite3.connect(database)) as db:
            before = db.execute("SELECT size, root, note FROM lanes").fetchone()
        await house.rpc()
        await reported(house, 6)
        with closing(sqlite3.connect(database, timeout=10)) as db, db:
            db.execute("UPDATE lanes SET size = ?, root = ?, note = ?", before)
        await house.rpc()
        await reported(house, 8)
        [incident] = (await house.scope("auditor").incidents()).incidents
        assert incident.code == "inconsistent-head"
        _, report = await house.audited()
        assert report.verdict == "PASS"


async def test_an_older_ledger_that_nothing_here_tells_of_is_told_by_scope(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await swapped(house, tmp_path / "backup.db")
        (house.directory / "receipts/newest.json").unlink()  # or an older copy: a machine that was rolled back
        await start(house)
        with closing(sqlite3.connect(house.directory / "receipts/receipts.db")) as db:
            assert db.execute("SELECT done FROM lanes").fetchall() == [(1,)]  # also when scope is away next time
        raw, report = await house.audited()
        assert (report.verdict, report.status) == ("FAIL", "interrupted")
        assert "wrong-size" in {each.code for each in report.findings}
        assert b'"kind":"close"' not in raw
        assert (await house.scope("auditor").incidents()).incidents == []
        await house.open()
        await house.rpc()
        _, report = await house.audited()
        assert report.verdict == "PASS"
