"""Bundles that the gateway wrote, verified by the library call and by the command, beside hashing their receipts.

`python -m tests.bench.verification WHAT BUNDLE PIN` measures one thing in a process of its own and prints JSON.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.bench import long
from tests.bench.installation import Installation, call, chat
from tests.bench.measure import Row, interleave, median, once
from verifier.audit import verify
from verifier.judging import Asked, judge_all, usable_cores
from verifier.keys import Pin
from verifier.merkle import Tree
from verifier.progress import Meter
from verifier.report import Report
from verifier.sources import Source

PART = "verification"
RECEIPTS = 10_000
TURNS = (
    1_666  # a chat that asks for two tool calls, and both: six receipts; open, token, a denial and close make 10,000
)
MANY = 1_000_000
FILES = 8  # bundles a core
ROUNDS = 5
SHORT = 100  # library calls on one receipt
MIB, MILLISECONDS = 1 << 20, 1e3
LEAF = 500  # bytes that a receipt has at least, on average: shorter ones would flatter nobody and compare with nothing
TARGET, SPREAD, MOST, PROCESS, LIBRARY = 0.24, 0.8, 100, 150, 2


def rows(house: Installation) -> list[Row]:
    """Let the gateway write two bundles, then measure in processes that have done nothing else."""
    pin = house.installation / "pin.json"
    bundle, short = write(house), write_one(house)
    endless, its_pin = long.write(house.directory, MANY)
    rates = _measure("rates", bundle, pin)
    spread = _measure("spread", bundle, pin)
    once_more = _measure("library", short, pin)
    verified, hashed, rooted, length = (rates[name] for name in ("verify", "hash", "root", "length"))
    if length < LEAF:
        raise RuntimeError(f"receipts of {length:.0f} bytes on average; they are to have {LEAF}")
    ratio, cores = verified / rooted, int(spread["cores"])
    beside = f"{ratio:.3f} of hashing them to their root, {verified / hashed:.3f} of SHA-256 of each line"
    apart, given = spread["one"] / spread["all"], spread["hash one"] / spread["hash all"]
    started, empty = command("-m", "verifier", "verify", str(short), "--pin", str(pin)), command("-c", "")
    return [
        Row(
            PART, f"verify, {RECEIPTS:,} receipts", verified, "receipts/s", beside,
            f">= {TARGET} of hashing them to their root", ratio >= TARGET,
        ),
        Row(PART, "SHA-256 of each line", hashed, "lines/s", f"{length:.0f} bytes a line", f">= {LEAF} bytes", True),
        Row(PART, "RFC 9162 root of the lines", rooted, "lines/s"),
        Row(
            PART, f"verify, {int(spread['files'])} bundles on {cores} cores", spread["receipts"] / spread["all"],
            "receipts/s", f"{apart:.2f} times as fast as on one; hashing is {given:.2f} times as fast",
            f">= {SPREAD} of what hashing gains", apart >= SPREAD * given,
        ),
        _row(RECEIPTS, _measure("memory", bundle, pin)),
        _row(MANY, _measure("memory", endless, its_pin)),
        Row(
            PART, "one call: the command, from its start to its end", started * MILLISECONDS, "ms",
            f"{empty * MILLISECONDS:.0f} ms of it Python", f"< {PROCESS} ms", started * MILLISECONDS < PROCESS,
        ),
        Row(
            PART, "one call: the library", once_more["median"] * MILLISECONDS, "ms",
            f"the first {once_more['first'] * MILLISECONDS:.1f} ms", f"< {LIBRARY} ms",
            once_more["median"] * MILLISECONDS < LIBRARY,
        ),
    ]  # fmt: skip


def _row(receipts: int, memory: dict[str, float]) -> Row:
    held = f"{memory['verified']:.0f} MiB in all, {memory['imported']:.0f} MiB of it Python and imports"
    peak = memory["verified"] - memory["imported"]
    what = f"memory that {receipts:,} receipts take"
    return Row(PART, what, peak, "MiB", held, f"< {MOST} MiB", memory["verified"] < MOST)


def write(house: Installation) -> Path:
    """Work as an agent does until there are 10,000 receipts; seal and fetch them."""
    job, caller = house.open()
    for _ in range(TURNS):
        caller.send(chat(2))
        caller.send(call())
        caller.send(call())
    caller.send(call(tool="http_request", arguments={"url": "http://evil.example"}), refused=True)
    bundle = house.directory / f"{job}.tally"
    house.finish(job, bundle)
    return bundle


def write_one(house: Installation) -> Path:
    """Ask a model once; seal and fetch that."""
    job, caller = house.open()
    caller.send(chat())
    bundle = house.directory / f"{job}.tally"
    house.finish(job, bundle)
    return bundle


def _measure(what: str, bundle: Path, pin: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.verification", what, str(bundle), str(pin)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def _elapsed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def command(*arguments: str) -> float:
    """Run Python as anybody does; seconds that it takes of a processor, the median of ten times."""
    started = [sys.executable, *arguments]
    return median(
        [[_spent(partial(subprocess.run, started, capture_output=True, check=True))] for _ in range(2 * ROUNDS)]
    )


def _spent(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def rates(bundle: Path, pin: Pin) -> dict[str, float]:
    """Verify and hash by turns on one core; each verification starts with nothing that a former one remembered."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines = bundle.read_bytes().split(b"\n")[-RECEIPTS - 1 : -1]
    work = {
        "verify": partial(once, partial(judge, bundle, pin)),
        "hash": partial(once, partial(hash_all, lines)),
        "root": partial(once, partial(root, lines)),
    }
    found = {name: RECEIPTS / median(taken) for name, taken in interleave(work, ROUNDS).items()}
    return found | {"length": sum(map(len, lines)) / len(lines)}


def spread(bundle: Path, pin: Pin) -> dict[str, float]:
    """Judge many bundles as the command does, one after the other and over all cores; hash them the same two ways.

    Seconds on the wall. What the cores give while others use them too is seen by the hashing.
    """
    cores = usable_cores()
    sources = [Source(str(bundle), bundle, bundle.stat().st_size)] * (FILES * cores)

    def verified(jobs: int) -> list[float]:
        return [_elapsed(lambda: [_passed(each.report) for each in judge_all(sources, Asked(pin=pin), jobs, Meter(0))])]

    def hashed(jobs: int) -> list[float]:
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            return [_elapsed(lambda: list(pool.map(root_of_file, [bundle] * len(sources))))]

    ways = {
        "one": partial(verified, 1), "all": partial(verified, cores),
        "hash one": partial(hashed, 1), "hash all": partial(hashed, cores),
    }  # fmt: skip
    taken = {name: median(each) for name, each in interleave(ways, ROUNDS).items()}
    return taken | {"cores": cores, "files": len(sources), "receipts": RECEIPTS * len(sources)}


def root_of_file(bundle: Path) -> bytes:
    """Hash a bundle's lines to one root."""
    return root(bundle.read_bytes().splitlines())


def library(bundle: Path, pin: Pin) -> dict[str, float]:
    """Verify a bundle with one call many times: the first time, and the median of the others."""
    times = [once(lambda: _passed(verify(bundle, pin)))[0] for _ in range(SHORT)]
    return {"first": times[0], "median": median([times[1:]])}


def _passed(report: Report | None) -> Report:
    if report is None or report.verdict != "PASS":
        raise RuntimeError(f"a bundle does not pass: {report and report.findings[:3]}")
    return report


def judge(bundle: Path, pin: Pin) -> Report:
    """Verify; only a bundle that passes with all its receipts is a measurement."""
    report = _passed(verify(bundle, pin))
    if report.totals.receipts < RECEIPTS:
        raise RuntimeError(f"{report.totals.receipts} receipts of {RECEIPTS}")
    return report


def hash_all(lines: list[bytes]) -> None:
    """Hash each line."""
    for line in lines:
        hashlib.sha256(line).digest()


def root(lines: list[bytes]) -> bytes:
    """Hash each line as a leaf, and up to the root."""
    tree = Tree()
    for line in lines:
        tree.append(hashlib.sha256(b"\0" + line).digest())
    return tree.root()


def memory(bundle: Path, pin: Pin) -> dict[str, float]:
    """Verify once; the peak in MiB after and before."""
    imported = peak()
    judge(bundle, pin)
    return {"imported": imported, "verified": peak()}


def peak() -> float:
    """Return this process's own peak of resident memory: `ru_maxrss` would begin with that of whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MIB


def main() -> None:
    """Measure one thing and print it."""
    what, bundle, pin = sys.argv[1:]
    measured = {"rates": rates, "spread": spread, "library": library, "memory": memory}[what]
    sys.stdout.write(json.dumps(measured(Path(bundle), Pin.parse(Path(pin).read_bytes()))))


if __name__ == "__main__":
    main()
