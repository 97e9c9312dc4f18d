"""Step 12: what is missing, and tool calls that no model asked for."""

from tests.vectors.bundles.make import GET_CASE, MODEL, dishonest, sealing
from tests.vectors.case import Made, case
from tests.world import Lane, World
from verifier.leaf import Echo, Parent

MADE: Made = {}


@case(MADE, "INCOMPLETE lost-call", "a call began, the gateway was killed, recovery wrote that its answer was lost")
def lost_call() -> bytes:
    def lose(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL)
        lane.end("call-1", status="lost", recv=None, dlv=None)

    return dishonest(lose)


@case(MADE, "INCOMPLETE interrupted", "a gateway that did not answer at the close: sealed at its last reported head")
def interrupted() -> bytes:
    world = World()
    world.lane().model("call-1")
    return sealing(world, status="interrupted")


@case(MADE, "INCOMPLETE no-answer", "interrupted while a call was under way", also="interrupted")
def interrupted_call() -> bytes:
    world = World()
    world.lane().begin("call-1", MODEL)
    return sealing(world, status="interrupted")


@case(MADE, "FAIL no-model-call", "a tool call that no model asked for")
def tool_call_unasked() -> bytes:
    return dishonest(lambda _, lane: lane.tool("call-1", parent=None))


@case(MADE, "FAIL no-model-call", "one tool call of a model, answered twice")
def tool_call_answered_twice() -> bytes:
    def twice(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        begun = lane.begin("call-2", GET_CASE)
        lane.end("call-2")
        lane.tool("call-3", parent=begun.parent)  # type: ignore[union-attr]

    return dishonest(twice)


@case(MADE, "FAIL no-model-call", "the model asked for another tool")
def tool_call_for_another_tool() -> bytes:
    def other(_: World, lane: Lane) -> None:
        lane.model("call-1", "search_customer")
        lane.tool("call-2", parent=Parent(call="call-1", id="call-1-0"))

    return dishonest(other)


@case(MADE, "FAIL bad-echo", "a client had seen another receipt than the lane has")
def call_with_another_echo() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL, echo=Echo(hash="sha256:" + "0" * 64, seq=0))
        lane.end("call-1")

    return dishonest(call)
