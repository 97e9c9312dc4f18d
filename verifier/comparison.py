"""What differs between two bundles, of one job or of two (`tally diff-bundles`). Read as streams, side by side.

Nothing is verified and nothing believed: two bundles that differ may both be honest (one was fetched earlier), and two
that are the same may both be forged.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import zip_longest
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct, field

from verifier.bundle import ATTACHED, MAX_DOCUMENTS, Reader, content, kind_of
from verifier.encoding import digest, unb64
from verifier.refused import Refused
from verifier.report import many

MAX_LISTED = 200


class Document(Struct, frozen=True):
    """A document that only one bundle has, or has under other signatures: where is `first`, `second` or `both`."""

    kind: str
    digest: str
    where: str


class Field(Struct, frozen=True):
    """A field of the seal that differs; absent is none."""

    path: str
    first: str | None
    second: str | None


class Lane(Struct, kw_only=True, omit_defaults=True):
    """A lane that differs: how many receipts each has (none: no such lane), and the first that is not the same.

    `beside`: its head, or what is disclosed or sealed beside a receipt, differs.
    """

    lane: str
    first: int | None = None
    second: int | None = None
    at: int | None = None
    fields: list[str] = field(default_factory=list)
    beside: bool = False


class Comparison(Struct, kw_only=True):
    """Everything that differs, and in words what it looks like."""

    same: bool = True
    jobs: tuple[str, str] = ("", "")
    documents: list[Document] = field(default_factory=list)
    seal: list[Field] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)
    reordered: bool = False
    same_lanes: int = 0
    unlisted: int = 0
    looks: list[str] = field(default_factory=list)


_Counts = dict[str, tuple[int, int]]


class _Half:
    """One of the two bundles."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        """Read up to the first lane."""
        self._reader = Reader(source, limit)
        self.documents: dict[tuple[str, str], str] = {}
        self.seal: dict[str, str] = {}
        self.job = ""
        self.lane: str | None = None
        self.head = b""
        self.before = sha256()  # over the lines before the lanes, as they stand
        self.sealed: dict[str, int] = {}
        size = 0
        while (raw := self._reader.line()) is not None and not self._begins(raw):
            size += len(raw)
            if size > MAX_DOCUMENTS:
                raise Refused("too-large", f"the documents before the lanes have more than {MAX_DOCUMENTS} bytes")
            self._document(raw)
        if not self.job:
            raise Refused("missing-line", "the first line is not a bundle's header", hint="Is this a .tally file?")

    def leaves(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the lane's receipts, each with a digest of what is attached to it; then stand at the next lane."""
        self.lane = None
        pending: bytes | None = None
        attached = b""
        while (raw := self._reader.line()) is not None and not self._begins(raw):
            if kind_of(raw) in ATTACHED:
                attached = sha256(attached + raw).digest()
                continue
            if pending is not None:
                yield pending, attached
            pending, attached = raw, b""
        if pending is not None:
            yield pending, attached

    def _begins(self, raw: bytes) -> bool:
        if kind_of(raw) != "head":
            return False
        self.lane, self.head = str(_opened(content(raw, "head")).get("lane")), raw
        return True

    def _document(self, raw: bytes) -> None:
        self.before.update(raw + b"\n")
        kind = kind_of(raw) or "unknown"
        inside = _opened(content(raw, kind)) if kind not in {"unknown", "log"} else {}
        if kind == "header":
            self.job = str(inside.get("job", ""))
        payload = unb64(str(inside["payload"]), field="payload") if "payload" in inside else raw
        self.documents[kind, digest(payload)] = digest(raw)
        if kind == "seal":
            seal = _opened(payload)
            lanes = [each for each in seal.get("lanes", ()) if isinstance(each, dict)]
            self.sealed = {str(each.get("lane")): each["size"] for each in lanes if isinstance(each.get("size"), int)}
            self.seal = dict(_flat(seal | {"lanes": {str(each.get("lane")): each for each in lanes}}, ""))


def compare(first: BinaryIO, second: BinaryIO, limit: int) -> Comparison:
    """Compare two bundles in one pass over each. Raises `Refused` for what cannot be read."""
    a, b = _Half(first, limit), _Half(second, limit)
    made = Comparison(jobs=(a.job, b.job))
    _documents(a, b, made)
    _seals(a, b, made)
    counts: _Counts = {}
    relations: set[str] = set()
    while a.lane is not None or b.lane is not None:
        lane = _lane(a, b)
        counts[lane.lane] = (lane.first or 0, lane.second or 0)
        relation = _relation(lane)
        relations.add(relation)
        if relation == "same":
            made.same_lanes += 1
        elif len(made.lanes) < MAX_LISTED:
            made.lanes.append(lane)
        else:
            made.unlisted += 1
    made.reordered = not made.documents and a.before.digest() != b.before.digest()
    made.same = not (made.documents or made.reordered or relations - {"same"})
    made.looks = list(_looks(a, b, made, relations, counts))
    return made


def _documents(a: _Half, b: _Half, made: Comparison) -> None:
    for kind, address in sorted(a.documents.keys() | b.documents.keys()):
        if a.documents.get((kind, address)) != b.documents.get((kind, address)):
            one, other = (kind, address) in a.documents, (kind, address) in b.documents
            made.documents.append(Document(kind, address, "both" if one and other else "first" if one else "second"))
    made.unlisted += max(0, len(made.documents) - MAX_LISTED)
    del made.documents[MAX_LISTED:]


def _seals(a: _Half, b: _Half, made: Comparison) -> None:
    differing = [path for path in sorted(a.seal.keys() | b.seal.keys()) if a.seal.get(path) != b.seal.get(path)]
    made.seal = [Field(path, a.seal.get(path), b.seal.get(path)) for path in differing[:MAX_LISTED]]
    made.unlisted += max(0, len(differing) - MAX_LISTED)


def _lane(a: _Half, b: _Half) -> Lane:
    """Read one lane: of both where both stand at it, else of the one whose lane comes first."""
    if a.lane == b.lane:
        return _both(a, b)
    if b.lane is None or (a.lane is not None and a.lane < b.lane):
        return Lane(lane=str(a.lane), first=sum(1 for _ in a.leaves()))
    return Lane(lane=b.lane, second=sum(1 for _ in b.leaves()))


def _both(a: _Half, b: _Half) -> Lane:
    lane = Lane(lane=str(a.lane), beside=a.head != b.head)
    first = second = 0
    for number, (left, right) in enumerate(zip_longest(a.leaves(), b.leaves())):
        first, second = first + (left is not None), second + (right is not None)
        if lane.at is None and (left is None or right is None or left[0] != right[0]):
            lane.at = number
            lane.fields = _fields(left[0], right[0]) if left and right else []
        lane.beside = lane.beside or bool(left and right and left[1] != right[1])
    lane.first, lane.second = first, second
    return lane


def _fields(first: bytes, second: bytes) -> list[str]:
    """Name the fields of two receipts that differ; none where one of them cannot be read."""
    try:
        one, other = _opened(first), _opened(second)
    except Refused:
        return []
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))[:MAX_LISTED]


def _relation(lane: Lane) -> str:
    """Say how the first bundle's lane stands to the second's: same, shorter, longer, differs, beside."""
    first, second = lane.first, lane.second
    if first is None or second is None:
        return "shorter" if first is None else "longer"
    if lane.at is None:
        return "beside" if lane.beside else "same"
    if lane.at == min(first, second):
        return "shorter" if first < second else "longer"
    return "differs"


def _looks(a: _Half, b: _Half, made: Comparison, relations: set[str], counts: _Counts) -> Iterator[str]:
    """Say in words what the differences look like; the seals' own sizes say which bundle is whole."""
    if made.same:
        yield "The two are the same, line by line."
        return
    yield _likely(a, b, made, relations)
    for number, (name, half) in enumerate((("first", a), ("second", b))):
        lacking = [lane for lane, size in half.sealed.items() if counts.get(lane, (0, 0))[number] < size]
        beyond = [lane for lane, size in half.sealed.items() if counts.get(lane, (0, 0))[number] > size]
        if lacking:
            yield f"The {name} has fewer receipts than its own seal counts in {_named(lacking)}: truncated."
        if beyond:
            yield f"The {name} has more receipts than its own seal counts in {_named(beyond)}: extended after the seal."
        if not half.seal:
            yield f"The {name} has no seal."


def _likely(a: _Half, b: _Half, made: Comparison, relations: set[str]) -> str:
    """Say what is most likely, the gravest first."""
    earlier = "The {} looks like a truncated or earlier copy of the {}: every receipt that it has is there."
    likely = (
        (a.job != b.job, f"They are bundles of two jobs, {a.job} and {b.job}."),
        (
            "differs" in relations,
            "The receipts themselves differ: one of the two was changed, or they are two records of one job.",
        ),
        ({"shorter", "longer"} <= relations, "Each lacks receipts that the other has."),
        ("shorter" in relations, earlier.format("first", "second")),
        ("longer" in relations, earlier.format("second", "first")),
        ("beside" in relations, "The receipts are the same; a head, or what is disclosed or sealed, differs."),
        (made.reordered, "The same documents stand in another order, or one stands twice."),
        (True, "The receipts are the same; the documents before them differ."),
    )
    return next(said for holds, said in likely if holds)


def _named(lanes: list[str]) -> str:
    few = ", ".join(lanes[:3])
    return few if len(lanes) <= 3 else f"{few} and {many(len(lanes) - 3, 'more lane')}"  # noqa: PLR2004 - as above


def _opened(raw: bytes) -> dict[str, Any]:
    """Read an object leniently: what is compared is not judged."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("not-json", "a line that is not JSON") from error
    return value if isinstance(value, dict) else {}


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """List every value with its path."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else msgspec.json.encode(value).decode()
