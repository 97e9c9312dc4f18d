"""Policies in Cedar, asked of Cedar's own engine: the same answers where every condition can be said, never wider."""

import os
from decimal import Decimal
from random import Random
from typing import Any

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controls import drafting
from controls.analysis.witness import ask, rank
from controls.commands.authoring import TEMPLATES
from controls.exports import Export, export
from controls.exports.cedar_text import some
from tests.controls.cedar import Engine
from tests.verifier.test_two_decisions import GRAMMATICAL, LABELS, Generator
from verifier.decision import Call, ModelBody, ModelTarget, Recency, Subject, ToolTarget
from verifier.draft import build, call_of
from verifier.policy import Chain
from verifier.refused import Refused

NOW = 1_790_000_000_000_000
CALLS = 12  # of one chain
AT_ONCE = 3  # the rank of a call that goes through without a person
NIGHTLY = os.environ.get("TALLY_NIGHTLY") == "1"
tries = settings(
    max_examples=3000 if NIGHTLY else 50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class Made(Generator):
    """Policies and calls from hypothesis; `said` leaves out what Cedar has no words for."""

    def __init__(self, random: Random, *, said: bool) -> None:
        super().__init__(0)
        self.random, self.said = random, said

    def condition(self) -> dict[str, Any]:
        """Make a condition."""
        while True:
            made = super().condition()
            if not (self.said and made["op"] in GRAMMATICAL):
                return made

    def policy(self) -> Any:
        """Make a policy that also says who may use it and which labels it allows."""
        patterns = () if self.said else ("s*", "*a*")
        allow = ["*"] if self.likely(0.6) else self.some((*LABELS, *patterns))
        deny = self.some(("secrets", *patterns)) if self.likely(0.3) else []
        policy = super().policy()
        return replace(
            policy,
            data_classes=replace(policy.data_classes, allow=allow, deny=deny),
            jobs=replace(policy.jobs, agents=["agent-*"], types=["support", "b*"] if self.likely(0.8) else ["batch"]),
        )


def engine(chain: Chain) -> Engine:
    """Export a chain, and let the engine read it: valid against its own schema, in strict mode."""
    done = export(chain, "cedar")
    found = cedarpy.validate_policies(done.files["policy.cedar"], done.files["policy.cedarschema"])
    assert found.validation_passed, found.errors
    return Engine(done, chain)


@tries
@given(st.randoms(use_true_random=False))
def test_cedar_answers_as_decide_does_where_every_condition_can_be_said(random: Random) -> None:
    made = Made(random, said=True)
    chain = made.chain()
    asked = engine(chain)
    for call in (made.call() for _ in range(CALLS)):
        assert asked.allows(call) == (rank(ask(chain, call)) == AT_ONCE), call


@tries
@given(st.randoms(use_true_random=False))
def test_cedar_never_allows_what_decide_does_not(random: Random) -> None:
    made = Made(random, said=False)
    chain = made.chain()
    asked = engine(chain)
    for call in (made.call() for _ in range(CALLS)):
        assert not asked.allows(call) or rank(ask(chain, call)) == AT_ONCE, call


def policy(**draft: Any) -> Chain:
    return (build({"policy_name": "p", **draft}, issuer="me", now=NOW),)


def rule(**changes: Any) -> dict[str, Any]:
    return {"kind": "mcp", "server": "crm", "tools": ["*"], **changes}


def when(attr: str, op: str, value: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"attr": attr, "op": op, "value": value, **more}]


def call(tool: str = "get", labels: tuple[str, ...] = (), **arguments: Any) -> Call:
    target = ToolTarget("crm", tool, "read", "internal", "crm.example", labels)
    subject = Subject("agent-1", "client-1", "job-1", "support", "test")
    recent, known = Recency(first_use=False), {"token_ttl": 60, "time": NOW, "staleness": 0}
    return Call(subject=subject, target=target, arguments=arguments, recent=recent, **known)


def request(provider: str, hosted: tuple[str, ...] = ()) -> Call:
    target = ModelTarget(provider, "m", "chat.completions")
    subject = replace(call().subject, user="u", claims={"ip": "10.1.1.1"})
    return replace(call(), subject=subject, target=target, recent=Recency(), body=ModelBody(None, hosted))


def unsaid(done: Export, effect: str) -> dict[str, str]:
    return {each.place: each.why for each in done.unexpressed if each.effect == effect}


@pytest.mark.parametrize("attr", ["args.amount", "user.team", "age.mfa_at", "user.id"])
def test_a_missing_attribute_makes_a_deny_rule_match_and_no_forbid_is_skipped(attr: str) -> None:
    value, op = (5, "gt") if attr != "user.id" else ("ann", "ne")
    chain = policy(allowed_tools=[rule()], denied_tools=[rule(when=when(attr, op, value))])
    asked = engine(chain)
    for arguments in ({}, {"amount": "5"}, {"amount": None}, {"amount": [1]}):
        assert not asked.allows(call(**arguments))
    if attr == "args.amount":
        assert asked.allows(call(amount=5))


def test_a_held_call_is_denied_even_where_a_later_rule_would_allow_it() -> None:
    held = rule(id="held", approval="human", when=when("args.amount", "gt", 10))
    chain = policy(allowed_tools=[held, rule(id="free")])
    asked = engine(chain)
    assert [asked.allows(call(amount=amount)) for amount in (10, 11)] == [True, False]
    assert asked.allows(call())  # a rule that allows does not match where something is missing
    assert "no third answer" in unsaid(export(chain, "cedar"), "narrower")["held"]
    by_manifest = replace(call(), target=replace(call().target, approval="confirm"))
    assert not asked.allows(by_manifest)


def test_a_condition_that_cannot_be_said_narrows_whatever_the_rule_does() -> None:
    inside = when("args.to", "email_domain_in", ["example.com"])
    allows = policy(allowed_tools=[rule(id="mail", when=inside)])
    denies = policy(allowed_tools=[rule()], denied_tools=[rule(id="mail", when=inside)])
    holds = policy(allowed_tools=[rule(id="mail", when=inside, approval="human"), rule(id="later")])
    inside_network = when("user.ip", "cidr_in", ["10.0.0.0/8"])
    models = policy(model_egress={"provider": "p", "models": [{"id": "mail", "when": inside_network}]})
    assert not engine(models).allows(request("p"))
    for chain in (allows, denies, holds):
        asked = engine(chain)
        assert not asked.allows(call(to="ann@example.com"))
        assert not asked.allows(call(to="eve@evil.example"))
        told = [each.why for each in export(chain, "cedar").unexpressed if each.place == "mail"]
        assert "args.to email_domain_in: Cedar has no such test" in told


def test_labels_are_held_against_names_alone() -> None:
    narrow = policy(allowed_tools=[rule()], data_classes={"allow": ["internal", "personal_*"], "deny": ["*_secret"]})
    asked = engine(narrow)
    assert [asked.allows(call(labels=(each,))) for each in ("internal", "personal_data")] == [True, False]
    assert "personal_*" in unsaid(export(narrow, "cedar"), "narrower")["data_classes.allow"]
    some = policy(allowed_tools=[rule()], data_classes={"deny": ["pay*"]})
    asked = engine(some)
    assert [asked.allows(call(labels=each)) for each in ((), ("internal",), ("payments",))] == [True, False, False]
    assert "pay*" in unsaid(export(some, "cedar"), "narrower")["data_classes.deny"]


def test_hosted_tools_are_held_against_names_alone() -> None:
    chain = policy(model_egress={"provider": "p", "models": [{"hosted_tools": ["web", "code*"]}]})
    asked = engine(chain)
    for hosted, allowed in ((("web",), True), (("web", "code-1"), False), ((), True)):
        assert asked.allows(request("p", hosted)) == allowed


ODD = ('a"b', "a\\b", "a*b", "\n", "\u2028", "é", "😀", "a}b", "\x00", "//", "' || true || '", '" || true || "', "")


@pytest.mark.parametrize("text", ODD)
def test_texts_are_said_as_they_stand(text: str) -> None:
    for op, value in (("eq", text), ("prefix", text), ("suffix", text), ("in", [text, "other"])):
        asked = engine(policy(allowed_tools=[rule(when=when("args.s", op, value))]))
        assert asked.allows(call(s=text))
        assert asked.allows(call(s="axb")) == (op in {"prefix", "suffix"} and text == "")


NUMBERS = (
    0,
    1,
    -1,
    5,
    "0.5",
    "0.0001",
    "0.00005",
    "-0.00005",
    "99.95",
    "1e20",
    "-1e20",
    2**53 - 1,
    "9223372036854775808",
)
GIVEN = (
    0,
    1,
    -1,
    5,
    6,
    2**53,
    2**63 - 1,
    -(2**63) + 1,
    "0.5",
    "0.0001",
    "-0.0001",
    "99.95",
    "99.9501",
    "922337203685477.5807",
)


@pytest.mark.parametrize("op", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_numbers_are_compared_exactly(op: str) -> None:
    for wanted in NUMBERS:
        chain = policy(allowed_tools=[rule(when=when("args.n", op, wanted))])
        asked = engine(chain)
        for found in GIVEN:
            made = call(n=found if isinstance(found, int) else Decimal(found))
            assert asked.allows(made) == (rank(ask(chain, made)) == AT_ONCE), (op, wanted, found)


def test_many_rules_do_not_make_the_engine_give_up() -> None:
    """A `forbid` that runs out of stack is skipped: everything would be allowed that an ancestor denies."""
    many = [rule(id=f"r{n}", tools=[f"tool-{n}"]) for n in range(1000)]
    (parent,) = policy(allowed_tools=many)
    asked = engine((*policy(allowed_tools=[rule()]), parent))
    assert asked.allows(call("tool-999"))
    assert not asked.allows(call("tool-1000"))


def test_a_list_of_any_length_is_evaluated() -> None:
    tests = some(f'resource.name == "tool-{number}"' for number in range(10_000))
    asked = engine(policy(allowed_tools=[rule()]))
    asked.policies = cedarpy.PolicySet.from_str(
        f"forbid (principal, action, resource) unless {{ {tests} }};\npermit (principal, action, resource);"
    )
    assert [asked.allows(call(f"tool-{number}")) for number in (0, 9_999, 10_000)] == [True, True, False]


def test_the_template_s_own_tests_hold_in_cedar_but_for_what_is_listed() -> None:
    draft = drafting.read("enterprise.yaml", (TEMPLATES / "enterprise.yaml").read_bytes())
    chain = (build(draft.value, issuer="me", now=NOW),)
    asked, narrower = engine(chain), unsaid(export(chain, "cedar"), "narrower")
    assert set(narrower) == {"approvals", "mail"}
    for test in chain[0].tests:
        made = call_of(test)
        subject = replace(made.subject, agent="finance-1", job_type="payments", environment="production")
        recent = made.recent if isinstance(made.recent, Recency) else Recency()
        answer = asked.allows(replace(made, subject=subject, recent=recent, staleness=0))
        assert answer == (test.expect == "allow" and test.rule not in narrower), test.name


def test_a_policy_that_would_be_too_long_is_refused() -> None:
    held = [rule(id=f"h{n}", approval="human", when=when("args.n", "in", list(range(n, n + 256)))) for n in range(100)]
    with pytest.raises(Refused) as refused:
        export(policy(allowed_tools=[*held, rule(id="last")]), "cedar")
    assert refused.value.code == "export-too-large"
