"""Step 10: time and revocation."""

from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import MODEL, dishonest, idle, sealing, sealing_lane
from tests.vectors.case import PASS, Made, case
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


def _revoked(kind: str, value: str, mark: int = 7 * SECOND, until: int | None = None, **made: Any) -> bytes:
    """Let a gateway go on after a revocation that it had to know."""
    world = World(**made)
    lane = world.lane()
    lane.model("call-1", "get_case")
    known = len(lane.raws)
    world.revoke(kind, value, lane.time, None if until is None else lane.time + until)
    due = lane.time + mark
    lane.time = due + SECOND
    lane.tool("call-2")
    lane.close()
    honest = world.sealed()
    marks = [honest.lanes[0].marks[0], seal.Mark(time=due, size=known), honest.lanes[0].marks[1]]
    token = honest.lanes[0].tokens[0]
    return sealing_lane(world, marks=marks, tokens=[replace(token, kid=value) if value == TOKEN_KEY else token])


TOKEN_KEY = pair("token").kid


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of the user that its job works for")
def call_after_revocation_of_user() -> bytes:
    return _revoked("user", "user-1", scope={"user": "user-1"})


@case(MADE, PASS, "another user was revoked")
def call_after_revocation_of_another_user() -> bytes:
    return _revoked("user", "user-2", scope={"user": "user-1"})


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of the key that signed its grant")
def call_after_revocation_of_grant_key() -> bytes:
    return _revoked("key", pair("grant").kid)


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of the key that signed its token")
def call_after_revocation_of_token_key() -> bytes:
    return _revoked("key", TOKEN_KEY)


@case(MADE, PASS, "a token key was revoked; the seal says that it signed none of these tokens")
def call_after_revocation_of_another_key() -> bytes:
    return _revoked("key", "0" * 32)


@case(MADE, "FAIL after-revocation", "a call allowed after the revocation of the policy above its own")
def call_after_revocation_of_ancestor() -> bytes:
    world = World(above=[{"policy_name": "above"}])
    lane = world.lane()
    world.revoke("policy", world.policy.parent or "", lane.time)
    due = lane.time + 7 * SECOND
    marks = [world.sealed().lanes[0].marks[0], seal.Mark(time=due, size=len(lane.raws))]
    lane.time = due + SECOND
    lane.begin("call-1", MODEL, inherited=["1/model-1"])
    lane.end("call-1", model="small-1")
    lane.close()
    return sealing_lane(world, marks=[*marks, world.sealed().lanes[0].marks[1]])


@case(MADE, PASS, "a tool was revoked until a time, and called after it")
def call_after_revocation_was_over() -> bytes:
    return _revoked("tool", "crm-mcp/get_case", until=8 * SECOND)


@case(MADE, "FAIL after-revocation", "a tool was revoked until a time, and called before it")
def call_before_revocation_was_over() -> bytes:
    return _revoked("tool", "crm-mcp/get_case", until=20 * SECOND)


@case(MADE, "FAIL after-revocation", "an agent was revoked until a time; its job goes on after it")
def job_goes_on_after_revocation_was_over() -> bytes:
    return _revoked("agent", "agent-1", until=8 * SECOND)


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
