"""When what happened, for a picture: recorded beside the audit, bounded, and believed by nobody.

A `Recorder` sees the very bytes that the audit reads, in one pass. What it cannot read it leaves out: whether anything
is true is the audit's to say. Of many events of one kind it keeps every second, fourth, eighth…: at most 500 in all.
"""

from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from verifier.bundle import MAX_LINE, content, kind_of
from verifier.encoding import MAX_INT, unb64
from verifier.refused import Refused

MAX_CALLS, MAX_DENIALS, MAX_HOLDS, MAX_NOTES, MAX_MARKS, MAX_REVOCATIONS = 300, 80, 40, 20, 40, 20
MAX_LANES = 40
MAX_OPEN = 1024
MAX_NAME = 128

T = TypeVar("T")
_Moment = Annotated[int, Meta(ge=0, le=MAX_INT)]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call to a `model` or `tool` (from `time` until `until`, 0 when it has no end), a `deny`, `hold` or `note`."""

    kind: str
    lane: str
    seq: int
    time: int
    until: int = 0
    what: str = ""
    status: str = ""


class LaneTime(Struct, kw_only=True):
    """One lane: its receipts' first and last time and how many of each kind there are."""

    lane: str
    first: int = 0
    last: int = 0
    receipts: int = 0
    calls: int = 0
    denials: int = 0
    holds: int = 0
    marks: list[int] = field(default_factory=list)


class Revoked(Struct, frozen=True):
    """A revocation, as its document says."""

    time: int
    what: str


class Timeline(Struct, kw_only=True):
    """What the bundle says happened; `thinned` events and `undrawn` lanes were left out, `unread` lines unreadable."""

    opened: int = 0
    closed: int = 0
    lanes: list[LaneTime] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    revocations: list[Revoked] = field(default_factory=list)
    thinned: int = 0
    undrawn: int = 0
    unread: int = 0


class Thinned(Generic[T]):
    """At most `most` (an even number) of many things, evenly spread over their order."""

    def __init__(self, most: int) -> None:
        """Start empty, keeping everything."""
        self.kept: list[T] = []
        self.count = 0
        self._most, self._every = most, 1

    @property
    def thinned(self) -> int:
        """How many were left out."""
        return self.count - len(self.kept)

    def add(self, thing: T) -> None:
        """Count a thing; keep it when its turn comes."""
        if self.count % self._every == 0:
            if len(self.kept) == self._most:
                self.kept = self.kept[::2]
                self._every *= 2
            self.kept.append(thing)
        self.count += 1


class _Target(Struct):
    server: str = ""
    tool: str = ""
    provider: str = ""
    model: str = ""

    def kind(self) -> str:
        return "tool" if self.server or self.tool else "model"

    def words(self) -> str:
        return "/".join(part for part in (self.server or self.provider, self.tool or self.model) if part)[:MAX_NAME]


class _Leaf(Struct):
    kind: str
    time: _Moment
    seq: _Moment
    call: str = ""
    code: str = ""
    status: str = ""
    target: _Target = field(default_factory=_Target)


class _Head(Struct):
    lane: str


class _Envelope(Struct):
    payload: str


class _Mark(Struct):
    time: _Moment


class _Lane(Struct):
    lane: str
    marks: list[_Mark]


class _Seal(Struct):
    opened: _Moment
    closed: _Moment
    lanes: list[_Lane]


class _RevocationTarget(Struct):
    kind: str
    value: str


class _Revocation(Struct):
    time: _Moment
    target: _RevocationTarget


_leaf = msgspec.json.Decoder(_Leaf).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Refused)


class Recorder:
    """Sees a bundle's bytes as they are read, and keeps what a picture needs."""

    def __init__(self) -> None:
        """Start at the beginning."""
        self._made = Timeline()
        self._rest = b""
        self._over = False
        self._lane: LaneTime | None = None
        self._open: dict[str, _Leaf] = {}
        self._marks: dict[str, list[int]] = {}
        self._kept: dict[str, Thinned[Event]] = {
            "model": Thinned(MAX_CALLS // 2), "tool": Thinned(MAX_CALLS // 2), "deny": Thinned(MAX_DENIALS),
            "hold": Thinned(MAX_HOLDS), "note": Thinned(MAX_NOTES),
        }  # fmt: skip
        self._revoked: Thinned[Revoked] = Thinned(MAX_REVOCATIONS)

    def see(self, data: bytes) -> None:
        """Take the next bytes; nothing follows a line that no bundle has."""
        if self._over:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                self._line(line)
            except _UNREADABLE:
                self._made.unread += 1
        if len(self._rest) > MAX_LINE:
            self._over, self._rest = True, b""

    def finish(self) -> Timeline:
        """Return what was recorded."""
        self._leave_lane()
        made = self._made
        thinned = list(self._kept.values())
        made.events = sorted((event for each in thinned for event in each.kept), key=lambda event: event.time)
        made.revocations = self._revoked.kept
        made.thinned = sum(each.thinned for each in thinned) + self._revoked.thinned
        share = max(1, MAX_MARKS // max(1, len(made.lanes)) // 2) * 2
        for lane in made.lanes:
            few: Thinned[int] = Thinned(share)
            for mark in self._marks.get(lane.lane, ()):
                few.add(mark)
            lane.marks = few.kept
        return made

    def _line(self, raw: bytes) -> None:
        kind = kind_of(raw)
        if kind is None:
            if self._lane is not None:
                self._receipt(self._lane, _leaf(raw))
        elif kind == "head":
            self._enter_lane(msgspec.json.decode(content(raw, kind), type=_Head).lane[:MAX_NAME])
        elif kind == "seal":
            seal = _document(raw, kind, _Seal)
            self._made.opened, self._made.closed = seal.opened, seal.closed
            self._marks = {lane.lane: [mark.time for mark in lane.marks] for lane in seal.lanes}
        elif kind == "revocation":
            revoked = _document(raw, kind, _Revocation)
            words = f"{revoked.target.kind} {revoked.target.value}"
            self._revoked.add(Revoked(revoked.time, words[:MAX_NAME]))

    def _enter_lane(self, name: str) -> None:
        self._leave_lane()
        if len(self._made.lanes) == MAX_LANES:
            self._made.undrawn += 1
        else:
            self._lane = LaneTime(lane=name)
            self._made.lanes.append(self._lane)

    def _leave_lane(self) -> None:
        """Calls that are open now have no end here."""
        if self._lane is not None:
            for begun in self._open.values():
                self._event(self._lane, begun, begun.target.kind(), status="no end")
        self._lane = None
        self._open.clear()

    def _receipt(self, lane: LaneTime, leaf: _Leaf) -> None:
        lane.first = lane.first or leaf.time
        lane.last = max(lane.last, leaf.time)
        lane.receipts += 1
        if leaf.kind == "begin":
            lane.calls += 1
            if len(self._open) < MAX_OPEN:
                self._open[leaf.call] = leaf
        elif leaf.kind == "end":
            begun = self._open.pop(leaf.call, None)
            if begun is not None:
                self._event(lane, begun, begun.target.kind(), until=leaf.time, status=leaf.status)
        elif leaf.kind in {"deny", "hold", "note"}:
            lane.denials += leaf.kind == "deny"
            lane.holds += leaf.kind == "hold"
            self._event(lane, leaf, leaf.kind, status=leaf.code)

    def _event(self, lane: LaneTime, leaf: _Leaf, kind: str, *, until: int = 0, status: str = "") -> None:
        made = Event(
            kind=kind, lane=lane.lane, seq=leaf.seq, time=leaf.time, until=until,
            what=leaf.target.words(), status=status[:MAX_NAME],
        )  # fmt: skip
        self._kept[kind].add(made)


def _document(raw: bytes, kind: str, form: type[T]) -> T:
    payload = unb64(msgspec.json.decode(content(raw, kind), type=_Envelope).payload)
    return msgspec.json.decode(payload, type=form)
