"""What the commands of scope share: options, how they act as a client, how they speak."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
import typer

from scope.client import ScopeClient, Tools
from service import keystore
from service.clients import client_token
from verifier.encoding import canonical, parse
from verifier.private import read_private
from verifier.refused import Refused

T = TypeVar("T")
MAX_REQUEST = 1 << 20
MAX_TOKEN = 1 << 17
SECOND = 1_000_000

Url = Annotated[str, typer.Option("--url", help="Base URL of scope.")]
Client = Annotated[
    Path, typer.Option("--client", help="Your directory: its name is your client id, it holds client.key.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def request(kind: type[T], asked: dict[str, Any]) -> T:
    """Write a request from what was given. Raises `Refused` usage, with the argument, for what can be in none."""
    try:
        return parse(canonical(asked), kind, limit=MAX_REQUEST)
    except Refused as refused:
        hint = "What each argument may be: --help."
        raise Refused("usage", refused.why, field=refused.field, hint=hint) from refused


def new_file(path: Path | None) -> None:
    """Refuse a file that could not be made, before anything is done whose answer would be lost. Raises `Refused`."""
    if path is not None and path.exists():
        raise Refused("usage", f"{path} exists: no file is ever replaced", hint="Name another file.")
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        raise Refused("usage", f"no file can be made in {path.parent}", hint="Name a folder that you may write to.")


def read_token(path: Path) -> str:
    """Read a token from a private file. Raises `Refused`: no-key, loose-mode, bad-token for a file that holds none."""
    token = read_private(path, MAX_TOKEN).decode("latin-1").strip()
    if not 0 < len(token) <= MAX_TOKEN:
        raise Refused("bad-token", f"{path.name} holds no token", hint="Get a new one.")
    return token


def tool_named(text: str) -> Tools:
    """Read what a person writes for one tool, server/tool. Raises `Refused` usage."""
    server, slash, name = text.partition("/")
    if not slash or not name:
        raise Refused("usage", f"{text!r} is not server/tool")
    return Tools(server=server, tools=[name])


def as_client(url: str, client: Path, act: Callable[[ScopeClient], Awaitable[T]]) -> T:
    """Act as the client whose directory this is; its tokens are for the scope at `url` and nobody else."""
    key, name = keystore.load(client / "client.key", "client"), client.resolve().name

    async def run() -> T:
        async with aiohttp.ClientSession() as session:
            return await act(ScopeClient(session, url, lambda: client_token(key, name, url.rstrip("/"), now())))

    try:
        return asyncio.run(run())
    except Refused as refused:
        if refused.code != "scope-unavailable" or refused.hint:
            raise
        hint = f"Is {url} the base URL of scope, and does it run? `tally doctor` looks."
        raise Refused(refused.code, refused.why, hint=hint) from refused


def say(as_json: bool, facts: dict[str, Any], *lines: str, err: bool = False) -> None:  # noqa: FBT001 - passes an option on
    """Speak to a person, or print one JSON object; with `err` to standard error."""
    for line in [msgspec.json.encode(facts).decode()] if as_json else lines:
        typer.echo(line, err=err)


def when(time_us: int) -> str:
    """Write microseconds as RFC 3339, to the second."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> int:
    """Read the clock: Unix time in microseconds."""
    return time.time_ns() // 1000
