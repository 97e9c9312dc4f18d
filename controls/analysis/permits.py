"""What a policy and its ancestors permit, as formulas over one unknown call: `decide()` for the solver.

A call is permitted when every level admits the job and allows or holds the call; the tier is the highest that one of
the rules asks.
"""

from collections.abc import Sequence

import z3
from msgspec import Struct

from controls.analysis.patterns import Term, all_of, any_of, globs
from controls.analysis.truths import Truths
from controls.analysis.values import Symbols
from verifier.policy import Chain, Policy, rule_name
from verifier.rules import KINDS, TIERS, ModelRule, ToolRule

HOSTED = 3  # hosted tools that one request of a counterexample may ask for


class Permits(Struct, frozen=True):
    """When a chain permits the call, by which rules (`<level>/<id>`), and with which tier (0 none to 2 human)."""

    allowed: Term
    tier: Term
    rules: dict[str, Term]


class Reading:
    """Reads chains as formulas over the same unknown call."""

    def __init__(self, symbols: Symbols, chains: Sequence[Chain]) -> None:
        """Take the call, and every chain that will be read: all labels that conditions name are known first."""
        self.symbols = symbols
        for label in sorted(_labels(chains)):
            symbols.label(label)
        self.truths = Truths(symbols)

    def chain(self, chain: Chain) -> Permits:
        """Read a policy with its ancestors."""
        rules: dict[str, Term] = {}
        levels, tiers = [], []
        for number, policy in enumerate(chain):
            base, found = self._level(policy)
            levels += [self._admitted(policy), base, any_of(when for when, _ in found.values())]
            tiers.append(_tier(found))
            rules |= {rule_name(number, rule): when for rule, (when, _) in found.items()}
        highest = tiers[0]
        for each in tiers[1:]:
            highest = z3.If(each > highest, each, highest)
        return Permits(all_of(levels), highest, rules)

    def _admitted(self, policy: Policy) -> Term:
        """Jobs: who may use the policy at all."""
        jobs, value = policy.jobs, self.symbols.value
        return z3.And(
            z3.InRe(value("agent.id").text, globs(jobs.agents)),
            z3.InRe(value("job.type").text, globs(jobs.types)),
            z3.InRe(value("job.environment").text, globs(jobs.environments)),
        )

    def _level(self, policy: Policy) -> tuple[Term, dict[str, tuple[Term, int]]]:
        """Read what every call of a policy needs, and the rules that decide: when each is the first, and its tier."""
        if self.symbols.model:
            return self._classes(policy), self._models(policy.model_egress.models)
        denied = any_of(z3.And(self._names(rule), self.truths.none_false(rule.when)) for rule in policy.denied_tools)
        hosts = z3.Or(self.symbols.kind == "local", z3.InRe(self.symbols.host, globs(policy.egress.hosts)))
        base = z3.And(self._classes(policy), z3.Not(denied), hosts)
        matching = {rule.id: z3.And(self._names(rule), self.truths.every(rule.when)) for rule in policy.allowed_tools}
        tiers = {rule.id: TIERS.index(rule.approval) for rule in policy.allowed_tools}
        return base, _first(matching, tiers)

    def _models(self, rules: Sequence[ModelRule]) -> dict[str, tuple[Term, int]]:
        symbols = self.symbols
        matching = {}
        for rule in rules:
            most = symbols.value("model.max_output_tokens")
            limit = rule.max_output_tokens
            doors = [
                *(z3.Implies(asked, z3.InRe(name, globs(rule.hosted_tools))) for asked, name in self._hosted()),
                z3.Implies(symbols.remote_content, z3.BoolVal(rule.remote_content)),
                z3.Implies(symbols.provider_state, z3.BoolVal(rule.provider_state)),
                *([] if limit is None else [most.is_number, most.number <= limit]),
            ]
            named = z3.And(
                symbols.value("model.provider").text == rule.provider,
                z3.InRe(symbols.value("model.name").text, globs(rule.models)),
                z3.InRe(symbols.value("model.operation").text, globs(rule.operations)),
            )
            matching[rule.id] = z3.And(named, self.truths.every(rule.when), *doors)
        return _first(matching, dict.fromkeys(matching, 0))

    def _hosted(self) -> list[tuple[Term, Term]]:
        if not self.symbols.hosted:
            self.symbols.hosted += [(z3.Bool(f"hosted?{n}"), z3.String(f"hosted#{n}")) for n in range(HOSTED)]
        return self.symbols.hosted

    def _names(self, rule: ToolRule) -> Term:
        symbols = self.symbols
        name = symbols.value("tool.name").text
        return z3.And(
            z3.InRe(symbols.value("tool.server").text, globs([rule.server])),
            any_of(
                z3.And(symbols.kind == kind, z3.InRe(name, globs(rule.names(kind))))
                for kind in KINDS
                if rule.names(kind)
            ),
            any_of(symbols.value("tool.class").text == each for each in rule.classes),
        )

    def _classes(self, policy: Policy) -> Term:
        """Every label is allowed and none denied; of labels that no condition names one fresh one stands for all."""
        symbols, classes = self.symbols, policy.data_classes
        allow, deny = globs(classes.allow), globs(classes.deny)

        def good(label: Term) -> Term:
            return z3.And(z3.InRe(label, allow), z3.Not(z3.InRe(label, deny)))

        named = [z3.Implies(has, good(z3.StringVal(label))) for label, has in symbols.labels.items()]
        return z3.And(z3.Implies(symbols.has_fresh, good(symbols.fresh_label)), *named)


def _labels(chains: Sequence[Chain]) -> set[str]:
    conditions = (each for chain in chains for policy in chain for when in policy.conditions() for each in when)
    named = (each.value for each in conditions if each.attr == "data.labels" and isinstance(each.value, list))
    return {label for values in named for label in values if isinstance(label, str)}


def _first(matching: dict[str, Term], tiers: dict[str, int]) -> dict[str, tuple[Term, int]]:
    """Say when each rule is the first that matches."""
    found: dict[str, tuple[Term, int]] = {}
    before: list[Term] = []
    for rule, matches in matching.items():
        found[rule] = z3.And(matches, z3.Not(any_of(before))), tiers[rule]
        before.append(matches)
    return found


def _tier(found: dict[str, tuple[Term, int]]) -> Term:
    tier: Term = z3.IntVal(0)
    for when, asked in found.values():
        if asked:
            tier = z3.If(when, asked, tier)
    return tier
