"""What the commands on contents share: keys from private files, one bundle to read, one new file to write.

Keys are never read from the command line, where every process could see them.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import NamedTemporaryFile, mkdtemp
from typing import BinaryIO, Literal

from msgspec import Struct

from verifier.box import AuditorKey
from verifier.bundle import MAX_BYTES
from verifier.commitment import Side
from verifier.encoding import parse, unb64
from verifier.private import write_private
from verifier.refused import Refused
from verifier.sources import Watch, expand, opened, unread

CALL_KEY_BYTES = 32
MAX_KEY = 1 << 12


class AuditorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An auditor's private key at rest."""

    use: Literal["auditor"]
    owner: str
    hpke_seed: str


def call_key(raw: bytes, side: Side) -> bytes:
    """Read a call key: base64 alone, or the header that came with the answer, `side=base64,…`."""
    text = raw.decode(errors="replace").strip()
    named = dict(each.strip().partition("=")[::2] for each in text.split(","))
    key = unb64(named.get(side, text), field="key")
    if len(key) != CALL_KEY_BYTES:
        raise Refused("bad-key", f"a call key has {CALL_KEY_BYTES} bytes")
    return key


def auditor_key(raw: bytes) -> AuditorKey:
    """Read an auditor's private key. Raises `Refused` bad-key."""
    try:
        return AuditorKey(unb64(parse(raw, AuditorFile, limit=MAX_KEY).hpke_seed))
    except Refused as refused:
        raise Refused("bad-key", f"no auditor's private key: {refused.why}") from refused


@contextmanager
def bundle(argument: str, *watches: Watch) -> Iterator[BinaryIO]:
    """Open the one bundle that an argument names, unpacked; `watches` see its bytes. Raises `Refused` usage."""
    sources = expand([argument]).sources
    if len(sources) != 1:
        raise Refused("usage", f"{argument} names {len(sources)} bundles, one is read at a time")
    try:
        with opened(sources[0], MAX_BYTES, *watches) as file:
            yield file
    except BrokenPipeError:
        raise  # whoever read what we write has left
    except OSError as error:
        raise unread(argument, error) from error


def make_folder(path: Path) -> None:
    """Make a folder of mode 0700, if there is none. Raises `Refused` usage."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("usage", f"cannot make the folder {path}: {error.strerror}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder, which is there whole or not at all. Raises `Refused`: not-empty, usage."""
    try:
        if path.exists() and any(path.iterdir()):
            raise Refused("not-empty", f"{path} is there and not empty", hint="Name another; nothing is overwritten.")
        temporary = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.rename(path)
        finally:
            rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise Refused("usage", f"cannot write {path}: {error.strerror}") from error


def write_new(path: Path, lines: Iterable[bytes]) -> None:
    """Write a new file of mode 0600, whole or not at all."""
    if path.exists():
        raise Refused("not-empty", f"{path} is there already", hint="Name another; nothing is overwritten.")
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                temporary.rename(path)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
    except OSError as error:
        raise Refused("usage", f"cannot write {path}: {error.strerror}") from error


def write_secret(path: Path, content: bytes) -> None:
    """Write a new private file. Raises `Refused`: not-empty, usage."""
    try:
        write_private(path, content)
    except FileExistsError as error:
        raise Refused("not-empty", f"{path} is there already", hint="Name another; nothing is overwritten.") from error
    except OSError as error:
        raise Refused("usage", f"cannot write {path}: {error.strerror}") from error


def printable(content: bytes) -> str:
    """Show content from outside on a terminal: text as text, whatever could steer the terminal as an escape."""
    text = content.decode(errors="backslashreplace")
    lines = text.split("\n")
    shown = ["".join(each if each.isprintable() else ascii(each)[1:-1] for each in line) for line in lines]
    return "\n".join(f"    {line}" for line in shown)
