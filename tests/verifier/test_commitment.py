"""Commitments: what a receipt keeps of a body, as the formulas of the specification say."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from verifier.commitment import SIDES, call_key, commit, salt, slice_hash
from verifier.leaf import Commitment
from verifier.merkle import root_of


def test_a_commitment_is_the_formula_written_out() -> None:
    key = hmac.new(bytes(32), b"call-1\0req", hashlib.sha256).digest()
    hashes = [
        hashlib.sha256(
            b"tally-commit/1\0"
            + hmac.new(key, index.to_bytes(4, "big"), hashlib.sha256).digest()
            + len(part).to_bytes(8, "big")
            + part
        ).digest()
        for index, part in enumerate([b"one", b"", b"three"])
    ]
    assert call_key(bytes(32), "call-1", "req") == key
    assert commit(key, [b"one", b"", b"three"]) == Commitment(n=3, root="sha256:" + root_of(hashes).hex())


def test_nothing_is_committed_to_as_the_empty_tree() -> None:
    assert commit(bytes(32), []) == Commitment(n=0, root="sha256:" + hashlib.sha256(b"").hexdigest())


def test_each_side_of_each_call_has_its_own_key_and_each_slice_its_own_salt() -> None:
    keys = {call_key(bytes(32), call, side) for call in ("call-1", "call-2") for side in SIDES}
    assert len(keys) == 8
    assert len({salt(key, index) for key in keys for index in range(3)}) == 24


@given(st.lists(st.binary(max_size=8), max_size=5), st.lists(st.binary(max_size=8), max_size=5))
def test_two_cuts_of_a_body_never_share_a_commitment(one: list[bytes], two: list[bytes]) -> None:
    assert (commit(bytes(32), one) == commit(bytes(32), two)) == (one == two)


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_a_slice_cannot_be_moved_into_its_salt(salted: bytes, content: bytes) -> None:
    for at in range(1, len(content)):
        assert slice_hash(salted + content[:at], content[at:]) != slice_hash(salted, content)
