"""Step 6: lanes changed after they were sealed, and heads."""

from tests.vectors.bundles.make import edit_receipt, lines, place, receipt, rewritten, sealing_lane, story
from tests.vectors.case import Made, case
from tests.world import GATEWAY, SECOND, World, key, pair
from verifier import bundle, seal
from verifier.checkpoint import sign_head

MADE: Made = {}


@case(MADE, "FAIL wrong-size", "the last receipt is dropped", also="wrong-root no-close")
def last_receipt_dropped() -> bytes:
    return b"".join(lines(story())[:-1])


@case(MADE, "FAIL wrong-size", "half a lane", also="wrong-root no-close")
def half_a_lane() -> bytes:
    return b"".join(lines(story())[:-6])


@case(MADE, "FAIL wrong-size", "a receipt is dropped from the middle", also="wrong-root wrong-seq wrong-counts")
def receipt_dropped() -> bytes:
    written = lines(story())
    del written[receipt(written, 8)]
    return b"".join(written)


@case(MADE, "FAIL wrong-size", "a receipt stands twice", also="wrong-root wrong-seq wrong-counts")
def receipt_twice() -> bytes:
    written = lines(story())
    at = receipt(written, 8)
    written.insert(at, written[at])
    return b"".join(written)


@case(MADE, "FAIL wrong-root", "two receipts have changed places", also="wrong-seq wrong-time no-begin no-end")
def receipts_swapped() -> bytes:
    written = lines(story())
    at = receipt(written, 6)
    written[at], written[at + 1] = written[at + 1], written[at]
    return b"".join(written)


@case(MADE, "FAIL wrong-root", "one digit of one receipt's time")
def receipt_time_changed() -> bytes:
    return edit_receipt(11, lambda raw: raw.replace(b"12000}", b"12001}"))


@case(
    MADE,
    "FAIL wrong-root",
    "a gateway that rewrites a receipt after the seal, and signs the new head",
    also="wrong-head",
)
def receipt_rewritten_by_gateway() -> bytes:
    world = story()
    raws = list(world.lanes[0].raws)
    raws[8] = raws[8].replace(b'"staleness":1000', b'"staleness":2000')
    return rewritten(world, raws)


@case(MADE, "FAIL wrong-root", "a forged receipt beside good ones", also="wrong-size wrong-head wrong-counts")
def receipt_forged() -> bytes:
    world = story()
    honest = world.lanes[0].raws
    forged = honest[8].replace(b"call-4", b"call-9").replace(b'"seq":8', b'"seq":9')
    later = [raw.replace(f'"seq":{n}'.encode(), f'"seq":{n + 1}'.encode()) for n, raw in enumerate(honest) if n > 8]
    return rewritten(world, [*honest[:9], forged, *later])


@case(
    MADE,
    "FAIL wrong-root",
    "another agent's receipts, signed again as this job's",
    also="wrong-head wrong-policy missing-document unknown-token",
)
def receipts_of_another_agent() -> bytes:
    other = World(policy={"serial": 2}, scope={"agent": "agent-2"}).story()
    return rewritten(story(), other.lanes[0].raws)


@case(MADE, "FAIL missing-lane", "a whole lane is left out")
def lane_left_out() -> bytes:
    world = story()
    world.lane("lane-2").close()
    written = world.bundle().splitlines(keepends=True)
    heads = [i for i, line in enumerate(written) if line.startswith(b'{"head":')]
    return b"".join(written[: heads[1]])


@case(MADE, "FAIL unsealed-lane", "a lane that the seal does not name")
def lane_added() -> bytes:
    world = story()
    documents = world.documents(world.sealed())
    world.lane("lane-2").close()
    return world.bundle(documents)


@case(MADE, "MALFORMED bad-line", "a lane stands twice")
def lane_twice() -> bytes:
    written = lines(story())
    return b"".join([*written, *written[place(written, "head") :]])


@case(MADE, "FAIL wrong-head", "the head of another lane")
def head_of_another_lane() -> bytes:
    world = story()
    lane = world.lanes[0]
    note = sign_head(
        pair("gateway"), seal.origin(GATEWAY, "job-1", "lane-2"), len(lane.raws), lane.tree.root(),
        closing_at=lane.time // SECOND,
    )  # fmt: skip
    return _with_note(world, note)


def _with_note(world: World, note: str) -> bytes:
    lane = world.lanes[0]
    return b"".join(bundle.write(world.documents(world.sealed()), [bundle.Lane(lane.name, note, lane.raws)]))


@case(MADE, "FAIL missing-signature", "a closing head without its ML-DSA-44 line")
def head_stripped_of_ml_dsa() -> bytes:
    world = story()
    lane = world.lanes[0]
    return _with_note(
        world, sign_head(pair("gateway"), seal.origin(GATEWAY, "job-1", lane.name), len(lane.raws), lane.tree.root())
    )


@case(MADE, "UNTRUSTED unknown-signer", "a head signed with a listed key of another gateway")
def head_by_another_gateway() -> bytes:
    world = World(keys=[*World().listed.keys, key("gateway-2", "gateway", "https://gateway-2.example")])
    world.story()
    return _with_note(world, world.lanes[0].head("gateway-2"))


@case(MADE, "FAIL bad-signature", "a head whose signature was changed")
def head_signature_changed() -> bytes:
    world = story()
    note = world.lanes[0].head()
    first, rest = note.rsplit(" ", 1)
    return _with_note(world, f"{first} {rest[:40]}{'A' if rest[40] != 'A' else 'B'}{rest[41:]}")


@case(MADE, "MALFORMED bad-checkpoint", "a head that is no signed note")
def head_not_a_note() -> bytes:
    return _with_note(story(), "trust me\n")


@case(MADE, "FAIL no-close", "sealed as complete, and the lane has no close receipt")
def lane_without_close() -> bytes:
    world = World()
    world.lane().model("call-1")
    return world.bundle()


@case(MADE, "FAIL wrong-gateway", "the seal names another gateway than the grant's audience")
def lane_of_another_gateway() -> bytes:
    other = "https://other.example"
    return sealing_lane(story(), gateway=other, origin=seal.origin(other, "job-1", "lane-1"))
