"""A policy in Cedar: policies, and the schema of what has to be asked of them (specs/exports.md §7).

A rule that allows is a `permit`, a rule that denies a `forbid`; an ancestor, of which some rule must allow too, is one
`forbid ... unless`. Cedar knows allowed and denied: what waits for a person is denied. What a rule asks that Cedar has
no words for makes the policy narrower: a rule that allows is left out, one that denies or holds does so without it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from controls.exports.cedar_schema import schema
from controls.exports.cedar_text import FALSE, TRUE, every, globs, negated, one_of, some, text, texts
from controls.exports.cedar_truths import Truth, truth
from controls.exports.names import CLASSES
from controls.exports.unexpressed import MAX_EXPORT, Export, Unexpressed, beside_calls, too_large
from verifier.conditions import any_glob
from verifier.encoding import canonical, digest
from verifier.policy import Chain, Policy, rule_name
from verifier.rules import KINDS, ModelRule, ToolRule

NO_THIRD = "Cedar has no third answer: what waits for a person is denied"
TOOL, MODEL = 'action == Action::"tool"', 'action == Action::"model"'
EITHER = 'action in [Action::"tool", Action::"model"]'


class Statement(Struct, frozen=True):
    """One policy of Cedar: what it is called, whether it permits, for which action, and the test that it asks."""

    name: str
    effect: Literal["permit", "forbid"]
    action: str
    test: str
    unless: bool = False

    def written(self) -> str:
        """Write it; nothing where it can never apply."""
        never, always = (TRUE, FALSE) if self.unless else (FALSE, TRUE)
        if self.test == never:
            return ""
        clause = "" if self.test == always else f"\n{'unless' if self.unless else 'when'} {{ {self.test} }}"
        return f"@id({text(self.name)})\n{self.effect} (principal, {self.action}, resource){clause};\n"


def write(chain: Chain) -> Export:
    """Write `policy.cedar` and `policy.cedarschema`. Raises `Refused` export-too-large."""
    policy, address = chain[0], digest(canonical(chain[0]))
    unexpressed: list[Unexpressed] = []
    parts = [f"// {policy.policy_name}, serial {policy.serial}, {address}\n"]
    size = 0
    for level, each in enumerate(chain):
        for statement in _Level(level, each, unexpressed).statements():
            parts.append(statement.written())
            size += len(parts[-1])
            if size > MAX_EXPORT:
                raise too_large(f"its Cedar policies have more than {MAX_EXPORT} characters")
    files = {"policy.cedar": "\n".join(filter(None, parts)), "policy.cedarschema": schema(chain)}
    return Export("cedar", address, files, [*dict.fromkeys(unexpressed), *beside_calls(chain)])


class _Level:
    """One policy of a chain, which permits when it stands first and forbids otherwise."""

    def __init__(self, level: int, policy: Policy, unexpressed: list[Unexpressed]) -> None:
        self._level, self._policy, self._unexpressed = level, policy, unexpressed

    def statements(self) -> Iterator[Statement]:
        """Write every rule."""
        yield from self._of_every_call()
        yield from self._denied()
        hosts = globs("resource.host", self._policy.egress.hosts)
        yield self._unless("egress", TOOL, some(('resource.kind == "local"', hosts)))
        yield self._unless("approvals", TOOL, 'resource.approval == "none"')
        self._tell("approvals", NO_THIRD)
        yield from self._allowing(TOOL, self._tools())
        yield from self._allowing(MODEL, self._models())

    def _of_every_call(self) -> Iterator[Statement]:
        jobs, most = self._policy.jobs, self._policy.token_constraints.cst_max_ttl_seconds
        yield self._unless("token_constraints", EITHER, f"context.token_ttl <= {most}")
        admitted = (
            globs("principal.id", jobs.agents),
            globs("context.job.type", jobs.types),
            globs("context.job.environment", jobs.environments),
        )
        yield self._unless("jobs", EITHER, every(admitted))
        yield self._unless("data_classes", EITHER, every(self._labels()))

    def _labels(self) -> Iterator[str]:
        """Allow labels: a set can be held against names, not against globs."""
        classes = self._policy.data_classes
        if "*" not in classes.allow:
            self._globs("data_classes.allow", classes.allow)
            known = [each for each in classes.allow if "*" not in each and not any_glob(classes.deny, each)]
            yield _within("context.labels", known)
        elif classes.deny:
            exact = not self._globs("data_classes.deny", classes.deny)
            denied = f"context.labels.containsAny({texts(classes.deny)})"
            yield negated(denied) if exact else "context.labels.isEmpty()"

    def _tools(self) -> Iterator[tuple[str, str]]:
        """Give each rule that lets a tool through at once, with its test: that no earlier rule holds the call."""
        held: list[tuple[ToolRule, str]] = []
        for rule in self._policy.allowed_tools:
            asked = self._asked(rule)
            test = every((_names(rule), *(each[0] for each in asked if each)))
            if rule.approval != "none":
                self._tell(rule.id, f"{NO_THIRD} ({rule.approval})")
                held.append((rule, test))
            elif None not in asked:
                yield rule.id, every((test, negated(some(other for each, other in held if _may_meet(rule, each)))))

    def _models(self) -> Iterator[tuple[str, str]]:
        """Give each rule that lets a model through, with its test: that it opens every side door used."""
        for rule in self._policy.model_egress.models:
            asked = self._asked(rule)
            if None not in asked:
                yield rule.id, every((_names_model(rule), *self._doors(rule), *(each[0] for each in asked if each)))

    def _doors(self, rule: ModelRule) -> Iterator[str]:
        if "*" not in rule.hosted_tools:
            self._globs(rule.id, rule.hosted_tools)
            yield _within("context.hosted_tools", [each for each in rule.hosted_tools if "*" not in each])
        yield TRUE if rule.remote_content else "!context.remote_content"
        yield TRUE if rule.provider_state else "!context.provider_state"
        if rule.max_output_tokens is not None:
            yield "context has max_output_tokens"
            yield f"context.max_output_tokens <= {rule.max_output_tokens}"

    def _denied(self) -> Iterator[Statement]:
        """Deny what a rule names unless one of its conditions is false: what is missing denies."""
        for rule in self._policy.denied_tools:
            test = every((_names(rule), *(each[1] for each in self._asked(rule) if each)))
            yield Statement(rule_name(self._level, rule.id), "forbid", TOOL, test)

    def _allowing(self, action: str, rules: Iterable[tuple[str, str]]) -> Iterator[Statement]:
        """Permit by each rule; an ancestor forbids what none of its rules lets through."""
        tests, size = [], 0
        for name, test in rules:
            size += len(test)
            if size > MAX_EXPORT:
                raise too_large(f"its Cedar policies have more than {MAX_EXPORT} characters")
            tests.append(test)
            if not self._level:
                yield Statement(name, "permit", action, test)
        if self._level:
            yield self._unless("default", action, some(tests))

    def _unless(self, name: str, action: str, test: str) -> Statement:
        return Statement(rule_name(self._level, name), "forbid", action, test, unless=True)

    def _asked(self, rule: ToolRule | ModelRule) -> list[Truth | None]:
        """Say what each condition of a rule comes to; None, and told, where Cedar has no words for it."""
        found = [truth(each, model=isinstance(rule, ModelRule)) for each in rule.when]
        for condition, known in zip(rule.when, found, strict=True):
            if known is None:
                self._tell(rule.id, f"{condition.attr} {condition.op}: Cedar has no such test")
        return found

    def _globs(self, place: str, patterns: Iterable[str]) -> bool:
        """Tell of patterns that a set cannot be held against; whether there are any."""
        unsaid = [each for each in patterns if "*" in each]
        for each in unsaid:
            self._tell(place, f"{each}: Cedar cannot hold a set against a pattern")
        return bool(unsaid)

    def _tell(self, place: str, why: str) -> None:
        self._unexpressed.append(Unexpressed(rule_name(self._level, place), why, "narrower"))


def _names(rule: ToolRule) -> str:
    classes = TRUE if len(set(rule.classes)) == CLASSES else one_of("resource.class", sorted(set(rule.classes)))
    kinds = (
        every((f"resource.kind == {text(kind)}", globs("resource.name", rule.names(kind))))
        for kind in KINDS
        if rule.names(kind)
    )
    return every((globs("resource.server", [rule.server]), some(kinds), classes))


def _may_meet(one: ToolRule, other: ToolRule) -> bool:
    """Tell whether two rules may be about the same call; names without a glob are the same or are not."""
    if _apart([one.server], [other.server]) or _apart(one.classes, other.classes):
        return False
    return not all(_apart(one.names(kind), other.names(kind)) for kind in KINDS)


def _apart(mine: Sequence[str], theirs: Sequence[str]) -> bool:
    return not mine or not theirs or ("*" not in "".join((*mine, *theirs)) and set(mine).isdisjoint(theirs))


def _names_model(rule: ModelRule) -> str:
    return every(
        (
            f"resource.provider == {text(rule.provider)}",
            globs("resource.name", rule.models),
            globs("context.operation", rule.operations),
        )
    )


def _within(found: str, known: list[str]) -> str:
    return f"{texts(known)}.containsAll({found})" if known else f"{found}.isEmpty()"
