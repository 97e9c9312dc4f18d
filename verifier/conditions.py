"""Conditions: true, false, missing, or not disclosed (specs/conditions.md).

A wrong type is missing. A list is false when one of its conditions is, and true when all are. A rule left missing does
not match if it allows and matches if it denies: it fails closed both ways. So with something undisclosed beside
something missing, a rule that allows is missing already, and a rule that denies is undisclosed still: it might be
false.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

from msgspec import Struct

from verifier import grammar
from verifier.grammar import number
from verifier.rules import Condition

SECOND = 1_000_000
MINUTE, DAY = 60 * SECOND, 1440
MAX_VALUES = 256
LONG = 12  # bits: a text of 4,096 characters counts as one more


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


class Partial(Struct, frozen=True):
    """Arguments of which some are known, each whole; any other name may be there or not, with any value."""

    known: dict[str, Any]


Attributes = Mapping[str, Any]
ABSENT = object()


def holds(conditions: Sequence[Condition], attributes: Attributes, *, denies: bool = False) -> Truth:
    """Evaluate the list of a rule that allows, or of one that denies."""
    found = {evaluate(each, attributes) for each in conditions}
    return next((truth for truth in (_DENYING if denies else _ALLOWING) if truth in found), Truth.TRUE)


def evaluate(condition: Condition, attributes: Attributes) -> Truth:
    """Evaluate one condition against attributes by name; `args` holds the arguments, `Partial` or `UNDISCLOSED`."""
    value = find(condition, attributes)
    if value is UNDISCLOSED:
        return Truth.UNDISCLOSED
    if condition.op == "exists":
        return _truth((value is not ABSENT) == condition.value)
    answer = None if value is ABSENT else OPERATORS[condition.op](value, condition.value)
    return Truth.MISSING if answer is None else _truth(answer)


def breadth(condition: Condition, attributes: Attributes) -> int:
    """Count the values of an argument that a condition looks at; a long text counts as several."""
    value = find(condition, attributes)
    values = value[: MAX_VALUES + 1] if isinstance(value, list) else [value]
    return sum(1 + (len(each) >> LONG if isinstance(each, str) else 0) for each in values)


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


def find(condition: Condition, attributes: Attributes) -> Any:
    """Find what a condition looks at: a value, `ABSENT` or `UNDISCLOSED`."""
    family, _, name = condition.attr.partition(".")
    if family == "args":
        return argument(name.split("."), attributes.get("args", ABSENT))
    if family == "age":
        return _age(attributes.get("user." + name), attributes.get("time.now", ABSENT))
    if condition.offset is not None:
        return _local(condition, attributes.get("time.now", ABSENT))
    return attributes.get(condition.attr, ABSENT)


def argument(parts: Sequence[str], value: Any) -> Any:
    """Follow a path into the arguments, object by object."""
    if isinstance(value, Partial):
        value = value.known if parts[0] in value.known else UNDISCLOSED
    for part in parts:
        if value is UNDISCLOSED:
            return UNDISCLOSED
        value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def _age(since: Any, now: Any) -> Any:
    """Count the whole seconds from a claim in Unix seconds until now; a claim of the future has no age."""
    if not isinstance(since, int) or isinstance(since, bool) or not isinstance(now, int):
        return UNDISCLOSED if now is UNDISCLOSED and isinstance(since, int) else ABSENT
    return ABSENT if since * SECOND > now else (now - since * SECOND) // SECOND


def _local(condition: Condition, now: Any) -> Any:
    """Read the clock and the calendar at an offset from UTC; Unix time began on a Thursday."""
    offset = grammar.offset_minutes(condition.offset or "")
    if not isinstance(now, int) or offset is None:
        return now if now is UNDISCLOSED else ABSENT
    days, minute = divmod(now // MINUTE + offset, DAY)
    return {"time.hour": minute // 60, "time.minute_of_day": minute, "time.weekday": (days + 3) % 7 + 1}[condition.attr]


def _truth(answer: bool) -> Truth:  # noqa: FBT001 - the answer itself
    return Truth.TRUE if answer else Truth.FALSE


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


def _every(reads: Callable[[str], Any], inside: Callable[[Any, Any], bool | None]) -> Callable[[Any, Any], bool | None]:
    """Read a text, or each of a list; where some are inside and some are not, nothing is said of the whole."""

    def judged(value: Any, wanted: Any) -> bool | None:
        values = value if isinstance(value, list) else [value]
        found = [reads(each) if isinstance(each, str) else None for each in values[: MAX_VALUES + 1]]
        answers = {None if each is None else inside(each, wanted) for each in found}
        return answers.pop() if len(answers) == 1 and len(values) <= MAX_VALUES else None

    return judged


def _under(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _host_in(found: tuple[str, int | None], wanted: list[str]) -> bool | None:
    """Look for host and port together; a host under another port than the policy states it with is missing."""
    name, port = found
    said = [each for each in map(grammar.host_port_pattern, wanted) if each is not None]
    ports = {stated for pattern, stated in said if _under(name, pattern)}
    if port in ports:
        return True
    return None if ports or port not in {None, *(stated for _, stated in said)} else False


def _domain_in(name: str, wanted: list[str]) -> bool:
    return any(_under(name, pattern) for pattern in wanted)


def _below(parts: tuple[str, ...], wanted: str) -> bool | None:
    top = grammar.path_parts(wanted)
    return None if top is None else parts[: len(top)] == top


def _cidr_in(found: grammar.Address, wanted: list[str]) -> bool:
    return any(found in block for block in map(grammar.network, wanted) if block is not None)


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
    "host_in": _every(grammar.url_host, _host_in),
    "email_domain_in": _every(grammar.email_domain, _domain_in),
    "subpath_of": _every(grammar.path_parts, _below),
    "cidr_in": _every(grammar.address, _cidr_in),
}
