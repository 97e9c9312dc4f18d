"""What a command is given to read: files, folders, patterns, standard input; plain or gzip (specs/verification.md §17).

A folder stands for every `*.tally` and `*.tally.gz` below it, in the order of their names. A link inside it counts when
it leads to a file inside it; one that leads out is not followed, and that is said.
"""

import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from msgspec import Struct

from verifier.refused import Refused

SUFFIXES = (".tally", ".tally.gz")
STDIN = "-"
MAX_FILES = 10_000
_MAGIC = b"\x1f\x8b"
_PACKED = 1 << 16
_GZIP = 31  # zlib's name for: a gzip header, the largest window

Watch = Callable[[bytes], None]


class Source(Struct, frozen=True):
    """One thing to read: its name as it is said, its path (none is standard input), its size where known."""

    name: str
    path: Path | None
    size: int = 0


class Given(Struct, frozen=True):
    """What the arguments come to: sources in order, none twice, and links that lead out of their folder."""

    sources: list[Source]
    skipped: list[str]


def expand(arguments: list[str]) -> Given:
    """Find the files that the arguments name. Raises `Refused` usage for an argument that names nothing."""
    sources: dict[str, Source] = {}
    skipped: list[str] = []
    for argument in arguments:
        found = [Source(STDIN, None)] if argument == STDIN else _named(argument, skipped)
        for source in found:
            sources.setdefault(STDIN if source.path is None else os.path.realpath(source.path), source)
    return Given(list(sources.values()), skipped)


def one(argument: str) -> Source:
    """Take one file or standard input. Raises `Refused` usage."""
    if argument == STDIN:
        return Source(STDIN, None)
    if Path(argument).is_dir():
        raise Refused("usage", f"{argument} is a folder", hint="Name one file.")
    return _named(argument, [])[0]


@contextmanager
def opened(source: Source, limit: int, *watches: Watch) -> Iterator[BinaryIO]:
    """Open a source, unpacking gzip; each of `watches` sees the bytes as they are read.

    At most `limit` packed bytes are read; whoever reads the stream limits what they unpack to.
    """
    raw: AbstractContextManager[io.BufferedReader] = (
        nullcontext(cast("io.BufferedReader", sys.stdin.buffer)) if source.path is None else source.path.open("rb")
    )
    with raw as file:
        stream = Unpacked(file, limit) if file.peek(len(_MAGIC))[: len(_MAGIC)] == _MAGIC else file
        yield cast("BinaryIO", Watched(stream, watches) if watches else stream)


class Unpacked(io.RawIOBase):
    """Gzip (RFC 1952) as a stream of what is inside: never more of it in memory than was asked for."""

    def __init__(self, packed: io.BufferedReader, limit: int) -> None:
        """Start at the beginning of a member."""
        self._inner = packed
        self._left = limit
        self._packed = b""
        self._engine = zlib.decompressobj(_GZIP)

    def readable(self) -> bool:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Say that it can be read."""
        return True

    def readinto(self, room: memoryview) -> int:  # type: ignore[override, explicit-override] # a buffer is what is asked for
        """Unpack at most what fits. Raises `Refused`: truncated, not-json (damaged, or followed by something else)."""
        while True:
            if self._engine.eof:
                self._packed = self._engine.unused_data or self._take()
                if not self._packed:
                    return 0
                if not self._packed.startswith(_MAGIC[:1]):
                    raise Refused("not-json", "something stands behind the end of the gzip data")
                self._engine = zlib.decompressobj(_GZIP)
            self._packed = self._packed or self._take()
            if not self._packed:
                raise Refused("truncated", "the gzip data ends too early")
            try:
                data = self._engine.decompress(self._packed, len(room))
            except zlib.error as error:
                raise Refused("not-json", "the gzip data is damaged") from error
            self._packed = self._engine.unconsumed_tail
            if data:
                room[: len(data)] = data
                return len(data)

    def _take(self) -> bytes:
        data = self._inner.read(_PACKED)
        self._left -= len(data)
        if self._left < 0:
            raise Refused("too-large", "the gzip data is larger than what it may unpack to")
        return data


class Watched(io.RawIOBase):
    """A stream whose bytes others see as they are read."""

    def __init__(self, inner: io.BufferedReader | Unpacked, watches: tuple[Watch, ...]) -> None:
        """Take the stream and who watches it."""
        self._inner = inner
        self._watches = watches

    def readable(self) -> bool:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Say that it can be read."""
        return True

    def readinto(self, room: memoryview) -> int:  # type: ignore[override, explicit-override] # a buffer is what is asked for
        """Read at most what fits, and show it."""
        size = self._inner.readinto(room)
        for watch in self._watches:
            watch(bytes(room[:size]))
        return size


def _named(argument: str, skipped: list[str]) -> list[Source]:
    path = Path(argument)
    if path.is_dir():
        return _below(path, skipped)
    if not path.exists() and any(each in argument for each in "*?["):
        from glob import glob  # noqa: PLC0415 - a shell has mostly done this already

        matches = sorted(glob(argument, recursive=True))  # noqa: PTH207 - a pattern may begin anywhere
        if not matches:
            raise Refused("usage", f"no file matches {argument!r}", hint="Quote a pattern only if it should reach us.")
        return [source for match in matches for source in _named(match, skipped)]
    try:
        return [Source(_said(path), path, path.stat().st_size)]
    except OSError as error:
        raise unread(path, error) from error


def _below(folder: Path, skipped: list[str]) -> list[Source]:
    """Walk a folder without leaving it."""
    inside = os.path.realpath(folder)
    found: list[Source] = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if name.endswith(SUFFIXES)):
            real = os.path.realpath(path)
            if os.path.commonpath([inside, real]) != inside:
                skipped.append(_said(path))
            elif os.path.isfile(real):  # noqa: PTH113 - a text already
                found.append(Source(_said(path), path, path.stat().st_size))
    if not found:
        raise Refused("usage", f"there is no bundle (*.tally, *.tally.gz) in {folder}")
    return sorted(found, key=lambda source: source.name)


def _said(path: Path) -> str:
    """Name a path in characters that every output can carry."""
    return os.fsencode(path).decode(errors="replace")


def unread(path: Path | str, error: OSError) -> Refused:
    """Say that a file cannot be read."""
    return Refused("usage", f"cannot read {path}: {error.strerror}", hint="Check the path and who may read it.")


def load_all(folder: str, limit: int) -> tuple[tuple[str, bytes], ...]:
    """Read every small file below a folder, by name, links and hidden files left out. Raises `Refused`: as `load`."""
    if not Path(folder).is_dir():
        raise Refused("usage", f"{folder} is no folder", hint="Name the folder that holds the files.")
    found = sorted(
        Path(parent, name) for parent, _, names in os.walk(folder) for name in names if not name.startswith(".")
    )
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    if not files or len(files) > MAX_FILES:
        raise Refused("usage", f"{folder} holds {len(files)} files, at least 1 and at most {MAX_FILES} are read")
    return tuple((_said(path), load(str(path), limit)) for path in files)


def load(path: str, limit: int) -> bytes:
    """Read a small file whole. Raises `Refused`: usage, too-large."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise unread(path, error) from error
    if len(raw) > limit:
        raise Refused("too-large", f"{path} has more than {limit} bytes", hint="Check which file was given.")
    return raw
