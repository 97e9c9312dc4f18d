"""Asks the solver for a call that a new policy lets through and the old one does not."""

from collections.abc import Iterator
from typing import Any

import z3

from controls.analysis.compare import OneWay
from controls.analysis.patterns import Term, all_of
from controls.analysis.permits import HOSTED, Permits, Reading
from controls.analysis.terms import same, wider
from controls.analysis.values import CLASSES, Symbols
from controls.analysis.witness import confirmed, say
from verifier.grammar import number
from verifier.policy import Chain, rule_name
from verifier.rules import Limits

__all__ = ["same", "widens"]

# Of the solver's own steps, the same on every machine: some seconds at most.
EFFORT = 40_000_000
BACKSTOP = 20_000  # milliseconds
MAX_PAIRS = 400  # of limited rules, each asked for


def widens(old: Chain, new: Chain, names: tuple[str, str] = ("old", "new")) -> OneWay:
    """Find what the new policy lets through and the old one does not; `names` are what a sentence calls them."""
    sentences, unknown = list(wider(old, new)), ""
    for model in (False, True):
        one = _calls(old, new, names, model=model)
        sentences += one.sentences
        unknown = unknown or one.why
    if sentences:
        return OneWay(True, tuple(sentences), unknown)
    return OneWay(None if unknown else False, (), unknown)


def _calls(old: Chain, new: Chain, names: tuple[str, str], *, model: bool) -> OneWay:
    """Look at calls of tools, or of models."""
    symbols = Symbols(model=model)
    reading = Reading(symbols, (old, new))
    before, after = reading.chain(old), reading.chain(new)
    through = z3.And(after.allowed, z3.Not(z3.And(before.allowed, before.tier <= after.tier)))
    facts = [*symbols.facts, *reading.truths.axioms()]
    found = _find([*facts, through], symbols, old, new, names)
    if found is not None:
        return found
    if model and _hosting(old) > HOSTED:
        return OneWay(None, (), f"more than {HOSTED} rules name hosted tools")
    return _limits(facts, before, after, old, new)


def _find(facts: list[Term], symbols: Symbols, old: Chain, new: Chain, names: tuple[str, str]) -> OneWay | None:
    """Ask for such a call, one that reads well first; None when there is none."""
    why = ""
    for more in (symbols.nice, []):
        solver = _solver([*facts, *more])
        answer = solver.check()
        if answer == z3.unsat:
            why = ""  # of what reads well there is none; of all, where it is all that was asked for
            continue
        if answer == z3.unknown:
            why = f"the solver gave up: {solver.reason_unknown()}"
            continue
        model = solver.model()
        if solver.check(*_usual(solver, symbols)) == z3.sat:
            model = solver.model()
        witness = confirmed(model, symbols, old, new)
        if witness is not None:
            before, after = names
            told = f"{witness.words}: the {before} policy {say(witness.before)}, the {after} one {say(witness.after)}"
            return OneWay(True, (told,))
        why = "the solver names a call that the policies do not bear out: more can be imagined than can happen"
    return OneWay(None, (), why) if why else None


def _usual(solver: Any, symbols: Symbols) -> list[Term]:
    """Take the first class of tools that will do, so that a counterexample is the same each time."""
    classes = [] if symbols.model else [symbols.value("tool.class").text == each for each in CLASSES]
    first = next((each for each in classes if solver.check(each) == z3.sat), None)
    return [] if first is None else [first]


def _limits(facts: list[Term], before: Permits, after: Permits, old: Chain, new: Chain) -> OneWay:
    """Hold each limited rule of the old policy against the rules of the new one that decide the same calls.

    A rule counts by itself: calls that one rule counted have to be counted by one rule still, on some level.
    """
    limited = {name: limits for name, limits in _limited(old) if limits is not None}
    counting = dict(_limited(new))
    if len(limited) * len(counting) > MAX_PAIRS:
        return OneWay(None, (), "too many limited rules to be held against each other")
    sentences = []
    for rule, limits in limited.items():
        levels: dict[str, list[str]] = {}
        for name in counting:
            if rule not in before.rules or name not in after.rules:
                continue  # these are calls of models, and the rules are about tools
            together = [after.allowed, before.allowed, before.rules[rule], after.rules[name]]
            if _solver([*facts, *together]).check() != z3.unsat:
                levels.setdefault(name.partition("/")[0] if "/" in name else "", []).append(name)
        kept = not levels or any(len(names) == 1 and _within(counting[names[0]], limits) for names in levels.values())
        if not kept:
            sentences.append(f"the limits of rule {rule}: its calls are counted less strictly, or by several rules")
    return OneWay(bool(sentences), tuple(sentences))


def _limited(chain: Chain) -> Iterator[tuple[str, Limits | None]]:
    for level, policy in enumerate(chain):
        yield from ((rule_name(level, rule.id), rule.limits) for rule in policy.allowed_tools)


def _within(limits: Limits | None, most: Limits) -> bool:
    """Tell whether limits are at least as strict as others."""
    if limits is None:
        return (most.calls_per_job, most.calls_per_minute, most.sums) == (None, None, None)
    pairs = [(limits.calls_per_job, most.calls_per_job), (limits.calls_per_minute, most.calls_per_minute)]
    for path, bound in (most.sums or {}).items():
        mine = (limits.sums or {}).get(path)
        if mine is None or (number(mine) or 0) > (number(bound) or 0):
            return False
    return all(bound is None or (mine is not None and mine <= bound) for mine, bound in pairs)


def _hosting(chain: Chain) -> int:
    rules = [rule for policy in chain for rule in policy.model_egress.models]
    return sum(bool(rule.hosted_tools) and "*" not in rule.hosted_tools for rule in rules)


def _solver(facts: list[Term]) -> Any:
    solver = z3.Solver()
    solver.set("rlimit", EFFORT)
    solver.set("timeout", BACKSTOP)
    solver.set("random_seed", 7)
    solver.add(all_of(facts))
    return solver
