"""Sealed payloads: a body kept encrypted to an auditor's key (specs/disclosures.md).

HPKE (RFC 9180) with MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM; `info` binds the box to its receipt and side.
"""

from msgspec import Struct

from verifier.commitment import Side

MAX_BOX = 1 << 21


class Box(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side of a call, encrypted to the auditor key with this `kid`; stands behind its receipt's disclosures."""

    auditor: str
    ciphertext: str
    side: Side
