"""The proof bundle `<job>.tally`: JSON Lines in one fixed order, read in one pass (specs/bundle.md).

    {"header":{…}} {"keys":…} {"policy":…} {"manifest":…}… {"grant":…}… {"revocation":…}… {"seal":…}
    then each lane: {"head":{"lane":…,"note":…}} and its raw receipts, one a line.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal

from msgspec import Struct

from verifier.encoding import Id, SafeText, canonical
from verifier.leaf import MAX_LEAF
from verifier.refused import Refused

FORMAT = "tallystick-bundle/1"
ORDER = ("header", "keys", "policy", "manifest", "grant", "revocation", "approval", "seal", "log", "head")
UNBUILT = frozenset({"approval", "log"})
MAX_LINE = 1 << 21
MAX_DOCUMENTS = 1 << 26
MAX_BYTES = 1 << 34
_PREFIXES = {name: b'{"' + name.encode() + b'":' for name in ORDER}


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line; both of its claims are checked against signed documents."""

    format: Literal["tallystick-bundle/1"]
    job: Id
    suite: SafeText


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lane begins: its signed head."""

    lane: Id
    note: str


class Line(Struct, frozen=True):
    """One line before the lanes: where it stands, its kind and the document inside."""

    number: int
    kind: str
    raw: bytes


class Reader:
    """Reads lines within limits, in constant memory. A line that is too long is skipped, not kept."""

    def __init__(self, source: BinaryIO, max_bytes: int = MAX_BYTES) -> None:
        """Start at the beginning."""
        self._readline = source.readline
        self.number = 0
        self.left = max_bytes

    def line(self, limit: int = MAX_LINE) -> bytes | None:
        """Return the next line without its newline, None at the end. Raises `Refused` truncated or too-large."""
        raw = self._readline(limit + 1)
        if not raw:
            return None
        self.number += 1
        self.left -= len(raw)
        if self.left < 0:
            raise Refused("too-large", "the file is larger than allowed", hint="Raise --max-bytes if this is meant.")
        if raw[-1] == 10:  # noqa: PLR2004 - newline
            return raw[:-1]
        if len(raw) > limit:
            self._skip()
            raise Refused("too-large", f"a line of more than {limit} bytes")
        raise Refused("truncated", "the last line does not end in a newline", hint="Get the file again from the gateway, byte for byte.")

    def _skip(self) -> None:
        """Read on to the end of a line that is too long."""
        while self.left > 0:
            raw = self._readline(MAX_LINE)
            self.left -= len(raw)
            if not raw or raw[-1] == 10:  # noqa: PLR2004 - newline
                return


def kind_of(raw: bytes) -> str | None:
    """Tell a document's line by its first key; None for a receipt."""
    return next((name for name, prefix in _PREFIXES.items() if raw.startswith(prefix)), None)


def content(raw: bytes, kind: str) -> bytes:
    """Take the document out of its line."""
    if not raw.endswith(b"}"):
        raise Refused("not-json", f"a {kind} line that does not end in a brace")
    return raw[len(_PREFIXES[kind]) : -1]


def wrap(kind: str, document: bytes) -> bytes:
    """Put a document into its line, without the newline."""
    return _PREFIXES[kind] + document + b"}"


class Lane(Struct, frozen=True):
    """One lane as it is written: its head and its receipts."""

    lane: str
    note: str
    leaves: Iterable[bytes]


class Documents(Struct, frozen=True, kw_only=True):
    """The signed documents of one job, as envelopes."""

    job: str
    suite: str
    keys: bytes
    policies: list[bytes]
    manifests: list[bytes]
    grants: list[bytes]
    revocations: list[bytes]
    seal: bytes | None


def write(documents: Documents, lanes: Iterable[Lane]) -> Iterator[bytes]:
    """Write a bundle line by line; the one writer for gateway, tests and vectors."""
    yield wrap("header", canonical(Header(format=FORMAT, job=documents.job, suite=documents.suite))) + b"\n"
    yield wrap("keys", documents.keys) + b"\n"
    for kind, raws in (
        ("policy", documents.policies),
        ("manifest", documents.manifests),
        ("grant", documents.grants),
        ("revocation", documents.revocations),
        ("seal", [] if documents.seal is None else [documents.seal]),
    ):
        for raw in raws:
            yield wrap(kind, raw) + b"\n"
    for lane in lanes:
        yield wrap("head", canonical(Head(lane=lane.lane, note=lane.note))) + b"\n"
        for leaf in lane.leaves:
            yield leaf + b"\n"


__all__ = ["MAX_LEAF", "Documents", "Head", "Header", "Lane", "Line", "Reader", "content", "kind_of", "wrap", "write"]
