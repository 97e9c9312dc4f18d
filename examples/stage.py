"""The stage of the demo: an installation, its processes on free loopback ports, and what stops them again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
AUDITOR = ROOT / ".venv-auditor" / "bin" / "python"
PROVIDER = "openrouter_via_fal"
SERVICES = ("controls", "scope", "receipts")
PATIENCE = 30.0
# An interpreter that cannot open a socket, in which the auditor's `tally` runs.
OFFLINE = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError("the auditor has no network")
from verifier.cli import main
sys.addaudithook(refuse)
main()
"""


class Stage:
    """Everything that runs. Leaving it ends every process that it started, and nothing else."""

    def __init__(self, directory: Path) -> None:
        """Choose a place and free ports; nothing is started yet."""
        self.directory = directory
        self.installation = directory / "installation"
        self.ports = dict(zip((*SERVICES, "model", "crm"), free_ports(5), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.calls = directory / "upstream-calls.txt"

    @property
    def secret(self) -> Path:
        """The file with the provider's key, which only the gateway and the provider know."""
        return self.installation / "receipts" / "provider.secret"

    def url(self, name: str) -> str:
        """Name the base URL of a process."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def tally(self, *arguments: str) -> dict[str, Any]:
        """Run one command of `tally` as a process and read its JSON."""
        command = [sys.executable, "-m", "verifier", *arguments, "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.directory, env=_environment()
        )
        if done.returncode:
            raise RuntimeError(f"tally {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def audit(self, bundle: Path, pin: Path, *more: str) -> tuple[int, str]:
        """Run `tally verify` as an auditor does: the base install alone, in an interpreter without sockets."""
        command = [str(AUDITOR), "-I", "-c", OFFLINE, "verify", str(bundle), "--pin", str(pin), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
        return done.returncode, done.stdout + done.stderr

    def start(self, name: str) -> None:
        """Start a service or an upstream and wait until it answers."""
        command = {
            "model": ["-m", "examples.model_upstream", "--key-file", str(self.secret)],
            "crm": ["-m", "examples.crm_server", "--calls-file", str(self.calls), "--slow-seconds", "20"],
        }.get(name, ["-m", "verifier", "run", name, "--dir", str(self.installation)])  # fmt: skip
        port = ["--port", str(self.ports[name])] if name in ("model", "crm") else []
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command, *port],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=_environment(),
            )
        self._wait(name)

    def kill(self, name: str) -> None:
        """End a process as a power cut does."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was started, politely first."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self, name: str) -> None:
        path = "/readyz" if name in SERVICES else "/"
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.processes[name].poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url(name) + path, timeout=2).close()  # noqa: S310 - a URL of our own
            except urllib.error.HTTPError as error:
                error.close()
                if name not in SERVICES:  # an upstream that refuses us is up
                    return
            except OSError:
                pass
            else:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not start:\n{(self.directory / f'{name}.log').read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Find loopback ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _environment() -> dict[str, str]:
    """Hand a process no more than it needs: no setting of whoever runs the demo changes what it does."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
