"""Step 14: what clients keep of their answers, held against what was sealed."""

from tests.vectors.bundles.make import idle
from tests.vectors.case import Made, case
from tests.vectors.documents.kept import told
from tests.world import World

MADE: Made = {}


def retold() -> World:
    """Play the same job, without its tool call: what an operator might rather seal."""
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.model("call-3")
    lane.close()
    return world


@case(MADE, "PASS", "a client's half that is all in the lane", kept="kept/answer kept/header")
def honest_kept() -> bytes:
    return told().bundle()


@case(MADE, "FAIL omitted", "the operator sealed another history than a client was shown", kept="kept/answer")
def answer_rewritten() -> bytes:
    return retold().bundle()


@case(MADE, "FAIL omitted", "the lane ends before a receipt that a client holds", kept="kept/last")
def answer_cut_off() -> bytes:
    world = World()
    idle(world)
    return world.bundle()


@case(MADE, "FAIL omitted", "a receipt of a lane that is not in the bundle at all", kept="kept/answer")
def lane_omitted() -> bytes:
    world = World()
    world.lane("lane-2").close()
    return world.bundle()


@case(MADE, "FAIL omitted", "the receipt is there, in another tree than the client was shown", kept="kept/other-tree")
def answer_under_another_head() -> bytes:
    return told().bundle()


@case(MADE, "FAIL wrong-job", "what a client kept is of another job", kept="kept/other-job")
def kept_of_another_job() -> bytes:
    return told().bundle()


@case(MADE, "UNTRUSTED unknown-signer", "what a client kept is not signed by the gateway", kept="kept/unsigned")
def kept_unsigned() -> bytes:
    return told().bundle()


@case(MADE, "FAIL bad-proof", "a proof that a client kept was moved to another place", kept="kept/moved")
def kept_moved() -> bytes:
    return told().bundle()


@case(MADE, "MALFORMED too-large", "a file larger than any proof", kept="kept/huge")
def kept_huge() -> bytes:
    return told().bundle()


@case(MADE, "MALFORMED not-utf8", "a file that is no text", kept="kept/binary")
def kept_binary() -> bytes:
    return told().bundle()
