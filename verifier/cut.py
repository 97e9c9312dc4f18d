"""A body cut again into the slices that a receipt commits to (specs/disclosures.md §5).

Whoever kept a call's body and its call key can find the cut: there are few ways to cut a body, and the commitment tells
the right one.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from verifier.commitment import commit
from verifier.encoding import reject_duplicates
from verifier.leaf import Commitment
from verifier.refused import Refused

PROOF_COMMENT = b": tally-receipt "
_blank_line = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_decoder = json.JSONDecoder()


def cut(body: bytes, key: bytes, commitment: Commitment) -> list[bytes]:
    """Cut a body until it gives the commitment. Raises `Refused` wrong-disclosure when no cut does."""
    for slices in cuts(body):
        if len(slices) == commitment.n and commit(key, slices) == commitment:
            return slices
    raise Refused(
        "wrong-disclosure",
        "neither the body as it is, nor its events, nor its members give the receipt's commitment",
        hint="Give the very bytes and the call key of that side.",
    )


def cuts(body: bytes) -> Iterator[list[bytes]]:
    """Yield each way to cut a body: whole, by events, by the members of each list or object at its end."""
    yield [body]
    ends = [0, *(found.end() for found in _blank_line.finditer(body))]
    if ends[-1] == len(body) > 0:
        events = [body[start:end] for start, end in pairwise(ends)]
        yield [each for each in events if not each.startswith(PROOF_COMMENT)]
    yield from _by_members(body)


def _by_members(body: bytes) -> Iterator[list[bytes]]:
    """Cut at the outermost container, then at the one that is its last member, and so on inward."""
    try:
        reject_duplicates(body)
    except Refused:
        return
    text = body.decode()
    at = 0
    while text[at] in "[{":
        try:
            spans, end = _members(text, at)
        except (ValueError, StopIteration, IndexError):
            return  # written with spaces: not the gateway's writing
        pieces = [text[start:stop] for start, _, stop in spans]
        joined = [part for piece in pieces for part in (",", piece)][1:]
        yield [part.encode() for part in (text[: at + 1], *joined, text[end:])]
        if not spans:
            return
        at = spans[-1][1]


def _members(text: str, at: int) -> tuple[list[tuple[int, int, int]], int]:
    """Find the members of a container: (start, start of the value, end) of each, and where the closing bracket is."""
    named, close = text[at] == "{", "}" if text[at] == "{" else "]"
    spans = []
    position = at + 1
    while text[position] != close:
        position += text[position] == ","
        start = value = position
        if named:
            value = _decoder.raw_decode(text, position)[1] + 1
        _, position = _decoder.raw_decode(text, value)
        spans.append((start, value, position))
    return spans, position
