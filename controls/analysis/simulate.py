"""One call asked of a policy, with every rule that was looked at and why it matched or did not.

The decision is `decide()`'s own; what is shown beside it is found with the same functions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from verifier.conditions import ABSENT, Truth, any_glob, evaluate, find, glob_matches, holds
from verifier.decision import Allowed, Call, Held, ToolTarget, attributes, decide
from verifier.policy import Chain, Policy, rule_name
from verifier.rules import Condition, ModelRule, ToolRule

# What goes into JSON as it is; exact decimals and objects are told as texts.
SHOWN = (str, int, list, tuple, type(None))


class Asked(Struct, frozen=True):
    """One condition: what it asks, what was there, what it came to."""

    attr: str
    op: str
    value: Any
    found: Any
    truth: str


class Considered(Struct, frozen=True, omit_defaults=True):
    """One rule: whether it is about this call at all, if not why, and what its conditions came to."""

    rule: str
    effect: str
    matches: bool
    because: str
    conditions: list[Asked] = []


class Simulation(Struct, frozen=True, omit_defaults=True):
    """A decision and all that was looked at."""

    decision: str
    rule: str
    reason: str = ""
    tier: str = ""
    considered: list[Considered] = []


def simulate(chain: Chain, call: Call) -> Simulation:
    """Decide a call and show every rule of every level."""
    decision = decide(chain, call)
    known = attributes(call)
    considered = [each for level, policy in enumerate(chain) for each in _level(policy, level, call, known)]
    if isinstance(decision, Allowed):
        return Simulation("allow", decision.rule, considered=considered)
    if isinstance(decision, Held):
        return Simulation("hold", decision.rule, tier=decision.tier, considered=considered)
    return Simulation("deny", decision.rule, decision.reason, considered=considered)


def _level(policy: Policy, level: int, call: Call, known: Mapping[str, Any]) -> Iterator[Considered]:
    def named(rule: str) -> str:
        return rule_name(level, rule)

    target = call.target
    for label in target.labels:
        denied = any_glob(policy.data_classes.deny, label)
        if denied or not any_glob(policy.data_classes.allow, label):
            because = f"label {label} is {'denied' if denied else 'not allowed'}"
            yield Considered(named("data_classes"), "deny", True, because)
    if not isinstance(target, ToolTarget):
        for rule in policy.model_egress.models:
            yield _rule(named(rule.id), "allow", rule, _other_model(rule, call), known)
        return
    for tool_rule in policy.denied_tools:
        yield _rule(named(tool_rule.id), "deny", tool_rule, _other_tool(tool_rule, target), known)
    if target.kind != "local" and not any_glob(policy.egress.hosts, target.host):
        yield Considered(named("egress"), "deny", True, f"host {target.host} is not named")
    for tool_rule in policy.allowed_tools:
        effect = "allow" if tool_rule.approval == "none" else f"hold ({tool_rule.approval})"
        yield _rule(named(tool_rule.id), effect, tool_rule, _other_tool(tool_rule, target), known)


def _rule(name: str, effect: str, rule: ToolRule | ModelRule, other: str, known: Mapping[str, Any]) -> Considered:
    if other:
        return Considered(name, effect, False, other)
    denies = effect == "deny"
    truth = holds(rule.when, known, denies=denies)
    matches = truth in ((Truth.TRUE, Truth.MISSING) if denies else (Truth.TRUE,))
    asked = [_asked(each, known) for each in rule.when]
    return Considered(
        name, effect, matches, f"its conditions are {truth.value}" if asked else "it has no conditions", asked
    )


def _asked(condition: Condition, known: Mapping[str, Any]) -> Asked:
    found = find(condition, known)
    shown = None if found is ABSENT else found if isinstance(found, SHOWN) else str(found)
    return Asked(condition.attr, condition.op, condition.value, shown, evaluate(condition, known).value)


def _other_tool(rule: ToolRule, target: ToolTarget) -> str:
    """Say why a rule is not about this tool; empty when it is."""
    if not rule.names(target.kind):
        return f"it names no target of kind {target.kind}"
    if not glob_matches(rule.server, target.server):
        return f"it is about server {rule.server}"
    if not any_glob(rule.names(target.kind), target.tool):
        return f"it does not name tool {target.tool}"
    return "" if target.tool_class in rule.classes else f"it is not about tools of class {target.tool_class}"


def _other_model(rule: ModelRule, call: Call) -> str:
    target = call.target
    assert not isinstance(target, ToolTarget), "the caller has looked"
    if rule.provider != target.provider:
        return f"it is about provider {rule.provider}"
    if not any_glob(rule.models, target.model):
        return f"it does not name model {target.model}"
    return "" if any_glob(rule.operations, target.operation) else f"it does not name operation {target.operation}"
