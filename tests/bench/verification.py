"""A bundle of 10,000 receipts that the gateway wrote, verified by the library call on one core, beside hashing it.

`python -m tests.bench.verification rates|memory BUNDLE PIN` measures in a process of its own and prints JSON.
"""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.bench.installation import Installation, call, chat
from tests.bench.measure import Row, interleave, median, once
from verifier.audit import verify
from verifier.keys import Pin
from verifier.merkle import Tree
from verifier.report import Report

PART = "verification"
RECEIPTS = 10_000
TURNS = (
    1_666  # a chat that asks for two tool calls, and both: six receipts; open, token, a denial and close make 10,000
)
ROUNDS = 5
MIB = 1 << 20
TARGET, MOST = 0.14, 100


def rows(house: Installation) -> list[Row]:
    """Let the gateway write a bundle, then measure in processes that have done nothing else."""
    bundle, pin = write(house), house.installation / "pin.json"
    rates, memory = (_measure(what, bundle, pin) for what in ("rates", "memory"))
    verified, hashed, rooted = (rates[name] for name in ("verify", "hash", "root"))
    ratio, peak = verified / rooted, memory["verified"] - memory["imported"]
    held = f"{memory['verified']:.0f} MiB in all, {memory['imported']:.0f} MiB of it Python and imports"
    target = f">= {TARGET} of hashing them to their root"
    beside = f"{ratio:.3f} of hashing them to their root, {verified / hashed:.3f} of SHA-256 of each line"
    size = bundle.stat().st_size
    return [
        Row(PART, f"verify, {RECEIPTS:,} receipts", verified, "receipts/s", beside, target, ratio >= TARGET),
        Row(PART, "SHA-256 of each line", hashed, "lines/s", f"{size / RECEIPTS:.0f} bytes a line"),
        Row(PART, "RFC 9162 root of the lines", rooted, "lines/s"),
        Row(PART, "memory that verifying takes", peak, "MiB", held, f"< {MOST} MiB", memory["verified"] < MOST),
    ]


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


def _measure(what: str, bundle: Path, pin: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.verification", what, str(bundle), str(pin)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def rates(bundle: Path, pin: Pin) -> dict[str, float]:
    """Verify and hash by turns on one core; each verification starts with an empty decision cache."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines = bundle.read_bytes().split(b"\n")[-RECEIPTS - 1 : -1]
    work = {
        "verify": partial(once, partial(judge, bundle, pin)),
        "hash": partial(once, partial(hash_all, lines)),
        "root": partial(once, partial(root, lines)),
    }
    return {name: RECEIPTS / median(taken) for name, taken in interleave(work, ROUNDS).items()}


def judge(bundle: Path, pin: Pin) -> Report:
    """Verify; only a bundle that passes with all its receipts is a measurement."""
    report = verify(bundle, pin)
    if report.verdict != "PASS" or report.totals.receipts != RECEIPTS:
        raise RuntimeError(f"{report.verdict}, {report.totals.receipts} receipts: {report.findings[:3]}")
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
    measured = {"rates": rates, "memory": memory}[what]
    sys.stdout.write(json.dumps(measured(Path(bundle), Pin.parse(Path(pin).read_bytes()))))


if __name__ == "__main__":
    main()
