"""The ledger: durable before anybody acts on it, many in one commit, nothing after a failure."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from receipts.ledger import LaneRow, Ledger, Write
from service import migrate
from verifier.refused import Refused

ROW = LaneRow(lane="lane-1", job="job-1", policy="sha256:0", origin="o", kid="k", opened=0, share=b"{}")


class Watched(Ledger):
    """A ledger that notes how many writes each commit took, and lets the first wait for company."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits: list[int] = []
        self.go: asyncio.Event | None = None

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[Write]) -> Exception | None:
        self.commits.append(len(batch))
        return super()._commit(connection, batch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "receipts.db"
    migrate.upgrade("receipts", f"sqlite+aiosqlite:///{made}")
    return made


@pytest.fixture
async def ledger(path: Path) -> AsyncGenerator[Watched, None]:
    made = Watched(path)
    made.open()
    await made.add_lane(ROW)
    yield made
    await made.close()


def stored(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM leaves ORDER BY seq")]


async def test_a_leaf_is_in_the_database_when_its_future_is_done(ledger: Watched, path: Path) -> None:
    await ledger.append("lane-1", 0, b"{}", bytes(32))
    assert stored(path) == [0]


async def test_what_waits_together_is_committed_together(ledger: Watched, path: Path) -> None:
    before = len(ledger.commits)
    await asyncio.gather(*(ledger.append("lane-1", seq, b"{}", bytes(32)) for seq in range(500)))
    assert sum(ledger.commits[before:]) == 500
    assert len(ledger.commits[before:]) < 50
    assert stored(path) == list(range(500))


async def test_the_disk_is_asked_to_keep_every_commit(ledger: Watched, path: Path) -> None:
    assert ledger.commits
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_leaf_is_written_once(ledger: Watched, path: Path) -> None:
    await ledger.append("lane-1", 0, b"{}", bytes(32))
    with pytest.raises(Refused, match="ledger-unavailable"):
        await ledger.append("lane-1", 0, b"[]", bytes(32))
    assert stored(path) == [0]


async def test_after_a_failed_commit_nothing_is_accepted(ledger: Watched, path: Path) -> None:
    together = [ledger.append("nobody", 0, b"{}", bytes(32)), ledger.append("lane-1", 0, b"{}", bytes(32))]
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    assert [isinstance(each, Refused) and each.code for each in outcomes] == ["ledger-unavailable"] * 2
    with pytest.raises(Refused, match="ledger-unavailable"):
        ledger.append("lane-1", 1, b"{}", bytes(32))
    with pytest.raises(Refused, match="ledger-unavailable"):
        await ledger.check()
    assert stored(path) == []


async def test_in_a_file_that_nobody_finds_again_nothing_is_durable(ledger: Watched, path: Path) -> None:
    await ledger.append("lane-1", 0, b"first", b"0" * 32)
    shutil.copy(path, path.with_suffix(".backup"))
    await asyncio.to_thread(path.with_suffix(".backup").replace, path)  # restored under the running gateway
    with pytest.raises(Refused) as refused:
        await ledger.append("lane-1", 1, b"second", b"0" * 32)
    assert refused.value.code == "ledger-unavailable"
    with pytest.raises(Refused):
        await ledger.check()


async def test_what_is_restored_into_the_open_file_ends_the_epoch(ledger: Watched, path: Path) -> None:
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(":memory:")) as backup:
        live.backup(backup)
        await ledger.append("lane-1", 0, b"first", b"0" * 32)
        backup.backup(live)
    with pytest.raises(Refused) as refused:
        await ledger.append("lane-1", 1, b"second", b"0" * 32)
    assert refused.value.code == "ledger-unavailable"
    assert stored(path) == []


async def test_closing_commits_what_waits(path: Path) -> None:
    ledger = Ledger(path)
    ledger.open()
    ledger.add_lane(ROW)
    last = [ledger.append("lane-1", seq, b"{}", bytes(32)) for seq in range(10)]
    await ledger.close()
    assert all(each.done() for each in last)
    assert stored(path) == list(range(10))


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from receipts.ledger import Ledger
from tests.receipts.test_ledger import ROW
from verifier.refused import Refused

async def main():
    ledger = Ledger(Path(sys.argv[1]))
    ledger.open()
    await ledger.add_lane(ROW)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
    durable = 0
    try:
        while True:
            await ledger.append("lane-1", durable, bytes(4000), bytes(32))
            durable += 1
    except Refused as refused:
        print(durable, refused.code)
    try:
        ledger.append("lane-1", durable, b"{}", bytes(32))
    except Refused as refused:
        print(refused.code)

asyncio.run(main())
"""


def test_a_full_disk_refuses_and_keeps_what_was_durable(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    first, second = done.stdout.splitlines()
    durable, code = first.split()
    assert (code, second) == ("ledger-unavailable", "ledger-unavailable")
    assert int(durable) > 0
    assert stored(path)[: int(durable)] == list(range(int(durable)))
