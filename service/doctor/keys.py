"""The key list of an installation: what ends soon, and whether everybody reads the same list."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from service import NAMES
from service.doctor import Finding, Level
from service.initialise import DAY
from service.key_list import CURRENT, NEXT, Installed
from verifier.keys import Key
from verifier.refused import Refused

SOON = 30 * DAY


def keys(directory: Path, services: Collection[str], now: int) -> list[Finding]:
    """Look at DIR/keys.json and its copies; `services` are the URLs of those who must always have a good key."""
    try:
        installed = Installed.read(directory)
    except Refused as refused:
        return [_finding("failure", CURRENT, f"{refused.code}: {refused.why}", refused.hint or "tally keys list")]
    return [
        *_list(installed, now),
        *_owners(installed.listed.keys, services, now),
        *_copies(directory, installed.raw),
    ]


def _list(installed: Installed, now: int) -> Iterator[Finding]:
    ends, version = installed.listed.expires, installed.listed.version
    do = "Sign the next one: every change of tally keys does, and it is good for a year."
    if now >= ends:
        yield _finding("failure", CURRENT, f"version {version} expired {_day(ends)}: no job can be sealed", do)
    elif ends - now < SOON:
        yield _finding("warning", CURRENT, f"version {version} expires {_day(ends)}", do)
    if (installed.directory / NEXT).exists():
        do = "Sign it (tally keys sign), or forget it (tally keys drop)."
        yield _finding("warning", NEXT, "a change of the key list waits for signatures", do)


def _owners(listed: Iterable[Key], services: Collection[str], now: int) -> Iterator[Finding]:
    """Look at the keys of one use of one owner together: one that ends is no matter where its successor is listed."""
    groups: dict[tuple[str, str], list[Key]] = {}
    for key in listed:
        groups.setdefault((key.owner, key.use), []).append(key)
    for (owner, use), group in sorted(groups.items()):
        good = [key for key in group if key.not_before <= now < key.not_after and not _revoked(key, now)]
        later = max((key.not_after for key in group if key.not_after > now and not _revoked(key, now)), default=0)
        if not good and owner in services:
            do = f"Make one: tally keys add {use} --owner {owner}, put it in its place, restart it."
            yield _finding("failure", f"{use} of {owner}", "no key is good now", do)
        elif good and later - now < SOON:
            last = max(good, key=lambda key: key.not_after)
            do = f"Make the next one: tally keys rotate {last.kid[:8]}, and restart who signs with it."
            says = f"key {last.kid[:8]} ends {_day(later)}, and there is no next one"
            yield _finding("warning", f"{use} of {owner}", says, do)


def _revoked(key: Key, now: int) -> bool:
    return key.revoked_at is not None and (key.revoked_at <= now or key.reason == "compromise")


def _copies(directory: Path, raw: bytes) -> Iterator[Finding]:
    for name in NAMES:
        copy = directory / name / CURRENT
        try:
            same = not copy.parent.is_dir() or (copy.is_file() and copy.read_bytes() == raw)
        except OSError as error:
            yield _finding(
                "failure", f"{name}/{CURRENT}", f"cannot be read: {error.strerror}", "Run this as its owner."
            )
            continue
        if not same:
            do = f"Copy {directory / CURRENT} there, and restart scope first, then controls and receipts."
            yield _finding("failure", f"{name}/{CURRENT}", "is not the installation's key list", do)


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%d}"


def _finding(level: Level, subject: str, says: str, do: str) -> Finding:
    return Finding(check="keys", level=level, subject=subject, says=says, do=do)
