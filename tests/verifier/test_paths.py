"""Audit paths of a whole tree are those of the recursive definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.refusal import refused
from verifier.merkle import check_inclusion, inclusion_proof, leaf_hash, root_of
from verifier.paths import Paths


@given(st.integers(0, 70))
def test_root_and_paths_are_those_of_rfc_9162(size: int) -> None:
    hashes = [leaf_hash(b"%d" % number) for number in range(size)]
    tree = Paths(hashes)
    assert (tree.size, tree.root()) == (size, root_of(hashes))
    for index in range(size):
        assert tree.path(index) == inclusion_proof(hashes, index)
        check_inclusion(hashes[index], index, size, tree.path(index), tree.root())


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_that_is_not_there_has_no_path(index: int) -> None:
    with refused("bad-proof"):
        Paths([bytes(32)] * 3).path(index)
