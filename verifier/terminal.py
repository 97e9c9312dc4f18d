"""What reaches a person's terminal: plain text, colour where it is wanted, columns that line up."""

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from verifier.refused import Refused

RESET, BOLD, DIM, RED, GREEN, YELLOW, CYAN = (f"\x1b[{number}m" for number in (0, 1, 2, 31, 32, 33, 36))
OF_VERDICT = {"PASS": GREEN, "INCOMPLETE": YELLOW, "FAIL": RED, "UNTRUSTED": RED, "MALFORMED": RED}
MAX_CELL = 72


def plain(said: str) -> str:
    """Keep what a document says from steering the terminal."""
    return "".join(each if each.isprintable() else "?" for each in said)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at this stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO) -> bool:
    """Tell whether colour is wanted there: a terminal, and no NO_COLOR (no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, *, on: bool) -> None:
        """Colour or not."""
        self.on = on

    def __call__(self, said: str, *codes: str) -> str:
        """Colour a piece of text."""
        return f"{''.join(codes)}{said}{RESET}" if self.on and said else said


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Line up cells in columns; the last column runs free, the others are cut at 72 characters."""
    cells = [[*(_cut(plain(cell)) for cell in row[:-1]), plain(row[-1])] for row in rows]
    width = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))] if cells else []
    return [
        (indent + "  ".join(cell.ljust(wide) for cell, wide in zip(row, width, strict=True))).rstrip() for row in cells
    ]


def say(said: str) -> None:
    """Write text for people to standard output."""
    sys.stdout.write(said + "\n")


def complain(said: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(said + "\n")


def moment(said: str, option: str = "--at") -> int:
    """Read the time that an option names. Raises `Refused` usage."""
    try:
        found = datetime.fromisoformat(said)
    except ValueError as error:
        raise Refused("usage", f"{option} {said!r} is not a time like 2026-11-21T12:00:00Z") from error
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)


def version() -> str:
    """Name the version that is installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to load

    try:
        return version("tallystick")
    except PackageNotFoundError:
        return "0.0.0"


def _cut(said: str) -> str:
    return said if len(said) <= MAX_CELL else said[: MAX_CELL - 1] + "…"
