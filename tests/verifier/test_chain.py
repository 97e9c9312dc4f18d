"""A policy and its ancestors: every level must allow, and the tighter of two always counts."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refusal import refused
from tests.world import NOW
from verifier.admission import admits, expand
from verifier.chain import terms
from verifier.compiled import compile_policy
from verifier.conditions import UNDISCLOSED
from verifier.decision import (
    Allowed,
    Call,
    Decision,
    Denied,
    Held,
    ModelBody,
    ModelTarget,
    Subject,
    ToolTarget,
    decide,
    outcomes,
    possible,
)
from verifier.draft import build, run_tests
from verifier.manifest import Manifest, Tool
from verifier.policy import Chain, Policy

SUBJECT = Subject("agent-1", "client-1", "job-1", "support", "test")
GET, PUT = {"kind": "mcp", "server": "crm", "tools": ["get"]}, {"kind": "mcp", "server": "crm", "tools": ["put"]}


def policy(*allowed: dict[str, Any], **draft: Any) -> Policy:
    """Build one level."""
    return build({"policy_name": "p", "allowed_tools": list(allowed)} | draft, issuer="team", now=NOW)


def call(tool: str = "get", **changes: Any) -> Call:
    """Call a tool."""
    target = ToolTarget("crm", tool, "read", "internal", "crm.example", approval=changes.pop("approval", "none"))
    return Call(**({"subject": SUBJECT, "target": target, "token_ttl": 60, "time": NOW, "arguments": {}} | changes))


def both(chain: Chain, asked: Call) -> Decision:
    """Decide both ways."""
    decision = decide(chain, asked)
    assert compile_policy(chain)(asked) == decision
    return decision


def test_every_level_must_allow_and_each_names_its_rule() -> None:
    chain = (policy(GET, PUT), policy(PUT, GET), policy({**GET, "id": "reading"}))
    assert both(chain, call()) == Allowed("allow-1", ("1/allow-2", "2/reading"))
    assert both(chain, call("put")) == Denied("2/default", "not-allowed")


def test_the_first_level_that_denies_says_so() -> None:
    chain = (policy(GET), policy(GET, denied_tools=[GET]), policy(egress={"hosts": []}))
    assert both(chain, call()) == Denied("1/deny-1", "denied-tool")
    assert both(chain, call(token_ttl=301)) == Denied("token_constraints", "token-ttl")
    longer = (policy(GET, token_constraints={"cst_max_ttl_seconds": 600}), *chain[2:])
    assert both(longer, call()) == Denied("1/egress", "egress-host")
    assert both(longer, call(token_ttl=301)) == Denied("1/token_constraints", "token-ttl")


@pytest.mark.parametrize(
    ("tiers", "manifest", "tier"),
    [
        (("none", "none"), "none", None),
        (("none", "confirm"), "none", "confirm"),
        (("human", "confirm"), "none", "human"),
        (("none", "none"), "confirm", "confirm"),
        (("confirm", "none"), "human", "human"),
        (("none", "human"), "confirm", "human"),
    ],
)
def test_the_highest_tier_of_rules_and_manifest_is_asked(tiers: tuple[str, str], manifest: str, tier: Any) -> None:
    chain = tuple(policy(GET | {"approval": each}) for each in tiers)
    wanted = Allowed("allow-1", ("1/allow-1",)) if tier is None else Held("allow-1", tier, ("1/allow-1",))
    assert both(chain, call(approval=manifest)) == wanted
    alone = chain[:1]
    highest = max(tiers[0], manifest, key=("none", "confirm", "human").index)
    assert both(alone, call(approval=manifest)) == (
        Allowed("allow-1") if highest == "none" else Held("allow-1", highest)  # type: ignore[arg-type]
    )


def test_a_model_is_never_held() -> None:
    chain = (policy(model_egress={"provider": "p"}), policy(model_egress={"models": [{"provider": "p"}]}))
    asked = Call(subject=SUBJECT, target=ModelTarget("p", "m", "messages"), token_ttl=1, time=NOW, body=ModelBody())
    assert both(chain, asked) == Allowed("model-1", ("1/model-1",))
    hidden = Call(subject=SUBJECT, target=ModelTarget("p", "m", "messages"), token_ttl=1, time=NOW)
    assert compile_policy(chain)(hidden) == Denied("default", "not-allowed")


def test_a_possible_decision_is_found_without_listing_all() -> None:
    when = [{"attr": "args.x", "op": "eq", "value": 1}]
    many = [GET | {"when": when} for _ in range(1000)]
    chain = tuple(policy(*many) for _ in range(4))
    found = possible(chain, call(arguments=UNDISCLOSED))
    assert Allowed("allow-7", ("1/allow-1000", "2/allow-1", "3/allow-500")) in found
    assert Allowed("allow-7", ("1/allow-1000", "2/allow-1", "3/allow-1001")) not in found
    assert Allowed("allow-7", ("1/allow-1000", "2/allow-1")) not in found
    assert Held("allow-7", "human", ("1/allow-1", "2/allow-1", "3/allow-1")) not in found
    assert Denied("3/default", "not-allowed") in found
    assert Denied("3/default", "denied-tool") not in found
    assert "allow-7" not in found  # type: ignore[comparison-overlap]
    assert found.allows("2/allow-900")
    assert not found.allows("2/allow-1001")
    assert not found.full


def test_what_no_level_beyond_can_say_is_not_possible() -> None:
    chain = (policy(GET), policy(), policy(GET, denied_tools=[GET]))
    found = possible(chain, call(arguments=UNDISCLOSED))
    assert tuple(found) == outcomes(chain, call()) == (Denied("1/default", "not-allowed"),)
    assert found.full
    assert Denied("2/deny-1", "denied-tool") not in found
    assert not found.allows("allow-1")
    assert not possible(chain[:1], call()).levels[0].denies


def test_the_terms_of_a_chain_are_the_tighter_ones() -> None:
    child = policy(
        budgets={"calls": 10, "tokens": 5, "per_tool": {"crm/get": 3, "crm/put": 1}},
        token_constraints={"cst_max_ttl_seconds": 60, "binding": "dpop", "max_delegation_depth": 2},
        approvals={"quorum": 1, "ttl_seconds": 600, "approvers": ["ann", "bob", "cem"]},
        receipts={"privacy": "sealed", "auditors": ["x"]},
    )
    parent = policy(
        budgets={"calls": 20, "calls_per_minute": 7, "wall_seconds": 9, "per_tool": {"crm/get": 2}},
        token_constraints={"max_staleness_seconds": 2, "max_delegation_depth": 1},
        approvals={"quorum": 2, "ttl_seconds": 60, "approvers": ["cem", "dee", "ann"]},
        receipts={"auditors": ["w"]},
        regulated=True,
        model_egress={"require_proxy_receipts": True},
    )
    agreed = terms((child, parent))
    budgets, tokens = agreed.budgets, agreed.token_constraints
    assert (budgets.calls, budgets.calls_per_minute, budgets.tokens, budgets.wall_seconds) == (10, 7, 5, 9)
    assert budgets.per_tool == {"crm/get": 2, "crm/put": 1}
    assert (tokens.cst_max_ttl_seconds, tokens.max_staleness_seconds) == (60, 2)
    assert (tokens.binding, tokens.max_delegation_depth) == ("dpop", 1)
    approvals = agreed.approvals
    assert (approvals.quorum, approvals.ttl_seconds, approvals.approvers) == (2, 60, ["ann", "cem"])
    assert (agreed.auditors, agreed.sealed, agreed.regulated, agreed.tied) == (("w", "x"), True, True, True)
    alone = terms((policy(),))
    assert alone.budgets.per_tool is None
    assert (alone.sealed, alone.regulated, alone.tied) == (False, False, False)


def test_a_policys_own_tests_run_under_its_ancestors() -> None:
    facts = {"approval": "confirm", "user": "u-1", "claims": {"team": "a"}, "recent_denials": 6, "first_use": False}
    tests = [
        {"name": "reads", "call": {"server": "crm", "tool": "get"}, "expect": "allow", "rule": "allow-1"},
        {"name": "asks", "call": {"server": "crm", "tool": "get"}, "facts": facts, "expect": "hold"},
        {"name": "writes", "call": {"server": "crm", "tool": "put"}, "expect": "deny", "rule": "1/default"},
    ]
    chain = (policy(GET, PUT, tests=tests), policy(GET))
    assert [type(decision) for _, decision in run_tests(chain)] == [Allowed, Held, Denied]


def test_every_level_admits_the_agent_and_covers_the_scope() -> None:
    child = policy(GET, PUT, model_egress={"provider": "p", "models": [{"models": ["*"]}, {"models": ["m-1"]}]})
    parent = policy(GET, jobs={"agents": ["agent-1"]}, model_egress={"provider": "p", "models": [{"models": ["m-*"]}]})
    manifest = Manifest(
        issuer="r", server="crm", serial=1, issued_at=NOW, url="https://crm.example/mcp",
        tools=[
            Tool(name=name, description="", input_schema="{}", tool_class="read", sensitivity="internal",
                 data_classes=[], approval="human")
            for name in ("get", "put")
        ],
    )  # fmt: skip
    assert expand((child,), {"crm": manifest}, SUBJECT)[:2] == (["mcp:crm/get", "mcp:crm/put"], ["p/*", "p/m-1"])
    assert expand((child, parent), {"crm": manifest}, SUBJECT) == (["mcp:crm/get"], ["p/m-*", "p/m-1"], [])
    admits((child, parent), agent="agent-1", job_type="support", environment="test")
    with refused("not-admitted", "jobs.agents"):
        admits((child, parent), agent="agent-2", job_type="support", environment="test")


RULES = st.lists(
    st.fixed_dictionaries(
        {"kind": st.just("mcp"), "server": st.just("crm"), "tools": st.sampled_from([["get"], ["*"], ["put"]])},
        optional={
            "approval": st.sampled_from(["confirm", "human"]),
            "when": st.sampled_from(
                [[{"attr": "args.x", "op": "eq", "value": 1}], [{"attr": "args.x", "op": "exists", "value": False}]]
            ),
        },
    ),
    max_size=3,
)
DEGREES = {Allowed: 0, Held: 1, Denied: 2}


@settings(max_examples=200)
@given(st.lists(RULES, min_size=1, max_size=4), st.sampled_from([{}, {"x": 1}, {"x": 2}]))
def test_an_ancestor_more_never_allows_more(levels: list[list[dict[str, Any]]], arguments: dict[str, Any]) -> None:
    chain = tuple(policy(*rules) for rules in levels)
    asked = call(arguments=arguments)
    degrees = [DEGREES[type(both(chain[:count], asked))] for count in range(1, len(chain) + 1)]
    assert degrees == sorted(degrees)
