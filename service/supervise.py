"""Three services, three processes, one command: they start together and end together."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType

from rich.console import Console

from service import NAMES
from service.settings import Settings, common

START = 30.0  # seconds a service may take to be ready
STOP = 15.0  # seconds it may take to answer what has begun
PAUSE = 0.1
PR_SET_PDEATHSIG = 1
OK = 200


def supervise(directory: Path, console: Console) -> int:
    """Run all services of an installation; return 0 after a signal, 1 when one of them ended by itself."""
    settings = [common(name, directory / name / "settings.toml", os.environ) for name in NAMES]
    stopped = _signals()
    children = {each.name: _start(each.name, directory) for each in settings}
    try:
        with console.status("starting") as status:
            for each in settings:
                status.update(f"starting {each.name}")
                if not _ready(each, children[each.name], stopped):
                    return _failed(console, each.name, stopped)
                console.print(f"  {each.name:<9} {each.issuer}")
        console.print("All three are ready; Ctrl-C ends them.")
        while not stopped():
            ended = [name for name, child in children.items() if child.poll() is not None]
            if ended:
                return _failed(console, ended[0], stopped)
            time.sleep(PAUSE)
        return 0
    finally:
        _end(children)


def _signals() -> Callable[[], bool]:
    """Note SIGINT and SIGTERM instead of dying of them: the children are ended first."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, note)
    return lambda: bool(seen)


def _start(name: str, directory: Path) -> subprocess.Popen[bytes]:
    """Start a service in a process group of its own: a terminal's Ctrl-C reaches us alone."""
    command = [
        sys.executable,
        "-m",
        "service.commands",
        "run",
        name,
        "--dir",
        str(directory),
        f"--parent={os.getpid()}",
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own program


def end_with(parent: int) -> None:
    """Let the kernel end this process when its parent does, however that ends; prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def _ready(settings: Settings, child: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and child.poll() is None and not stopped():
        if _answers(settings):
            return True
        time.sleep(PAUSE)
    return False


def _answers(settings: Settings) -> bool:
    host, port = settings.address
    connection = HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/livez" if settings.tls_certificate else "/readyz")
        return connection.getresponse().status == OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _failed(console: Console, name: str, stopped: Callable[[], bool]) -> int:
    if stopped():
        return 0
    console.print(f"tally: {name} ended or did not get ready; its own words stand above")
    return 1


def _end(children: dict[str, subprocess.Popen[bytes]]) -> None:
    """Ask every child to end, last started first, and insist after a while."""
    for child in reversed(children.values()):
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
    for child in children.values():
        try:
            child.wait(STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
