"""`tally doctor`: what is wrong with an installation, and what to do about it (specs/operating.md §8)."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from scope.commands.checks import ask_scope
from scope.commands.shared import Json, now, say
from service import NAMES
from service.doctor import Finding
from service.doctor.databases import database
from service.doctor.files import MIB, disk, modes
from service.doctor.keys import keys
from service.doctor.running import running
from service.settings import Settings, common
from verifier.refused import Refused
from verifier.terminal import BOLD, GREEN, RED, YELLOW, Paint, plain, wants_colour

CHECKS = ("modes", "disk", "settings", "keys", "database", "ready", "clock", "feed", "unsealed")
FAILED, WARNED = 1, 3


def doctor(
    directory: Annotated[Path, typer.Argument(help="The installation that `tally init` made.")] = Path(),
    *,
    client: Annotated[
        Path | None,
        typer.Option("--client", help="An auditor's or responder's directory; by default DIR/auditor."),
    ] = None,
    free: Annotated[int, typer.Option(min=1, help="MiB of disk to warn below; an eighth of it is a failure.")] = 1024,
    as_json: Json = False,
) -> None:
    """Look at an installation and its running services, and say what is wrong and what to do.

    Exit status: 0 nothing is wrong, 1 something is, 3 there are warnings alone. Nothing is changed.

    Example: tally doctor .tally
    """
    if not directory.is_dir() or not os.access(directory, os.R_OK | os.X_OK):
        why = f"{directory} is no directory, or not one that you can read"
        raise Refused("usage", why, hint="Name the installation that `tally init` made, as its owner.")
    found = asyncio.run(examine(directory.absolute(), client, free * MIB, now))
    count = Counter(each.level for each in found)
    paint = Paint(on=wants_colour(sys.stdout))
    said = f"{len(CHECKS)} checks: {count['failure']} failures, {count['warning']} warnings"
    lines = [
        *(_line(each, paint) for each in found),
        said if found else paint(f"{len(CHECKS)} checks: all well", GREEN),
    ]
    facts = {"checks": CHECKS, "failures": count["failure"], "warnings": count["warning"]}
    say(as_json, {**facts, "findings": msgspec.to_builtins(found)}, *lines)
    if found:
        raise typer.Exit(FAILED if count["failure"] else WARNED)


async def examine(directory: Path, client: Path | None, little: int, clock: Callable[[], int]) -> list[Finding]:
    """Run every check, none ends the others; failures come first. `little` is of free disk, in bytes."""
    settings, found = _settings(directory)
    found += _files(directory, settings, little)
    found += keys(directory, {each.issuer for each in settings}, clock())
    async with aiohttp.ClientSession() as session:
        asked = [ask_scope(session, directory, client, each.issuer, clock) for each in settings if each.name == "scope"]
        online = [running(session, each, clock) for each in settings]
        for each in await asyncio.gather(*map(database, settings), *online, *asked):
            found += each
    return sorted(found, key=lambda each: (each.level != "failure", CHECKS.index(each.check)))


def _files(directory: Path, settings: Sequence[Settings], little: int) -> list[Finding]:
    places = [directory, *(each.directory for each in settings)]
    return [*modes(directory, directory.stat().st_uid), *disk(places, little)]


def _settings(directory: Path) -> tuple[list[Settings], list[Finding]]:
    """Read what each service is told; one that has no directory here runs elsewhere."""
    read, found = list[Settings](), list[Finding]()
    for name in NAMES:
        path = directory / name / "settings.toml"
        if path.parent.is_dir():
            try:
                read.append(common(name, path, os.environ))
            except Refused as refused:
                found.append(_unread(name, f"{refused.code}: {refused.why}", refused.hint))
    if not read and not found:
        found.append(_unread(str(directory), "has no service in it", "Name the installation that `tally init` made."))
    return read, found


def _unread(subject: str, says: str, do: str) -> Finding:
    return Finding(check="settings", level="failure", subject=subject, says=says, do=do)


def _line(found: Finding, paint: Paint) -> str:
    level = paint("FAIL", RED, BOLD) if found.level == "failure" else paint("WARN", YELLOW, BOLD)
    return f"{level}  {found.check:<8}  {plain(f'{found.subject} {found.says}. {found.do}')}"
