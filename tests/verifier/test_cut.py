"""A body that was kept whole is cut again as the gateway cut it, and the commitment tells the right cut."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.body import encode, sliced
from tests.refusal import refused
from verifier.commitment import commit
from verifier.cut import cut, cuts

KEY = bytes(32)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(codec="utf-8"), max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), values, max_size=4)


def again(slices: list[bytes], body: bytes | None = None) -> list[bytes]:
    return cut(b"".join(slices) if body is None else body, KEY, commit(KEY, slices))


@given(objects)
def test_a_tool_call_is_cut_at_its_arguments(arguments: dict[str, Any]) -> None:
    body = {"jsonrpc": "2.0", "params": {"name": "get_case", "arguments": arguments}, "id": 1}
    slices = sliced(body, "params", "arguments")
    assert again(slices) == slices


@given(st.lists(objects, max_size=4), objects)
def test_a_chat_is_cut_at_its_messages(messages: list[dict[str, Any]], others: dict[str, Any]) -> None:
    slices = sliced({**others, "messages": messages}, "messages")
    assert again(slices) == slices


@given(st.lists(st.sampled_from([b"data: {}", b": ping", b"data: [1]\ndata: 2"]), min_size=1), st.booleans())
def test_a_stream_is_cut_at_its_events(events: list[bytes], crlf: bool) -> None:  # noqa: FBT001 - drawn
    end = b"\r\n\r\n" if crlf else b"\n\n"
    slices = [each + end for each in events]
    assert again(slices) == slices


def test_the_gateways_own_comment_is_no_part_of_what_it_delivered() -> None:
    slices = [b"data: 1\n\n", b"data: [DONE]\n\n"]
    body = b"data: 1\n\n: tally-receipt call-1 cHJvb2Y=\n\ndata: [DONE]\n\n"
    assert again(slices, body) == slices


@pytest.mark.parametrize("body", [b"", b"plain", b"\xff\xfe", b"[1,2]", b'"text"', b"{}", b'{"a":', b"7"])
def test_a_body_that_was_not_cut_is_itself(body: bytes) -> None:
    assert again([body]) == [body]


def test_a_body_that_is_written_with_spaces_is_cut_no_further_than_it_can_be_read() -> None:
    assert list(cuts(json.dumps({"a": [1, 2]}, indent=1).encode())) == [[json.dumps({"a": [1, 2]}, indent=1).encode()]]
    assert list(cuts(b'{"a":{ "b":1}}'))[1:] == [[b"{", b'"a":{ "b":1}', b"}"]]
    assert list(cuts(b'{"a":1 }'))[1:] == []
    assert list(cuts(b"{}"))[1:] == [[b"{", b"}"]]


def test_other_bytes_give_another_commitment() -> None:
    slices = sliced({"arguments": {"a": 1}}, "arguments")
    for body in (b'{"arguments":{"a":2}}', b"", b'{"arguments":{"a":1}} '):
        with refused("wrong-disclosure"):
            again(slices, body)


def test_hostile_bodies_take_time_in_proportion() -> None:
    began = time.monotonic()
    for body in (b"\n" * 1_000_001, b"a\n" * 500_000, b"[" * 100_000, encode([[0] * 100_000]), b'{"a":' * 99_999):
        assert next(cuts(body)) == [body]
        assert len(list(cuts(body))) <= 4
    assert time.monotonic() - began < 10
