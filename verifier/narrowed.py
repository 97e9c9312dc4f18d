"""The policies of a job as replay asks them: each target only of the rules that name it, each label once.

A policy's author may work together with whoever made a bundle, so what all of it may cost has a bound
(specs/bundle.md §2): a call has so many comparisons for itself, and what it needs beyond them all calls share.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from verifier.conditions import Undisclosed, breadth
from verifier.decision import Call, ModelTarget, Possible, ToolTarget, named_models, named_tools, possible, reads
from verifier.policy import Chain, DataClasses, Policy
from verifier.refused import Refused
from verifier.rules import Condition, ModelRule, ToolRule

# Comparisons of rules' globs and conditions: those that all calls of a bundle share, and those of each call.
MAX_SHARED, MAX_OWN = 1 << 23, 2000
# Of what was found before, so many labels are remembered, so many rules of targets, so many possible answers.
MAX_LABELS, MAX_RULES, MAX_ANSWERS = 1 << 14, 1 << 18, 1 << 16
# Conditions that read every one of their values anew, as an address or a path: each counts as several.
_SLOW = {"host_in": 8, "email_domain_in": 8, "subpath_of": 8, "cidr_in": 8}
_POLICY = 16  # what a policy without rules counts in memory, in rules
_ALL = DataClasses(allow=["*"], deny=[], on_violation="block")
_NONE = DataClasses(allow=[], deny=["*"], on_violation="block")
Target = ToolTarget | ModelTarget


class _Level(Struct, frozen=True):
    """One policy with the rules that name a target, and what it costs to ask them.

    `each` counts the comparisons of a call, `label` those more for each of its labels; `arguments` holds the conditions
    that read arguments.
    """

    policy: Policy
    each: int
    label: int
    arguments: tuple[Condition, ...]


class Narrowed:
    """What was asked of a job's policies already, and how much more may be: one for all lanes of a bundle."""

    def __init__(self, chain: Chain) -> None:
        """Start with nothing asked."""
        self._chain = chain
        self._by_label = reads(chain, "data")
        self._shared, self._own = MAX_SHARED, 0
        self._naming = sum(map(_naming, chain))  # what it costs to find the rules of one target
        self._sorting = sum(len(each.data_classes.allow) + len(each.data_classes.deny) for each in chain)
        self._denied: dict[str, tuple[bool, ...]] = {}
        self._levels: dict[Target, tuple[_Level, ...]] = {}
        self._rules = 0
        self._answers: dict[tuple[Any, ...], Possible] = {}
        self._size = 0

    def possible(self, call: Call, grant: str | None) -> Possible | None:
        """Ask as `decision.possible` does; with `grant`, a digest, what it says of calls like this one is kept.

        Raises `Refused` too-large for the first call of which too much would have to be asked. None for all after it.
        """
        if self._shared < 0:
            return None
        self._own = MAX_OWN
        target = replace(call.target, labels=())
        expired = tuple(call.token_ttl > each.token_constraints.cst_max_ttl_seconds for each in self._chain)
        denied = self._sort(call.target.labels)
        key = (grant, call.target if self._by_label else target, expired, denied)
        answer = None if grant is None else self._answers.get(key)
        if answer is None:
            answer = self._ask(call, target, expired, denied)
            size = 1 + sum(len(level.allows) + len(level.denies) for level in answer.levels)
            if grant is not None and self._size + size <= MAX_ANSWERS:
                self._answers[key] = answer
                self._size += size
        return answer

    def denies(self, labels: Sequence[str]) -> bool:
        """Tell whether a policy denies one of these labels; what is too much to be asked was refused before.

        Raises `Refused` too-large for the first that is.
        """
        if self._shared < 0:
            return False
        self._own = MAX_OWN
        return any(self._sort(labels))

    def _ask(self, call: Call, target: Target, expired: Sequence[bool], denied: Sequence[bool]) -> Possible:
        """Ask the rules that name the target."""
        levels = self._narrow(target)
        count = len(call.target.labels)
        for level, *shut in zip(levels, expired, denied, strict=True):
            self._pay(1 + count if any(shut) else level.each + count * (1 + level.label))
            if not any(shut) and not isinstance(call.arguments, Undisclosed):
                known = {"args": call.arguments}
                self._pay(sum(breadth(each, known) * _values(each) for each in level.arguments))
        chain = tuple(
            replace(level.policy, data_classes=_NONE if shut else _ALL)
            for level, shut in zip(levels, denied, strict=True)
        )
        return possible(chain, call)

    def _sort(self, labels: Sequence[str]) -> tuple[bool, ...]:
        """Tell for each policy whether it denies one of these labels."""
        found = [False] * len(self._chain)
        for label in labels:
            denied = self._denied.get(label)
            if denied is None:
                self._pay(self._sorting)
                if len(self._denied) >= MAX_LABELS:
                    self._denied.clear()
                denied = self._denied[label] = tuple(policy.data_classes.denies(label) for policy in self._chain)
            found = [a or b for a, b in zip(found, denied, strict=True)]
        return tuple(found)

    def _narrow(self, target: Target) -> tuple[_Level, ...]:
        """Find the rules that name a target."""
        levels = self._levels.get(target)
        if levels is None:
            self._pay(self._naming)
            levels = tuple(_level(policy, target) for policy in self._chain)
            size = sum(_POLICY + len(list(level.policy.conditions())) for level in levels)
            if self._rules + size > MAX_RULES:
                self._levels.clear()
                self._rules = 0
            self._levels[target] = levels
            self._rules += size
        return levels

    def _pay(self, comparisons: int) -> None:
        """Take comparisons from the call's own, then from those that all share. Raises `Refused` too-large."""
        over = comparisons - self._own
        self._own = max(0, -over)
        self._shared -= max(0, over)
        if self._shared < 0:
            why = "the calls, times the globs and conditions of the rules that name them, are too many to be replayed"
            raise Refused("too-large", why, field="rule")


def _naming(policy: Policy) -> int:
    """Count the comparisons that find the rules of one target."""
    models = policy.model_egress.models
    return sum(
        2 + len(rule.tools) + len(rule.resources) + len(rule.prompts)
        for rule in (*policy.denied_tools, *policy.allowed_tools)
    ) + sum(1 + len(rule.models) + len(rule.operations) for rule in models)


def _level(policy: Policy, target: Target) -> _Level:
    denied: list[ToolRule] = []
    allowed: list[ToolRule] = []
    models: list[ModelRule] = []
    if isinstance(target, ToolTarget):
        denied, allowed = named_tools(policy.denied_tools, target), named_tools(policy.allowed_tools, target)
    else:
        models = named_models(policy, target)
    narrow = replace(
        policy, denied_tools=denied, allowed_tools=allowed, model_egress=replace(policy.model_egress, models=models)
    )
    conditions = [each for when in narrow.conditions() for each in when]
    return _Level(
        narrow,
        1 + _naming(narrow) + len(policy.egress.hosts) + sum(map(_values, conditions)),
        sum(_values(each) for each in conditions if each.attr == "data.labels"),
        tuple(each for each in conditions if each.attr.startswith("args.")),
    )


def _values(condition: Condition) -> int:
    """Count what a condition compares one value with."""
    values = len(condition.value) if isinstance(condition.value, list) else 1
    return values * _SLOW.get(condition.op, 1)
