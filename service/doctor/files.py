"""The files of an installation: who else can open them, and how much room is left."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from service.doctor import Finding, Level

MIB = 1 << 20
FEW_FILES = 1000
MOST = 20  # findings of one check
# What anybody may read, and what holds no key but is nobody else's business. All else is private.
PUBLIC = {"keys.json", "keys.next.json", "pin.json"}
PLAIN = {"settings.toml", "clients.toml"}
OTHERS_READ, OTHERS_WRITE = stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH, stat.S_IWGRP | stat.S_IWOTH


def modes(directory: Path, owner: int) -> list[Finding]:
    """Find what others than the installation's `owner`, a user's number, can open; links are not followed."""
    closed = list[OSError]()
    found = [each for path in _walk(directory, closed) for each in _look(path, owner)]
    found += [_finding("failure", each.filename, "cannot be looked into", "Run this as its owner.") for each in closed]
    rest = len(found) - MOST
    more = [_finding("failure", directory, f"and {rest} more", "Correct these first.")] if rest > 0 else []
    return found[:MOST] + more


def disk(places: Iterable[Path], little: int) -> list[Finding]:
    """Find disks with less room than `little` bytes, a warning, or an eighth of that, a failure."""
    found, seen = list[Finding](), set[int]()
    for place in places:
        if (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        there = os.statvfs(place)
        free = there.f_bavail * there.f_frsize
        do = "Free it, or give it more: what cannot be written is refused (disk-full), and the gateway stops."
        if free < little:
            level: Level = "failure" if free < little // 8 else "warning"
            says = f"{free // MIB} MiB are free on its disk"
            found.append(Finding(check="disk", level=level, subject=str(place), says=says, do=do))
        if there.f_files and there.f_favail < FEW_FILES:
            says = f"{there.f_favail} files can still be made on its disk"
            found.append(Finding(check="disk", level="warning", subject=str(place), says=says, do=do))
    return found


def _walk(directory: Path, closed: list[OSError]) -> Iterator[Path]:
    """Name everything, and take down what cannot be listed."""
    yield directory
    for above, directories, files in os.walk(directory, onerror=closed.append):
        directories.sort()
        yield from (Path(above) / name for name in sorted((*directories, *files)))


def _look(path: Path, owner: int) -> Iterator[Finding]:
    """Look at what is still there: services that run write files beside others, and take them away."""
    with suppress(FileNotFoundError):
        yield from _loose(path, path.lstat(), owner)


def _loose(path: Path, status: os.stat_result, owner: int) -> Iterator[Finding]:
    if stat.S_ISLNK(status.st_mode):
        return
    is_directory = stat.S_ISDIR(status.st_mode)
    chmod = f"chmod {'700' if is_directory else '600'} {path}"
    if status.st_uid != owner:
        yield _finding("failure", path, f"belongs to user {status.st_uid}, the installation to {owner}", "chown it.")
    if status.st_mode & OTHERS_WRITE:
        yield _finding("failure", path, "can be written by others", f"{chmod}; compare it with a copy.")
    elif status.st_mode & OTHERS_READ and path.name not in PUBLIC:
        level: Level = "warning" if path.name in PLAIN else "failure"
        new = " and make a new key (tally keys rotate): this one may have been read." if path.suffix == ".key" else "."
        yield _finding(level, path, f"can be {'entered' if is_directory else 'read'} by others", chmod + new)


def _finding(level: Level, path: Path | str, says: str, do: str) -> Finding:
    return Finding(check="modes", level=level, subject=str(path), says=says, do=do)
