"""A bundle written again with disclosures in place, and its sealed payloads opened (specs/disclosures.md §5).

One pass, one receipt and what stands behind it in memory. Nothing here judges the receipts: that is `tally verify`.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from verifier.box import AuditorKey, Box, open_box
from verifier.bundle import MAX_BYTES, Head, Reader, content
from verifier.commitment import Side
from verifier.disclosure import Disclosure, check, committed, in_order
from verifier.encoding import canonical, read
from verifier.leaf import MAX_LEAF, Commitment, Leaf, decode
from verifier.refused import Refused

DISCLOSURE, BOX, HEAD = b'{"disclosure":', b'{"box":', b'{"head":'
MAX_BEHIND = 1 << 26


class Place(Struct, frozen=True):
    """A receipt with what stands behind it; before the first lane, and for a head line, `lane` and `leaf` are empty."""

    lane: str
    raw: bytes
    leaf: Leaf | None
    disclosures: list[Disclosure]
    boxes: list[Box]


def places(source: BinaryIO, max_bytes: int = MAX_BYTES) -> Iterator[Place]:
    """Read a bundle line by line. Raises `Refused` where a line cannot be read."""
    reader = Reader(source, max_bytes)
    lane = ""
    raw = reader.line()
    while raw is not None:
        leaf = None
        if raw.startswith(HEAD):
            lane = read(content(raw, "head"), Head, limit=4 * MAX_LEAF).lane
        elif lane:
            leaf = decode(raw)
        disclosures, boxes, size = [], [], 0
        following = reader.line()
        while following is not None and following.startswith((DISCLOSURE, BOX)):
            size += len(following)
            if size > MAX_BEHIND:
                raise Refused("too-large", f"more than {MAX_BEHIND} bytes behind one receipt")
            if following.startswith(BOX):
                boxes.append(Box.parse(following[len(BOX) : -1]))
            else:
                disclosures.append(Disclosure.parse(following[len(DISCLOSURE) : -1]))
            following = reader.line()
        yield Place(lane, raw, leaf, disclosures, boxes)
        raw = following


def disclosed(
    source: BinaryIO, call: str, side: Side, make: Callable[[Commitment], list[Disclosure]]
) -> Iterator[bytes]:
    """Write a bundle again, line by line, with disclosures of one side of one call behind every receipt of that call.

    A held call has two receipts with the same commitment: both get them. `make` is asked once a receipt and raises
    `Refused` when what it would disclose does not fit. Raises `Refused` wrong-disclosure when no receipt of that call
    has that side.
    """
    found = False
    for place in places(source):
        held = None
        if place.leaf is not None and getattr(place.leaf, "call", None) == call:
            held = committed(place.leaf, side)
        added = make(held) if held is not None else []
        found = found or held is not None
        yield place.raw + b"\n"
        kept = {each.place: each for each in place.disclosures}
        for each in added:
            assert held is not None
            check(each, held)
            kept[each.place] = each
        for each in in_order(kept.values()):
            yield DISCLOSURE + canonical(each) + b"}\n"
        for box in place.boxes:
            yield BOX + canonical(box) + b"}\n"
    if not found:
        raise Refused("wrong-disclosure", f"the bundle has no receipt of call {call} that commits to `{side}`")


class Opened(Struct, frozen=True, kw_only=True):
    """A sealed payload that was opened, or `refused` and why."""

    lane: str
    seq: int
    call: str
    side: Side
    auditor: str
    slices: list[bytes] = []
    refused: str | None = None
    why: str = ""


def opened(source: BinaryIO, key: AuditorKey, call: str | None = None) -> Iterator[Opened]:
    """Open the sealed payloads of a bundle, or of one call; one that does not open is named, and the rest goes on."""
    for place in places(source):
        named = getattr(place.leaf, "call", "")
        if place.leaf is None or (call is not None and named != call):
            continue
        for box in place.boxes:
            made = Opened(lane=place.lane, seq=place.leaf.seq, call=named, side=box.side, auditor=box.auditor)
            yield _open(made, box, key, place)


def _open(made: Opened, box: Box, key: AuditorKey, place: Place) -> Opened:
    assert place.leaf is not None
    held = committed(place.leaf, box.side)
    if held is None:
        return replace(made, refused="wrong-box", why=f"the receipt commits to no `{box.side}`")
    try:
        return replace(made, slices=open_box(key, box, held))
    except Refused as refused:
        return replace(made, refused=refused.code, why=refused.why)
