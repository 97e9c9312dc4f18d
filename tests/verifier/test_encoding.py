"""The canonical form: one spelling for one value, and a name for whatever is wrong with another."""

import json
from typing import Annotated, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta, Struct, ValidationError, convert

from tests.refusal import refused
from verifier.encoding import (
    MAX_INT,
    Id,
    b64,
    canonical,
    digest,
    is_id,
    parse,
    read,
    reject_duplicates,
    safe_text,
    unb64,
)
from verifier.refused import Refused


class Thing(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A small document."""

    name: Annotated[str, Meta(pattern=r"^[a-z]+\Z")]
    count: Annotated[int, Meta(ge=0, le=MAX_INT)]
    tags: list[str] | None = None


GOOD = b'{"count":1,"name":"a"}'
KEYS = st.text("ABCabc019_.:-", min_size=1, max_size=8)
VALUES = st.recursive(
    st.integers(-MAX_INT, MAX_INT) | st.booleans() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def rfc8785(value: Any) -> str:
    """Write the canonical form as another implementation does, for our restricted values."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for control in range(0x20):
        text = text.replace(f"\\u{control:04X}", f"\\u{control:04x}")
    return text


@given(VALUES)
@example({"\b": 1})
@example("\x00\x08\t\n\x0c\r\x1f\x7f\u2028\U0001f600")
def test_our_canonical_form_is_the_one_of_another_encoder(value: Any) -> None:
    assert canonical(value).decode() == rfc8785(value)


@given(VALUES)
def test_what_was_encoded_reads_back_and_encodes_to_the_same_bytes(value: Any) -> None:
    assert canonical(parse(canonical(value), Any, limit=1 << 20)) == canonical(value)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"x" * 101, "too-large"),
        (b'{"count":1,"name":"a', "truncated"),
        (b"", "truncated"),
        (b"{count:1}", "not-json"),
        (GOOD + b"x", "not-json"),
        (b'{"count":1,"name":"\xff"}', "not-utf8"),
        (b"[" * 33 + b"]" * 33, "too-deep"),
        (b'{"count":"1","name":"a"}', "wrong-type"),
        (b'{"count":1.0,"name":"a"}', "wrong-type"),
        (b'{"count":null,"name":"a"}', "wrong-type"),
        (b'{"count":1,"name":"a","x":1}', "unknown-field"),
        (b'{"count":1}', "missing-field"),
        (b'{"count":-1,"name":"a"}', "bad-value"),
        (b'{"count":9007199254740992,"name":"a"}', "bad-value"),
        (b'{"count":1,"name":"A"}', "bad-value"),
        (b'{"count":1,"name":"a\\n"}', "bad-value"),
        (b'{"count":1, "name":"a"}', "not-canonical"),
        (b'{"name":"a","count":1}', "not-canonical"),
        (b'{"count":1,"count":1,"name":"a"}', "not-canonical"),
        (b'{"count":1,"name":"a","tags":null}', "not-canonical"),
        (b'{"count":-0,"name":"a"}', "not-canonical"),
        (b'{"count":1,"name":"\\u0061"}', "not-canonical"),
        (GOOD + b"\n", "not-canonical"),
        (b"\xef\xbb\xbf" + GOOD, "not-json"),
    ],
)
def test_each_wrong_document_is_refused_by_name(raw: bytes, code: str) -> None:
    with refused(code):
        read(raw, Thing, limit=100)


def test_a_refusal_names_the_place() -> None:
    with refused("wrong-type", field="tags[1]"):
        read(b'{"count":1,"name":"a","tags":["b",2]}', Thing, limit=100)


def test_a_refusal_quotes_little_and_no_control_characters() -> None:
    with pytest.raises(Refused) as caught:
        read(canonical({"\x1b[31m\u202e" + "x" * 1000: 1, "count": 1, "name": "a"}), Thing, limit=2000)
    assert caught.value.code == "unknown-field"
    assert caught.value.why.isprintable()
    assert len(caught.value.why) <= 300


def test_duplicate_keys_are_named_and_not_called_tampering() -> None:
    with pytest.raises(Refused, match="'count' appears twice"):
        read(b'{"count":1,"count":2,"name":"a"}', Thing, limit=100)


@pytest.mark.parametrize("raw", [b'{"a":1,"a":2}', b'[{"b":{"a":1,"a":1}}]'])
def test_a_key_that_stands_twice_is_refused_at_any_depth(raw: bytes) -> None:
    with refused("not-canonical"):
        reject_duplicates(raw)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"a":NaN}', "not-json"),
        (b'{"a":-Infinity}', "not-json"),
        (b"", "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b'{"a":' + b"1" * 5000 + b"}", "not-json"),
        (b'"\\ud800"', "not-utf8"),
        (b'{"\\udc00\\ud800":1}', "not-utf8"),
        ("{}".encode("utf-16"), "not-utf8"),
        (b"[" * 33 + b"]" * 33, "too-deep"),
    ],
)
def test_foreign_json_is_read_strictly(raw: bytes, code: str) -> None:
    with refused(code):
        reject_duplicates(raw)


def test_32_levels_are_read_and_a_pair_of_halves_is_a_character() -> None:
    assert reject_duplicates(b"[" * 32 + b"]" * 32)
    assert reject_duplicates(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert reject_duplicates(b'"' + b"[" * 100 + b'"') == "[" * 100


@pytest.mark.parametrize(
    "raw", [b'"' + b'\\"' * 500_000, b'"' + b'\\"' * 500_000 + b"\\", b"[" * 1_000_000, b'"\\' * 500_000]
)
def test_a_refusal_takes_linear_time(raw: bytes) -> None:
    with pytest.raises(Refused):  # a quadratic reader would need hours
        read(raw, Thing, limit=1 << 21)


def test_a_repeated_key_is_found_in_linear_time() -> None:
    raw = b"{" + b",".join(b'"k%d":1' % each for each in range(100_000)) + b',"k99999":1}'
    with refused("not-canonical"):  # a quadratic reader would need minutes
        reject_duplicates(raw)


@given(st.binary(max_size=64))
def test_base64_has_one_spelling(data: bytes) -> None:
    assert unb64(b64(data)) == data


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("QR==", "non-canonical-base64"),
        ("QQ", "bad-base64"),
        ("QQ=", "bad-base64"),
        ("Q Q==", "bad-base64"),
        ("QQ==\n", "bad-base64"),
        ("QQ==QQ==", "bad-base64"),
        ("-_8=", "bad-base64"),
        ("é", "bad-base64"),
    ],
)
def test_other_spellings_of_base64_are_refused(text: str, code: str) -> None:
    with refused(code, field="place"):
        unb64(text, field="place")


def test_a_digest_is_the_sha_256_of_the_payload() -> None:
    assert digest(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.text())
def test_text_from_outside_enters_a_receipt_harmless(text: str) -> None:
    safe = safe_text(text)
    assert safe == text or safe.startswith("sha256:")
    assert set(safe) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-")
    assert 1 <= len(safe) <= 128


@given(st.text(st.sampled_from("aZ0_-./ \n\0\ud800é"), max_size=66))
@example("a" * 64)
@example("a" * 65)
@example("a\n")
def test_a_name_is_one_by_the_predicate_and_by_the_type_alike(text: str) -> None:
    try:
        typed = convert(text, Id) == text
    except ValidationError:
        typed = False
    assert is_id(text) is typed
