"""The kept tree against the verifier's own proofs."""

import hashlib

from receipts.tree import LaneTree
from verifier import merkle

HASHES = [hashlib.sha256(bytes([number])).digest() for number in range(70)]


def test_roots_and_proofs_of_every_earlier_size_are_those_of_rfc_9162() -> None:
    tree = LaneTree()
    for hashed in HASHES:
        tree.append(hashed)
    assert tree.root(0) == merkle.EMPTY
    for size in range(1, len(HASHES) + 1):
        known = HASHES[:size]
        assert tree.root(size) == merkle.root_of(known)
        assert [tree.inclusion(index, size) for index in range(size)] == [
            merkle.inclusion_proof(known, index) for index in range(size)
        ]
        assert [tree.consistency(first, size) for first in range(1, size + 1)] == [
            merkle.consistency_proof(known, first) for first in range(1, size + 1)
        ]
