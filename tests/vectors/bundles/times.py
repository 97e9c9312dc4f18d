"""Step 10: time and revocation."""

from msgspec.structs import replace

from tests.vectors.bundles.make import MODEL, dishonest, idle, sealing, sealing_lane
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, Lane, World, key, pair
from verifier import seal
from verifier.encoding import canonical
from verifier.envelope import seal_up

MADE: Made = {}


@case(MADE, "FAIL outside-marks", "backdated: scope did not know these receipts when it says that it knew none")
def receipts_backdated() -> bytes:
    world = World()
    lane = world.lane()
    lane.model("call-1")
    lane.close()
    marks = [seal.Mark(time=NOW + 600 * SECOND, size=0), seal.Mark(time=NOW + 601 * SECOND, size=len(lane.raws))]
    honest = world.sealed(closed=NOW + 602 * SECOND)
    return sealing(world, closed=NOW + 602 * SECOND, lanes=[replace(honest.lanes[0], marks=marks)])


@case(MADE, "FAIL outside-marks", "postdated: scope knew these receipts before the time that they claim")
def receipts_postdated() -> bytes:
    def late(_: World, lane: Lane) -> None:
        lane.time = NOW + 200 * SECOND
        lane.model("call-1")

    made = World()
    lane = made.lane()
    late(made, lane)
    lane.close()
    marks = [seal.Mark(time=NOW + SECOND, size=0), seal.Mark(time=NOW + 100 * SECOND, size=len(lane.raws))]
    return sealing_lane(made, marks=marks)


def _revoked(kind: str, value: str, mark: int = 7 * SECOND) -> bytes:
    """Let a gateway go on after a revocation that it had to know."""
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    known = len(lane.raws)
    world.revoke(kind, value, lane.time)
    due = lane.time + mark
    lane.time = due + SECOND
    lane.tool("call-2")
    lane.close()
    honest = world.sealed()
    marks = [honest.lanes[0].marks[0], seal.Mark(time=due, size=known), honest.lanes[0].marks[1]]
    return sealing_lane(world, marks=marks)


@case(
    MADE,
    "FAIL after-revocation",
    "a call allowed after the revocation of its job had to be known, whatever the gateway says it had seen",
)
def call_after_revocation_of_job() -> bytes:
    return _revoked("job", "job-1")


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of its token")
def call_after_revocation_of_token() -> bytes:
    return _revoked("jti", "token-1")


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of its tool")
def call_after_revocation_of_tool() -> bytes:
    return _revoked("tool", "crm-mcp/get_case")


@case(MADE, "INCOMPLETE missing-mark", "scope set no mark when the revocation had to be known")
def revocation_without_mark() -> bytes:
    return _revoked("jti", "token-9", mark=120 * SECOND)


@case(MADE, "FAIL stale-revocations", "decided on an older revocation feed than the policy allows")
def call_on_stale_revocations() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL, staleness=6 * SECOND)
        lane.end("call-1")

    return dishonest(call)


@case(MADE, "FAIL wrong-issuer", "a revocation by another issuer")
def revocation_of_another_issuer() -> bytes:
    other = "https://other.example"
    world = World(keys=[*World().listed.keys, key("revocation-2", "revocation", other)])
    idle(world)
    foreign = replace(world.revoke("jti", "token-9", NOW), iss=other)
    world.revocations[:] = [foreign]
    documents = world.documents(world.sealed())
    return world.bundle(
        replace(documents, revocations=[seal_up("revocation", canonical(foreign), pair("revocation-2"))])
    )
