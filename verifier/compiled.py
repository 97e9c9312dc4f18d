"""The gateway's form of the decision: a policy compiled once, then asked in a microsecond (specs/policy.md §4).

Written apart from decision.py, with which the verifier replays: the same mistake would have to be made twice to stay
hidden, and a property test holds the two equal. Everything about a call must be known here; what is not is missing.

The rules about one target are found once and kept, with all that the target settles. What is left for each call is its
token's life, the conditions of those few rules, and a model request's side doors.
"""

from collections.abc import Callable, Sequence

from verifier.conditions import glob_matches
from verifier.decision import Allowed, Call, Decision, Denied, Held, ModelBody, ModelTarget, ToolTarget
from verifier.policy import Chain, Policy
from verifier.predicate import Predicate, every, none_false, predicate
from verifier.rules import Condition, ModelRule, Tier, ToolRule

MAX_PLANS = 4096

Target = ToolTarget | ModelTarget
Decide = Callable[[Call], Decision]
_RANK: dict[Tier, int] = {"none": 0, "confirm": 1, "human": 2}


def compile_policy(chain: Chain) -> Decide:
    """Compile a policy and its ancestors, the child first."""
    levels = [_Level(policy, f"{number}/" if number else "").decide for number, policy in enumerate(chain)]
    if len(levels) == 1:
        return levels[0]
    return lambda call: _together([decide(call) for decide in levels])


def _together(decisions: Sequence[Decision]) -> Decision:
    """The first denial denies; else every level allows, and the highest tier of all is asked."""
    tier: Tier = "none"
    for each in decisions:
        if isinstance(each, Denied):
            return each
        if isinstance(each, Held) and _RANK[each.tier] > _RANK[tier]:
            tier = each.tier
    rule, *inherited = (each.rule for each in decisions)
    return _allow(rule, tier, tuple(inherited))


def _allow(rule: str, tier: Tier, inherited: tuple[str, ...] = ()) -> Allowed | Held:
    return Allowed(rule, inherited) if tier == "none" else Held(rule, tier, inherited)


class _Level:
    """One policy of the chain, with a plan for each target that was asked about."""

    def __init__(self, policy: Policy, prefix: str) -> None:
        self._policy = policy
        self._prefix = prefix
        self._longest = policy.token_constraints.cst_max_ttl_seconds
        self._long_lived = Denied(prefix + "token_constraints", "token-ttl")
        self._default = Denied(prefix + "default", "not-allowed")
        self._plans: dict[Target, Decide] = {}
        self._predicates: dict[int, Predicate] = {}  # by the condition's identity: the policy keeps them alive

    def decide(self, call: Call) -> Decision:
        """Decide one call."""
        if call.token_ttl > self._longest:
            return self._long_lived
        target = call.target
        plan = self._plans.get(target)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[target] = self._plan(target)
        return plan(call)

    def _plan(self, target: Target) -> Decide:
        classes = self._policy.data_classes
        for label in target.labels:
            if _one(classes.deny, label) or not _one(classes.allow, label):
                return _always(Denied(self._prefix + "data_classes", "data-class"))
        return self._tool(target) if isinstance(target, ToolTarget) else self._model(target)

    def _tool(self, target: ToolTarget) -> Decide:
        """Keep the rules about this tool, up to the first that no condition can change."""
        denials: list[tuple[Predicate, Denied]] = []
        for rule in self._policy.denied_tools:
            if _about(rule, target):
                denials.append((none_false(self._tests(rule.when)), Denied(self._prefix + rule.id, "denied-tool")))
                if not rule.when:
                    return _first(denials, denials[-1][1])
        if target.kind != "local" and not _one(self._policy.egress.hosts, target.host):
            return _first(denials, Denied(self._prefix + "egress", "egress-host"))
        found: list[tuple[Predicate, Decision]] = [*denials]
        for rule in self._policy.allowed_tools:
            if _about(rule, target):
                tier = max(rule.approval, target.approval, key=_RANK.__getitem__)
                found.append((every(self._tests(rule.when)), _allow(self._prefix + rule.id, tier)))
                if not rule.when:
                    break
        return _first(found, self._default)

    def _model(self, target: ModelTarget) -> Decide:
        rules = [
            (every(self._tests(rule.when)), Allowed(self._prefix + rule.id), _shut(rule, self._prefix + rule.id))
            for rule in self._policy.model_egress.models
            if rule.provider == target.provider
            and _one(rule.models, target.model)
            and _one(rule.operations, target.operation)
        ]
        default = self._default

        def decide(call: Call) -> Decision:
            refusal: Denied | None = None
            for matches, allowed, shut in rules:
                if matches(call):
                    door = shut(call.body) if isinstance(call.body, ModelBody) else default
                    if door is None:
                        return allowed
                    refusal = refusal or door
            return refusal or default

        return decide

    def _tests(self, conditions: Sequence[Condition]) -> list[Predicate]:
        """Compile conditions once, however many targets their rule is about."""
        found = []
        for condition in conditions:
            if id(condition) not in self._predicates:
                self._predicates[id(condition)] = predicate(condition)
            found.append(self._predicates[id(condition)])
        return found


def _first(found: Sequence[tuple[Predicate, Decision]], otherwise: Decision) -> Decide:
    """Decide as the first that matches."""
    if not found:
        return _always(otherwise)

    def decide(call: Call) -> Decision:
        for matches, decision in found:
            if matches(call):
                return decision
        return otherwise

    return decide


def _always(decision: Decision) -> Decide:
    return lambda _: decision


def _about(rule: ToolRule, target: ToolTarget) -> bool:
    if target.kind == "resource":
        names = rule.resources
    elif target.kind == "prompt":
        names = rule.prompts
    else:
        names = rule.tools if rule.kind == target.kind else []
    return target.tool_class in rule.classes and _one([rule.server], target.server) and _one(names, target.tool)


def _one(globs: Sequence[str], text: str) -> bool:
    return any(glob_matches(glob, text) for glob in globs)


def _shut(rule: ModelRule, name: str) -> Callable[[ModelBody], Denied | None]:
    """Make the check of a request's side doors, in their order."""
    hosted, remote = Denied(name, "hosted-tool"), Denied(name, "remote-content")
    state, output = Denied(name, "provider-state"), Denied(name, "max-output-tokens")
    globs, most = rule.hosted_tools, rule.max_output_tokens

    def shut(body: ModelBody) -> Denied | None:
        if body.hosted_tools and not all(_one(globs, tool) for tool in body.hosted_tools):
            return hosted
        if body.remote_content and not rule.remote_content:
            return remote
        if body.provider_state and not rule.provider_state:
            return state
        if most is not None and (body.max_output_tokens is None or body.max_output_tokens > most):
            return output
        return None

    return shut
