"""Step 13: what stands behind a receipt, held against it: disclosures and sealed payloads (specs/disclosures.md)."""

from collections.abc import Collection, Mapping
from typing import Any

from verifier.box import Box
from verifier.bundle import content
from verifier.conditions import UNDISCLOSED, Partial, Undisclosed
from verifier.disclosure import UNCUT, Disclosure, check, committed, fit, members
from verifier.keys import Key
from verifier.leaf import Begin, Commitment, Deny, End, Hold, Leaf
from verifier.merkle import Tree, leaf_hash
from verifier.refused import Refused

MAX_ARGUMENTS = 1 << 22


class Attached:
    """The lines behind one receipt, read one by one; only what the replay needs is kept."""

    def __init__(self, leaf: Leaf, keys: Mapping[str, Key], auditors: Collection[str]) -> None:
        """Begin behind a receipt; `auditors` are the owners for whom the policy lets payloads be sealed."""
        self._leaf = leaf
        self._keys = keys
        self._auditors = auditors
        self._last: tuple[bool, tuple[Any, ...]] = (False, ())
        self._known: dict[str, Any] = {}
        self._size = self._shown = 0  # bytes and number of the slices of `sent` that were disclosed
        self.disclosed = self.sealed = 0
        self.boxed: set[tuple[str, str]] = set()  # owner of the auditor's key, side
        self.boxes = Tree()  # of all sealed payloads, those that were refused among them

    def add(self, raw: bytes) -> None:
        """Check one line. Raises `Refused`: wrong-disclosure, wrong-box, bad-line, too-large, the codes of reading."""
        if raw.startswith(b'{"box":'):
            document = content(raw, "box")
            self.boxes.append(leaf_hash(document))
            self._add_box(Box.parse(document))
        else:
            self._add_disclosure(Disclosure.parse(content(raw, "disclosure")))

    def arguments(self) -> Mapping[str, Any] | Partial | Undisclosed:
        """Return what is known of a tool call's arguments: all of them as a mapping.

        That there are none only both slices of such a body tell.
        """
        leaf = self._leaf
        if not isinstance(leaf, Begin | Hold) or leaf.target.tool is None:
            return UNDISCLOSED
        if len(self._known) == members(leaf.sent.n) and (self._known or self._shown == UNCUT):
            return self._known
        return Partial(self._known) if self._known else UNDISCLOSED

    def _add_disclosure(self, disclosure: Disclosure) -> None:
        self._order(False, disclosure.place)
        commitment = self._commitment(disclosure.side, "wrong-disclosure")
        shown = check(disclosure, commitment)
        self.disclosed += 1
        if disclosure.side == "sent" and isinstance(self._leaf, Begin | Hold) and self._leaf.target.tool is not None:
            self._add_argument(shown, disclosure.index, commitment.n)

    def _add_argument(self, shown: bytes, index: int, size: int) -> None:
        self._shown += 1
        self._size += len(shown)
        if self._size > MAX_ARGUMENTS:
            raise Refused("too-large", f"the disclosed arguments of one call have more than {MAX_ARGUMENTS} bytes")
        named = fit(shown, index, size)
        if named is not None and named[0] in self._known:
            raise Refused("wrong-disclosure", f"the argument {named[0][:64]!r} stands twice", field="content")
        if named is not None:
            self._known[named[0]] = named[1]

    def _add_box(self, box: Box) -> None:
        self._order(True, box.place)
        key = self._keys.get(box.auditor)
        if key is None or key.use != "auditor" or key.owner not in self._auditors:
            raise Refused("wrong-box", "sealed to a key that is no auditor's of this policy", field="auditor")
        self._commitment(box.side, "wrong-box")
        box.sealed()
        self.sealed += 1
        self.boxed.add((key.owner, box.side))

    def _order(self, box: bool, place: tuple[Any, ...]) -> None:  # noqa: FBT001 - what sorts first
        if (box, place) <= self._last:
            raise Refused("bad-line", "disclosures stand by side and index, sealed payloads behind them, none twice")
        self._last = (box, place)

    def _commitment(self, side: str, code: str) -> Commitment:
        """Find what the receipt says of one side of its call."""
        found = committed(self._leaf, side)
        if found is None:
            raise Refused(code, f"the receipt says nothing of the side {side}", field="side")
        return found


def check_boxes(leaf: Begin | Deny | End | Hold, attached: Attached | None) -> None:
    """Hold sealed payloads against the commitment in their receipt. Raises `Refused`: missing-box, wrong-box."""
    said, boxes = leaf.boxes, Tree() if attached is None else attached.boxes
    if said is None:
        if boxes.size:
            raise Refused("wrong-box", "a sealed payload behind a receipt that commits to none", field="boxes")
    elif boxes.size < said.n:
        why = f"the receipt commits to {said.n} sealed payloads, and {boxes.size} stand behind it"
        raise Refused("missing-box", why, field="boxes")
    elif not said.n or boxes.size > said.n or "sha256:" + boxes.root().hex() != said.root:
        raise Refused("wrong-box", "other sealed payloads than the receipt commits to", field="boxes")


def unsealed(leaf: Begin | Deny | End | Hold, attached: Attached | None, wanted: Collection[str]) -> list[str]:
    """Name the auditors for whom a payload that the policy wants sealed is not there."""
    side = "sent" if isinstance(leaf, Begin) else "dlv"
    boxed = set() if attached is None else attached.boxed
    return sorted(owner for owner in wanted if (owner, side) not in boxed)
