"""Scope as real processes, which can be killed at any moment, and an installation whose scope is nothing else."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from service.app import now
from tests.scope.conftest import Town, founded

START = 60.0  # seconds that a process may take to answer
QUIET = range(10_240, 32_768)  # no outgoing connection comes from one of these and takes a killed process's place


class Process:
    """One scope process of an installation, at its own address."""

    def __init__(self, town: Town, url: str) -> None:
        self.town, self.url = town, url
        self._process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        """Start it, without waiting until it answers."""
        listen = self.url.removeprefix("http://")
        with (self.town.installation / "scope.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service.commands", "run", "scope", "--dir", str(self.town.installation),
                env={**os.environ, "TALLY_SCOPE_LISTEN": listen, "TALLY_SCOPE_TICK_MILLISECONDS": "20"},
                stdout=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self.spawn()
        async with asyncio.timeout(START):
            while not await self.answers():
                assert self._process is not None
                assert self._process.returncode is None, "scope ended by itself"
                await asyncio.sleep(0.02)

    async def answers(self) -> bool:
        """Tell whether it is ready."""
        with suppress(aiohttp.ClientError):
            async with self.town.session.get(self.url + "/readyz") as answer:
                return answer.status == 200
        return False

    async def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it as an operator does."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    def log(self) -> str:
        """Read what it wrote to standard error, all starts together."""
        return (self.town.installation / "scope.log").read_text()


@asynccontextmanager
async def city(
    installation: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, count: int = 1
) -> AsyncGenerator[tuple[Town, list[Process]], None]:
    """Make an installation by the real clock; its scope is `count` processes on one database, which are not started."""
    urls = [f"http://127.0.0.1:{quiet_port()}" for _ in range(count)]
    async with founded(installation, urls[0], database_url, now, monkeypatch) as town:
        processes = [Process(town, url) for url in urls]
        try:
            yield town, processes
        finally:
            await asyncio.gather(*(each.kill() for each in processes))


def quiet_port() -> int:
    """Find a port that stays free while nobody listens on it."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", secrets.choice(QUIET))) as listener:
            port: int = listener.getsockname()[1]
            return port
