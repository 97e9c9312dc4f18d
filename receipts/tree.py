"""A lane's Merkle tree, kept whole: roots and proofs of any earlier size in logarithmic time (RFC 9162 §2.1).

`verifier.merkle.Tree` keeps only what the next root needs; a gateway proves each receipt, so it keeps every complete
subtree's hash: 64 bytes a leaf.
"""

from verifier.merkle import EMPTY, HASH_BYTES, node_hash


class LaneTree:
    """A tree that only grows. `_levels[k]` holds the hashes of the complete subtrees of 2^k leaves, in order."""

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[bytearray] = [bytearray()]

    def append(self, hashed: bytes) -> None:
        """Add one leaf hash."""
        level, index = 0, self.size
        self._levels[0] += hashed
        while index & 1:
            hashed = node_hash(self._at(level, index - 1), hashed)
            level, index = level + 1, index >> 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += hashed
        self.size += 1

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` leaves."""
        return self._subtree(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Make the audit path of a leaf in the tree of the first `size` leaves (RFC 9162 §2.1.3)."""
        low, high, path = 0, size, list[bytes]()
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._subtree(middle, high))
                high = middle
            else:
                path.append(self._subtree(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Prove that the first `first` of the first `second` leaves are a prefix (RFC 9162 §2.1.4); `first` above 0."""
        low, high, whole, path = 0, second, True, list[bytes]()
        while first != high:
            middle = low + _split(high - low)
            if first <= middle:
                path.append(self._subtree(middle, high))
                high = middle
            else:
                path.append(self._subtree(low, middle))
                low, whole = middle, False
        return ([] if whole else [self._subtree(low, high)]) + path[::-1]

    def _subtree(self, low: int, high: int) -> bytes:
        """Return the root over the leaves from `low` up to `high`: a lookup when they make a complete subtree."""
        width = high - low
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._at(level, low >> level)
        middle = low + _split(width)
        return node_hash(self._subtree(low, middle), self._subtree(middle, high))

    def _at(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
