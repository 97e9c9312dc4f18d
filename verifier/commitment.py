"""Commitments: what a receipt says of a body without keeping it (specs/receipts.md §3).

A body is cut into slices; each slice is hashed with its own salt, derived from a key that only gateway and caller have.
Deleting the lane key erases the content for ever; the bundle still verifies.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

from verifier.leaf import Commitment
from verifier.merkle import root_of

LABEL = b"tally-commit/1\0"
Side = Literal["req", "sent", "recv", "dlv"]
SIDES: tuple[Side, ...] = ("req", "sent", "recv", "dlv")


def call_key(lane_key: bytes, call: str, side: Side) -> bytes:
    """Derive the key of one side of one call: what the caller gets, in place of n salts."""
    return hmac.digest(lane_key, call.encode() + b"\0" + side.encode(), "sha256")


def salt(key: bytes, index: int) -> bytes:
    """Derive the salt of one slice."""
    return hmac.digest(key, index.to_bytes(4, "big"), "sha256")


def slice_hash(salted: bytes, content: bytes) -> bytes:
    """Commit to one slice; the result is the leaf hash itself."""
    return sha256(LABEL + salted + len(content).to_bytes(8, "big") + content).digest()


def commit(key: bytes, slices: Sequence[bytes]) -> Commitment:
    """Commit to the slices of one body, in order."""
    return Commitment(
        n=len(slices), root="sha256:" + root_of(slice_hash(salt(key, i), each) for i, each in enumerate(slices)).hex()
    )
