"""What a service remembers of its database, in a file beside it: an older copy put in its place is noticed.

A backup of the database knows nothing of the file. A database that lacks what the file remembers was restored from an
older one: what was promised since is gone, and whoever went on would promise otherwise (specs/operating.md §10).
"""

import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from verifier.private import read_private
from verifier.refused import Refused

T = TypeVar("T", bound=Struct)
NAME = "newest.json"


class Newest(Generic[T]):
    """The file; `kind` is what it holds. It may lag behind the database, never be ahead of it."""

    def __init__(self, directory: Path, kind: type[T]) -> None:
        """Read what is remembered. Raises `Refused` bad-newest for a file that is none."""
        self._path = directory / NAME
        self.known: T | None = None
        if self._path.exists():
            try:
                self.known = msgspec.json.decode(read_private(self._path), type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                hint = "Delete it only if you know that the database is the newest."
                raise Refused("bad-newest", f"{NAME} cannot be read", hint=hint) from error

    def remember(self, now: T) -> None:
        """Remember this from now on; a file that is half written is never seen."""
        if now == self.known:
            return
        beside = self._path.with_name(f".{NAME}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(now))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self.known = now


def identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from another that is put in its place while it is open; None where there is none."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    return there.st_dev, there.st_ino


def restored(what: str, word: str) -> Refused:
    """Refuse to work on an older database; `word` names what was lost, to whoever has to accept that."""
    hint = f"Restore the newest backup. If there is none, start once with accept_restored = {word!r}: see the manual."
    return Refused("database-restored", f"the database is older than this service remembers: {what}", hint=hint)
