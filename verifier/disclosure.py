"""Disclosures: one slice of one body, shown to an auditor with its salt and its place (specs/disclosures.md).

A disclosure stands on a line of its own behind the receipt whose commitment it opens. Nobody signs it: the commitment
in the receipt, which the seal covers, is what it is held against.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from verifier.commitment import Side, salt, slice_hash
from verifier.draft import arguments
from verifier.encoding import b64, read, unb64
from verifier.leaf import Begin, Commitment, Deny, End, Hold, Leaf
from verifier.merkle import check_inclusion
from verifier.paths import Paths
from verifier.refused import Refused

MAX_DISCLOSURE = 1 << 20
MAX_PATH = 20
SALT_BYTES = 32
MAX_AROUND = 8  # objects that a first slice may open, the arguments among them
ARGUMENTS = "arguments"
UNCUT = 2  # a body of fewer slices than these was not cut at its members

_OWN: dict[type, tuple[Side, ...]] = {
    Begin: ("req", "sent"), Hold: ("req", "sent"), Deny: ("req",), End: ("recv", "dlv"),
}  # fmt: skip


class Disclosure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Slice `index` of one side of a call: base64 of its content, of its salt, and of its audit path (RFC 9162)."""

    content: str
    index: Annotated[int, Meta(ge=0, le=1 << 20)]
    path: Annotated[list[str], Meta(max_length=MAX_PATH)]
    salt: str
    side: Side

    @classmethod
    def parse(cls, raw: bytes) -> "Disclosure":
        """Read a disclosure's document, at most 1 MiB; it is believed only after `check`."""
        return read(raw, cls, limit=MAX_DISCLOSURE)

    @property
    def place(self) -> tuple[str, int]:
        """What disclosures of one receipt are sorted by; none stands twice."""
        return self.side, self.index


def committed(leaf: Leaf, side: str) -> Commitment | None:
    """Return what a receipt holds of one side of its call, if that side is one of its own."""
    found: Commitment | None = getattr(leaf, side) if side in _OWN.get(type(leaf), ()) else None
    return found


def check(disclosure: Disclosure, commitment: Commitment) -> bytes:
    """Hold a disclosure against the commitment of its side; return the content, now believed.

    The salt has 32 bytes exactly, else bytes could move from content to salt; the length is hashed, so that "ab", "c"
    never passes for "a", "bc". Raises `Refused`: wrong-disclosure, bad-base64, non-canonical-base64.
    """
    content, salted = unb64(disclosure.content, field="content"), unb64(disclosure.salt, field="salt")
    path = [unb64(each, field="path") for each in disclosure.path]
    if len(salted) != SALT_BYTES:
        raise Refused("wrong-disclosure", f"a salt has {SALT_BYTES} bytes", field="salt")
    root = bytes.fromhex(commitment.root.removeprefix("sha256:"))
    try:
        check_inclusion(slice_hash(salted, content), disclosure.index, commitment.n, path, root)
    except Refused as refused:
        why = f"slice {disclosure.index} of {disclosure.side} does not lead to the receipt's commitment: {refused.why}"
        raise Refused("wrong-disclosure", why, field="path") from refused
    return content


def disclose(key: bytes, slices: Sequence[bytes], index: int, side: Side) -> Disclosure:
    """Disclose one slice with the call key of its side. Raises `Refused` wrong-disclosure, too-large."""
    return disclose_each(key, slices, [index], side)[0]


def disclose_each(key: bytes, slices: Sequence[bytes], indexes: Iterable[int], side: Side) -> list[Disclosure]:
    """Disclose several slices of one body. Raises `Refused` wrong-disclosure, too-large."""
    tree = Paths(slice_hash(salt(key, number), each) for number, each in enumerate(slices))
    return [_disclose(key, slices, index, side, tree) for index in indexes]


def _disclose(key: bytes, slices: Sequence[bytes], index: int, side: Side, tree: Paths) -> Disclosure:
    if not 0 <= index < len(slices):
        raise Refused("wrong-disclosure", f"there is no slice {index} among {len(slices)}", field="index")
    made = Disclosure(
        content=b64(slices[index]), index=index, path=[b64(each) for each in tree.path(index)],
        salt=b64(salt(key, index)), side=side,
    )  # fmt: skip
    if len(made.content) + MAX_PATH * 64 > MAX_DISCLOSURE:
        raise Refused("too-large", f"slice {index} has {len(slices[index])} bytes, too many for one disclosure")
    return made


def members(size: int) -> int | None:
    """Count the arguments in a `sent` body of so many slices: every odd one before the last; None when it is uncut."""
    return (size - 1) // 2 if size == UNCUT or (size > UNCUT and size % 2) else None


def argument(content: bytes) -> tuple[str, Any]:
    """Read a slice that is one top-level argument, `"name":value`, as strict JSON with exact decimals.

    Raises `Refused` wrong-disclosure: two members, none, or anything around it.
    """
    if not content.startswith(b'"') or content[-1:] in b" \t\r\n":
        raise Refused("wrong-disclosure", 'a slice that is not one argument "name":value', field="content")
    try:
        named = arguments(b"{" + content + b"}")
    except Refused as refused:
        why = f"a slice that is not one argument: {refused.why}"
        raise Refused("wrong-disclosure", why, field="content") from refused
    if len(named) != 1:
        raise Refused("wrong-disclosure", "a slice that holds more than one argument", field="content")
    return next(iter(named.items()))


def fit(content: bytes, index: int, size: int) -> tuple[str, Any] | None:
    """Hold one slice of a tool call's `sent` against its place in the cut; return the argument, if it is one.

    The first slice opens the object `arguments` and holds nothing of it, the last only closes what the first opened,
    and a comma stands between two arguments: an even slice hides none. Raises `Refused` wrong-disclosure.
    """
    if members(size) is None:
        return None
    if index % 2 and index < size - 1:
        return argument(content)
    closes = bool(content) and not content.strip(b"}")
    fits = _opens(content) if index == 0 else closes if index == size - 1 else content == b","
    if not fits:
        raise Refused("wrong-disclosure", f"slice {index} holds more than what stands around arguments", field="index")
    return None


def _opens(content: bytes) -> bool:
    """Tell whether a first slice leads into an empty object named `arguments`, and into no other of that name."""
    for depth in range(1, MAX_AROUND + 1):
        try:
            inside: Any = arguments(content + b"}" * depth)
        except Refused:
            continue
        path = []
        while isinstance(inside, dict) and inside:
            name, inside = list(inside.items())[-1]
            path.append(name)
        return inside == {} and len(path) == depth - 1 and [*path, ARGUMENTS].index(ARGUMENTS) == len(path) - 1
    return False


def in_order(disclosures: Iterable[Disclosure]) -> list[Disclosure]:
    """Sort disclosures as they stand behind their receipt: by side, then index."""
    return sorted(disclosures, key=lambda each: each.place)
