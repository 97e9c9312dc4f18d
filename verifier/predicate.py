"""One condition as a closure over a call: true, false, or None where it is missing (specs/conditions.md).

Compiled for the gateway. It shares with conditions.py, which the verifier replays with, what reads a text (grammar.py)
and what matches a glob, and nothing of what a condition means.
"""

import operator
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from verifier import grammar
from verifier.conditions import glob_matches
from verifier.decision import Call, ModelBody, ModelTarget, Recency, ToolTarget
from verifier.rules import Condition

MICROSECONDS = 1_000_000
MAX_LIST = 256

Predicate = Callable[[Call], bool | None]
Read = Callable[[Call], Any]
Check = Callable[[Any], bool | None]
_NOTHING: Any = object()  # not None: a null argument is there


def every(tests: Sequence[Predicate]) -> Predicate:
    """Match when all are true: what allows."""
    if len(tests) == 1:
        return tests[0]
    return lambda call: all(test(call) for test in tests)


def none_false(tests: Sequence[Predicate]) -> Predicate:
    """Match when none is false: what denies."""
    return lambda call: all(test(call) is not False for test in tests)


def predicate(condition: Condition) -> Predicate:
    """Compile one condition."""
    read, wanted = _reader(condition), condition.value
    if condition.op == "exists":
        return lambda call: (read(call) is not _NOTHING) is wanted
    check = _CHECKS[condition.op](wanted)

    def judged(call: Call) -> bool | None:
        value = read(call)
        return None if value is _NOTHING else check(value)

    return judged


# Reading ------------------------------------------------------------------------------------------------------------


def _reader(condition: Condition) -> Read:
    """Find how an attribute is read."""
    family, name = condition.attr.split(".", 1)
    if family == "args":
        return _argument(name.split("."))
    if family == "age":
        return _age(name)
    if family == "user" and name != "id":
        return lambda call: call.subject.claims.get(name, _NOTHING)
    if condition.offset is not None:
        return _clock(name, (grammar.offset_minutes(condition.offset) or 0) * 60)
    return _READ[condition.attr]


def _argument(path: Sequence[str]) -> Read:
    first, *rest = path

    def read(call: Call) -> Any:
        value: Any = call.arguments if isinstance(call.target, ToolTarget) else _NOTHING
        for part in (first, *rest):
            if not isinstance(value, dict) or part not in value:
                return _NOTHING
            value = value[part]
        return value

    return read


def _age(claim: str) -> Read:
    def read(call: Call) -> Any:
        since = call.subject.user if claim == "id" else call.subject.claims.get(claim)
        if type(since) is not int or not isinstance(call.time, int):
            return _NOTHING
        age = call.time - since * MICROSECONDS
        return age // MICROSECONDS if age >= 0 else _NOTHING

    return read


def _clock(name: str, ahead: int) -> Read:
    """Read the clock so many seconds ahead of UTC."""
    seconds, size, first = {"hour": (3600, 24, 0), "minute_of_day": (60, 1440, 0), "weekday": (86_400, 7, 1)}[name]
    shift = 3 * 86_400 if name == "weekday" else 0  # the first day of Unix time was a Thursday

    def read(call: Call) -> Any:
        if not isinstance(call.time, int):
            return _NOTHING
        return (call.time // MICROSECONDS + ahead + shift) // seconds % size + first

    return read


def _or_nothing(value: Any) -> Any:
    return _NOTHING if value is None else value


def _tool(name: str) -> Read:
    return lambda call: getattr(call.target, name) if isinstance(call.target, ToolTarget) else _NOTHING


def _model(name: str) -> Read:
    return lambda call: getattr(call.target, name) if isinstance(call.target, ModelTarget) else _NOTHING


def _recent(name: str) -> Read:
    return lambda call: _or_nothing(getattr(call.recent, name)) if isinstance(call.recent, Recency) else _NOTHING


def _output(call: Call) -> Any:
    asked = isinstance(call.target, ModelTarget) and isinstance(call.body, ModelBody)
    return _or_nothing(call.body.max_output_tokens) if asked else _NOTHING  # type: ignore[union-attr]


_READ: dict[str, Read] = {
    "agent.id": lambda call: call.subject.agent,
    "agent.act": lambda call: _or_nothing(call.subject.act),
    "job.id": lambda call: call.subject.job,
    "job.type": lambda call: call.subject.job_type,
    "job.environment": lambda call: call.subject.environment,
    "job.client": lambda call: call.subject.client,
    "job.depth": lambda call: call.subject.depth,
    "user.id": lambda call: _or_nothing(call.subject.user),
    "tool.server": _tool("server"),
    "tool.name": _tool("tool"),
    "tool.class": _tool("tool_class"),
    "tool.sensitivity": _tool("sensitivity"),
    "model.provider": _model("provider"),
    "model.name": _model("model"),
    "model.operation": _model("operation"),
    "model.max_output_tokens": _output,
    "data.labels": lambda call: call.target.labels,
    "time.now": lambda call: call.time,
    "recent.calls": _recent("calls"),
    "recent.denials": _recent("denials"),
    "recent.first_use": _recent("first_use"),
    "gateway.url": lambda call: _or_nothing(call.subject.gateway),
    "gateway.staleness": lambda call: call.staleness,
}


# Checking -----------------------------------------------------------------------------------------------------------


def _exact(value: Any) -> Decimal | None:
    """Read a number of a call: text that looks like one is none."""
    return None if isinstance(value, str) else grammar.number(value)


def _among(wanted: Any) -> Check:
    """Look a value up by its kind; a kind that is not wanted at all cannot be compared."""
    flags = {each for each in wanted if isinstance(each, bool)}
    texts = {each for each in wanted if isinstance(each, str)}
    numbers = {grammar.number(each) for each in wanted if not isinstance(each, bool)} - {None}

    def check(value: Any) -> bool | None:
        if isinstance(value, tuple):
            return not texts.isdisjoint(value)
        if isinstance(value, bool):
            return value in flags if flags else None
        if isinstance(value, str):
            return value in texts if texts else None
        exact = grammar.number(value) if numbers else None
        return None if exact is None else exact in numbers

    return check


def _equal(wanted: Any) -> Check:
    among = _among([wanted])
    return lambda value: None if isinstance(value, tuple) else among(value)


def _not(made: Callable[[Any], Check]) -> Callable[[Any], Check]:
    def negated(wanted: Any) -> Check:
        check = made(wanted)

        def turned(value: Any) -> bool | None:
            answer = check(value)
            return None if answer is None else not answer

        return turned

    return negated


def _ordered(holds: Callable[[Any, Any], bool]) -> Callable[[Any], Check]:
    def made(wanted: Any) -> Check:
        bound = grammar.number(wanted)

        def check(value: Any) -> bool | None:
            exact = _exact(value)
            return None if exact is None else holds(exact, bound)

        return check

    return made


def _between(wanted: Any) -> Check:
    low, high = (grammar.number(each) for each in wanted)

    def check(value: Any) -> bool | None:
        exact = _exact(value)
        return None if exact is None or low is None or high is None else low <= exact <= high

    return check


def _text(holds: Callable[[str, Any], bool]) -> Callable[[Any], Check]:
    return lambda wanted: lambda value: holds(value, wanted) if isinstance(value, str) else None


def _each(made: Callable[[Any], Callable[[str], bool | None]]) -> Callable[[Any], Check]:
    """Check a text, or a list of texts that have to agree."""

    def checks(wanted: Any) -> Check:
        one = made(wanted)

        def check(value: Any) -> bool | None:
            if isinstance(value, str):
                return one(value)
            if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST:
                return None
            first = check_text(value[0])
            return first if all(check_text(each) is first for each in value) else None

        def check_text(value: Any) -> bool | None:
            return one(value) if isinstance(value, str) else None

        return check

    return checks


def _hosts(wanted: Any) -> Callable[[str], bool | None]:
    exact: dict[str, set[int | None]] = {}
    below: list[tuple[str, int | None]] = []
    for pattern in wanted:
        name, _, port = pattern.partition(":")
        stated = int(port) if port else None
        if name.startswith("*"):
            below.append((name[1:], stated))
        else:
            exact.setdefault(name, set()).add(stated)
    ports = {None, *(port for _, port in below), *(port for each in exact.values() for port in each)}

    def check(text: str) -> bool | None:
        found = grammar.url_host(text)
        if found is None or found[1] not in ports:
            return None
        name, port = found
        stated = exact.get(name, set()) | {each for end, each in below if name.endswith(end)}
        return port in stated or (None if stated else False)

    return check


def _domains(wanted: Any) -> Callable[[str], bool | None]:
    exact = frozenset(each for each in wanted if not each.startswith("*"))
    ends = tuple(each[1:] for each in wanted if each.startswith("*"))

    def check(text: str) -> bool | None:
        domain = grammar.email_domain(text)
        return None if domain is None else domain in exact or domain.endswith(ends)

    return check


def _under(wanted: Any) -> Callable[[str], bool | None]:
    inside = wanted.rstrip("/") + "/"

    def check(text: str) -> bool | None:
        return None if grammar.path_parts(text) is None else text == wanted or text.startswith(inside)

    return check


def _blocks(wanted: Any) -> Callable[[str], bool | None]:
    blocks = [
        (each.version, int(each.network_address), int(each.netmask)) for each in map(grammar.network, wanted) if each
    ]

    def check(text: str) -> bool | None:
        found = grammar.address(text)
        if found is None:
            return None
        number = int(found)
        return any(found.version == version and number & mask == start for version, start, mask in blocks)

    return check


_CHECKS: dict[str, Callable[[Any], Check]] = {
    "eq": _equal,
    "ne": _not(_equal),
    "in": _among,
    "not_in": _not(_among),
    "lt": _ordered(operator.lt),
    "le": _ordered(operator.le),
    "gt": _ordered(operator.gt),
    "ge": _ordered(operator.ge),
    "between": _between,
    "prefix": _text(str.startswith),
    "suffix": _text(str.endswith),
    "glob": _text(lambda value, pattern: glob_matches(pattern, value)),
    "host_in": _each(_hosts),
    "email_domain_in": _each(_domains),
    "subpath_of": _each(_under),
    "cidr_in": _each(_blocks),
}
