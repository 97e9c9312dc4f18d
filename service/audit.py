"""An append-only record of what people did: each entry names the hash of the one before it (specs/audit.md).

    {"entry": {position, time, actor, act, subject, digest?, details, previous}, "hash": "sha256:…"}

Nothing can be changed, dropped or put in between without every later hash changing; that the end was not cut off shows
only to somebody who remembers a later hash.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from verifier.encoding import Digest, SafeText, Time, canonical, digest, read
from verifier.refused import Refused

LABEL = b"tally-audit/1\0"
BEGINNING = "sha256:" + "0" * 64
MAX_LINE = 1 << 14
MAX_DETAILS = 1 << 12

Act = Annotated[str, Meta(pattern=r"^[a-z]+(-[a-z]+){0,3}\Z")]


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who did what to what, and when (Unix microseconds); `details` are canonical JSON."""

    position: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    time: Time
    actor: SafeText
    act: Act
    subject: SafeText
    digest: Digest | None = None
    details: Annotated[str, Meta(max_length=MAX_DETAILS)] = "{}"
    previous: Digest

    def hash(self) -> str:
        """Compute the hash that the next entry names."""
        return digest(LABEL + canonical(self))


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry with its hash, as it is exported: one canonical line."""

    entry: Entry
    hash: Digest


class Checked(Struct, frozen=True):
    """What a good chain comes to: how many entries, and the hash to remember."""

    entries: int
    head: str


def check(lines: Iterable[bytes], *, head: str | None = None) -> Checked:
    """Check a whole export, from the first entry on; with `head`, that it holds the entry of this hash.

    Raises `Refused`: broken-audit, and the reading codes, naming the line.
    """
    previous, count, time, seen = BEGINNING, 0, 0, head in {None, BEGINNING}
    for number, raw in enumerate(lines, start=1):
        line = _read(raw, number)
        entry = line.entry
        for wrong, why in (
            (entry.position != number, f"entry {entry.position} stands at place {number}"),
            (entry.previous != previous, f"entry {number} does not follow from the one before it"),
            (entry.hash() != line.hash, f"entry {number} is not what was hashed"),
            (entry.time < time, f"entry {number} is older than the one before it"),
        ):
            if wrong:
                raise _broken(why)
        previous, count, time = line.hash, number, entry.time
        seen = seen or previous == head
    if not seen:
        raise _broken("the entry that was remembered is not there: the record was cut off, or begun again")
    return Checked(count, previous)


def _read(raw: bytes, number: int) -> Line:
    try:
        return read(raw, Line, limit=MAX_LINE)
    except Refused as refused:
        raise Refused(refused.code, f"line {number}: {refused.why}", field=refused.field) from refused


def _broken(why: str) -> Refused:
    hint = "Compare it with an older copy; ask who may write to the database."
    return Refused("broken-audit", why, hint=hint)
