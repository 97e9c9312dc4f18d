"""Bodies of calls: read by one parser, refused where two parsers could differ, and written again by ourselves.

What goes upstream is encoded here from what was parsed, never the bytes received, and cut into the consecutive slices
that `begin` commits to (specs/receipts.md §3).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import msgspec

from verifier.commitment import salt, slice_hash
from verifier.encoding import MAX_DEPTH
from verifier.leaf import Commitment
from verifier.merkle import Tree
from verifier.refused import Refused

MAX_DIGITS = 34

_encoder = msgspec.json.Encoder(decimal_format="number")
_not_brackets = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+', re.DOTALL)
_innermost = re.compile(rb"\[\]|\{\}")


def read_json(raw: bytes) -> Any:
    """Parse JSON with exact decimals. Raises `Refused`: not-utf8, not-json, duplicate-key, bad-number, too-deep."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("not-utf8", "the body is not UTF-8") from error
    try:
        value = _decoder.decode(text)
        # A lone surrogate, written as an escape, is no character: it could not be encoded again.
        if "\\u" in text:
            _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise Refused("not-utf8", "the body holds half a character") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise Refused("not-json", "the body is not JSON") from error
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(raw)
    return value


def encode(value: Any) -> bytes:
    """Encode plain values and decimals as compact JSON, in the order that they have."""
    return _encoder.encode(value)


def sliced(body: Mapping[str, Any], *path: str) -> list[bytes]:
    """Encode an object and cut the list or object at `path` into its members; what lies between is slices too."""
    name, rest = path[0], path[1:]
    before, after = _around(body, name)
    inner = sliced(body[name], *rest) if rest else list(_members(body[name]))
    return _joined([before, *inner, after])


def _around(body: Mapping[str, Any], name: str) -> tuple[bytes, bytes]:
    """Encode all of an object but one member, which is written last."""
    others = encode({key: value for key, value in body.items() if key != name})[:-1]
    return others + (b"," if len(others) > 1 else b"") + encode(name) + b":", b"}"


def _members(inside: Mapping[str, Any] | Sequence[Any]) -> Iterator[bytes]:
    named = isinstance(inside, Mapping)
    yield b"{" if named else b"["
    for number, each in enumerate(inside.items() if isinstance(inside, Mapping) else inside):
        if number:
            yield b","
        yield encode(each[0]) + b":" + encode(each[1]) if named else encode(each)
    yield b"}" if named else b"]"


def _joined(slices: list[bytes]) -> list[bytes]:
    """Join the opening bracket to what stands before it, the closing one to what stands after."""
    return [slices[0] + slices[1], *slices[2:-2], slices[-2] + slices[-1]]


class Committing:
    """A commitment made slice by slice as bytes pass: nothing of the body is kept."""

    __slots__ = ("_key", "_tree")

    def __init__(self, key: bytes) -> None:
        """Start with the call key of one side."""
        self._key = key
        self._tree = Tree()

    def add(self, content: bytes) -> None:
        """Commit to the next slice."""
        self._tree.append(slice_hash(salt(self._key, self._tree.size), content))

    def commitment(self) -> Commitment:
        """Return the commitment to all slices so far."""
        return Commitment(n=self._tree.size, root="sha256:" + self._tree.root().hex())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Refused("duplicate-key", "a key appears twice in one object: two parsers may keep different ones")
    return value


def _decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise Refused("bad-number", "a number beyond every range") from error
    if len(value.as_tuple().digits) > MAX_DIGITS or abs(value.adjusted()) > MAX_DIGITS:
        raise Refused("bad-number", f"a number of more than {MAX_DIGITS} digits")
    return value


def _integer(text: str) -> int | Decimal:
    """Read an integer; one that no 64-bit reader keeps stays exact as a decimal."""
    return int(text) if len(text) < 19 else _decimal(text)  # noqa: PLR2004 - digits that always fit in 63 bits


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_decimal, parse_int=_integer, parse_constant=_constant
)


def _check_depth(raw: bytes) -> None:
    """Peel off one level of brackets at a time; what is left after the last allowed one is too deep."""
    brackets = _not_brackets.sub(b"", raw)
    for _ in range(MAX_DEPTH):
        brackets = _innermost.sub(b"", brackets)
    if brackets:
        raise _too_deep()


def _too_deep() -> Refused:
    return Refused("too-deep", f"nested deeper than {MAX_DEPTH} levels")
