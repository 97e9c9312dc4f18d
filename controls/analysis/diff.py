"""What two policies say differently, field by field; rules, tests and models by their id or name."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from verifier.policy import Policy


class Change(Struct, frozen=True, omit_defaults=True):
    """One difference: where, what became of it, and both values; the place names rules by id."""

    place: str
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None

    def words(self) -> str:
        """Tell it in one line."""
        if self.kind == "changed":
            return f"{self.place}: {_text(self.before)} -> {_text(self.after)}"
        value = self.after if self.kind == "added" else self.before
        return f"{self.place}: {self.kind} {_text(value)}"


def diff(before: Policy, after: Policy) -> list[Change]:
    """List the differences, in the order of the policy's fields."""
    return list(_changes("", msgspec.to_builtins(before), msgspec.to_builtins(after)))


def _changes(place: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in (*before, *(each for each in after if each not in before)):
            inner = f"{place}.{name}" if place else name
            yield from _member(inner, before, after, name)
    elif isinstance(before, list) and isinstance(after, list) and (named := _by_name(before, after)):
        one, other = named
        for name in (*one, *(each for each in other if each not in one)):
            yield from _member(f"{place}[{name}]", one, other, name)
        if [each for each in one if each in other] != [each for each in other if each in one]:
            yield Change(f"{place} (order)", "changed", list(one), list(other))
    else:
        yield Change(place, "changed", before, after)


def _member(place: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> Iterator[Change]:
    if name not in after:
        yield Change(place, "removed", before=before[name])
    elif name not in before:
        yield Change(place, "added", after=after[name])
    else:
        yield from _changes(place, before[name], after[name])


def _by_name(*lists: list[Any]) -> list[dict[str, Any]] | None:
    """Turn lists of things with an id or a name into maps; None where one has none, or two have the same."""
    found = []
    for values in lists:
        named = {each.get("id", each.get("name")): each for each in values if isinstance(each, Mapping)}
        if len(named) != len(values) or None in named:
            return None
        found.append({str(name): each for name, each in named.items()})
    return found


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
