"""Tools of a runtime, resources and prompts in grants; what servers may ask; prices and what calls cost."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.vectors.bundles.costs import COST, TABLE, priced, spend
from tests.vectors.bundles.kinds import ASKING, LOCAL, PAGE, READING, SUMMARY
from tests.vectors.bundles.make import GET_CASE, MODEL
from tests.world import World
from verifier.admission import expand, find_target, grants, subject_of, within
from verifier.decision import may_ask
from verifier.encoding import canonical
from verifier.leaf import Facts, Reservation, Target, Usage
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.report import Report

RULED: dict[str, Any] = READING["policy"]["allowed_tools"][0]


def verified(world: World) -> tuple[list[str], Report]:
    world.lanes[0].close()
    report = world.verify()
    return sorted({each.code for each in report.findings}), report


def test_a_grant_names_prompts_exactly_and_resources_by_the_globs_of_rules_and_manifest() -> None:
    world = World(**READING)
    tools, _, _ = expand(tuple(world.chain), {"crm-mcp": world.manifest}, subject_of(world.grant.scope))
    assert tools == ["mcp:crm-mcp/get_case", "prompt:crm-mcp/summary", "resource:crm-mcp/file:///docs/*"]
    narrow = READING["policy"] | {
        "allowed_tools": [{**READING["policy"]["allowed_tools"][0], "resources": ["file:///docs/a/*", "http*"]}]
    }
    world = World(**READING | {"policy": narrow})
    assert [each for each in world.grant.scope.tools if each.startswith("resource:")] == [
        "resource:crm-mcp/file:///docs/a/*"
    ]
    found = find_target(world.manifest, "resource", "file:///docs/a/b.md")
    assert found is not None
    assert grants(world.grant.scope, found)
    assert not grants(world.grant.scope, replace(found, tool="file:///docs/b.md"))


@pytest.mark.parametrize(
    ("kind", "name", "there"),
    [
        ("tool", "get_case", True), ("mcp", "get_case", True), ("local", "get_case", False), ("tool", "other", False),
        ("resource", "file:///docs/x", True), ("resource", "file:///x", False), ("prompt", "summary", True),
        ("prompt", "other", False),
    ],
)  # fmt: skip
def test_what_a_receipt_names_is_found_in_the_manifest(kind: str, name: str, there: bool) -> None:  # noqa: FBT001 - a row of a table
    assert (find_target(World(**READING).manifest, kind, name) is not None) is there


def test_a_scope_that_names_what_no_rule_allows_is_too_wide() -> None:
    world = World(**READING)
    for tool in ("local:crm-mcp/get_case", "prompt:crm-mcp/other", "resource:crm-mcp/*", "resource:crm-mcp/file:///x"):
        with pytest.raises(Refused) as refused:
            within(replace(world.grant.scope, tools=[tool]), tuple(world.chain), {"crm-mcp": world.manifest})
        assert refused.value.code == "scope-too-wide"


def called(world: dict[str, Any], target: Target, end: dict[str, Any] | None = None, **begin: Any) -> World:
    made = World(**world)
    lane = made.lane()
    lane.begin("call-1", target, **begin)
    lane.end("call-1", **(end or {}))
    return made


def test_what_only_the_runtime_saw_is_counted_and_is_no_evidence_for_a_regulated_job() -> None:
    codes, report = verified(called(LOCAL, GET_CASE, observed="runtime"))
    assert (codes, report.totals.observed) == ([], 1)
    regulated = LOCAL | {"policy": LOCAL["policy"] | {"regulated": True}}
    assert verified(called(regulated, GET_CASE, observed="runtime"))[0] == ["observed-by-runtime"]
    assert verified(called(LOCAL, GET_CASE))[0] == ["wrong-facts"]


def test_resources_and_prompts_are_read_by_rule() -> None:
    assert verified(called(READING, PAGE, facts=Facts(labels=("internal",))))[0] == []
    assert verified(called(READING, PAGE))[0] == ["wrong-facts"]
    assert verified(called(READING, SUMMARY))[0] == []


def test_what_a_server_asks_is_named_by_every_level() -> None:
    assert verified(called(ASKING, GET_CASE, {"server_requests": ["elicitation/create"]}))[0] == []
    assert verified(called(ASKING, GET_CASE, {"server_requests": ["roots/list"]}))[0] == ["wrong-decision"]
    chain = tuple(World(**ASKING | {"above": [{"allowed_tools": ASKING["policy"]["allowed_tools"]}]}).chain)
    assert may_ask(chain, ("allow-1", "1/allow-1"), "crm-mcp", "elicitation/create")
    for rules in (("allow-1",), ("allow-1", "allow-1"), ("allow-2", "1/allow-1")):
        assert not may_ask(chain, rules, "crm-mcp", "elicitation/create")


def test_costs_are_counted_by_the_table_that_the_policy_names() -> None:
    for reserved, codes in (([COST, COST], []), ([1, 1, 1], ["over-budget"]), ([None], ["over-budget"])):
        world = World(**priced(2 * COST))
        lane = world.lane()
        for number, each in enumerate(reserved):
            spend(lane, f"call-{number}", each)
        assert verified(world)[0] == codes
    dear = replace(TABLE, prices=[replace(TABLE.prices[0], models=["other"])])
    world = World(**priced(COST, dear))
    spend(world.lane())
    assert verified(world)[0] == ["no-price"]


def test_a_call_without_usage_or_price_keeps_what_it_reserved() -> None:
    world = World(**priced(COST))
    purse = world.lane().fold.purse
    lane = world.lanes[0]
    lane.begin("call-1", MODEL, reservation=Reservation(cost_nano_usd=7))
    lane.end("call-1")
    assert purse.cost == 7
    lane.begin(
        "call-2",
        Target(provider="x", model="y", operation="chat.completions"),
        reservation=Reservation(cost_nano_usd=7),
    )
    lane.end("call-2", usage=Usage(input=10, output=5))
    assert purse.cost == 14


@pytest.mark.parametrize("change", [{"models": []}, {"operations": ["paint"]}])
def test_a_price_of_nothing_is_refused(change: dict[str, Any]) -> None:
    table = replace(TABLE, prices=[replace(TABLE.prices[0], **change)])
    with pytest.raises(Refused) as refused:
        Prices.parse(canonical(table))
    assert refused.value.code == "bad-prices"
    assert TABLE.of(GET_CASE) is None
