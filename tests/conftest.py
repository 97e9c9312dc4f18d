"""What tests share: a clock that stands, seeds, an installation, two databases, real sockets."""

import asyncio
import hashlib
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from service.engine import open_engine
from service.initialise import Plan, initialise
from tests import postgres as postgresql

Counted = Callable[[str, int], None]
START = 1_795_000_000_000_000  # 2026-11-18, in microseconds
Serve = Callable[[Any], Awaitable[str]]


class Clock:
    """A clock that moves when it is told to; microseconds."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1_000_000)


def seeded(label: str) -> Callable[[int], bytes]:
    """Give bytes that look random and are the same each time: SHA-256 of a label and a counter."""
    counter = iter(range(1 << 32))

    def random(count: int) -> bytes:
        blocks = (hashlib.sha256(f"{label}/{next(counter)}".encode()).digest() for _ in range(count // 32 + 1))
        return b"".join(blocks)[:count]

    return random


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Count what a test tried; the sums over all tests stand at the end of the run."""
    return lambda what, number: record_property("counted", [what, number])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was counted."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "counted":
                sums[value[0]] += value[1]
    for what, number in sorted(sums.items()):
        terminalreporter.write_line(f"{number:,} {what}")


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio alone: the services do."""
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at START."""
    return Clock()


@pytest.fixture
def random() -> Callable[[int], bytes]:
    """Bytes from a fixed seed."""
    return seeded("tests")


@pytest.fixture
def installation(tmp_path: Path, random: Callable[[int], bytes]) -> Path:
    """An installation as `tally init` makes it, with keys from a fixed seed."""
    directory = tmp_path / "installation"
    initialise(directory, Plan(demo=True), START, random)
    return directory


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of an empty SQLite database."""
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """The URL of a PostgreSQL that lets us in, `{}` for the database."""
    with postgresql.server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def postgres(postgres_server: str) -> Generator[str, None, None]:
    """The URL of an empty PostgreSQL database, dropped in the end."""
    with postgresql.database(postgres_server) as url:
        yield url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run a test twice, on each engine."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[AsyncEngine, None]:
    """An engine on an empty database; the test runs on SQLite and on PostgreSQL."""
    opened = open_engine(database_url)
    yield opened
    await opened.dispose()


@pytest.fixture
async def serve() -> AsyncGenerator[Serve, None]:
    """Serve applications on free ports of 127.0.0.1; gives the base URL of each."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Any) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        running.append((server, task))
        while not server.started:
            if task.done():
                await task
                raise RuntimeError("the application did not start")
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, task in running:
        server.should_exit = True
        await task


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
