"""Facts rebuilt from receipts, grant and chain: an honest lane passes, one word otherwise and the decision is wrong."""

from typing import Any

import pytest

from tests.world import NOW, SECOND, Lane, World
from verifier.leaf import Target, ToolCall

RULE: dict[str, Any] = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "search_customer"]}
GET = Target(server="crm-mcp", tool="get_case")


def findings(world: World) -> list[tuple[str, int | None]]:
    """Audit a world; name what is found, and where."""
    return [(finding.code, finding.seq) for finding in world.verify().findings]


def played(*asked: str, **installed: Any) -> World:
    """Play a lane in which a model asks for so many tool calls, and each is made."""
    world = World(**installed)
    lane = world.lane()
    lane.model("call-1", *asked)
    for number, tool in enumerate(asked, start=2):
        lane.tool(f"call-{number}", tool)
    return world


def when(**condition: Any) -> dict[str, Any]:
    """Allow both tools under one condition."""
    return {"policy": {"allowed_tools": [RULE | {"when": [condition]}]}}


def test_what_is_recent_is_counted_from_the_leaves_before() -> None:
    few = when(attr="recent.calls", op="lt", value=3)
    honest = played("get_case", "get_case", "get_case", **few)
    lane = honest.lanes[0]
    lane.close()
    assert findings(honest) == [("wrong-decision", 8)]
    honest = played("get_case", "get_case", **few)
    honest.lanes[0].deny("call-9", GET, code="not-allowed", rule="default")
    honest.lanes[0].close()
    assert findings(honest) == []
    early = played("get_case", **few)
    early.lanes[0].deny("call-9", GET, code="not-allowed", rule="default")
    early.lanes[0].close()
    assert findings(early) == [("wrong-decision", 6)]


def test_the_first_use_of_a_tool_is_the_first() -> None:
    once = when(attr="recent.first_use", op="eq", value=True)
    world = played("get_case", "search_customer", **once)
    world.lanes[0].close()
    assert findings(world) == []
    world = played("get_case", "get_case", **once)
    world.lanes[0].close()
    assert findings(world) == [("wrong-decision", 6)]


def test_denials_count_whoever_denied() -> None:
    careful = when(attr="recent.denials", op="le", value=1)
    for denials, found in ((1, []), (2, [("wrong-decision", 6)])):
        world = World(**careful)
        lane = world.lane()
        lane.model("call-1", "get_case")
        for number in range(denials):
            lane.deny(f"call-{number + 5}", GET, by="gateway", code="no-model-call", rule=None)
        lane.tool("call-2")
        lane.close()
        assert findings(world) == found


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ({"attr": "time.now", "op": "ge", "value": NOW}, True),
        ({"attr": "time.now", "op": "lt", "value": NOW}, False),
        ({"attr": "gateway.staleness", "op": "le", "value": 1000}, True),
        ({"attr": "gateway.staleness", "op": "lt", "value": 1000}, False),
        ({"attr": "gateway.url", "op": "eq", "value": "https://gateway.example"}, True),
        ({"attr": "user.id", "op": "eq", "value": "u-1"}, True),
        ({"attr": "user.team", "op": "eq", "value": "support"}, True),
        ({"attr": "user.team", "op": "eq", "value": "sales"}, False),
        ({"attr": "age.mfa_at", "op": "lt", "value": 62}, True),
        ({"attr": "age.mfa_at", "op": "lt", "value": 61}, False),
        ({"attr": "job.depth", "op": "eq", "value": 0}, True),
        ({"attr": "agent.act", "op": "exists", "value": True}, False),
    ],
)
def test_who_when_and_where_come_from_grant_and_receipt(condition: dict[str, Any], held: bool) -> None:  # noqa: FBT001 - a row of a table
    claims = {"team": "support", "mfa_at": NOW // SECOND - 60}
    scope = {"user": "u-1", "claims": claims, "tools": ["mcp:crm-mcp/get_case"]}
    world = played("get_case", scope=scope, **when(**condition))
    world.lanes[0].close()
    assert ({code for code, _ in findings(world)} == set()) is held
    assert held or ("wrong-decision", 4) in findings(world)


CHAIN: dict[str, Any] = {
    "policy": {"allowed_tools": [RULE]},
    "above": [{"allowed_tools": [RULE | {"id": "many", "limits": {"calls_per_job": 1}}]}],
}


MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")


def under_a_parent(*inherited: list[str] | None) -> tuple[World, Lane]:
    """Make so many tool calls, each allowed by these rules of the parent."""
    world = World(**CHAIN)
    lane = world.lane()
    asked = [ToolCall(id=f"ask-{number}", name="get_case") for number in range(3)]
    lane.begin("call-1", MODEL, inherited=["1/model-1"])
    lane.end("call-1", model="small-1", tool_calls=asked)
    for number, rules in enumerate(inherited, start=2):
        lane.tool(f"call-{number}", inherited=rules)
    return world, lane


@pytest.mark.parametrize(
    ("inherited", "right"), [(["1/many"], True), (None, False), (["1/allow-1"], False), (["1/many", "2/many"], False)]
)
def test_an_allowed_call_names_the_rule_of_every_level(inherited: list[str] | None, right: bool) -> None:  # noqa: FBT001 - see above
    world, lane = under_a_parent(inherited)
    lane.close()
    assert findings(world) == ([] if right else [("wrong-decision", 4)])


def test_the_limit_of_an_ancestors_rule_counts_and_is_named() -> None:
    world, lane = under_a_parent(["1/many"], ["1/many"])
    lane.close()
    assert findings(world) == [("over-budget", 6)]
    for rule, found in (("1/many", []), ("allow-1", [("wrong-decision", 6)]), ("2/many", [("wrong-decision", 6)])):
        world, lane = under_a_parent(["1/many"])
        lane.deny("call-9", GET, code="limit-calls", rule=rule)
        lane.close()
        assert findings(world) == found
