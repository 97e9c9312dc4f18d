"""Disclosures: a slice is believed only with its own salt, at its own place, whole."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from receipts.body import encode, sliced
from tests.refusal import refused
from verifier.commitment import call_key, commit, salt, slice_hash
from verifier.disclosure import (
    MAX_DISCLOSURE,
    Disclosure,
    argument,
    check,
    disclose,
    fit,
    in_order,
    members,
)
from verifier.encoding import b64, canonical
from verifier.leaf import Commitment
from verifier.merkle import root_of

KEY = call_key(bytes(32), "call-1", "sent")
SLICES = [b'{"params":{"arguments":{', b'"amount":10.50', b",", b'"to":"a@b.example"', b"}}}"]
COMMITMENT = commit(KEY, SLICES)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_each_slice_can_be_disclosed_alone() -> None:
    for index, each in enumerate(SLICES):
        disclosed = disclose(KEY, SLICES, index, "sent")
        assert check(Disclosure.parse(canonical(disclosed)), COMMITMENT) == each


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=9), st.data())
def test_what_is_disclosed_is_what_was_committed_to(slices: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(slices) - 1))
    disclosed = disclose(KEY, slices, index, "recv")
    assert check(disclosed, commit(KEY, slices)) == slices[index]
    if slices[1:]:
        with refused("wrong-disclosure", "path"):
            check(disclosed, commit(KEY, slices[:-1]))


@given(st.binary(min_size=1, max_size=8), st.binary(max_size=8))
def test_any_other_content_is_refused(content: bytes, other: bytes) -> None:
    disclosed = disclose(KEY, [content, b"x"], 0, "sent")
    if other != content:
        with refused("wrong-disclosure"):
            check(replace(disclosed, content=b64(other)), commit(KEY, [content, b"x"]))


def test_another_salt_is_refused() -> None:
    disclosed = disclose(KEY, SLICES, 1, "sent")
    with refused("wrong-disclosure", "path"):
        check(replace(disclosed, salt=b64(salt(KEY, 2))), COMMITMENT)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_salt_of_another_length_is_refused_even_where_the_hash_would_fit(length: int) -> None:
    content, long = b"content", (salt(KEY, 0) + bytes(8))[:length]
    fitting = Commitment(n=1, root="sha256:" + root_of([slice_hash(long, content)]).hex())
    with refused("wrong-disclosure", "salt"):
        check(Disclosure(content=b64(content), index=0, path=[], salt=b64(long), side="sent"), fitting)


def test_a_boundary_cannot_be_moved() -> None:
    committed = commit(KEY, [b"ab", b"c"])
    moved = disclose(KEY, [b"a", b"bc"], 0, "sent")
    with refused("wrong-disclosure"):
        check(moved, committed)
    with refused("wrong-disclosure"):
        check(replace(disclose(KEY, [b"ab", b"c"], 0, "sent"), content=b64(b"a")), committed)


def test_an_index_cannot_be_moved() -> None:
    for index in (0, 2, 3, 5, 1 << 20):
        with refused("wrong-disclosure", "path"):
            check(replace(disclose(KEY, SLICES, 1, "sent"), index=index), COMMITMENT)


def test_a_path_is_neither_cut_nor_lengthened() -> None:
    disclosed = disclose(KEY, SLICES, 1, "sent")
    for path in (disclosed.path[:-1], [*disclosed.path, disclosed.path[0]], [], [b64(b"short"), *disclosed.path[1:]]):
        with refused("wrong-disclosure", "path"):
            check(replace(disclosed, path=path), COMMITMENT)


@pytest.mark.parametrize(("spelled", "code"), [("****", "bad-base64"), ("QR==", "non-canonical-base64")])
def test_base64_has_one_spelling(spelled: str, code: str) -> None:
    disclosed = disclose(KEY, SLICES, 1, "sent")
    for field in ("content", "salt"):
        with refused(code, field):
            check(replace(disclosed, **{field: spelled}), COMMITMENT)
    with refused(code, "path"):
        check(replace(disclosed, path=[spelled]), COMMITMENT)


def test_a_disclosure_of_another_form_is_refused() -> None:
    with refused("bad-value"):
        Disclosure.parse(canonical(disclose(KEY, SLICES, 1, "sent")).replace(b'"index":1', b'"index":-1'))
    with refused("bad-value"):
        Disclosure.parse(canonical(replace(disclose(KEY, SLICES, 1, "sent"), path=["QQ=="] * 21)))
    with refused("too-large"):
        Disclosure.parse(b" " * (MAX_DISCLOSURE + 1))


@pytest.mark.parametrize("index", [-1, 5])
def test_a_slice_that_is_not_there_is_not_disclosed(index: int) -> None:
    with refused("wrong-disclosure", "index"):
        disclose(KEY, SLICES, index, "sent")


def test_a_slice_that_no_line_holds_is_not_disclosed() -> None:
    with refused("too-large"):
        disclose(KEY, [bytes(MAX_DISCLOSURE * 3 // 4)], 0, "recv")


def test_disclosures_stand_by_side_and_index() -> None:
    made = [disclose(KEY, SLICES, index, side) for side in ("sent", "req") for index in (3, 1)]
    assert [each.place for each in in_order(made)] == [("req", 1), ("req", 3), ("sent", 1), ("sent", 3)]


# Arguments ------------------------------------------------------------------------------------------------------------


def test_an_argument_is_read_with_exact_decimals() -> None:
    assert argument(b'"amount":10.50') == ("amount", Decimal("10.50"))
    assert argument(b'"to":["a",{"b":null}]') == ("to", ["a", {"b": None}])


@pytest.mark.parametrize(
    "content",
    [
        b"", b",", b"}", b'"a"', b'"a":', b'a":1', b'"a":1,"b":2', b'"a":1,"a":1', b'"a":1,', b'"a":1}',
        b'"a":1},{"b":2', b' "a":1', b'"a":1 ', b'"a":1\n', b'"a":NaN', b'"a":01', b'"a":"\xff"', b'"a":"\\ud800"',
        b'"a":{"b":1,"b":2}',         b'"a":1e99999999999999999999', b'"a":' + b"[" * 40 + b"]" * 40,
    ],
)  # fmt: skip
def test_what_is_not_one_argument_is_refused(content: bytes) -> None:
    with refused("wrong-disclosure", "content"):
        argument(content)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), json_values, max_size=5))
def test_arguments_come_out_as_the_gateway_cut_them(given_arguments: dict[str, Any]) -> None:
    slices = sliced({"id": 1, "params": {"arguments": given_arguments, "name": "get_case"}}, "params", "arguments")
    assert members(len(slices)) == len(given_arguments)
    found = [fit(each, index, len(slices)) for index, each in enumerate(slices)]
    assert dict(each for each in found if each is not None) == given_arguments
    for name, value in given_arguments.items():
        assert argument(encode(name) + b":" + encode(value)) == (name, value)


@pytest.mark.parametrize("size", [0, 1, 4, 6])
def test_a_body_that_was_not_cut_has_no_argument_to_disclose(size: int) -> None:
    assert members(size) is None
    assert fit(b"whatever", 0, size) is None


@pytest.mark.parametrize(
    ("index", "content"),
    [
        (0, b'{"params":{"arguments":{"hidden":1'),
        (0, b'{"params":{"arguments":{"hidden":1,"nested":{'),
        (0, b'{"params":{"arguments":{"hidden":1,"arguments":{'),
        (0, b'{"params":{'),
        (0, b"{"),
        (0, b'{"arguments":{},"params":{'),
        (0, b'{"arguments":{"a":{}'),
        (0, b'{"arguments":[{'),
        (0, b'{"arguments":1'),
        (0, b'{"arguments":{},"a":"'),
        (0, b'{"a":1,"a":{"arguments":{'),
        (0, b'{"a":' * 8 + b'{"arguments":{'),
        (0, b""),
        (2, b',"hidden":1,'),
        (2, b""),
        (4, b',"hidden":1}}}'),
        (4, b'},"arguments":{"hidden":1}}'),
        (4, b""),
    ],
)
def test_what_stands_around_arguments_hides_none(index: int, content: bytes) -> None:
    with refused("wrong-disclosure", "index"):
        fit(content, index, 5)


@pytest.mark.parametrize(
    "content",
    [
        b'{"arguments":{',
        b'{"id":1,"params":{"name":"a","arguments":{',
        b'{"x":{"arguments":{}},"params":{"arguments":{',
    ],
)
def test_arguments_may_stand_in_a_request(content: bytes) -> None:
    for size in (2, 5):
        assert fit(content, 0, size) is None
        assert fit(b"}}}", size - 1, size) is None
