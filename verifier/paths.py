"""Audit paths of many leaves of one tree, each in time logarithmic in its size (RFC 9162 §2.1.3)."""

from collections.abc import Iterable

from verifier.merkle import EMPTY, HASH_BYTES, node_hash
from verifier.refused import Refused


class Paths:
    """A whole tree, level by level: leaves first; a node without a right neighbour rises as it is."""

    def __init__(self, hashes: Iterable[bytes]) -> None:
        """Hash every level once; a level is one run of bytes, 32 a node."""
        self._levels = [b"".join(hashes)]
        while len(level := self._levels[-1]) > HASH_BYTES:
            self._levels.append(b"".join(_above(level)))

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0]) // HASH_BYTES

    def root(self) -> bytes:
        """Return the root."""
        return self._levels[-1] or EMPTY

    def path(self, index: int) -> list[bytes]:
        """Return the audit path of one leaf. Raises `Refused` bad-proof."""
        if not 0 <= index < self.size:
            raise Refused("bad-proof", "no such leaf in this tree")
        found = []
        for level in self._levels[:-1]:
            sibling = _node(level, index ^ 1)
            if sibling:
                found.append(sibling)
            index >>= 1
        return found


def _node(level: bytes, index: int) -> bytes:
    return level[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def _above(level: bytes) -> Iterable[bytes]:
    for index in range(0, len(level) // HASH_BYTES, 2):
        left, right = _node(level, index), _node(level, index + 1)
        yield node_hash(left, right) if right else left
