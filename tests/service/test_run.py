"""Services start as real processes, each with a migrated database, and end together."""

import os
import pty
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from service import NAMES
from service.initialise import Plan, Urls, initialise
from tests.conftest import free_port, seeded

START_SECONDS = 60


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.commands", *arguments]


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in NAMES}


@pytest.fixture
def directory(tmp_path: Path, ports: dict[str, int]) -> Path:
    urls = Urls(**{name: f"http://127.0.0.1:{port}" for name, port in ports.items()})
    initialise(tmp_path / "new", Plan(urls=urls, demo=True), time.time_ns() // 1000, seeded("run"))
    return tmp_path / "new"


def status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_one_command_starts_all_three_and_a_signal_ends_all_three(directory: Path, ports: dict[str, int]) -> None:
    with subprocess.Popen(command("up", "--dir", str(directory)), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if "All three are ready" in line:
                break
        assert {name: status(port, "/readyz") for name, port in ports.items()} == dict.fromkeys(NAMES, 200)
        assert all((directory / name / f"{name}.db").stat().st_mode & 0o777 == 0o600 for name in NAMES)
        up.send_signal(signal.SIGTERM)
        up.stderr.read()
        assert up.wait(START_SECONDS) == 0
    assert {status(port, "/livez") for port in ports.values()} == {0}


def test_services_do_not_outlive_the_command_that_started_them(directory: Path, ports: dict[str, int]) -> None:
    with subprocess.Popen(command("up", "--dir", str(directory)), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if "All three are ready" in line:
                break
        up.kill()
        up.stderr.read()  # ends when the last service has closed its end
    assert {status(port, "/livez") for port in ports.values()} == {0}


def test_when_one_ends_all_end(directory: Path, ports: dict[str, int]) -> None:
    (directory / "receipts" / "gateway.key").chmod(0o644)
    done = subprocess.run(
        command("up", "--dir", str(directory)), stderr=subprocess.PIPE, text=True, timeout=START_SECONDS, check=False
    )
    assert done.returncode == 1
    assert "receipts ended" in done.stderr
    assert {status(port, "/livez") for port in ports.values()} == {0}


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("nothing", "", "there is no service"),
        ("scope", "colour = 'green'", "bad-settings"),
        ("scope", "max_body = 'much'", "max_body"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_a_sentence(directory: Path, name: str, line: str, says: str) -> None:
    settings = directory / "scope" / "settings.toml"
    settings.write_text(f"{line}\n{settings.read_text()}")
    done = subprocess.run(command("run", name, "--dir", str(directory)), stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 64
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def doctor(directory: Path, *words: str) -> tuple[int, str]:
    """Run `tally doctor` as a program; gives its status and what it printed."""
    line = [sys.executable, "-m", "verifier", "doctor", str(directory), "--free", "1", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_doctor_finds_nothing_where_all_three_run_and_says_what_to_start_where_none_does(directory: Path) -> None:
    with subprocess.Popen(command("up", "--dir", str(directory)), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if "All three are ready" in line:
                break
        assert doctor(directory) == (0, "9 checks: all well\n")
        assert doctor(directory, "--client", str(directory / "responder")) == (0, "9 checks: all well\n")
        coloured = on_a_terminal([sys.executable, "-m", "verifier", "doctor", str(directory), "--free", "1"])
        assert "\x1b[32m9 checks: all well\x1b[0m" in coloured
        up.send_signal(signal.SIGTERM)
        up.stderr.read()
        assert up.wait(START_SECONDS) == 0
    status, said = doctor(directory)
    assert status == 1
    for name in NAMES:
        assert f"{name} does not answer" in said
        assert f"Start it (tally run {name})" in said
    assert said.count("cannot be asked (scope-unavailable)") == 1


def on_a_terminal(line: list[str]) -> str:
    """Run a program whose standard output is a terminal."""
    ours, theirs = pty.openpty()
    alone = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run(line, stdout=theirs, env={**alone, "TERM": "xterm"}, timeout=START_SECONDS, check=True)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    return said
