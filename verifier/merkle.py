"""Merkle trees of RFC 9162 §2.1: roots built leaf by leaf, inclusion and consistency proofs made and checked."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from verifier.refused import Refused

EMPTY = sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(leaf: bytes) -> bytes:
    """Hash one leaf: SHA-256(0x00 || leaf)."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees: SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows, in memory logarithmic in its size: the roots of its complete subtrees."""

    __slots__ = ("peaks", "size")

    def __init__(self) -> None:
        """Start empty."""
        self.size = 0
        self.peaks: list[bytes] = []

    def append(self, hashed: bytes) -> None:
        """Add one leaf hash."""
        size = self.size
        peaks = self.peaks
        while size & 1:
            hashed = sha256(b"\1" + peaks.pop() + hashed).digest()
            size >>= 1
        peaks.append(hashed)
        self.size += 1

    def extend(self, nodes: list[bytes]) -> None:
        """Add many leaf hashes in order: the same tree, built level by level, which is quicker than leaf by leaf."""
        size, peaks = self.size, self.peaks
        self.size += len(nodes)
        lower: list[bytes] = []  # the new peaks, from the lowest level up
        while nodes:
            if size & 1:
                nodes = [peaks.pop(), *nodes]
            if len(nodes) & 1:
                lower.append(nodes[-1])
            nodes = [
                sha256(b"\1" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=False)
            ]
            size >>= 1
        peaks += reversed(lower)

    def root(self) -> bytes:
        """Return the root of all leaves so far; an empty tree's is the hash of nothing."""
        if not self.peaks:
            return EMPTY
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def root_of(hashes: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    tree = Tree()
    for hashed in hashes:
        tree.append(hashed)
    return tree.root()


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Make the audit path of one leaf in the tree of all the given leaf hashes (RFC 9162 §2.1.3.1)."""
    if not 0 <= index < len(hashes):
        raise Refused("bad-proof", "no such leaf in this tree")
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if index < split:
        return [*inclusion_proof(hashes[:split], index), root_of(hashes[split:])]
    return [*inclusion_proof(hashes[split:], index - split), root_of(hashes[:split])]


def check_inclusion(hashed: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash is at `index` of the tree with this size and root. Raises `Refused` bad-proof."""
    if not 0 <= index < size:
        raise Refused("bad-proof", "the index lies outside the tree")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border or any(len(each) != HASH_BYTES for each in (hashed, root, *proof)):
        raise Refused("bad-proof", "a proof of the wrong length for this index and size")
    for level, sibling in enumerate(proof[:inner]):
        hashed = node_hash(sibling, hashed) if index >> level & 1 else node_hash(hashed, sibling)
    for sibling in proof[inner:]:
        hashed = node_hash(sibling, hashed)
    if hashed != root:
        raise Refused("bad-proof", "the proof leads to another root")


def consistency_proof(hashes: Sequence[bytes], first: int) -> list[bytes]:
    """Prove that the tree of the first `first` leaves is a prefix of the tree of all (RFC 9162 §2.1.4.1)."""
    if not 0 < first <= len(hashes):
        raise Refused("bad-proof", "no such earlier tree")
    return _subproof(hashes, first, whole=True)


def _subproof(hashes: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    if first == len(hashes):
        return [] if whole else [root_of(hashes)]
    split = _split(len(hashes))
    if first <= split:
        return [*_subproof(hashes[:split], first, whole=whole), root_of(hashes[split:])]
    return [*_subproof(hashes[split:], first - split, whole=False), root_of(hashes[:split])]


def check_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """Check that a tree of `second` leaves extends one of `first` (RFC 9162 §2.1.4.2). Raises `Refused` bad-proof."""
    if not 0 < first <= second or any(len(each) != HASH_BYTES for each in (first_root, second_root, *proof)):
        raise Refused("bad-proof", "sizes out of order, or a hash of the wrong length")
    if first == second:
        if proof or first_root != second_root:
            raise Refused("bad-proof", "equal sizes with a proof, or with two roots")
        return
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        raise Refused("bad-proof", "the proof is empty")
    if _climb(first - 1, second - 1, path) != (first_root, second_root):
        raise Refused("bad-proof", "the proof leads to other roots")


def _climb(low: int, high: int, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Rebuild both roots from the last leaves `low` and `high` of two trees; None when the path ends below the root."""
    while low & 1:
        low, high = low >> 1, high >> 1
    old = new = path[0]
    for each in path[1:]:
        if high == 0:
            raise Refused("bad-proof", "the proof is too long")
        if low & 1 or low == high:
            old, new = node_hash(each, old), node_hash(each, new)
            while low and not low & 1:
                low, high = low >> 1, high >> 1
        else:
            new = node_hash(new, each)
        low, high = low >> 1, high >> 1
    return None if high else (old, new)


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
