"""What clients keep: tlog-proofs of receipts, as text or in base64. Bundles that are held against them name them."""

from tests.vectors.case import PASS, Made, case
from tests.world import GATEWAY, World, pair
from verifier.checkpoint import proof, sign_head
from verifier.encoding import b64
from verifier.merkle import inclusion_proof, leaf_hash, root_of
from verifier.seal import origin

KEPT: Made = {}


def told() -> World:
    """Play a job with three calls."""
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.model("call-3")
    lane.close()
    return world


def signed_by(signer: str, job: str = "job-1", *, index: int = 6, more: bytes = b"") -> bytes:
    """Prove a receipt of the told job under a head of somebody's."""
    raws = [*told().lanes[0].raws, *([more] if more else [])]
    hashes = [leaf_hash(raw) for raw in raws]
    note = sign_head(pair(signer), origin(GATEWAY, job, "lane-1"), len(hashes), root_of(hashes))
    return proof(raws[6], index, inclusion_proof(hashes, 6), note).encode()


def kept(world: World, seq: int, size: int | None = None) -> bytes:
    """Return what a client holds of a receipt: its proof under the head of that moment."""
    raws = world.lanes[0].raws[:size]
    hashes = [leaf_hash(raw) for raw in raws]
    note = sign_head(pair("gateway"), origin(GATEWAY, world.job, "lane-1"), len(hashes), root_of(hashes))
    return proof(raws[seq], seq, inclusion_proof(hashes, seq), note).encode()


@case(KEPT, PASS, "an answer's receipt, as the gateway proved it at once")
def answer() -> bytes:
    return kept(told(), 5, 6)


@case(KEPT, PASS, "a receipt as the header Tally-Proof carries it")
def header() -> bytes:
    return b64(kept(told(), 2, 4)).encode() + b"\n"


@case(KEPT, PASS, "the last call's receipt")
def last() -> bytes:
    return kept(told(), 7)


@case(KEPT, PASS, "a receipt in a tree that was shown and never sealed: well formed, and evidence")
def other_tree() -> bytes:
    return signed_by("gateway", more=b"a receipt that was shown and never sealed")


@case(KEPT, PASS, "a receipt of another job: well formed")
def other_job() -> bytes:
    return signed_by("gateway", "job-2")


@case(KEPT, PASS, "a receipt that the gateway did not sign: well formed")
def unsigned() -> bytes:
    return signed_by("attacker")


@case(KEPT, PASS, "a receipt moved to another place: well formed")
def moved() -> bytes:
    return signed_by("gateway", index=7)


@case(KEPT, "MALFORMED too-large", "larger than any proof")
def huge() -> bytes:
    return b"c2sp.org/tlog-proof@v1\n" * 4000


@case(KEPT, "MALFORMED not-utf8", "no text")
def binary() -> bytes:
    return b"\xff\xfe"


@case(KEPT, "MALFORMED bad-base64", "text that is neither a proof nor base64")
def nonsense() -> bytes:
    return b"receipt 7 of job-1"
