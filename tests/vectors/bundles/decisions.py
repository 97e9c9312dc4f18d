"""Step 9: decisions that the policy cannot give."""

from tests.vectors.bundles.make import GET_CASE, dishonest, idle, sealing_lane, with_condition
from tests.vectors.case import Made, case
from tests.world import Lane, World
from verifier.grant import Budget
from verifier.leaf import Facts
from verifier.manifest import Tool

MADE: Made = {}


@case(MADE, "FAIL wrong-target", "the gateway let a denied tool through")
def denied_tool_allowed() -> bytes:
    return dishonest(lambda _, lane: lane.tool("call-1", "http_request", parent=None))


@case(MADE, "FAIL wrong-decision", "recorded as allowed by a rule that does not allow it")
def call_allowed_by_another_rule() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2", rule="allow-2")

    return dishonest(call)


@case(MADE, "FAIL wrong-decision", "an invented denial: the policy allows this tool")
def denial_invented() -> bytes:
    return dishonest(lambda _, lane: lane.deny("call-1", GET_CASE))


@case(MADE, "FAIL wrong-facts", "the gateway left out a label that the manifest gives the tool")
def labels_left_out() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2", facts=Facts(labels=[]))

    return dishonest(call)


@case(MADE, "FAIL wrong-decision", "a call with a label that the policy denies", also="scope-too-wide")
def denied_label_allowed() -> bytes:
    tools = [
        Tool(
            name="get_case", description="get_case", input_schema="{}", tool_class="read", sensitivity="internal",
            data_classes=["secrets"], approval="none",
        )
    ]  # fmt: skip

    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2")

    return dishonest(call, tools=tools, scope={"tools": ["mcp:crm-mcp/get_case"]})


@case(MADE, "FAIL over-budget", "a third call from a budget of two")
def call_over_budget() -> bytes:
    def calls(_: World, lane: Lane) -> None:
        for n in range(3):
            lane.model(f"call-{n}")

    return dishonest(calls, policy={"budgets": {"calls": 2}}, scope={"limits": Budget(calls=2)})


@case(MADE, "FAIL over-budget", "a lane's share that is more than the grant's budget")
def share_over_budget() -> bytes:
    world = idle(World(policy={"budgets": {"calls": 2}}, scope={"limits": Budget(calls=2)}))
    return sealing_lane(world, share=Budget(calls=3))


@case(
    MADE,
    "INCOMPLETE partial-replay",
    "the pin asks for a full replay, arguments are not disclosed",
    pin="pin-full-replay.json",
)
def replay_not_full() -> bytes:
    return with_condition().bundle()
