"""Conditions for the solver: when one is true and when it is false; else it is missing (specs/conditions.md §1, §3).

Exact for texts, numbers, booleans and labels. Of a list of texts each condition may come to anything that no two
conditions on it contradict: more than can happen, never less (`Truths.axioms`).
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import z3

from controls.analysis import patterns
from controls.analysis.patterns import Term, all_of, any_of, literal
from controls.analysis.values import NO, Symbols, Value
from verifier import grammar
from verifier.grammar import number
from verifier.rules import Condition

Truth = tuple[Term, Term]  # true, false
EVERY = ("host_in", "email_domain_in", "subpath_of", "cidr_in")


class Truths:
    """What conditions come to for one unknown call."""

    def __init__(self, symbols: Symbols) -> None:
        """Take the call."""
        self._symbols = symbols
        self._known: dict[str, Truth] = {}
        self._lists: list[tuple[Condition, Value, Truth, Truth]] = []  # of a text, and of a list

    def every(self, conditions: Sequence[Condition]) -> Term:
        """Tell when the list of a rule that allows is true."""
        return all_of(self.of(each)[0] for each in conditions)

    def none_false(self, conditions: Sequence[Condition]) -> Term:
        """Tell when the list of a rule that denies is true or missing."""
        return all_of(z3.Not(self.of(each)[1]) for each in conditions)

    def of(self, condition: Condition) -> Truth:
        """Tell when a condition is true, and when it is false."""
        key = repr(condition)
        if key not in self._known:
            self._known[key] = self._evaluate(condition)
        return self._known[key]

    def axioms(self) -> list[Term]:
        """Say of lists what is known: what is inside of one is inside of another that contains it."""
        found = []
        for one, value, text, in_list in self._lists:
            found.append(z3.Not(all_of(in_list)))
            for other, _, wider, of_other in self._lists:
                if one is other or one.attr != other.attr:
                    continue
                found += [
                    z3.Implies(in_list[place], of_other[place])
                    for place in (0, 1)
                    if _implies(self._symbols, value, text[place], wider[place])
                ]
        return found

    def _evaluate(self, condition: Condition) -> Truth:
        attr, op, wanted = condition.attr, condition.op, condition.value
        if attr == "data.labels":
            return self._labels(op, wanted)
        value = self._value(condition)
        if op == "exists":
            return (value.present, z3.Not(value.present)) if wanted else (z3.Not(value.present), value.present)
        if op not in EVERY:
            return SIMPLE[op](value, wanted)
        text = self._cidr(attr, value, wanted) if op == "cidr_in" else GRAMMAR[op](value, wanted)
        if attr.partition(".")[0] != "args":
            return text
        true, false = z3.Bool(f"{condition!r}+"), z3.Bool(f"{condition!r}-")
        self._lists.append((condition, value, text, (true, false)))
        return (
            z3.Or(text[0], z3.And(value.is_other, true)),
            z3.Or(text[1], z3.And(value.is_other, false)),
        )

    def _value(self, condition: Condition) -> Value:
        family, _, rest = condition.attr.partition(".")
        if condition.offset is not None:
            return self._symbols.local(condition, grammar.offset_minutes(condition.offset) or 0)
        return self._symbols.age(rest) if family == "age" else self._symbols.value(condition.attr)

    def _cidr(self, attr: str, value: Value, wanted: Any) -> Truth:
        """An address is a number of its own; what else the text is compared with is not held against it."""
        ip, six = self._symbols.addresses.setdefault(attr, (z3.Int(f"{attr}#ip"), z3.Bool(f"{attr}#six")))
        blocks = [each for each in map(grammar.network, wanted) if each is not None]
        inside = any_of(
            z3.And(six == (each.version == 6), ip >= int(each[0]), ip <= int(each[-1]))  # noqa: PLR2004 - IPv6
            for each in blocks
        )
        known = z3.And(value.is_text, z3.Not(value.unreadable), ip >= 0, ip < z3.If(six, 1 << 128, 1 << 32))
        return _decided(known, inside)

    def _labels(self, op: str, wanted: Any) -> Truth:
        """Labels are a set that is always known."""
        if op == "exists":
            return (z3.BoolVal(bool(wanted)), z3.BoolVal(not wanted))
        some = any_of(self._symbols.label(each) for each in wanted)
        return (some, z3.Not(some)) if op == "in" else (z3.Not(some), some)


def _implies(symbols: Symbols, value: Value, one: Term, other: Term) -> bool:
    """Ask whether every text of which the one holds makes the other hold."""
    solver = z3.Solver()
    solver.set("rlimit", 2_000_000)
    solver.add(*symbols.facts, value.is_text, one, z3.Not(other))
    return bool(solver.check() == z3.unsat)


def _decided(known: Term, holds: Term) -> Truth:
    return z3.And(known, holds), z3.And(known, z3.Not(holds))


def _either(*truths: Truth) -> Truth:
    return any_of(each[0] for each in truths), any_of(each[1] for each in truths)


def _exact(wanted: Any) -> Term:
    exact = Fraction(number(wanted) or 0)
    return z3.RealVal(f"{exact.numerator}/{exact.denominator}")


def _equal(value: Value, wanted: Any) -> Truth:
    if isinstance(wanted, bool):
        return _decided(value.is_flag, value.flag == wanted)
    found = []
    if number(wanted) is not None:
        found.append(_decided(value.is_number, value.number == _exact(wanted)))
    if isinstance(wanted, str):
        found.append(_decided(value.is_text, value.text == literal(wanted)))
    return _either(*found)


def _among(value: Value, wanted: Any) -> Truth:
    """Equal to one; what can be compared with none of them is missing."""
    texts = [each for each in wanted if isinstance(each, str)]
    numbers = [each for each in wanted if number(each) is not None]
    flags = [each for each in wanted if isinstance(each, bool)]
    found = []
    if texts:
        found.append(_decided(value.is_text, any_of(value.text == literal(each) for each in texts)))
    if numbers:
        found.append(_decided(value.is_number, any_of(value.number == _exact(each) for each in numbers)))
    if flags:
        found.append(_decided(value.is_flag, any_of(value.flag == each for each in flags)))
    return _either(*found) if found else (NO, NO)


def _not(test: Callable[[Value, Any], Truth]) -> Callable[[Value, Any], Truth]:
    def turned(value: Value, wanted: Any) -> Truth:
        true, false = test(value, wanted)
        return false, true

    return turned


def _compare(test: Callable[[Term, Term], Term]) -> Callable[[Value, Any], Truth]:
    return lambda value, wanted: _decided(value.is_number, test(value.number, _exact(wanted)))


def _between(value: Value, wanted: Any) -> Truth:
    low, high = map(_exact, wanted)
    return _decided(value.is_number, z3.And(value.number >= low, value.number <= high))


def _text(test: Callable[[Term, str], Term]) -> Callable[[Value, Any], Truth]:
    return lambda value, wanted: _decided(value.is_text, test(value.text, wanted))


def _readable(value: Value, language: Term) -> Term:
    return z3.And(value.is_text, z3.Not(value.unreadable), z3.InRe(value.text, language))


def _host_in(value: Value, wanted: Any) -> Truth:
    """Host and port together; under another port than the policy states it with, a host is missing."""
    said = patterns.stated(wanted)
    under = {pattern: z3.InRe(value.text, patterns.url_under(pattern)) for pattern, _ in said}
    at = {port: z3.InRe(value.text, patterns.url(port)) for _, port in said} | {
        None: z3.InRe(value.text, patterns.url(None))
    }
    known = _readable(value, patterns.url())
    true = any_of(z3.And(under[pattern], at[port]) for pattern, port in said)
    false = z3.And(z3.Not(any_of(under.values())), any_of(at.values()))
    return z3.And(known, true), z3.And(known, false)


def _email(value: Value, wanted: Any) -> Truth:
    inside = any_of(z3.InRe(value.text, patterns.email_under(each)) for each in wanted)
    return _decided(_readable(value, patterns.email()), inside)


def _below(value: Value, wanted: Any) -> Truth:
    return _decided(_readable(value, patterns.path()), z3.InRe(value.text, patterns.below(wanted)))


SIMPLE: dict[str, Callable[[Value, Any], Truth]] = {
    "eq": _equal, "ne": _not(_equal), "in": _among, "not_in": _not(_among),
    "lt": _compare(lambda one, other: one < other), "le": _compare(lambda one, other: one <= other),
    "gt": _compare(lambda one, other: one > other), "ge": _compare(lambda one, other: one >= other),
    "between": _between,
    "prefix": _text(lambda text, wanted: z3.PrefixOf(literal(wanted), text)),
    "suffix": _text(lambda text, wanted: z3.SuffixOf(literal(wanted), text)),
    "glob": _text(lambda text, wanted: z3.InRe(text, patterns.glob(wanted))),
}  # fmt: skip
GRAMMAR: dict[str, Callable[[Value, Any], Truth]] = {
    "host_in": _host_in, "email_domain_in": _email, "subpath_of": _below,
}  # fmt: skip
