"""Honest bundles: each passes."""

from tests.vectors.bundles.make import GET_CASE, MODEL, idle, sealing, story, with_condition
from tests.vectors.case import PASS, Made, case
from tests.world import NOW, SECOND, World
from verifier.grant import Budget
from verifier.leaf import Note

MADE: Made = {}


@case(MADE, PASS, "the honest story: two model calls, two tool calls that a model asked for, a denial, a close")
def honest_story() -> bytes:
    return story().bundle()


@case(MADE, PASS, "two lanes of one job, each with a tree, a head and a share of its own")
def honest_two_lanes() -> bytes:
    world = story()
    lane = world.lane("lane-2")
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.close()
    return world.bundle()


@case(MADE, PASS, "a job that no gateway ever saw: 0 calls recorded")
def honest_zero_lanes() -> bytes:
    return World().bundle()


@case(MADE, PASS, "a lane that was opened and closed without a call")
def honest_zero_calls() -> bytes:
    return idle(World()).bundle()


@case(MADE, PASS, "the job was revoked and ended; every call began before")
def honest_revoked() -> bytes:
    world = World()
    lane = world.lane()
    lane.model("call-1")
    lane.time += SECOND
    world.revoke("job", world.job, lane.time)
    lane.deny("call-2", MODEL, by="gateway", code="revoked", rule=None)
    lane.close("revoked")
    return sealing(world, status="revoked", closed=lane.time + 2 * SECOND)


@case(MADE, PASS, "the job's time ran out and scope sealed it")
def honest_expired() -> bytes:
    return sealing(story(), status="expired")


@case(MADE, PASS, "the budget allowed two calls; the third was denied, by the policy, and the denial replays")
def honest_budget_denial() -> bytes:
    world = World(policy={"budgets": {"calls": 2}}, scope={"limits": Budget(calls=2)})
    lane = world.lane()
    lane.model("call-1")
    lane.model("call-2")
    lane.deny("call-3", MODEL, code="budget-calls", rule="model-1")
    lane.close()
    return world.bundle()


@case(MADE, PASS, "a condition on arguments that only a commitment keeps: the replay is partial, and says so")
def honest_partial_replay() -> bytes:
    return with_condition().bundle()


@case(MADE, PASS, "an upstream error frees the model's tool call for a second try")
def honest_second_try() -> bytes:
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.begin("call-2", GET_CASE)
    lane.end("call-2", status="upstream_error", code="upstream-refused", recv=None, dlv=None)
    lane.tool("call-3")
    lane.close()
    return world.bundle()


@case(MADE, PASS, "a tool was revoked long before the job's first lane was registered; nobody called it")
def honest_revoked_before() -> bytes:
    world = idle(World())
    world.revoke("tool", "crm-mcp/get_case", NOW - 3600 * SECOND)
    return world.bundle()


@case(MADE, PASS, "more than 60 denials a minute are one note with a count")
def honest_note() -> bytes:
    world = World()
    lane = world.lane()
    lane.write(lambda seq, time: Note(code="denials", count=500, seq=seq, time=time))
    lane.close()
    return world.bundle()
