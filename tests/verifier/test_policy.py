"""Policies and drafts: nothing implicit, nothing accepted and then ignored, the author's own tests hold."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.world import MINIMAL, NOW, World
from verifier.decision import Allowed, Denied, Held
from verifier.draft import arguments, build, read_draft, run_tests
from verifier.encoding import canonical
from verifier.policy import DAY, Policy, check_enforceable
from verifier.refused import Refused

WORLD = World()
RULE = {"kind": "mcp", "server": "crm", "tools": ["get"]}


def built(**draft: Any) -> Policy:
    """Build a small draft."""
    return build({"policy_name": "p"} | draft, issuer="team", now=NOW)


def test_the_example_of_our_users_is_accepted_as_it_stands() -> None:
    draft = read_draft(MINIMAL.read_bytes())
    made = json.loads(canonical(build(draft, issuer="team", now=NOW)))

    def kept(given: Any, found: Any) -> bool:
        if isinstance(given, dict):
            return all(kept(value, found[name]) for name, value in given.items())
        if isinstance(given, list):
            return len(given) == len(found) and all(map(kept, given, found))
        return bool(given == found)

    assert kept(draft, made)


def test_a_published_policy_has_no_implicit_value() -> None:
    made = built()
    assert (made.wpc_version, made.serial, made.valid_from, made.valid_until) == ("v1", 1, NOW, NOW + 90 * DAY)
    assert made.allowed_tools == made.denied_tools == made.model_egress.models == made.tests == []
    assert Policy.parse(canonical(made)) == made
    with refused("missing-field"):
        Policy.parse(b'{"wpc_version":"v1"}')


def test_a_provider_alone_means_any_of_its_models_and_no_provider_means_none() -> None:
    models = built(model_egress={"provider": "x"}).model_egress.models
    assert [(rule.id, rule.provider, rule.models, rule.hosted_tools) for rule in models] == [
        ("model-1", "x", ["*"], [])
    ]
    assert not models[0].remote_content
    assert not models[0].provider_state


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"x" * ((1 << 18) + 1), "too-large"),
        (b"[]", "wrong-type"),
        (b"{", "not-json"),
        (b'{"policy_name":"a","policy_name":"b"}', "not-canonical"),
        (b'{"policy_name":"\\ud800"}', "not-utf8"),
    ],
)
def test_a_draft_that_cannot_be_read_is_refused(raw: bytes, code: str) -> None:
    with refused(code):
        read_draft(raw)


@pytest.mark.parametrize(
    ("draft", "code", "field"),
    [
        ({"surprise": 1}, "unknown-field", None),
        ({"jobs": {"surprise": 1}}, "unknown-field", "jobs"),
        ({"policy_name": "a b"}, "bad-policy", "policy_name"),
        ({"policy_name": 1}, "bad-policy", "policy_name"),
        ({"serial": 1.5}, "bad-policy", "serial"),
        ({"wpc_version": "v2"}, "bad-policy", "wpc_version"),
        ({"jobs": []}, "bad-policy", "jobs"),
        ({"model_egress": []}, "bad-policy", "model_egress"),
        ({"model_egress": {"models": {}}}, "bad-policy", "model_egress.models"),
        ({"model_egress": {"models": [1]}}, "bad-policy", None),
        ({"model_egress": {"provider": "x", "models": [{"provider": "y"}]}}, "bad-policy", "model_egress"),
        ({"allowed_tools": {}}, "bad-policy", "allowed_tools"),
        ({"denied_tools": "*"}, "bad-policy", "denied_tools"),
        ({"allowed_tools": [1]}, "bad-policy", None),
        ({"tests": 1}, "bad-policy", "tests"),
        ({"tests": [1]}, "bad-policy", None),
        ({"allowed_tools": [RULE | {"id": "a"}, RULE | {"id": "a"}]}, "bad-policy", "allowed_tools"),
        ({"valid_until": NOW}, "bad-policy", "valid_until"),
        ({"token_constraints": {"require_scope_hash": False}}, "bad-policy", None),
        ({"token_constraints": {"policy_hash_pinning": "none"}}, "bad-policy", None),
        ({"approvals": {"quorum": 1}}, "bad-policy", "approvals"),
        ({"approvals": {"quorum": 2, "approvers": ["x", "x"]}}, "bad-policy", "approvers"),
        ({"receipts": {"privacy": "sealed"}}, "bad-policy", "receipts"),
        ({"receipts": {"auditors": ["x", "x"]}}, "bad-policy", "auditors"),
        ({"denied_tools": [RULE | {"approval": "human"}]}, "bad-policy", "denied_tools"),
        ({"denied_tools": [RULE | {"limits": {"calls_per_job": 1}}]}, "bad-policy", "denied_tools"),
        ({"budgets": {"cost_nano_usd": 1}}, "bad-policy", "budgets"),
        ({"allowed_tools": [RULE | {"kind": "local", "prompts": ["*"]}]}, "bad-policy", "kind"),
        ({"denied_tools": [RULE | {"kind": "local", "server_requests": ["*"]}]}, "bad-policy", "kind"),
        ({"allowed_tools": [RULE | {"limits": {"sums": {"amount": "many"}}}]}, "bad-policy", "sums"),
        ({"allowed_tools": [RULE | {"limits": {"sums": {"amount": "-1"}}}]}, "bad-policy", "sums"),
    ],
)
def test_a_draft_that_contradicts_itself_or_asks_too_much_is_refused_at_its_place(
    draft: dict[str, Any], code: str, field: str | None
) -> None:
    with refused(code, field):
        built(**draft)


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ({"attr": "user", "op": "exists", "value": True}, "bad-policy"),
        ({"attr": "job.owner", "op": "exists", "value": True}, "unsupported"),
        ({"attr": "args.x", "op": "in", "value": []}, "bad-policy"),
        ({"attr": "args.x", "op": "lt", "value": "a"}, "bad-policy"),
        ({"attr": "args.x", "op": "lt", "value": [1]}, "bad-policy"),
        ({"attr": "args.x", "op": "between", "value": [2, 1]}, "bad-policy"),
        ({"attr": "args.x", "op": "between", "value": [1, "x"]}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": ["a"]}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": []}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": "a.example"}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": [1]}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": ["A.example"]}, "bad-policy"),
        ({"attr": "args.x", "op": "host_in", "value": ["*.a.example:0"]}, "bad-policy"),
        ({"attr": "args.x", "op": "email_domain_in", "value": ["a.example:25"]}, "bad-policy"),
        ({"attr": "args.x", "op": "email_domain_in", "value": ["*a.example"]}, "bad-policy"),
        ({"attr": "args.x", "op": "subpath_of", "value": "srv"}, "bad-policy"),
        ({"attr": "args.x", "op": "subpath_of", "value": ["/srv"]}, "bad-policy"),
        ({"attr": "args.x", "op": "cidr_in", "value": ["10.0.0.1/8"]}, "bad-policy"),
        ({"attr": "args.x", "op": "cidr_in", "value": ["10.0.0.1"]}, "bad-policy"),
        ({"attr": "args.x", "op": "cidr_in", "value": ["fe80::%1/64"]}, "bad-policy"),
        ({"attr": "args.x", "op": "cidr_in", "value": ["ten"]}, "bad-policy"),
        ({"attr": "job.type", "op": "eq", "value": 1}, "bad-policy"),
        ({"attr": "job.type", "op": "lt", "value": 1}, "bad-policy"),
        ({"attr": "time.now", "op": "eq", "value": "noon"}, "bad-policy"),
        ({"attr": "time.now", "op": "prefix", "value": "1"}, "bad-policy"),
        ({"attr": "recent.first_use", "op": "eq", "value": 1}, "bad-policy"),
        ({"attr": "recent.first_use", "op": "in", "value": [True]}, "bad-policy"),
        ({"attr": "data.labels", "op": "eq", "value": "secrets"}, "bad-policy"),
        ({"attr": "data.labels", "op": "in", "value": [1]}, "bad-policy"),
        ({"attr": "time.hour", "op": "lt", "value": 9}, "bad-policy"),
        ({"attr": "time.now", "op": "lt", "value": 9, "offset": "+00:00"}, "bad-policy"),
        ({"attr": "time.hour", "op": "lt", "value": 24, "offset": "+00:00"}, "bad-policy"),
        ({"attr": "time.weekday", "op": "in", "value": [0, 1], "offset": "+00:00"}, "bad-policy"),
        ({"attr": "time.hour", "op": "lt", "value": 9, "offset": "+14:01"}, "bad-policy"),
        ({"attr": "time.hour", "op": "lt", "value": 9, "offset": "-00:00"}, "bad-policy"),
        ({"attr": "time.hour", "op": "lt", "value": 9, "offset": "+1:00"}, "bad-policy"),
        ({"attr": "moon.phase", "op": "eq", "value": 1}, "unsupported"),
        ({"attr": "args.x", "op": "in", "value": 1}, "bad-policy"),
        ({"attr": "args.x", "op": "not_in", "value": "a"}, "bad-policy"),
        ({"attr": "args.x", "op": "between", "value": [1]}, "bad-policy"),
        ({"attr": "args.x", "op": "between", "value": 1}, "bad-policy"),
        ({"attr": "args.x", "op": "exists", "value": 1}, "bad-policy"),
        ({"attr": "args.x", "op": "prefix", "value": 1}, "bad-policy"),
        ({"attr": "args.x", "op": "glob", "value": True}, "bad-policy"),
        ({"attr": "args.x", "op": "eq", "value": [1]}, "bad-policy"),
        ({"attr": "args.x", "op": "eq", "value": 2**53}, "bad-policy"),
        ({"attr": "args.x", "op": "eq", "value": 1.5}, "bad-policy"),
        ({"attr": "args.x", "op": "matches", "value": ".*"}, "bad-policy"),
        ({"attr": "args", "op": "eq", "value": 1}, "bad-policy"),
    ],
)
@pytest.mark.parametrize("place", ["allowed_tools", "denied_tools", "model_egress"])
def test_a_condition_that_can_never_be_judged_is_refused(place: str, condition: dict[str, Any], code: str) -> None:
    rules: dict[str, Any] = {
        "model_egress": {"provider": "x", "models": [{"when": [condition]}]}
    } if place == "model_egress" else {place: [RULE | {"when": [condition]}]}  # fmt: skip
    with refused(code):
        built(**rules)


JUDGED: list[tuple[str, dict[str, Any]]] = [
    ("receipts.privacy sealed", {"receipts": {"privacy": "sealed", "auditors": ["x"]}}),
    ("receipts.privacy sealed", {"receipts": {"auditors": ["x"]}}),
    ("token_constraints.binding", {"token_constraints": {"binding": "mtls"}}),
]


@pytest.mark.parametrize(("name", "draft"), JUDGED)
def test_what_the_services_cannot_do_is_judged_and_refused_by_name_where_it_would_be_used(
    name: str, draft: dict[str, Any]
) -> None:
    with pytest.raises(Refused, match=name) as caught:
        check_enforceable(built(**draft))
    assert caught.value.code == "unsupported"


def test_what_the_services_can_do_is_enforceable() -> None:
    when = [
        {"attr": "args.url", "op": "host_in", "value": ["*.example.com", "example.com:8443"]},
        {"attr": "args.to", "op": "email_domain_in", "value": ["a.example", "*.b.example"]},
        {"attr": "args.path", "op": "subpath_of", "value": "/srv/data"},
        {"attr": "args.ip", "op": "cidr_in", "value": ["10.0.0.0/8", "2001:db8::/32"]},
        {"attr": "time.hour", "op": "between", "value": [9, "16"], "offset": "-03:30"},
        {"attr": "time.weekday", "op": "exists", "value": True, "offset": "+00:00"},
        {"attr": "recent.denials", "op": "le", "value": 5},
        {"attr": "recent.first_use", "op": "eq", "value": False},
        {"attr": "data.labels", "op": "not_in", "value": ["secrets"]},
        {"attr": "gateway.staleness", "op": "in", "value": [0, "1"]},
        {"attr": "user.id", "op": "eq", "value": "u"},
        {"attr": "age.mfa_at", "op": "lt", "value": 3600},
    ]
    asks = {"approval": "human", "when": when}
    several: dict[str, Any] = {
        "parent": "sha256:" + "0" * 64,
        "approvals": {"quorum": 1, "approvers": ["ann"]},
        "token_constraints": {"max_delegation_depth": 1},
    }
    check_enforceable(built(regulated=True, allowed_tools=[RULE | asks], denied_tools=[RULE], **several))


def test_the_keys_of_a_map_are_plain_names() -> None:
    made = json.loads(canonical(built(budgets={"per_tool": {"crm/get": 1}})))
    made["budgets"]["per_tool"] = {"cr\u00e9m/get": 1}
    with refused("bad-value"):
        Policy.parse(canonical(made))


def test_a_policy_is_in_force_from_its_first_moment_to_before_its_last() -> None:
    made = built()
    made.in_force(made.valid_from)
    made.in_force(made.valid_until - 1)
    for at in (made.valid_from - 1, made.valid_until):
        with refused("policy-not-valid"):
            made.in_force(at)


TOOL = {"server": "crm", "tool": "get"}
MODEL = {"provider": "x", "model": "m"}


@pytest.mark.parametrize(
    "test",
    [
        {"call": TOOL, "expect": "allow"},
        {"call": TOOL, "expect": "allow", "rule": "allow-1"},
        {"call": TOOL | {"tool": "put"}, "expect": "deny", "rule": "default"},
        {"call": TOOL | {"arguments": '{"amount":1e3}'}, "expect": "allow"},
        {"call": TOOL | {"arguments": '{"amount":1001}'}, "expect": "deny", "rule": "deny-1"},
        {"call": TOOL, "facts": {"labels": ["secrets"]}, "expect": "deny", "rule": "data_classes"},
        {"call": TOOL, "facts": {"tool_class": "write", "host": "h", "sensitivity": "s"}, "expect": "allow"},
        {"call": MODEL, "expect": "allow", "rule": "model-1"},
        {"call": MODEL | {"hosted_tools": ["web"]}, "expect": "deny", "rule": "model-1"},
        {"call": MODEL | {"operation": "embeddings", "max_output_tokens": 1}, "expect": "allow"},
    ],
)
def test_a_policys_own_test_holds(test: dict[str, Any]) -> None:
    many = [
        {"attr": "args.amount", "op": "exists", "value": True},
        {"attr": "args.amount", "op": "gt", "value": "1000"},
    ]
    made = built(
        allowed_tools=[RULE],
        denied_tools=[RULE | {"when": many}],
        data_classes={"deny": ["secrets"]},
        model_egress={"provider": "x"},
        tests=[{"name": "t"} | test],
    )
    assert len(run_tests((made,))) == 1


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ({"call": TOOL, "expect": "deny"}, "policy-test-failed"),
        ({"call": TOOL, "expect": "hold"}, "policy-test-failed"),
        ({"call": TOOL, "expect": "allow", "rule": "another"}, "policy-test-failed"),
        ({"call": {}, "expect": "deny"}, "bad-policy"),
        ({"call": {"server": "crm"}, "expect": "deny"}, "bad-policy"),
        ({"call": TOOL | {"arguments": "[]"}, "expect": "deny"}, "wrong-type"),
        ({"call": TOOL | {"arguments": '{"a":1e99999999999999999999}'}, "expect": "deny"}, "bad-value"),
        ({"call": TOOL | {"arguments": '{"a":1,"a":2}'}, "expect": "deny"}, "not-canonical"),
    ],
)
def test_a_policys_own_test_that_does_not_hold_is_refused(test: dict[str, Any], code: str) -> None:
    made = built(allowed_tools=[RULE], tests=[{"name": "t"} | test])
    with refused(code):
        run_tests((made,))


def test_a_held_call_is_a_hold_in_a_policys_own_test() -> None:
    made = built(allowed_tools=[RULE], tests=[{"name": "t", "call": TOOL, "expect": "hold"}])
    asked = replace(made, allowed_tools=[replace(made.allowed_tools[0], approval="confirm")])
    assert [decision for _, decision in run_tests((asked,))] == [Held("allow-1", "confirm")]
    assert Allowed("allow-1") != Denied("allow-1", "x")


def test_arguments_are_exact() -> None:
    assert str(arguments(b'{"a":0.10000000000000000000001}')["a"]) == "0.10000000000000000000001"
