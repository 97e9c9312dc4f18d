"""The one decision: deny wins, what is missing fails closed both ways, a replay knows every decision that could be."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from verifier.conditions import UNDISCLOSED
from verifier.decision import (
    Allowed,
    Call,
    Denied,
    Held,
    ModelBody,
    ModelTarget,
    Subject,
    ToolTarget,
    decide,
    outcomes,
    reads,
)
from verifier.draft import build
from verifier.policy import Chain

NOW = 1_790_000_000_000_000
SUBJECT = Subject("agent-1", "client-1", "job-1", "support", "test")
TARGET = ToolTarget("crm", "get", "read", "internal", "crm.example")
MODEL = ModelTarget("provider", "small-1", "chat.completions")
X1 = {"attr": "args.x", "op": "eq", "value": 1}
MISSING = {"attr": "model.name", "op": "eq", "value": "never"}


def policy(**draft: Any) -> Chain:
    """Build a policy that allows the one tool, with some fields replaced; it has no parent."""
    whole = {"policy_name": "p", "allowed_tools": [{"kind": "mcp", "server": "crm", "tools": ["get"]}]} | draft
    return (build(whole, issuer="team", now=NOW),)


def tool(**changes: Any) -> Call:
    """Call the tool, or some other."""
    target = replace(TARGET, **{name: value for name, value in changes.items() if name in ToolTarget.__struct_fields__})
    rest = {name: value for name, value in changes.items() if name not in ToolTarget.__struct_fields__}
    return Call(**({"subject": SUBJECT, "target": target, "token_ttl": 60, "time": NOW, "arguments": {}} | rest))


def model(body: Any = None, **changes: Any) -> Call:
    """Call the model, or some other."""
    return Call(subject=SUBJECT, target=replace(MODEL, **changes), token_ttl=60, time=NOW, body=body or ModelBody())


def allow(*when: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Write one allowing or denying rule of the tool."""
    return [{"kind": "mcp", "server": "crm", "tools": ["get"], "when": list(when), **more}]


def test_what_a_rule_names_is_allowed_by_that_rule() -> None:
    assert decide(policy(), tool()) == Allowed("allow-1")


@pytest.mark.parametrize("changes", [{"tool": "put"}, {"server": "crm2"}, {"tool": "get2"}, {"tool": "GET"}])
def test_what_no_rule_names_is_denied(changes: dict[str, str]) -> None:
    assert decide(policy(), tool(**changes)) == Denied("default", "not-allowed")


def test_a_tool_of_a_class_that_no_rule_names_is_denied() -> None:
    assert decide(policy(allowed_tools=allow(classes=["read"])), tool(tool_class="write")) == Denied(
        "default", "not-allowed"
    )


def test_deny_beats_allow_whatever_the_order_and_the_width() -> None:
    denied = [{"kind": "mcp", "server": "*", "tools": ["g*"]}]
    assert decide(policy(denied_tools=denied), tool()) == Denied("deny-1", "denied-tool")


def test_a_missing_argument_denies_where_the_rule_denies() -> None:
    assert decide(policy(denied_tools=allow(X1)), tool()) == Denied("deny-1", "denied-tool")
    assert decide(policy(denied_tools=allow(X1)), tool(arguments={"x": "1"})) == Denied("deny-1", "denied-tool")
    assert decide(policy(denied_tools=allow(X1)), tool(arguments={"x": 2})) == Allowed("allow-1")


def test_a_missing_argument_does_not_allow_where_the_rule_allows() -> None:
    assert decide(policy(allowed_tools=allow(X1)), tool()) == Denied("default", "not-allowed")
    assert decide(policy(allowed_tools=allow(X1)), tool(arguments={"x": Decimal("1.00")})) == Allowed("allow-1")


def test_a_rule_that_asks_for_a_person_holds_the_call() -> None:
    held = policy(allowed_tools=allow(approval="human"))
    assert decide(held, tool()) == Held("allow-1", "human")


def test_a_local_rule_is_about_no_tool_of_a_server() -> None:
    rule = replace(policy()[0].allowed_tools[0], kind="local")
    assert decide((replace(policy()[0], allowed_tools=[rule]),), tool()) == Denied("default", "not-allowed")


@pytest.mark.parametrize(
    ("draft", "changes", "decision"),
    [
        ({}, {"token_ttl": 301}, Denied("token_constraints", "token-ttl")),
        ({"data_classes": {"deny": ["secrets"]}}, {"labels": ("secrets",)}, Denied("data_classes", "data-class")),
        ({"data_classes": {"allow": ["internal"]}}, {"labels": ("other",)}, Denied("data_classes", "data-class")),
        ({"data_classes": {"allow": ["internal"]}}, {"labels": ("internal",)}, Allowed("allow-1")),
        ({"egress": {"hosts": ["*.example"]}}, {}, Allowed("allow-1")),
        ({"egress": {"hosts": ["*.example"]}}, {"host": "evil.test"}, Denied("egress", "egress-host")),
        ({"egress": {"hosts": []}}, {}, Denied("egress", "egress-host")),
    ],
)
def test_what_holds_for_all_rules_comes_first(draft: dict[str, Any], changes: dict[str, Any], decision: object) -> None:
    assert decide(policy(**draft), tool(**changes)) == decision
    assert outcomes(policy(**draft), tool(**changes)) == (decision,)


def egress(*rules: dict[str, Any]) -> Chain:
    """Build a policy with model rules."""
    return policy(model_egress={"provider": "provider", "models": list(rules)})


@pytest.mark.parametrize(
    ("rule", "body", "reason"),
    [
        ({}, ModelBody(hosted_tools=("web",)), "hosted-tool"),
        ({"hosted_tools": ["code"]}, ModelBody(hosted_tools=("code", "web")), "hosted-tool"),
        ({}, ModelBody(remote_content=True), "remote-content"),
        ({}, ModelBody(provider_state=True), "provider-state"),
        ({"max_output_tokens": 10}, ModelBody(max_output_tokens=11), "max-output-tokens"),
        ({"max_output_tokens": 10}, ModelBody(), "max-output-tokens"),
    ],
)
def test_a_side_door_of_a_model_is_shut_unless_named(rule: dict[str, Any], body: ModelBody, reason: str) -> None:
    assert decide(egress(rule), model(body)) == Denied("model-1", reason)


def test_a_side_door_that_is_named_is_open() -> None:
    rule = {"hosted_tools": ["web"], "remote_content": True, "provider_state": True, "max_output_tokens": 10}
    body = ModelBody(max_output_tokens=10, hosted_tools=("web",), remote_content=True, provider_state=True)
    assert decide(egress(rule), model(body)) == Allowed("model-1")


def test_a_later_rule_may_open_the_door_that_an_earlier_one_shuts() -> None:
    rules = egress({"id": "shut"}, {"id": "open", "remote_content": True})
    assert decide(rules, model(ModelBody(remote_content=True))) == Allowed("open")
    assert decide(rules, model(ModelBody(provider_state=True))) == Denied("shut", "provider-state")


@pytest.mark.parametrize("changes", [{"provider": "other"}, {"model": "large"}, {"operation": "embeddings"}])
def test_a_model_that_no_rule_names_is_denied(changes: dict[str, str]) -> None:
    rules = egress({"models": ["small-*"], "operations": ["chat.completions"]})
    assert decide(rules, model(**changes)) == Denied("default", "not-allowed")


def test_a_condition_of_a_model_rule_is_asked_and_missing_does_not_allow() -> None:
    few = egress({"when": [{"attr": "model.max_output_tokens", "op": "le", "value": 5}]})
    assert decide(few, model(ModelBody(max_output_tokens=5))) == Allowed("model-1")
    assert decide(few, model()) == Denied("default", "not-allowed")
    assert decide(few, model(ModelBody(max_output_tokens=6))) == Denied("default", "not-allowed")


def test_an_undisclosed_argument_beside_a_missing_fact_does_not_force_a_denial() -> None:
    rules = policy(denied_tools=allow(X1, MISSING))
    assert decide(rules, tool(arguments={"x": 2})) == Allowed("allow-1")
    assert set(outcomes(rules, tool(arguments=UNDISCLOSED))) == {Denied("deny-1", "denied-tool"), Allowed("allow-1")}


def test_a_replay_without_the_body_knows_the_doors_that_can_be_shut_and_no_others() -> None:
    rule = {"hosted_tools": ["*"], "remote_content": True}
    assert set(outcomes(egress(rule), model(UNDISCLOSED))) == {Allowed("model-1"), Denied("model-1", "provider-state")}


def test_a_policy_that_asks_for_the_time_says_so() -> None:
    assert not reads(policy(), "time")
    assert reads(policy(denied_tools=allow({"attr": "time.now", "op": "gt", "value": 1})), "age", "time")
    assert set(
        outcomes(policy(allowed_tools=allow({"attr": "time.now", "op": "gt", "value": 1})), tool(time=UNDISCLOSED))
    ) == {
        Allowed("allow-1"),
        Denied("default", "not-allowed"),
    }


CONDITIONS = st.lists(
    st.sampled_from(
        [
            X1,
            MISSING,
            {"attr": "args.x", "op": "exists", "value": False},
            {"attr": "args.y.z", "op": "prefix", "value": "a"},
            {"attr": "args.x", "op": "gt", "value": 0},
            {"attr": "tool.class", "op": "eq", "value": "read"},
            {"attr": "job.type", "op": "ne", "value": "support"},
            {"attr": "data.labels", "op": "in", "value": ["internal"]},
        ]
    ),
    max_size=3,
)
TOOL_RULES = st.lists(
    st.builds(
        lambda tools, when: {"kind": "mcp", "server": "crm", "tools": tools, "when": when},
        st.sampled_from([["get"], ["*"], ["put"]]), CONDITIONS,
    ), max_size=3,
)  # fmt: skip
ARGUMENTS = st.fixed_dictionaries(
    {}, optional={"x": st.sampled_from([0, 1, 2, "1", None]), "y": st.sampled_from([{"z": "ab"}, {"z": 1}, {}, "a"])}
)
BODIES = st.builds(
    ModelBody,
    max_output_tokens=st.sampled_from([None, 5, 50]),
    hosted_tools=st.sampled_from([(), ("web",), ("code", "web")]),
    remote_content=st.booleans(),
    provider_state=st.booleans(),
)
MODEL_RULES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "models": st.sampled_from([["small-*"], ["large"]]),
            "max_output_tokens": st.sampled_from([10, 100]),
            "hosted_tools": st.sampled_from([["*"], ["web"]]),
            "remote_content": st.booleans(),
            "provider_state": st.booleans(),
            "when": st.sampled_from(
                [
                    [{"attr": "model.max_output_tokens", "op": "le", "value": 10}],
                    [{"attr": "model.name", "op": "eq", "value": "x"}],
                    [{"attr": "args.x", "op": "exists", "value": False}],
                ]
            ),
        },
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=400)
@given(TOOL_RULES, TOOL_RULES, ARGUMENTS)
def test_what_was_decided_is_among_what_a_replay_thinks_possible(
    allowed: list[Any], denied: list[Any], arguments: dict[str, Any]
) -> None:
    rules = policy(allowed_tools=allowed, denied_tools=denied)
    decided = decide(rules, tool(arguments=arguments))
    assert outcomes(rules, tool(arguments=arguments)) == (decided,)
    assert decided in outcomes(rules, tool(arguments=UNDISCLOSED))


@settings(max_examples=400)
@given(MODEL_RULES, BODIES)
def test_what_was_decided_of_a_model_is_among_what_a_replay_thinks_possible(rules: list[Any], body: ModelBody) -> None:
    built = egress(*rules)
    decided = decide(built, replace(model(body), arguments={}))
    assert outcomes(built, replace(model(body), arguments={})) == (decided,)
    hidden = Call(subject=SUBJECT, target=MODEL, token_ttl=60, time=NOW)
    assert decided in outcomes(built, hidden)


@settings(max_examples=300)
@given(TOOL_RULES, TOOL_RULES, ARGUMENTS)
def test_a_denying_rule_more_never_allows_more(
    allowed: list[Any], denied: list[Any], arguments: dict[str, Any]
) -> None:
    without = decide(policy(allowed_tools=allowed), tool(arguments=arguments))
    beside = decide(policy(allowed_tools=allowed, denied_tools=denied), tool(arguments=arguments))
    assert beside == without or beside.__class__ is Denied
