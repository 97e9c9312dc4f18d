"""The gateway's compiled decision and the verifier's plain one, held equal over generated policies and calls."""

import os
from collections import Counter
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from tests.vectors.grammar import ADDRESSES, BLOCKS, DOMAINS, HOSTS, IPS, LISTS, PATHS, TOP, URLS
from verifier import narrowed
from verifier.compiled import MAX_PLANS, compile_policy
from verifier.conditions import UNDISCLOSED, Partial, Truth, evaluate
from verifier.decision import (
    Allowed,
    Call,
    Decision,
    Denied,
    Held,
    ModelBody,
    ModelTarget,
    Recency,
    Subject,
    ToolTarget,
    attributes,
    decide,
    outcomes,
    possible,
    reads,
)
from verifier.draft import build
from verifier.policy import Chain
from verifier.rules import ATTRIBUTES, LOCAL, Condition, Operator

NOW = 1_790_000_000_000_000
NIGHTLY = os.environ.get("TALLY_NIGHTLY") == "1"
CASES = 100_000 if NIGHTLY else 2_000
CALLS = 8  # of one chain of policies
OPERATORS: tuple[str, ...] = get_args(Operator)
SERVERS, TOOLS, CLASSES = ("crm", "files"), ("get", "put", "search"), ("read", "write", "destructive", "external")
LABELS = ("secrets", "internal", "personal_data")
OFFSETS = ("+00:00", "-03:30", "+05:45", "+14:00", "-14:00")
NUMBERS = (0, 1, 2, 5, "1", "2.5", "9007199254740993", -1)
TEXTS = ("support", "crm", "get", "a", "ab", "1", "agent-1", "read", "")
VALUES: dict[str, Any] = {
    "host_in": HOSTS, "email_domain_in": DOMAINS, "subpath_of": TOP, "cidr_in": BLOCKS,
}  # fmt: skip
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "n": (0, 1, 2, Decimal("2.5"), Decimal("1.0"), 9007199254740993, "1", True, None, Decimal("1e40"), [1], {"m": 1}),
    "s": ("a", "ab", "ba", "1", "", True, 1, None, ["a"]),
    "o": ({"n": 1, "s": "a"}, {"n": "1"}, {}, "a", None, {"n": {"n": 2}}),
    "u": URLS, "to": (*ADDRESSES, *LISTS), "p": PATHS, "ip": IPS,
}  # fmt: skip
PATHS_OF_ARGUMENTS = ("args.n", "args.s", "args.o.n", "args.o.s", "args.o.n.n", "args.zz")
GRAMMATICAL = {"host_in": "args.u", "email_domain_in": "args.to", "subpath_of": "args.p", "cidr_in": "args.ip"}


class Generator:
    """Policies and calls from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def some(self, given: Any, least: int = 0) -> list[Any]:
        """Pick some of them."""
        return self.random.sample(list(given), self.random.randint(least, len(given)))

    def likely(self, chance: float) -> bool:
        """Toss a coin."""
        return self.random.random() < chance

    def tier(self, chance: float) -> str:
        """Pick a tier, with this chance that a person is asked."""
        return self.random.choice(("confirm", "human")) if self.likely(chance) else "none"

    def condition(self) -> dict[str, Any]:
        """Make a condition that a policy may have."""
        op = self.random.choice(OPERATORS)
        if op in GRAMMATICAL:
            return {"attr": GRAMMATICAL[op], "op": op, "value": VALUES[op]}
        attr = self.attribute(op)
        made = {"attr": attr, "op": op, "value": self.value(attr, op)}
        return made | ({"offset": self.random.choice(OFFSETS)} if attr in LOCAL else {})

    def attribute(self, op: str) -> str:
        """Pick an attribute that the operator can take."""
        free = [*PATHS_OF_ARGUMENTS, *PATHS_OF_ARGUMENTS, "user.team", "user.mfa"]
        kinds = {
            "number": ["age.mfa", "age.team", "age.id", "age.none"], "text": [], "flag": [], "labels": [],
        }  # fmt: skip
        for attr, kind in ATTRIBUTES.items():
            kinds[kind].append(attr)
        if op in {"lt", "le", "gt", "ge", "between"}:
            return self.random.choice([*free, *kinds["number"], *kinds["number"]])
        if op in {"prefix", "suffix", "glob"}:
            return self.random.choice([*free, *kinds["text"]])
        if op in {"in", "not_in"}:
            return self.random.choice([*free, *kinds["text"], *kinds["number"], *kinds["labels"] * 4])
        if op == "exists":
            return self.random.choice([*free, *(name for each in kinds.values() for name in each)])
        return self.random.choice([*free, *kinds["text"], *kinds["number"], *kinds["flag"] * 2])

    def value(self, attr: str, op: str) -> Any:
        """Pick a value that operator and attribute can meet."""
        if op == "exists":
            return self.likely(0.5)
        if op == "between":
            low, high = sorted((self.one(attr, number=True) for _ in range(2)), key=Decimal)
            return [low, high]
        if op in {"in", "not_in"}:
            return [self.one(attr) for _ in range(self.random.randint(1, 3))]
        return self.one(attr, number=op in {"lt", "le", "gt", "ge"}, text=op in {"prefix", "suffix", "glob"})

    def one(self, attr: str, *, number: bool = False, text: bool = False) -> Any:
        """Pick one value for an attribute."""
        if attr in LOCAL:
            return self.random.randint(*LOCAL[attr])
        held = ATTRIBUTES.get(attr, "number" if attr.startswith("age.") else "any")
        if held == "any":
            held = "number" if number else "text" if text else "any"
        if attr == "time.now":
            return NOW + self.random.randint(-1, 1)
        given: dict[str, tuple[Any, ...]] = {
            "labels": LABELS, "flag": (True, False), "number": (*NUMBERS, 3600), "text": (*TEXTS, "a*", "*"),
            "any": (*NUMBERS, *TEXTS, True, False),
        }  # fmt: skip
        return self.random.choice(given[held])

    def when(self) -> list[dict[str, Any]]:
        """Make the conditions of a rule."""
        return [self.condition() for _ in range(self.random.choice((0, 0, 1, 1, 2)))]

    def tool_rule(self, *, denies: bool) -> dict[str, Any]:
        """Make a rule over tools."""
        tools = ["*"] if self.likely(0.6) else self.some((*TOOLS, "s*"), 1)
        local = self.likely(0.15)
        others = {} if local else {"resources": self.some((*TOOLS, "s*")), "prompts": self.some(TOOLS)}
        rule = {
            "kind": "local" if local else "mcp", "server": self.random.choice((*SERVERS, "*", "c*")), "tools": tools,
            "classes": self.some(CLASSES, 2), "when": self.when(), **(others if self.likely(0.2) else {}),
        }  # fmt: skip
        if denies:
            return rule | {"when": [*rule["when"], self.condition()] if self.likely(0.9) else []}
        return rule | {"approval": self.tier(0.35)}

    def model_rule(self) -> dict[str, Any]:
        """Make a rule over models."""
        return {
            "provider": self.random.choice(("p", "p", "q")),
            "models": self.random.choice((["*"], ["m-*"], ["m-1", "n"])),
            "operations": self.random.choice((["*"], ["chat.completions"])), "when": self.when(),
            "hosted_tools": self.some(("web", "code", "*")), "remote_content": self.likely(0.7),
            "provider_state": self.likely(0.7),
        } | ({"max_output_tokens": self.random.choice((5, 50))} if self.likely(0.3) else {})  # fmt: skip

    def chain(self) -> Chain:
        """Make a policy and its ancestors."""
        return tuple(self.policy() for _ in range(self.random.choice((1, 1, 1, 1, 2, 2, 3, 4))))

    def policy(self) -> Any:
        """Make a policy."""
        tier = self.tier(0.25)
        return build(
            {
                "policy_name": "p",
                "allowed_tools": [self.tool_rule(denies=False) for _ in range(self.random.randint(2, 5))]
                + [
                    {
                        "kind": "mcp",
                        "server": "*",
                        "tools": ["*"],
                        "resources": ["*"],
                        "prompts": ["*"],
                        "approval": tier,
                    },
                    {"kind": "local", "server": "*", "tools": ["*"], "approval": tier},
                ],
                "denied_tools": [self.tool_rule(denies=True) for _ in range(self.random.choice((0, 0, 0, 0, 1, 2)))],
                "data_classes": {"allow": ["*"], "deny": ["secrets"] if self.likely(0.1) else []},
                "model_egress": {"models": [self.model_rule() for _ in range(self.random.randint(0, 3))]},
                "egress": {"hosts": ["*.example"] if self.likely(0.1) else ["*"]},
                "token_constraints": {"cst_max_ttl_seconds": self.random.choice((300, 3600))},
            },
            issuer="team",
            now=NOW,
        )

    def call(self) -> Call:
        """Make a call of which everything is known."""
        labels = tuple(sorted(self.some(LABELS))) if self.likely(0.4) else ()
        claims = {"team": "a", "mfa": NOW // 1_000_000 - self.random.choice((0, 1, 3599, 3600, -1)), "id": "x"}
        subject = Subject(
            "agent-1", "client-1", "job-1", self.random.choice(("support", "batch")), "test",
            act=self.random.choice((None, "a")), depth=self.random.randint(0, 2),
            user=self.random.choice((None, "ab")), claims=claims if self.likely(0.7) else {},
            gateway=self.random.choice((None, "a")),
        )  # fmt: skip
        tool = self.likely(0.8)
        target: ToolTarget | ModelTarget = ModelTarget(
            self.random.choice("pq"), self.random.choice(("m-1", "n", "z")), "chat.completions", labels
        )
        if tool:
            kind = self.random.choice(("mcp", "mcp", "mcp", "mcp", "local", "resource", "prompt"))
            target = ToolTarget(
                self.random.choice(SERVERS), self.random.choice(TOOLS),
                "read" if kind in {"resource", "prompt"} else self.random.choice(CLASSES),
                self.random.choice(("internal", "public")), self.random.choice(("a.example", "a.test")), labels,
                self.tier(0.15), kind,
            )  # fmt: skip
        body = ModelBody(
            self.random.choice((None, 5, 51)), tuple(self.some(("web", "code"))), self.likely(0.3), self.likely(0.3)
        )
        return Call(
            subject=subject, target=target, token_ttl=301 if self.likely(0.05) else 60,
            time=NOW + self.random.randint(-10, 10) * 3_600_000_000 + self.random.randint(-1, 1),
            arguments={name: self.random.choice(values) for name, values in ARGUMENTS.items() if self.likely(0.8)},
            body=body, staleness=self.random.randint(0, 5),
            recent=Recency(self.random.randint(0, 9), self.random.randint(0, 9), self.likely(0.5) if tool else None),
        )  # fmt: skip


@cache
def cases(seed: int, count: int) -> list[tuple[Chain, list[Call]]]:
    """Generate chains, each with some calls."""
    make = Generator(seed)
    return [(make.chain(), [make.call() for _ in range(CALLS)]) for _ in range(count // CALLS)]


def conditions(chain: Chain) -> list[Condition]:
    """List every condition of a chain."""
    return [condition for policy in chain for when in policy.conditions() for condition in when]


@pytest.fixture(scope="module")
def decided() -> list[tuple[Chain, Call, Decision, Decision]]:
    """Let both decide every case."""
    found = []
    for chain, calls in cases(1, CASES):
        compiled = compile_policy(chain)
        found += [(chain, call, decide(chain, call), compiled(call)) for call in calls]
    return found


def test_both_decide_alike(decided: list[tuple[Chain, Call, Decision, Decision]]) -> None:
    for chain, call, plain, compiled in decided:
        assert plain == compiled, (chain, call)
    assert len(decided) >= CASES


def test_the_cases_are_worth_it(decided: list[tuple[Chain, Call, Decision, Decision]]) -> None:
    kinds = Counter(type(plain) for _, _, plain, _ in decided)
    assert all(kinds[kind] >= len(decided) / 5 for kind in (Allowed, Held, Denied)), kinds
    assert {len(chain) for chain, *_ in decided} == {1, 2, 3, 4}
    reasons = {plain.reason for *_, plain, _ in decided if isinstance(plain, Denied)}
    assert reasons == {
        "not-allowed", "denied-tool", "egress-host", "data-class", "token-ttl", "hosted-tool", "remote-content",
        "provider-state", "max-output-tokens",
    }  # fmt: skip
    hit: Counter[tuple[str, Truth]] = Counter()
    missing = set()
    for chain, call, *_ in decided[:: max(1, len(decided) // 2_000)]:
        known = attributes(call)
        for condition in conditions(chain):
            truth = evaluate(condition, known)
            hit[condition.op, truth] += 1
            if truth is Truth.MISSING:
                missing.add(condition.attr)
    wanted = {(op, truth) for op in OPERATORS for truth in (Truth.TRUE, Truth.FALSE, Truth.MISSING)}
    assert wanted - set(hit) == {("exists", Truth.MISSING)}
    assert {*PATHS_OF_ARGUMENTS, *GRAMMATICAL.values(), "user.team", "age.mfa", "agent.act", "gateway.url"} <= missing


def hidden(call: Call, known: list[str]) -> Call:
    """Forget all of a call that a receipt does not keep but these arguments."""
    arguments = {name: call.arguments[name] for name in known if name in call.arguments}  # type: ignore[operator, index]
    return replace(call, arguments=Partial(arguments) if known else UNDISCLOSED, body=UNDISCLOSED)


def test_a_replay_allows_for_what_was_decided_and_knowing_more_leaves_less() -> None:
    random, full, less = Random(2), 0, 0
    for chain, calls in cases(3, CASES // 2):
        for call in calls:
            decision = decide(chain, call)
            assert outcomes(chain, call) == (decision,)
            names = [name for name in ARGUMENTS if name in call.arguments]  # type: ignore[operator]
            random.shuffle(names)
            before: set[Decision] | None = None
            for count in range(0, len(names) + 1, 2):
                found = possible(chain, hidden(call, names[:count]))
                listed = set(found)
                assert decision in found
                assert decision in listed
                assert all(each in found for each in listed)
                assert found.full == (len(listed) == 1)
                assert before is None or listed <= before
                less += before is not None and listed < before
                full += found.full
                before = listed
    assert full > 0
    assert less > 0


@pytest.mark.parametrize("kept", [1 << 16, 20, 0])
def test_what_is_asked_narrowed_is_what_is_asked_of_all_rules(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_LABELS", "MAX_RULES", "MAX_ANSWERS"):
        monkeypatch.setattr(narrowed, name, kept)
    random, lasting = Random(4), 0
    for chain, calls in cases(3, CASES // 2):
        fixed = not reads(chain, "time", "age", "recent", "gateway")
        ask = narrowed.Narrowed(chain)
        for call in [*calls, *calls]:
            known = random.sample(list(ARGUMENTS), random.choice((0, 0, 3)))
            asked = hidden(call, known)
            grant = repr(call.subject) if fixed and not known else None
            found, wanted = ask.possible(asked, grant), possible(chain, asked)
            assert found == wanted
            assert found is not None
            assert list(found) == list(wanted)
            lasting += grant is not None
    assert lasting > 0


RULE: dict[str, Any] = {"kind": "mcp", "server": "*", "tools": ["*"]}
TARGET = ToolTarget("crm", "get", "read", "internal", "a.example")


@pytest.mark.parametrize(
    "condition",
    [
        {"attr": "time.hour", "op": "ge", "value": 0, "offset": "+00:00"},
        {"attr": "time.now", "op": "ge", "value": 0},
        {"attr": "age.mfa", "op": "ge", "value": 0},
        {"attr": "recent.calls", "op": "ge", "value": 0},
        {"attr": "gateway.staleness", "op": "ge", "value": 0},
        {"attr": "args.n", "op": "ge", "value": 0},
    ],
)
def test_what_is_not_known_is_missing_to_the_compiled_form(condition: dict[str, Any]) -> None:
    subject = Subject("a", "c", "j", "t", "e", claims={"mfa": 0})
    asked = Call(subject=subject, target=TARGET, token_ttl=1, time=UNDISCLOSED)
    for rules, decision in (
        ({"allowed_tools": [RULE | {"when": [condition]}]}, Denied("default", "not-allowed")),
        ({"allowed_tools": [RULE], "denied_tools": [RULE | {"when": [condition]}]}, Denied("deny-1", "denied-tool")),
    ):
        assert compile_policy((build({"policy_name": "p"} | rules, issuer="team", now=NOW),))(asked) == decision


def test_plans_are_kept_for_so_many_targets_and_no_more() -> None:
    chain = (build({"policy_name": "p", "allowed_tools": [RULE]}, issuer="team", now=NOW),)
    compiled = compile_policy(chain)
    call = Call(subject=Subject("a", "c", "j", "t", "e"), target=TARGET, token_ttl=1, time=0, arguments={})
    for number in range(MAX_PLANS + 1):
        assert compiled(replace(call, target=replace(TARGET, tool=f"tool-{number}"))) == Allowed("allow-1")
    assert len(compiled.__self__._plans) == 1  # type: ignore[attr-defined]
