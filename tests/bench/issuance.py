"""How fast scope issues tokens, each one durable before anybody sees it.

Beside it a loop that does what cannot be left out and nothing else: check the client's JWT, sign a token, commit its
row.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median as middle
from urllib.parse import urlencode

import msgspec

from examples.stage import ROOT
from scope.client import ASSERTION, TOKEN_EXCHANGE
from scope.tokens import encode
from service import keystore
from service.app import now
from service.clients import Clients
from tests import postgres
from tests.bench.installation import Installation
from tests.bench.load import Load, form
from tests.bench.measure import Row, Samples, flushes, interleave, median, medians

PART = "issuance"
ROUNDS, TOKENS, AT_ONCE, ALONE = 9, 1500, 32, 150
JOBS, RATE, REFRESHED = 40, 50, 400
MILLISECONDS, MEBIBYTE = 1000, 1 << 20
MOST = 200  # MiB
BARE, ONE = "bare loop", "one worker, SQLite"
SINGLE, PAIR = "one worker, PostgreSQL", "two workers, PostgreSQL"


def rows(house: Installation) -> Iterator[Row]:
    """Measure on SQLite and PostgreSQL."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres.database(stack.enter_context(postgres.server(house.directory))))
        workers = {ONE: ["scope"], SINGLE: ["scope-a"], PAIR: ["scope-a", "scope-b"]}
        opening = _opening(house, Asking(house, workers[ONE]))  # before others ask for the two cores
        for name in workers[PAIR]:
            house.start_scope(name, url)
        asking = {name: Asking(house, ports) for name, ports in workers.items()}
        timed = {BARE: Bare(house).run, **{name: each.run for name, each in asking.items()}}
        interleave(timed, 1)
        yield from _rates(interleave(timed, ROUNDS))
        yield from _alone(house, asking)
        yield opening
        for name in ("scope", "scope-a"):
            peak = _peak(house.processes[name].pid)
            yield Row(PART, f"peak memory, {name}", peak, "MiB", target=f"< {MOST}", holds=peak < MOST)
        for name in workers[PAIR]:  # before their database is dropped
            house.kill(name)


def _rates(samples: Samples) -> Iterator[Row]:
    rates = {name: TOKENS / median(each) for name, each in samples.items()}
    for name, beside, least in ((ONE, BARE, 0.6), (SINGLE, BARE, None), (PAIR, SINGLE, 1.3)):
        pairs = zip(medians(samples[name]), medians(samples[beside]), strict=True)
        ratio = middle(other / own for own, other in pairs)
        target, holds = ("", None) if least is None else (f">= {least}", ratio >= least)
        yield Row(PART, name, rates[name], "/s", f"{ratio:.2f} of the {beside}'s {rates[beside]:,.0f}", target, holds)


def _alone(house: Installation, asking: Mapping[str, "Asking"]) -> Iterator[Row]:
    """Time one client that waits for each answer."""
    flush = flushes(house.directory / "flush", ALONE)
    samples = interleave({"flush": flush, **{name: asking[name].alone for name in (ONE, SINGLE)}}, ROUNDS)
    disk = median(samples.pop("flush")) * MILLISECONDS
    for name, times in samples.items():
        taken = median(times) * MILLISECONDS
        most = ("<= fdatasync + 1 ms", taken <= disk + 1) if name == ONE else ("", None)
        yield Row(PART, f"one client, p50, {name}", taken, "ms", f"fdatasync {disk:.2f} ms", *most)


def _opening(house: Installation, asking: "Asking") -> Row:
    """Time refreshes by one client, alone and while jobs are being opened."""
    quiet, busy = list[float](), list[float]()
    log = house.directory / "opener.log"
    for _ in range(3):
        quiet += asking.refreshes()
        arguments = [str(house.installation), house.url("scope"), house.policy, str(RATE)]
        with log.open("wb") as told:
            opener = subprocess.Popen([sys.executable, "-m", "tests.bench.opener", *arguments], stdout=told, cwd=ROOT)
        try:
            _wait_for(log)
            busy += asking.refreshes()
        finally:
            opener.kill()
            opener.wait()
    ratio = middle(busy) / middle(quiet)
    opened = float(log.read_text().split()[-1])
    beside = f"{ratio:.2f} of {middle(quiet) * MILLISECONDS:.2f} ms alone; {opened:.0f} a second were opened"
    taken = middle(busy) * MILLISECONDS
    return Row(PART, f"a refresh, p50, while {RATE} jobs a second open", taken, "ms", beside, "<= 1.25", ratio <= 1.25)


def _wait_for(log: Path) -> None:
    until = time.monotonic() + 30
    while not log.read_text():
        if time.monotonic() > until:
            raise RuntimeError("no job was opened")
        time.sleep(0.05)


class Asking:
    """Requests for tokens of some jobs, sent to some workers of one scope."""

    def __init__(self, house: Installation, workers: Sequence[str]) -> None:
        self._ports = [house.ports[each] for each in workers]
        self._jobs = house.open_jobs(workers[0], JOBS)
        self._credential = house.credential("orchestrator", "scope")
        self._token = house.issue(workers[0], self._jobs[0])

    def run(self) -> list[float]:
        """Ask for many, so many at once; the seconds that all of them took."""
        asked = [self._first(self._jobs[number % JOBS]) for number in range(TOKENS)]
        with Load(self._ports, AT_ONCE) as load:
            began = time.perf_counter()
            load.run(asked)
            return [time.perf_counter() - began]

    def alone(self) -> list[float]:
        """Ask for one after the other; the seconds of each."""
        asked = [self._first(self._jobs[number % JOBS]) for number in range(ALONE)]
        with Load(self._ports[:1], 1) as load:
            return load.run(asked)

    def refreshes(self) -> list[float]:
        """Exchange a token for a younger one, one after the other; the seconds of each."""
        asked = [self._form(grant_type=TOKEN_EXCHANGE, subject_token=self._token) for _ in range(REFRESHED)]
        with Load(self._ports[:1], 1) as load:
            return load.run(asked)

    def _first(self, job: str) -> bytes:
        return self._form(grant_type="client_credentials", job=job)

    def _form(self, **fields: str) -> bytes:
        proof = {"client_assertion_type": ASSERTION, "client_assertion": self._credential()}
        return form("/token", urlencode({**fields, **proof}))


class Bare:
    """Check, sign, commit: one after the other, in this process."""

    def __init__(self, house: Installation) -> None:
        self._credential = house.credential("orchestrator", "scope")
        scope = house.installation / "scope"
        self._clients = Clients.load(scope / "clients.toml", house.url("scope"), now, 600_000)
        self._key = keystore.load(scope / "token.key", "token")
        self._token = house.said(house.issue("scope", house.open_jobs("scope", 1)[0]))
        self._db = sqlite3.connect(house.directory / "bare.db", isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
            self._db.execute(statement)
        self._db.execute("CREATE TABLE tokens (jti TEXT PRIMARY KEY, job TEXT, iat INTEGER, exp INTEGER)")

    def run(self) -> list[float]:
        """Issue as many tokens; the seconds that all of them took."""
        shown = [f"Bearer {self._credential()}" for _ in range(TOKENS)]
        began = time.perf_counter()
        for each in shown:
            self._clients.authenticate(each, "127.0.0.1")
            token = msgspec.structs.replace(self._token, jti=os.urandom(16).hex())
            encode(token, self._key)
            self._db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?)", (token.jti, token.txn, token.iat, token.exp))
        return [time.perf_counter() - began]


def _peak(process: int) -> float:
    """Read the most memory that a process ever held, in MiB (proc(5), VmHWM)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MEBIBYTE
