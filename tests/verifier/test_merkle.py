"""Trees of RFC 9162: every size to 130, every index, every earlier size; and every proof that is bent."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.refusal import refused
from verifier.merkle import (
    EMPTY,
    Tree,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

SIZES = 130
HASHES = [leaf_hash(b"%d" % each) for each in range(SIZES)]
# The eight leaves and the roots of the trees of 0 to 8 of them that certificate transparency's own tests use.
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def recursive_root(hashes: list[bytes]) -> bytes:
    """Compute a root as RFC 9162 §2.1.1 defines it."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"").digest()
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return sha256(b"\1" + recursive_root(hashes[:split]) + recursive_root(hashes[split:])).digest()


def test_the_roots_are_those_of_certificate_transparency() -> None:
    hashes = [leaf_hash(bytes.fromhex(each)) for each in CT_LEAVES]
    assert [root_of(hashes[:size]).hex() for size in range(9)] == CT_ROOTS
    assert bytes.fromhex(CT_ROOTS[0]) == EMPTY


def test_a_tree_that_grows_has_the_root_that_the_definition_gives() -> None:
    tree = Tree()
    assert tree.root() == EMPTY
    for size, hashed in enumerate(HASHES, start=1):
        tree.append(hashed)
        assert (tree.size, tree.root()) == (size, recursive_root(HASHES[:size]))
        assert len(tree.peaks) == size.bit_count()


def test_every_leaf_of_every_tree_is_included_and_no_other() -> None:
    for size in range(1, SIZES + 1):
        root = root_of(HASHES[:size])
        for index in range(size):
            proof = inclusion_proof(HASHES[:size], index)
            check_inclusion(HASHES[index], index, size, proof, root)
            with refused("bad-proof"):
                check_inclusion(HASHES[(index + 1) % SIZES], index, size, proof, root)


def test_every_tree_extends_every_earlier_one() -> None:
    roots = [root_of(HASHES[:size]) for size in range(SIZES + 1)]
    for second in range(1, SIZES + 1):
        for first in range(1, second + 1):
            proof = consistency_proof(HASHES[:second], first)
            check_consistency(first, second, proof, roots[first], roots[second])
            if first < second:
                with refused("bad-proof"):
                    check_consistency(first, second, proof, roots[first - 1], roots[second])
                with refused("bad-proof"):
                    check_consistency(first, second, proof, roots[first], roots[second - 1])


@pytest.mark.parametrize("index", [-1, 7, 8])
def test_there_is_no_proof_of_a_leaf_outside_the_tree(index: int) -> None:
    with refused("bad-proof"):
        inclusion_proof(HASHES[:7], index)
    with refused("bad-proof"):
        check_inclusion(HASHES[0], index, 7, [], HASHES[0])


@pytest.mark.parametrize("first", [-1, 0, 8])
def test_there_is_no_proof_of_an_earlier_tree_that_was_none(first: int) -> None:
    with refused("bad-proof"):
        consistency_proof(HASHES[:7], first)
    with refused("bad-proof"):
        check_consistency(first, 7, [], EMPTY, root_of(HASHES[:7]))


@given(st.integers(1, SIZES), st.data())
def test_a_bent_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root, proof = root_of(HASHES[:size]), inclusion_proof(HASHES[:size], index)
    for bent in (proof[:-1], [*proof, HASHES[0]], [HASHES[0], *proof], [each[:-1] for each in proof], proof[::-1]):
        if bent != proof:
            with refused("bad-proof"):
                check_inclusion(HASHES[index], index, size, bent, root)


@given(st.integers(2, SIZES), st.data())
def test_a_bent_consistency_proof_is_refused(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second - 1))
    roots = root_of(HASHES[:first]), root_of(HASHES[:second])
    proof = consistency_proof(HASHES[:second], first)
    for bent in (
        [],
        proof[:-1],
        [*proof, HASHES[0]],
        [HASHES[0], *proof],
        [each + b"\0" for each in proof],
        proof[::-1],
    ):
        if bent != proof:
            with refused("bad-proof"):
                check_consistency(first, second, bent, *roots)
    with refused("bad-proof"):
        check_consistency(second, first, proof, *roots)


def test_equal_trees_need_no_proof_and_bear_none() -> None:
    root = root_of(HASHES[:4])
    check_consistency(4, 4, [], root, root)
    for proof, other in (([HASHES[0]], root), ([], HASHES[0])):
        with refused("bad-proof"):
            check_consistency(4, 4, proof, root, other)


def test_a_leaf_is_no_node() -> None:
    assert leaf_hash(HASHES[0] + HASHES[1]) != node_hash(HASHES[0], HASHES[1])
