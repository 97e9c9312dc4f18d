"""Comparing policies: the solver's formulas are `decide()`, narrower is never said in vain, wider comes with a call."""

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import z3
from msgspec.structs import replace

from controls.analysis import Comparison, compare
from controls.analysis.patterns import Term, literal
from controls.analysis.permits import Reading
from controls.analysis.values import Symbols, Value
from controls.analysis.witness import ask, rank
from tests.verifier.test_two_decisions import Generator
from verifier.decision import Call, ModelBody, ModelTarget, ToolTarget, attributes
from verifier.draft import build
from verifier.grammar import number
from verifier.policy import Chain

NOW = 1_790_000_000_000_000
ABSENT = object()
ROOT = Path(__file__).parents[2]


def policy(**draft: Any) -> Chain:
    return (build({"policy_name": "p", **draft}, issuer="me", now=NOW),)


def rule(**changes: Any) -> dict[str, Any]:
    return {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], **changes}


def when(attr: str, op: str, value: Any, **more: Any) -> Chain:
    return policy(allowed_tools=[rule(when=[{"attr": attr, "op": op, "value": value, **more}])])


def pinned(symbols: Symbols, call: Call) -> Iterator[Term]:
    """Say that the unknown call is this one."""
    known = attributes(call)
    for attr, value in symbols.used().items():
        yield from of_value(value, find(attr, known, call))
    labels = set(call.target.labels)
    for label, has in symbols.labels.items():
        yield has == (label in labels)
    fresh = sorted(labels - set(symbols.labels), key=lambda label: label != "secrets")  # the one that may be denied
    yield symbols.has_fresh == bool(fresh)
    if fresh:
        yield symbols.fresh_label == literal(fresh[0])
    if isinstance(call.target, ToolTarget):
        yield symbols.host == literal(call.target.host)
        yield symbols.kind == literal(call.target.kind)
    elif isinstance(call.body, ModelBody):
        yield symbols.remote_content == call.body.remote_content
        yield symbols.provider_state == call.body.provider_state
        for place, (asked, name) in enumerate(symbols.hosted):
            yield asked == (place < len(call.body.hosted_tools))
            if place < len(call.body.hosted_tools):
                yield name == literal(call.body.hosted_tools[place])


def find(attr: str, known: dict[str, Any], call: Call) -> Any:
    if attr.startswith("args."):
        value: Any = call.arguments if isinstance(call.target, ToolTarget) else {}
        for part in attr.split(".")[1:]:
            value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
        return value
    return known.get(attr, ABSENT)


def of_value(value: Value, found: Any) -> Iterator[Term]:
    kinds = {"text": value.is_text, "number": value.is_number, "flag": value.is_flag, "other": value.is_other}
    kind = kind_of(found)
    for name, term in kinds.items():
        yield term == (name == kind)
    if kind == "text":
        yield value.text == literal(found)
    if kind == "number":
        exact = Fraction(found)
        yield value.number == z3.RealVal(f"{exact.numerator}/{exact.denominator}")
    if kind == "flag":
        yield value.flag == found


def kind_of(found: Any) -> str:
    if found is ABSENT:
        return ""
    if isinstance(found, bool):
        return "flag"
    if isinstance(found, str):
        return "text"
    return "number" if isinstance(found, int | Decimal) and number(found) is not None else "other"


@pytest.mark.parametrize("seed", range(4))
def test_the_formulas_say_of_a_known_call_what_decide_says(seed: int) -> None:
    made, tried = Generator(1000 + seed), 0
    while tried < 30:
        chain = made.chain()
        for _ in range(3):
            call = plain(made.call())
            symbols = Symbols(model=isinstance(call.target, ModelTarget))
            reading = Reading(symbols, (chain,))
            permits = reading.chain(chain)
            decision = ask(chain, call)
            solver = z3.Solver()
            solver.add(*symbols.facts, *reading.truths.axioms(), *pinned(symbols, call))
            solver.add(permits.allowed == (rank(decision) > 0))
            if rank(decision):
                solver.add(permits.tier == 3 - rank(decision))
                solver.add(permits.rules[decision.rule])
            assert solver.check() == z3.sat, (call, decision)
            tried += 1


def plain(call: Call) -> Call:
    """Leave out what is compared as a term of the policy: the token's life and the tool's own tier."""
    target = replace(call.target, approval="none") if isinstance(call.target, ToolTarget) else call.target
    body = call.body if isinstance(call.body, ModelBody) else ModelBody()
    return replace(call, target=target, token_ttl=0, body=body)


@pytest.mark.parametrize("seed", range(3))
def test_narrower_is_never_said_of_a_policy_that_lets_a_call_through_besides(seed: int) -> None:
    made, narrower = Generator(seed), 0
    for _ in range(8):
        old = (made.policy(),)
        new = (changed(made, old[0]),)
        found = compare(old, new)
        calls = [plain(made.call()) for _ in range(300)]
        wider = [call for call in calls if rank(ask(new, call)) > rank(ask(old, call))]
        if not found.may_be_wider:
            narrower += 1
            assert not wider, (found, wider[0])
        elif found.relation in {"wider", "incomparable"}:
            assert found.widening
    assert narrower


def changed(made: Generator, policy: Any) -> Any:
    """Change a policy a little: drop a rule, add a condition, deny more, or let more through."""
    kind = made.random.randrange(5)
    rules = list(policy.allowed_tools)
    if kind == 0:
        return replace(policy, allowed_tools=rules[1:])
    if kind == 1:
        extra = Generator(made.random.randrange(1 << 30)).policy().denied_tools
        return replace(
            policy,
            denied_tools=[*policy.denied_tools, *(replace(each, id=f"more-{n}") for n, each in enumerate(extra))],
        )
    if kind == 2:
        return replace(policy, model_egress=replace(policy.model_egress, models=policy.model_egress.models[1:]))
    if kind == 3:
        return replace(policy, allowed_tools=[*rules[1:], replace(rules[0], when=[])])
    return policy


def emails(*domains: str) -> Chain:
    return when("args.to", "email_domain_in", list(domains))


def hosts(*names: str) -> Chain:
    return when("args.url", "host_in", list(names))


def models(**changes: Any) -> Chain:
    return policy(model_egress={"provider": "x", "models": [changes]})


def labels(allow: list[str], deny: list[str]) -> Chain:
    return policy(allowed_tools=[rule()], data_classes={"allow": allow, "deny": deny})


def denying(**changes: Any) -> Chain:
    return policy(allowed_tools=[rule(tools=["*"])], denied_tools=[rule(**changes)])


def one(**changes: Any) -> Chain:
    return policy(allowed_tools=[rule()], **changes)


IS_ONE = {"attr": "args.a", "op": "eq", "value": 1}
PEOPLE = {"quorum": 1, "approvers": ["ann"]}
NARROWER: dict[str, tuple[Chain, Chain]] = {
    "fewer tools": (policy(allowed_tools=[rule(tools=["get_*"])]), one()),
    "a lower amount": (when("args.amount", "le", "1000.01"), when("args.amount", "le", 1000)),
    "fewer domains": (emails("a.example", "b.example"), emails("a.example")),
    "hosts below": (hosts("*.example.com"), hosts("a.example.com", "*.b.example.com")),
    "a directory below": (when("args.path", "subpath_of", "/srv"), when("args.path", "subpath_of", "/srv/x")),
    "a smaller network": (when("args.ip", "cidr_in", ["10.0.0.0/8"]), when("args.ip", "cidr_in", ["10.1.0.0/16"])),
    "fewer hours, said in minutes": (
        when("time.hour", "between", [9, 16], offset="+01:00"),
        when("time.minute_of_day", "between", [600, 719], offset="+01:00"),
    ),
    "a younger proof": (when("age.mfa_at", "lt", 3600), when("age.mfa_at", "le", 3598)),
    "a deny rule without its condition": (denying(when=[IS_ONE]), denying()),
    "a prefix": (when("args.name", "glob", "a*"), when("args.name", "prefix", "ab")),
    "labels": (labels(["a*", "b"], ["abc"]), labels(["a*"], ["ab*"])),
    "models": (models(models=["m-*"]), models(models=["m-4*"], max_output_tokens=5)),
    "hosted tools": (models(hosted_tools=["web*"]), models(hosted_tools=["web_search"])),
    "a higher tier": (one(approvals=PEOPLE), policy(allowed_tools=[rule(approval="human")], approvals=PEOPLE)),
    "less time to approve": (one(approvals=PEOPLE), one(approvals={**PEOPLE, "ttl_seconds": 5})),
    "no approver at all": (one(approvals={"quorum": 0, "approvers": ["ann"]}), one()),
    "a budget": (one(), one(budgets={"calls": 5})),
    "a limit": (one(), policy(allowed_tools=[rule(limits={"calls_per_job": 5})])),
    "a lower sum": (
        policy(allowed_tools=[rule(limits={"sums": {"n": "10"}})]),
        policy(allowed_tools=[rule(limits={"sums": {"n": "9.5", "m": "1"}})]),
    ),
    "a shorter life": (policy(token_constraints={"cst_max_ttl_seconds": 900}), policy()),
    "fewer agents": (one(), one(jobs={"agents": ["bot-*"]})),
    "fewer upstreams": (one(), one(egress={"hosts": ["*.internal:8080"]})),
    "fewer content types": (
        policy(responses={"content_types": ["application/*"]}),
        policy(responses={"content_types": ["application/json"]}),
    ),
    "tools of the runtime": (policy(allowed_tools=[rule(), rule(kind="local")]), one()),
    "resources below": (
        policy(allowed_tools=[rule(resources=["file:///docs/*"])]),
        policy(allowed_tools=[rule(resources=["file:///docs/a*"])]),
    ),
    "a prompt less": (policy(allowed_tools=[rule(prompts=["a", "b"])]), policy(allowed_tools=[rule(prompts=["a"])])),
    "what servers may ask": (policy(allowed_tools=[rule(server_requests=["elicitation/*"])]), one()),
    "what servers may not ask": (
        policy(allowed_tools=[rule(server_requests=["a"])]),
        policy(allowed_tools=[rule(server_requests=["a"])], denied_tools=[rule(tools=[], server_requests=["a"])]),
    ),
    "a cost": (one(), one(budgets={"cost_nano_usd": 5}, model_egress={"prices": "sha256:" + "1" * 64})),
    "block": (one(data_classes={"on_violation": "redact"}), one(data_classes={"on_violation": "block"})),
    "ties": (policy(), policy(regulated=True, model_egress={"require_proxy_receipts": True})),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), NARROWER.values(), ids=list(NARROWER))
def test_a_narrower_policy_is_known_both_ways(old: Chain, new: Chain) -> None:
    there, back = compare(old, new), compare(new, old)
    assert (there.relation, back.relation) == ("narrower", "wider"), (there, back)
    assert there.narrowing
    assert back.widening
    assert not there.widening


def test_a_counterexample_is_told_in_words() -> None:
    found = compare(when("args.amount", "le", 1000), when("args.amount", "le", "1000.01"))
    assert found.widening[0].startswith("crm-mcp/get_case (")
    assert "with amount = 1000.01: the old policy denies it (not-allowed, default)" in found.widening[0]
    assert found.widening[0].endswith("the new one allows it by rule allow-1")


def test_a_list_of_hosts_is_not_two_hosts() -> None:
    """One rule for both allows a list with both in it, two rules for one each do not."""
    a, b = ([{"attr": "args.to", "op": "email_domain_in", "value": [each]}] for each in ("a.example", "b.example"))
    found = compare(policy(allowed_tools=[rule(when=a), rule(when=b)]), emails("a.example", "b.example"))
    assert found.relation == "wider", found
    assert 'to = ["somebody@a.example","somebody@b.example"]' in found.widening[0]


def test_one_rule_cut_in_two_counts_twice() -> None:
    whole = policy(allowed_tools=[rule(limits={"calls_per_job": 5})])
    halves = [rule(limits={"calls_per_job": 5}, when=[{"attr": "args.a", "op": op, "value": 1}]) for op in ("eq", "ne")]
    found = compare(whole, policy(allowed_tools=halves))
    assert found.may_be_wider
    assert "the limits of rule allow-1" in found.widening[0]


def test_an_ancestor_narrows_and_is_missed_when_it_goes() -> None:
    child, parent = policy(allowed_tools=[rule(tools=["*"])]), policy(allowed_tools=[rule(tools=["get_*"])])
    assert compare(child, child + parent).relation == "narrower"
    assert compare(child + parent, child).relation == "wider"
    assert compare(child, child) == Comparison(relation="equal")


def test_the_same_in_other_words_is_equal() -> None:
    assert compare(when("args.n", "ge", 5), when("args.n", "ge", "5.0")).relation == "equal"
    assert compare(policy(allowed_tools=[rule(), rule()]), policy(allowed_tools=[rule()])).relation == "equal"


def test_without_a_solver_nothing_is_said_to_be_narrower() -> None:
    script = """
import sys
sys.modules["z3"] = None
from controls.analysis import compare
from verifier.draft import build
policy = (build({"policy_name": "p"}, issuer="me", now=1),)
found = compare(policy, policy)
assert (found.relation, found.may_be_wider) == ("unknown", True), found
assert "tallystick[analysis]" in found.why
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_recent_denials_and_the_call_itself_can_be_told() -> None:
    found = compare(when("recent.denials", "le", 5), when("recent.denials", "le", 6))
    assert found.relation == "wider"
    assert "and 6 denials" in found.widening[0]
