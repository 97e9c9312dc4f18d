"""A process that locked itself in cannot read a neighbour's keys, not even as root."""

import subprocess
import sys
from pathlib import Path

import pytest

from service import landlock
from service.app import now
from service.initialise import Plan, initialise
from tests.conftest import seeded
from verifier.refused import Refused

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import sys, threading
from pathlib import Path
from service import landlock
from service.app import now
from service.initialise import Plan, initialise
from tests.conftest import seeded

own, other = Path(sys.argv[1]), Path(sys.argv[2])
print("restricted", landlock.restrict(own, Path(sys.argv[3])))

def attempt(name, act):
    try:
        act()
        print(name, "allowed")
    except PermissionError:
        print(name, "denied")

attempt("own-read", (own / "own.key").read_text)
attempt("own-write", lambda: (own / "new").write_text("x"))
attempt("own-rename", lambda: (own / "new").rename(own / "newer"))
attempt("own-remove", (own / "newer").unlink)
attempt("other-read", (other / "other.key").read_text)
attempt("other-list", lambda: list(other.iterdir()))
attempt("other-write", lambda: (other / "new").write_text("x"))
attempt("parent-list", lambda: list(own.parent.iterdir()))
attempt("other-processes", lambda: Path("/proc/1/environ").read_bytes())
attempt("source-write", lambda: (Path(sys.argv[3]) / "service" / "new.py").write_text("x"))

def thread():
    attempt("thread-other-read", (other / "other.key").read_text)

threading.Thread(target=thread).start()
import sqlite3, ssl, json.tool
ssl.create_default_context()
connection = sqlite3.connect(own / "test.db")
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE t (x)")
connection.commit()
print("sqlite works")
"""


# The gateway's own process, as `tally run receipts` starts it, at the moment when it would begin to serve.
GATEWAY = """
import sys
from pathlib import Path
from service import commands

installation = Path(sys.argv[1])

def probe(_app, _settings):
    for name in ("receipts/gateway.key", "scope/seal.key", "scope/grant.key", "scope/token.key"):
        try:
            (installation / name).read_bytes()
            print(name, "read")
        except PermissionError as error:
            print(name, type(error).__name__)

commands.serve = probe
commands.run("receipts", installation)
"""


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    own, other = tmp_path / "own", tmp_path / "other"
    for each in (own, other):
        each.mkdir(mode=0o700)
        (each / f"{each.name}.key").write_text("secret")
    return own, other


def test_a_service_reads_and_writes_its_own_directory_only(directories: tuple[Path, Path]) -> None:
    assert landlock.version(), "this test needs a kernel with Landlock"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, directories), str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines() == [
        "restricted True",
        "own-read allowed",
        "own-write allowed",
        "own-rename allowed",
        "own-remove allowed",
        "other-read denied",
        "other-list denied",
        "other-write denied",
        "parent-list denied",
        "other-processes denied",
        "source-write denied",
        "thread-other-read denied",
        "sqlite works",
    ]


def test_the_gateways_process_cannot_read_the_keys_that_scope_signs_with(tmp_path: Path) -> None:
    installation = tmp_path / "installation"
    initialise(installation, Plan(demo=True), now(), seeded("landlock"))
    assert (installation / "scope/seal.key").read_bytes()  # whoever is not locked in can
    done = subprocess.run(
        [sys.executable, "-c", GATEWAY, str(installation)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == [
        "receipts/gateway.key read",
        "scope/seal.key PermissionError",
        "scope/grant.key PermissionError",
        "scope/token.key PermissionError",
    ]


def test_an_installation_inside_the_programs_own_directories_is_refused(directories: tuple[Path, Path]) -> None:
    own, _ = directories
    (own / "service" / "installation" / "scope").mkdir(parents=True)
    with pytest.raises(Refused) as refused:
        landlock.restrict(own / "service" / "installation" / "scope", own)
    assert refused.value.code == "not-restricted"
