"""Conditions: true, false, missing, or not disclosed (specs/conditions.md).

A wrong type is missing. A list is false when one of its conditions is, and true when all are. A rule left missing does
not match if it allows and matches if it denies: it fails closed both ways. So with something undisclosed beside
something missing, a rule that allows is missing already, and a rule that denies is undisclosed still: it might be
false.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

from verifier.policy import Condition

MAX_DIGITS = 34


class Truth(Enum):
    """What a condition, or a list of them, comes to."""

    TRUE = "true"
    FALSE = "false"
    MISSING = "missing"
    UNDISCLOSED = "undisclosed"


# What beats what, the strongest first.
_ALLOWING = (Truth.FALSE, Truth.MISSING, Truth.UNDISCLOSED)
_DENYING = (Truth.FALSE, Truth.UNDISCLOSED, Truth.MISSING)


class Undisclosed:
    """Arguments of which a receipt keeps only a commitment: they may have been anything."""


UNDISCLOSED = Undisclosed()
Attributes = Mapping[str, Any]
_ABSENT = object()
_decimal = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch  # RFC 8259 §6, not Python's own


def holds(conditions: Sequence[Condition], attributes: Attributes, *, denies: bool = False) -> Truth:
    """Evaluate the list of a rule that allows, or of one that denies."""
    found = {evaluate(each, attributes) for each in conditions}
    return next((truth for truth in (_DENYING if denies else _ALLOWING) if truth in found), Truth.TRUE)


def evaluate(condition: Condition, attributes: Attributes) -> Truth:
    """Evaluate one condition against attributes by name; `args` holds the arguments, or `UNDISCLOSED`."""
    value = _find(condition.attr, attributes)
    if value is UNDISCLOSED:
        return Truth.UNDISCLOSED
    if condition.op == "exists":
        return _truth((value is not _ABSENT) == condition.value)
    answer = None if value is _ABSENT else OPERATORS[condition.op](value, condition.value)
    return Truth.MISSING if answer is None else _truth(answer)


def glob_matches(pattern: str, text: str) -> bool:
    """Match `*` as any run of characters, everything else as itself, case-sensitive, in linear time per star."""
    if "*" not in pattern:
        return pattern == text
    head, *middle, tail = pattern.split("*")
    if not text.startswith(head) or len(text) < len(head) + len(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return text.endswith(tail)


def any_glob(patterns: Sequence[str], text: str) -> bool:
    """Tell whether one of the patterns matches."""
    if text in patterns:
        return True  # the usual case, and quick: every pattern matches itself
    return any("*" in pattern and glob_matches(pattern, text) for pattern in patterns)


def _find(name: str, attributes: Attributes) -> Any:
    if not name.startswith("args."):
        return attributes.get(name, _ABSENT)
    value = attributes.get("args", _ABSENT)
    for part in name.split(".")[1:]:
        if value is UNDISCLOSED:
            return UNDISCLOSED
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _truth(answer: bool) -> Truth:  # noqa: FBT001 - the answer itself
    return Truth.TRUE if answer else Truth.FALSE


def number(value: object) -> Decimal | None:
    """Read an exact decimal of at most 34 digits from an integer, parsed JSON number or policy's string; else None."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and not _decimal(value):
        return None
    try:
        exact = Decimal(value)
    except InvalidOperation:
        return None
    if not exact.is_finite() or len(exact.as_tuple().digits) > MAX_DIGITS or abs(exact.adjusted()) > MAX_DIGITS:
        return None
    return exact


def _equal(value: Any, wanted: Any) -> bool | None:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted if isinstance(value, bool) and isinstance(wanted, bool) else None
    if isinstance(value, str):
        return value == wanted if isinstance(wanted, str) else None
    left, right = (number(value), number(wanted)) if isinstance(value, int | Decimal) else (None, None)
    return None if left is None or right is None else left == right


def _compare(test: Callable[[Decimal, Decimal], bool]) -> Callable[[Any, Any], bool | None]:
    def compared(value: Any, wanted: Any) -> bool | None:
        left, right = (None if isinstance(value, str) else number(value)), number(wanted)
        return None if left is None or right is None else test(left, right)

    return compared


def _between(value: Any, wanted: Any) -> bool | None:
    low, high = _compare(Decimal.__ge__)(value, wanted[0]), _compare(Decimal.__le__)(value, wanted[1])
    return None if low is None or high is None else low and high


def _among(value: Any, wanted: Any) -> bool | None:
    """Tell whether a value is one of several; a set of labels is among them when one label is."""
    answers = [_equal(each, one) for each in (value if isinstance(value, tuple) else (value,)) for one in wanted]
    known = [answer for answer in answers if answer is not None]
    return any(known) if known or isinstance(value, tuple) else None


def _text(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool | None]:
    return lambda value, wanted: test(value, wanted) if isinstance(value, str) else None


def _not(test: Callable[[Any, Any], bool | None]) -> Callable[[Any, Any], bool | None]:
    def negated(value: Any, wanted: Any) -> bool | None:
        answer = test(value, wanted)
        return None if answer is None else not answer

    return negated


OPERATORS: dict[str, Callable[[Any, Any], bool | None]] = {
    "eq": _equal,
    "ne": _not(_equal),
    "in": _among,
    "not_in": _not(_among),
    "lt": _compare(Decimal.__lt__),
    "le": _compare(Decimal.__le__),
    "gt": _compare(Decimal.__gt__),
    "ge": _compare(Decimal.__ge__),
    "between": _between,
    "prefix": _text(str.startswith),
    "suffix": _text(str.endswith),
    "glob": _text(lambda value, pattern: glob_matches(pattern, value)),
}
