"""Conditions in Cedar: when one surely holds, and when it perhaps does (specs/conditions.md §1, §3).

*Surely* is true, *perhaps* is true or missing: a rule that allows asks the one, a rule that denies the other. Every
attribute that may be absent is read behind a `has`, so that no test ever fails. What no test can say is None.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil, floor
from typing import Any

from msgspec import Struct

from controls.exports.cedar_text import FALSE, TRUE, every, like, negated, one_of, some, text, texts
from verifier.grammar import number
from verifier.rules import Condition

Truth = tuple[str, str]  # surely, perhaps
Read = tuple[str, str]  # a test that has to hold first, and the term that may then be read

MAX_LONG = 2**63 - 1
PLACES = 10_000  # Cedar's decimals have four
KINDS = ("text", "whole", "fraction", "flag")

TEXTS = {
    "agent.id": "principal.id",
    "job.id": "context.job.id", "job.type": "context.job.type", "job.environment": "context.job.environment",
    "job.client": "context.job.client",
}  # fmt: skip
OPTIONAL = {
    "agent.act": ("text", "context", "act"), "user.id": ("text", "context", "user"),
    "gateway.url": ("text", "context", "gateway"), "recent.first_use": ("flag", "context.recent", "first_use"),
    "model.max_output_tokens": ("whole", "context", "max_output_tokens"),
}  # fmt: skip
NUMBERS = {
    "job.depth": "context.job.depth", "time.now": "context.now", "gateway.staleness": "context.staleness",
    "recent.calls": "context.recent.calls", "recent.denials": "context.recent.denials",
}  # fmt: skip
OF_TOOLS = {
    "tool.server": "resource.server", "tool.name": "resource.name", "tool.class": "resource.class",
    "tool.sensitivity": "resource.sensitivity",
}  # fmt: skip
OF_MODELS = {
    "model.provider": "resource.provider", "model.name": "resource.name", "model.operation": "context.operation",
}  # fmt: skip


class Value(Struct, frozen=True):
    """What a condition looks at: a test whether it is there, and how it is read as what it may be."""

    present: str = FALSE
    text: Read | None = None
    whole: Read | None = None
    fraction: Read | None = None
    flag: Read | None = None


Operator = Callable[[Value, Any], Truth]


def truth(condition: Condition, *, model: bool) -> Truth | None:
    """Say when a condition on a call of a tool, or of a model, holds."""
    op, wanted = condition.op, condition.value
    if condition.attr == "data.labels":
        return _labels(op, wanted)
    value = _value(condition, model=model)
    if op == "exists":
        return _known(value.present if wanted else negated(value.present))
    return OPERATORS[op](value, wanted) if op in OPERATORS else None


def _value(condition: Condition, *, model: bool) -> Value:
    attr = condition.attr
    family, _, rest = attr.partition(".")
    always = TEXTS | (OF_MODELS if model else OF_TOOLS)
    numbers = NUMBERS | ({} if condition.offset is None else {attr: f"context.local[{text(condition.offset)}].{rest}"})
    if attr in always:
        return Value(TRUE, text=(TRUE, always[attr]))
    if attr in numbers:
        return Value(TRUE, whole=(TRUE, numbers[attr]))
    if attr in OPTIONAL and (model or family != "model"):
        return _one(*OPTIONAL[attr])
    if family == "age":
        return _one("whole", "context.ages", rest)
    record = {"user": "context.claims", "args": "context.args"}.get(family)
    return Value() if record is None or (model and family == "args") else _any(record, rest)


def _one(kind: str, record: str, name: str) -> Value:
    """Read what may be absent and is of one type."""
    has, term = _member(record, name)
    return Value(has, **{kind: (has, term)})


def _any(record: str, name: str) -> Value:
    """Read what may be absent or of any type: a record that has one of its types, or none that Cedar knows."""
    has, term = _member(record, name)
    return Value(has, **{kind: (every((has, f"{term} has {kind}")), f"{term}.{kind}") for kind in KINDS})


def _member(record: str, name: str) -> Read:
    return f"{record} has {text(name)}", f"{record}[{text(name)}]"


def _labels(op: str, wanted: Any) -> Truth:
    """Labels are a set that is always there."""
    if op == "exists":
        return _known(TRUE if wanted else FALSE)
    some_are = f"context.labels.containsAny({texts(wanted)})"
    return _known(some_are if op == "in" else negated(some_are))


def _known(test: str) -> Truth:
    return test, test


def _decided(read: Read | None, test: Callable[[str], str]) -> Truth:
    """Ask what can be read; what cannot is missing."""
    if read is None:
        return FALSE, TRUE
    known, term = read
    found = test(term)
    return every((known, found)), found if known == TRUE else f"(if {known} then {found} else true)"


def _either(*truths: Truth) -> Truth:
    """Put together what is asked of a value as it may be: it is of one type at most."""
    return some(surely for surely, _ in truths), every(perhaps for _, perhaps in truths)


def _numeric(value: Value, test: Callable[[str, int], str]) -> Truth:
    """A number is read as it is: whole, or with up to four places."""
    return _either(
        _decided(value.whole, lambda term: test(term, 1)), _decided(value.fraction, lambda term: test(term, PLACES))
    )


def _among(*, inside: bool) -> Operator:
    """Equal to one, or to none; what can be compared with none of them is missing."""

    def asked(value: Value, wanted: list[Any]) -> Truth:
        def said(tests: Iterable[str]) -> str:
            return some(tests) if inside else negated(some(tests))

        strings = [each for each in wanted if isinstance(each, str)]
        flags = [each for each in wanted if isinstance(each, bool)]
        numbers = [Fraction(exact) for exact in map(number, wanted) if exact is not None]
        found = []
        if strings:
            found.append(_decided(value.text, lambda term: said([one_of(term, strings)])))
        if flags:
            found.append(_decided(value.flag, lambda term: said(term if each else negated(term) for each in flags)))
        if numbers:
            found.append(_numeric(value, lambda term, unit: said(_order(term, "==", each, unit) for each in numbers)))
        return _either(*found)

    return asked


def _equal(*, same: bool) -> Operator:
    among = _among(inside=same)
    return lambda value, wanted: among(value, [wanted])


def _between(value: Value, wanted: Any) -> Truth:
    low, high = map(_exact, wanted)
    return _numeric(value, lambda term, unit: every((_order(term, ">=", low, unit), _order(term, "<=", high, unit))))


def _compared(order: str) -> Operator:
    return lambda value, wanted: _numeric(value, lambda term, unit: _order(term, order, _exact(wanted), unit))


def _exact(wanted: Any) -> Fraction:
    return Fraction(number(wanted) or 0)


def _order(term: str, order: str, exact: Fraction, unit: int) -> str:
    """Compare a term with the nearest number of its kind that gives the same answer for every value of it."""
    scaled = exact * unit
    limit = ceil(scaled) if order in {"<", ">="} else floor(scaled)
    if order == "==" and (scaled != limit or abs(limit) > MAX_LONG):
        return FALSE
    if abs(limit) > MAX_LONG:
        return TRUE if (limit > 0) == (order in {"<", "<="}) else FALSE
    if unit == 1:
        return f"{term} {order} {limit}"
    whole, rest = divmod(abs(limit), unit)
    shown = f'decimal("{"-" if limit < 0 else ""}{whole}.{rest:04}")'
    return f"{term} == {shown}" if order == "==" else f"{term}.{METHODS[order]}({shown})"


def _textual(test: Callable[[str, Any], str]) -> Operator:
    return lambda value, wanted: _decided(value.text, lambda term: test(term, wanted))


METHODS = {
    "<": "lessThan", "<=": "lessThanOrEqual", ">": "greaterThan", ">=": "greaterThanOrEqual",
}  # fmt: skip
OPERATORS: dict[str, Operator] = {
    "eq": _equal(same=True), "ne": _equal(same=False), "in": _among(inside=True), "not_in": _among(inside=False),
    "lt": _compared("<"), "le": _compared("<="), "gt": _compared(">"), "ge": _compared(">="), "between": _between,
    "prefix": _textual(lambda term, wanted: like(term, wanted, "")),
    "suffix": _textual(lambda term, wanted: like(term, "", wanted)),
    "glob": _textual(lambda term, wanted: like(term, *wanted.split("*"))),
}  # fmt: skip
