"""The proof bundle `<job>.tally`: JSON Lines in one fixed order, read in one pass (specs/bundle.md).

{"header":{…}} {"keys":…}… {"policy":…}… {"prices":…} {"manifest":…}… {"grant":…}…
{"revocation":…}… {"approval":…}… {"seal":…}… perhaps {"log":…},
then each lane: {"head":{"lane":…,"note":…}} and its raw receipts, one a line, each followed by
its disclosures and sealed payloads: {"disclosure":{…}} {"box":{…}}.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, Literal

from msgspec import Struct

from verifier.encoding import Id, SafeText, canonical
from verifier.leaf import MAX_LEAF
from verifier.refused import Refused

FORMAT: Final = "tallystick-bundle/1"
ORDER = ("header", "keys", "policy", "prices", "manifest", "grant", "revocation", "approval", "seal", "log", "head")
ATTACHED = ("disclosure", "box")
MAX_LINE = 1 << 21
BLOCK = 1 << 17
MAX_DOCUMENTS = 1 << 26
MAX_BYTES = 1 << 34
_PREFIXES = {name: b'{"' + name.encode() + b'":' for name in (*ORDER, *ATTACHED)}

HEAD = _PREFIXES["head"]


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
    """Reads lines in blocks, within limits and in constant memory."""

    def __init__(self, source: BinaryIO, max_bytes: int = MAX_BYTES) -> None:
        """Start at the beginning."""
        self._read = source.read
        self._lines: list[bytes] = []  # whole lines of the block at hand, the next one last
        self._rest: list[bytes] = []  # the beginning of a line that the next block goes on with, as it came
        self._length = 0  # of that beginning
        self.number = 0  # of the line that was returned last
        self.left = max_bytes

    def line(self) -> bytes | None:
        """Return the next line without its newline, None at the end.

        Raises `Refused` truncated or too-large: nothing follows.
        """
        while not self._lines:
            block = self._read(BLOCK)
            if not block:
                if self._rest:
                    self._rest = []
                    self.number += 1
                    raise Refused("truncated", "the last line does not end in a newline")
                return None
            self.left -= len(block)
            *lines, rest = block.split(b"\n")
            if lines:
                lines[0] = b"".join((*self._rest, lines[0]))
                self._rest, self._length = [], 0
            if rest:
                self._rest.append(rest)
                self._length += len(rest)
            if self.left < 0 or self._length > MAX_LINE:
                self._rest = []
                raise Refused("too-large", "the file, or one of its lines, is larger than allowed")
            self._lines = lines[::-1]
        self.number += 1
        return self._lines.pop()

    def receipts(self) -> list[bytes]:
        """Return some of the next lines of a lane: at least one, up to the next lane's head; none at the lane's end.

        Raises as `line`.
        """
        first = self.line()
        if first is None:
            return []
        self._lines.append(first)
        lines, self._lines = self._lines[::-1], []
        if HEAD[:4] in {line[:4] for line in lines}:
            end = next((at for at, line in enumerate(lines) if line.startswith(HEAD)), len(lines))
            lines, self._lines = lines[:end], lines[end:][::-1]
        self.number += len(lines) - 1
        return lines


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
    chain: list[bytes] = []  # earlier key lists, from one that the pinned roots signed to the one before `keys`
    approvals: list[bytes] = []
    superseded: bytes | None = None  # an interrupted seal that `seal` supersedes
    log: str | None = None  # a tlog-proof of the seal
    prices: list[bytes] = []


def write(documents: Documents, lanes: Iterable[Lane]) -> Iterator[bytes]:
    """Write a bundle line by line; the one writer for gateway, tests and vectors."""
    yield wrap("header", canonical(Header(format=FORMAT, job=documents.job, suite=documents.suite))) + b"\n"
    seals = [raw for raw in (documents.superseded, documents.seal) if raw is not None]
    for kind, raws in (
        ("keys", [*documents.chain, documents.keys]),
        ("policy", documents.policies),
        ("prices", documents.prices),
        ("manifest", documents.manifests),
        ("grant", documents.grants),
        ("revocation", documents.revocations),
        ("approval", documents.approvals),
        ("seal", seals),
        ("log", [] if documents.log is None else [canonical(documents.log)]),
    ):
        for raw in raws:
            yield wrap(kind, raw) + b"\n"
    for lane in lanes:
        yield wrap("head", canonical(Head(lane=lane.lane, note=lane.note))) + b"\n"
        for leaf in lane.leaves:
            yield leaf + b"\n"


__all__ = ["MAX_LEAF", "Documents", "Head", "Header", "Lane", "Line", "Reader", "content", "kind_of", "wrap", "write"]
