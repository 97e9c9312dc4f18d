"""The one encoding of signed documents: RFC 8785, restricted until every implementation agrees (specs/encoding.md).

A reader decodes into a typed struct, encodes the struct again in sorted order and compares with the bytes it was given.
That single comparison refuses duplicate keys, spaces, needless escapes, `-0`, `null` for absent and any other order.
"""

import base64
import binascii
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

from verifier.refused import Refused

MAX_INT = 2**53 - 1
MAX_DEPTH = 32

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Time = Annotated[int, Meta(ge=0, le=MAX_INT)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
SafeText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}\Z")]
Glob = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/@*-]{1,128}\Z")]
Url = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:-]{1,100}(/[A-Za-z0-9._/-]{0,16})?\Z")]
Text = Annotated[str, Meta(max_length=4096)]

_encoder = msgspec.json.Encoder(order="sorted")
_strings = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # takes a string without end as well: it never goes back
_safe_text = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_id = re.compile(r"[A-Za-z0-9_-]{1,64}")
_decoder: Callable[[Any], msgspec.json.Decoder[Any]] = cache(msgspec.json.Decoder)


def canonical(value: object) -> bytes:
    """Encode a struct, or plain values without floats, in the canonical form."""
    return _encoder.encode(value)


def digest(payload: bytes) -> str:
    """Address a payload: `sha256:` and 64 hex digits of SHA-256 over its bytes, never over an envelope."""
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def is_id(text: str) -> bool:
    """Tell whether a text is an `Id`."""
    return _id.fullmatch(text) is not None


def safe_text(text: str) -> str:
    """Let text from outside into a receipt: itself when it is harmless, else its digest (specs/receipts.md §1)."""
    return text if _safe_text.fullmatch(text) else digest(text.encode("utf-8", "surrogatepass"))


def read(raw: bytes, kind: type[T], *, limit: int) -> T:
    """Decode canonical bytes into `kind`, or say by code what is wrong with them.

    Raises `Refused`: too-large, truncated, not-json, not-utf8, too-deep, wrong-type, unknown-field, missing-field,
    bad-value, not-canonical.
    """
    value = parse(raw, kind, limit=limit)
    if canonical(value) != raw:
        raise Refused("not-canonical", _difference(raw), hint="Send the exact bytes that were signed.")
    return value


def parse(raw: bytes, kind: type[T], *, limit: int) -> T:
    """Decode JSON into `kind` without asking for the canonical form (what a person wrote by hand: pins, drafts).

    Duplicate keys are the caller's to refuse with `reject_duplicates`.
    """
    if len(raw) > limit:
        raise Refused("too-large", f"{len(raw)} bytes, at most {limit} are read")
    try:
        value: T = _decoder(kind).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _explain(raw, error)
    return value


def reject_duplicates(raw: bytes, number: Callable[[str], Any] = float) -> Any:
    """Parse any JSON with Python's reader, made strict; `number` reads what is no integer.

    Raises `Refused`: not-canonical (a key twice in one object), too-deep, not-utf8 (half a character among them),
    not-json (NaN and Infinity among it).
    """
    if _depth(raw) > MAX_DEPTH:
        raise Refused("too-deep", f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_float=number, parse_constant=_no_number)
        if b"\\u" in raw:  # only an escape can write half a character, which is no text
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeError as error:
        raise Refused("not-utf8", "not UTF-8") from error
    except ValueError as error:
        raise Refused("not-json", "not JSON") from error
    return value


def b64(data: bytes) -> str:
    """Encode as padded standard base64 (RFC 4648 §4)."""
    return base64.b64encode(data).decode()


def unb64(text: str, *, field: str = "") -> bytes:
    """Decode padded standard base64, accepting only the one spelling that `b64` produces."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("bad-base64", "not padded standard base64", field=field) from error
    # Every group of four characters but the last has one spelling only.
    if len(text) != (len(data) + 2) // 3 * 4 or b64(data[(len(data) - 1) // 3 * 3 :]) != text[-4:]:
        raise Refused("non-canonical-base64", "base64 with stray bits: another text decodes to the same", field=field)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        why = f"the key {twice[:64]!r} appears twice in one object: two parsers may keep different ones"
        raise Refused("not-canonical", why)
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _difference(raw: bytes) -> str:
    try:
        reject_duplicates(raw)
    except Refused as refused:
        return refused.why
    return (
        "valid JSON, but not the canonical bytes (spaces, escapes, order of keys or null): "
        "it was written again by someone"
    )


def _depth(raw: bytes) -> int:
    """Count the deepest nesting of brackets outside strings, without parsing, in one pass over hostile bytes."""
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = deepest = 0
    for bracket in b"".join(unescaped.split(b'"')[::2]).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


_NO_BRACKETS = bytes(each for each in range(256) if each not in b"[]{}")

_REASONS = (
    ("unknown field", "unknown-field"),
    ("missing required field", "missing-field"),
    ("Expected `str` matching", "bad-value"),
    ("Invalid enum value", "bad-value"),
    ("of length", "bad-value"),
    (">=", "bad-value"),
    ("<=", "bad-value"),
    ("Expected `", "wrong-type"),
)


def _explain(raw: bytes, error: Exception) -> NoReturn:
    """Turn the decoder's complaint into a stable code; its words may quote the document."""
    if _depth(raw) > MAX_DEPTH:
        raise Refused("too-deep", f"nested deeper than {MAX_DEPTH} levels") from error
    if isinstance(error, UnicodeDecodeError):
        raise Refused("not-utf8", "not UTF-8") from error
    words = str(error)
    if isinstance(error, msgspec.ValidationError):
        said, _, place = words.rpartition(" - at `") if " - at `" in words else (words, "", "")
        code = next((code for mark, code in _REASONS if mark in said), "bad-value")
        raise Refused(code, said[0].lower() + said[1:], field=place.removesuffix("`").removeprefix("$.")) from error
    if "truncated" in words:
        raise Refused("truncated", "the JSON ends too early") from error
    raise Refused("not-json", "not JSON") from error
