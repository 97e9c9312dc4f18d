"""`python -m tests.fuzz [NAME…]`: fuzz each target for FUZZ_SECONDS (60), and say how often it was fed.

Exits with 1 when anything but a refusal came out; the input lies in `fuzz-out/` then. Needs no network. FUZZ_SEED makes
a run the same each time as far as its length in time allows; FUZZ_RUNS limits it by executions instead.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS

OUT = Path("fuzz-out")


def main() -> None:
    """Fuzz what is named, or everything."""
    names = sys.argv[1:] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = [name for name in names if not fuzz(name)]
    sys.exit(bool(failed))


def fuzz(name: str) -> bool:
    """Fuzz one target; tell whether nothing but refusals came out."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as found:
        for raw in [each for each in target.seeds() if len(each) <= target.most]:
            (Path(corpus) / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
        runs, seconds = os.environ.get("FUZZ_RUNS"), os.environ.get("FUZZ_SECONDS", "60")
        limit = f"-runs={runs}" if runs else f"-max_total_time={seconds}"
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.one", name, corpus, limit, f"-max_len={target.most}", "-timeout=20",
                "-rss_limit_mb=2048", f"-artifact_prefix={found}/{name}-", f"-seed={os.environ.get('FUZZ_SEED', '0')}",
                "-print_final_stats=1", "-verbosity=1",
            ],
            stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace", check=False,
        )  # fmt: skip
        said = re.search(r"stat::number_of_executed_units: +([0-9]+)", done.stdout)
        if done.returncode or not said:
            shutil.copytree(found, OUT, dirs_exist_ok=True)
            sys.stdout.write(done.stdout[-8000:])
            sys.stdout.write(f"{name}: something else than a refusal came out; see {OUT}/{name}-*\n")
            return False
    covered = re.findall(r" (?:ft|cov): ([0-9]+)", done.stdout)
    sys.stdout.write(
        f"{name}: {int(said[1]):,} executions, {covered[-1] if covered else '?'} features; only refusals\n"
    )
    sys.stdout.flush()
    return True


if __name__ == "__main__":
    main()
