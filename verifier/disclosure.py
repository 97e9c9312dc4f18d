"""Disclosures: one slice of one body, shown to an auditor with its salt and its place (specs/disclosures.md).

A disclosure stands on a line of its own behind the receipt whose commitment it opens. Nobody signs it: the commitment
in the receipt, which the seal covers, is what it is held against.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verifier.commitment import Side

MAX_DISCLOSURE = 1 << 20
MAX_PATH = 20


class Disclosure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Slice `index` of one side of a call: base64 of its content, of its salt, and of its audit path (RFC 9162)."""

    content: str
    index: Annotated[int, Meta(ge=0, le=1 << 20)]
    path: Annotated[list[str], Meta(max_length=MAX_PATH)]
    salt: str
    side: Side
