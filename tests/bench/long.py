"""A lane of any length, written in seconds: one turn of an honest world's lane over and over with other values.

The gateway writes a few thousand receipts a second; for a million it would take longer than all other measurements
together. What is signed is what an honest gateway and scope would sign; only the receipts are printed, not decided.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path

from msgspec.structs import replace

from tests.world import GATEWAY, NOW, SECOND, World, pair
from verifier import bundle, leaf, seal
from verifier.checkpoint import sign_head
from verifier.encoding import canonical
from verifier.leaf import Close, Counts
from verifier.merkle import Tree

TURN = 6
CHUNK = 6000
STEP = 100  # microseconds between receipts: a million fit into one token's time
CALL = "call-%07d"
FIRST = 100  # what stands for the first turn's number while the template is made


def write(directory: Path, receipts: int) -> tuple[Path, Path]:
    """Write a bundle of so many receipts, or a few more to end a turn, and the pin that judges it."""
    world = World()
    lane = world.lane()
    start = len(lane.raws)
    call = CALL % FIRST
    lane.model(f"{call}-a", "get_case", "search_customer")
    lane.tool(f"{call}-b")
    lane.tool(f"{call}-c", "search_customer")
    opening, turn = lane.raws[:start], b"\n".join(lane.raws[start:])
    turns = -(-(receipts - start - 1) // TURN)
    size, time = start + turns * TURN + 1, lane.time + turns * TURN * STEP
    calls = turns * TURN // 2
    counts = Counts(begin=calls, end=calls, deny=0, note=0, token=1)
    closing = leaf.encode(Close(counts=counts, reason="closed", seq=size - 1, time=time))
    body, tree = directory / "long.lines", Tree()
    with body.open("wb") as file:
        turned = _lines(_template(turn, start, lane.time), turns, start, lane.time)
        lines = chain(opening, turned, [closing])
        while chunk := list(islice(lines, CHUNK)):
            tree.extend([sha256(b"\0" + line).digest() for line in chunk])
            file.write(b"\n".join(chunk) + b"\n")
    lane.time, root = time, tree.root()
    honest = world.sealed()
    ended = seal.Mark(time=time + SECOND, size=size)
    marks = [seal.Mark(time=NOW + SECOND, size=0), ended]
    sealed = replace(honest.lanes[0], size=size, root="sha256:" + root.hex(), marks=marks)
    documents = world.documents(world.sealed(lanes=[sealed]))
    note = sign_head(pair("gateway"), seal.origin(GATEWAY, world.job, lane.name), size, root, closing_at=time // SECOND)
    path, pin = directory / "long.tally", directory / "long-pin.json"
    with path.open("wb") as out, body.open("rb") as file:
        out.writelines(bundle.write(documents, [bundle.Lane(lane.name, note, [])]))
        while block := file.read(1 << 20):
            out.write(block)
    body.unlink()
    pin.write_bytes(canonical(world.pin()))
    return path, pin


def _template(turn: bytes, start: int, time: int) -> bytes:
    """Make a format of one turn: call, sequence numbers, times and roots are filled in."""
    made = turn.replace(b"%", b"%%").replace((CALL % FIRST).encode(), CALL.encode().replace(b"%07d", b"%(call)07d"))
    for place in range(TURN):
        now = time - (TURN - 1 - place) * 1000
        made = made.replace(b'"seq":%d,' % (start + place), b'"seq":%%(seq%d)d,' % place)
        made = made.replace(b'"time":%d' % now, b'"time":%%(time%d)d' % place)
    pieces = made.split(b'"root":"sha256:')
    return b'"root":"sha256:%(root)b'.join([pieces[0], *(piece[64:] for piece in pieces[1:])])


def _lines(template: bytes, turns: int, start: int, time: int) -> Iterator[bytes]:
    for number in range(turns):
        seq = start + number * TURN
        fields: dict[bytes, object] = {b"call": number, b"root": sha256(b"%d" % number).hexdigest().encode()}
        for place in range(TURN):
            fields[b"seq%d" % place] = seq + place
            fields[b"time%d" % place] = time + (seq + place - start) * STEP
        yield from (template % fields).split(b"\n")
