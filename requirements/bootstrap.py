"""Set up an environment from the hash-locked requirements, with any Python from 3.11 on and nothing else.

    python3 requirements/bootstrap.py             .venv: everything, to develop, test and run the services
    .venv/bin/python requirements/bootstrap.py auditor
                                                  .venv-auditor: the base install alone, from a wheel built by .venv

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
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
WIDTH = 60


class Environment(NamedTuple):
    """A virtual environment and the locks that fill it."""

    venv: Path
    locks: list[Path]


def lock(name: str) -> Path:
    """Find a lock."""
    return ROOT / "requirements" / f"{name}.txt"


DEVELOPER = Environment(ROOT / ".venv", [lock("dev"), lock("build")])
AUDITOR = Environment(ROOT / ".venv-auditor", [lock("base")])


def main(arguments: list[str]) -> int:
    """Make the environment, or say in one sentence why not."""
    if sys.version_info < OLDEST:
        print(f"tally: Python {OLDEST[0]}.{OLDEST[1]} or later is needed, this is {sys.version.split()[0]}")
        return 1
    wanted = AUDITOR if arguments == ["auditor"] else DEVELOPER
    began = time.monotonic()
    shutil.rmtree(wanted.venv, ignore_errors=True)
    print(
        f"Setting up {wanted.venv.name} with Python {sys.version.split()[0]} from hash-locked requirements", flush=True
    )
    if subprocess.run([sys.executable, "-m", "venv", str(wanted.venv)], check=False).returncode:
        print("tally: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv")
        return 1
    locks = [part for each in wanted.locks for part in ("-r", str(each))]
    if not install(wanted, "packages", ["--require-hashes", *locks], expected=count(wanted.locks)):
        return 1
    project = [str(wheel(wanted))] if wanted is AUDITOR else ["--no-build-isolation", "--editable", str(ROOT)]
    if not install(wanted, "tallystick", ["--no-deps", *project], expected=1):
        return 1
    (wanted.venv / "ready").write_text("set up by requirements/bootstrap.py\n")
    print(f"Ready in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def wheel(wanted: Environment) -> Path:
    """Build the wheel with the developer's locked build backend."""
    out = wanted.venv / "wheel"
    build = [str(DEVELOPER.venv / "bin" / "python"), "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    with (wanted.venv / "install.log").open("a") as log:
        subprocess.run([*build, str(ROOT)], stdout=log, stderr=log, check=True)
    return next(out.glob("*.whl"))


def install(wanted: Environment, what: str, arguments: list[str], expected: int) -> bool:
    """Run pip, show how far it is, keep its words in a log and repeat the last of them when it fails."""
    command = [str(wanted.venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    path = wanted.venv / "install.log"
    with (
        path.open("a") as log,
        subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        assert pip.stdout is not None
        show(what, follow(pip.stdout, log), expected)
    if pip.returncode:
        print(f"tally: pip could not install {what}; the end of {path.relative_to(ROOT)}:")
        print("".join(path.read_text().splitlines(keepends=True)[-12:]))
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
    sys.exit(main(sys.argv[1:]))
