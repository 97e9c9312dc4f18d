"""What a call carries: data labelled, and replaced where every policy that denies it says so (specs/receipts.md §7).

What is found and stays is a label of the call, which the policy decides about. What can be replaced is replaced before
anything is committed to or sent; a number, or a member's name, cannot be.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from msgspec import Struct

from receipts.detectors import CREDENTIALS, LABELS, Found, find, names_secret, open_end
from receipts.upstream import PolicyCut
from verifier.policy import Chain

MAX_REPLACED = 1000
LARGE = 1 << 15
MIN_DIGITS = 11  # of the shortest number that says anything
KEPT = 1024  # characters of a stream's text that are looked at again with the next piece
Channel = tuple[Any, ...]


class Handling(Struct, frozen=True):
    """What becomes of the labels that detectors find: the others pass and are recorded."""

    redact: frozenset[str]
    block: frozenset[str]

    @property
    def idle(self) -> bool:
        """Tell whether nothing that may be found is denied."""
        return not self.redact and not self.block


class Labelled(Struct, frozen=True):
    """A JSON value as it may go on, the labels of what is still in it, sorted, and how much was replaced."""

    value: Any
    labels: list[str]
    redactions: int


def handling(chain: Chain) -> Handling:
    """Say what a policy and its ancestors do with each label: replaced only where every one that denies it says so."""
    said = {
        label: [each.data_classes.on_violation for each in chain if each.data_classes.denies(label)] for label in LABELS
    }
    redact = {label for label, ways in said.items() if ways and set(ways) == {"redact"}}
    return Handling(frozenset(redact), frozenset(label for label, ways in said.items() if ways) - redact)


def label(value: Any, handled: Handling) -> Labelled:
    """Look through a JSON value; what `handled` redacts is replaced in a copy."""
    labeller = _Labeller(handled)
    copied = labeller.each(value)
    return Labelled(copied, sorted(labeller.labels), labeller.redactions)


async def label_of(value: Any, handled: Handling, size: int) -> Labelled:
    """Look through a value read from so many bytes: beside the event loop when they are many, so that others go on."""
    return label(value, handled) if size < LARGE else await asyncio.to_thread(label, value, handled)


def require_allowed(labels: list[str], handled: Handling) -> None:
    """Raise `PolicyCut` data-class when an answer holds what no policy lets through."""
    denied = (handled.block | handled.redact).intersection(labels)
    if denied:
        raise PolicyCut("data-class", f"the answer holds {', '.join(sorted(denied))}, which the policy denies", 403)


class _Labeller:
    """One pass over one value."""

    def __init__(self, handled: Handling) -> None:
        self._handled = handled
        self.labels: set[str] = set()
        self.redactions = 0

    def each(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {self._name(name): self._member(name, member) for name, member in value.items()}
        if isinstance(value, list):
            return [self.each(member) for member in value]
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            self._name(str(value))
        return value

    def _name(self, text: str) -> str:
        """Label what cannot be replaced."""
        if len(text) >= MIN_DIGITS:
            self.labels.update(found.label for found in find(text))
        return text

    def _member(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and names_secret(name, value):
            if CREDENTIALS in self._handled.redact:
                self.redactions += 1
                return _mark(CREDENTIALS)
            self.labels.add(CREDENTIALS)
        return self.each(value)

    def _text(self, text: str) -> str:
        found = find(text)
        if not found:
            return text
        cut = [each for each in found if each.label in self._handled.redact]
        if cut and len(cut) + self.redactions <= MAX_REPLACED:
            text = _replaced(text, cut)
            self.redactions += len(cut)
            found = find(text)
        self.labels.update(each.label for each in found)
        return text


def _replaced(text: str, found: list[Found]) -> str:
    """Replace the findings, those that overlap together."""
    pieces: list[str] = []
    at = 0
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        if each.start >= at:
            pieces += [text[at : each.start], _mark(each.label)]
        at = max(at, each.end)
    return "".join([*pieces, text[at:]])


def _mark(label: str) -> str:
    return f"[redacted:{label}]"


class Held:
    """A stream's events, held back until what follows them shows that they are the beginning of nothing denied.

    Where nothing is denied they pass at once. A stream cannot take back what it said, so it is cut before.
    """

    def __init__(self, handled: Handling) -> None:
        """Start with nothing held."""
        self._handled = handled
        self._waiting: deque[tuple[bytes, dict[Channel, int]]] = deque()
        self._said: dict[Channel, int] = {}
        self._settled: dict[Channel, int] = {}
        self._tails: dict[Channel, str] = {}
        self.labels: set[str] = set()

    def add(self, event: bytes, content: Any) -> Iterator[bytes]:
        """Take in an event with the JSON that it says; give those that may go out.

        Raises `PolicyCut` data-class.
        """
        ends: dict[Channel, int] = {}
        for channel, text in _pieces(content, ()):
            ends[channel] = self._said[channel] = self._said.get(channel, 0) + len(text)
            self._look(channel, text)
        require_allowed(sorted(self.labels), self._handled)
        self._waiting.append((event, ends))
        while self._waiting and (self._handled.idle or self._is_past(self._waiting[0][1])):
            yield self._waiting.popleft()[0]

    def rest(self) -> Iterator[bytes]:
        """Give what was held until the end."""
        while self._waiting:
            yield self._waiting.popleft()[0]

    def _is_past(self, ends: dict[Channel, int]) -> bool:
        return all(end <= self._settled[channel] for channel, end in ends.items())

    def _look(self, channel: Channel, text: str) -> None:
        """Look at a piece of text together with the end of what stood before it; a finding may not begin at its cut."""
        kept = self._tails.get(channel, "")
        cut = self._said[channel] > len(kept) + len(text)
        whole = kept + text
        self.labels.update(each.label for each in find(whole) if each.start or not cut)
        self._tails[channel] = kept = whole[-KEPT:]
        self._settled[channel] = self._said[channel] - open_end(kept)


def _pieces(value: Any, channel: Channel) -> Iterator[tuple[Channel, str]]:
    """Give each text with where it goes on: members of lists by their `index`, as streams of models have it."""
    if isinstance(value, str):
        yield channel, value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _pieces(member, (*channel, name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            index = member.get("index", number) if isinstance(member, dict) else number
            yield from _pieces(member, (*channel, index if isinstance(index, int) else number))
