"""Bodies: read strictly, written exactly, cut into slices that are the body."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.body import Committing, encode, read_json, sliced
from verifier.commitment import commit
from verifier.refused import Refused

KEY = bytes(32)
names = st.text(st.characters(codec="utf-8"), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b"NaN", "not-json"),
        (b'{"a":1,"a":1}', "duplicate-key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate-key"),
        (b'"\xff"', "not-utf8"),
        (b'["\\ud800"]', "not-utf8"),
        ("{}".encode("utf-16"), "not-utf8"),
        (b"[" * 33 + b"]" * 33, "too-deep"),
        (b'[{"a":' * 17 + b"1" + b"}]" * 17, "too-deep"),
        (b"[" * 100_000, "too-deep"),
        (b"1e999", "bad-number"),
        (b"1e99999999999999999999", "bad-number"),
        (b"9" * 40, "bad-number"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused_by_name(raw: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        read_json(raw)
    assert refused.value.code == code


def test_thirty_two_levels_are_read() -> None:
    assert encode(read_json(b"[" * 32 + b"]" * 32)) == b"[" * 32 + b"]" * 32


def test_numbers_go_on_exactly_as_they_came() -> None:
    raw = b'{"price":0.10,"long":123456789012345678901234,"small":1E-7,"n":-0}'
    value = read_json(raw)
    assert value["price"] == Decimal("0.10")
    assert encode(value) == b'{"price":0.10,"long":123456789012345678901234,"small":1E-7,"n":0}'


@given(st.dictionaries(names, json_values, max_size=4), json_values)
def test_slices_joined_are_the_body_and_mean_the_same(others: dict[str, Any], inside: Any) -> None:
    body = {**others, "cut": inside if isinstance(inside, list | dict) else [inside]}
    joined = b"".join(sliced(body, "cut"))
    assert read_json(joined) == read_json(encode(body))


def test_each_message_is_a_slice_of_its_own() -> None:
    slices = sliced({"model": "m", "messages": [{"a": 1}, {"b": 2}]}, "messages")
    assert slices == [b'{"model":"m","messages":[', b'{"a":1}', b",", b'{"b":2}', b"]}"]


def test_each_argument_is_a_slice_of_its_own() -> None:
    slices = sliced({"params": {"name": "t", "arguments": {"a": 1, "b": [2]}}}, "params", "arguments")
    assert slices == [b'{"params":{"name":"t","arguments":{', b'"a":1', b",", b'"b":[2]', b"}}}"]


def test_a_commitment_made_slice_by_slice_is_the_one_made_at_once() -> None:
    growing, slices = Committing(KEY), [b"one", b"", b"three", b"four", b"five"]
    for each in slices:
        growing.add(each)
    assert growing.commitment() == commit(KEY, slices)
    assert Committing(KEY).commitment() == commit(KEY, [])
