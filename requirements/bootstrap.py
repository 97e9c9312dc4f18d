"""Set up `.venv` from the hash-locked requirements, with any Python from 3.11 on and nothing else.

    python3 requirements/bootstrap.py

Every file that pip installs must match a hash in `requirements/*.txt`; which index it comes from is the caller's
affair. The last act writes a stamp that `make` compares with the locks, so that this happens once.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "ready"
LOG = VENV / "install.log"
LOCKS = [ROOT / "requirements" / name for name in ("dev.txt", "build.txt")]
OLDEST = (3, 11)
WIDTH = 60


def main() -> int:
    """Make the environment, or say in one sentence why not."""
    if sys.version_info < OLDEST:
        print(f"tally: Python {OLDEST[0]}.{OLDEST[1]} or later is needed, this is {sys.version.split()[0]}")
        return 1
    began = time.monotonic()
    shutil.rmtree(VENV, ignore_errors=True)
    print(f"Setting up .venv with Python {sys.version.split()[0]} from hash-locked requirements", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
        print("tally: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv")
        return 1
    locks = [part for lock in LOCKS for part in ("-r", str(lock))]
    if not install("packages", ["--require-hashes", *locks], expected=count(LOCKS)):
        return 1
    if not install("tallystick", ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)], expected=1):
        return 1
    STAMP.write_text("set up by requirements/bootstrap.py\n")
    print(f"Ready in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def install(what: str, arguments: list[str], expected: int) -> bool:
    """Run pip, show how far it is, keep its words in a log and repeat the last of them when it fails."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    with (
        LOG.open("a") as log,
        subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        assert pip.stdout is not None
        show(what, follow(pip.stdout, log), expected)
    if pip.returncode:
        print(f"tally: pip could not install {what}; the end of {LOG.relative_to(ROOT)}:")
        print("".join(LOG.read_text().splitlines(keepends=True)[-12:]))
    return pip.returncode == 0


def follow(output: Iterator[str], log: TextIO) -> Iterator[str]:
    """Copy pip's lines into the log and yield each step: a package that is fetched, then the installation of all."""
    for line in output:
        log.write(line)
        word, _, rest = line.strip().partition(" ")
        if word in {"Collecting", "Processing"}:
            yield re.split("[-=<>~]", rest.split(" ")[0].rpartition("/")[2])[0]
        elif word == "Installing":
            yield "writing files"


def show(what: str, steps: Iterator[str], expected: int) -> None:
    """Draw one line that moves on a terminal, and a line for every tenth step elsewhere."""
    for number, step in enumerate(steps, start=1):
        line = f"  {what}: {min(number, expected)}/{expected} {step}"
        if sys.stdout.isatty():
            print(f"\r{line:<{WIDTH}}", end="", flush=True)
        elif number % 10 == 0 or number >= expected:
            print(line, flush=True)
    if sys.stdout.isatty():
        print(f"\r{f'  {what}: done':<{WIDTH}}", flush=True)


def count(locks: list[Path]) -> int:
    """Count the distinct packages in the locks."""
    lines = [line for lock in locks for line in lock.read_text().splitlines() if line[:1].isalnum()]
    return len({line.split("==")[0] for line in lines})


if __name__ == "__main__":
    sys.exit(main())
