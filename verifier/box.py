"""Sealed payloads: a body kept encrypted to an auditor's key (specs/disclosures.md §4).

HPKE (RFC 9180) with MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM. `info` binds a box to the commitment of its side,
which no other call or side has; the receipt commits to the box, so that nobody who passes a bundle on can change it or
leave it out.
"""

import hashlib
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from msgspec import Struct

from verifier.commitment import Side, commit
from verifier.encoding import b64, canonical, read, unb64
from verifier.leaf import Commitment
from verifier.merkle import leaf_hash, root_of
from verifier.refused import Refused
from verifier.signing import kid

MAX_BOX = (1 << 21) - 64  # a line holds it
LABEL = b"tally-box/1\0"
SEED_BYTES = 32
ML_KEM_SEED_BYTES, ML_KEM_768_BYTES, X25519_BYTES = 64, 1184, 32
PUBLIC_BYTES = ML_KEM_768_BYTES + X25519_BYTES
ENCAPSULATED_BYTES, TAG_BYTES = 1088 + X25519_BYTES, 16


class Box(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side of a call, encrypted to the auditor key with this `kid`; stands behind its receipt's disclosures."""

    auditor: str
    ciphertext: str
    side: Side

    @classmethod
    def parse(cls, raw: bytes) -> "Box":
        """Read a box's document."""
        return read(raw, cls, limit=MAX_BOX)

    def sealed(self) -> bytes:
        """Return the encapsulated key and the ciphertext behind it. Raises `Refused`: wrong-box, bad-base64."""
        sealed = unb64(self.ciphertext, field="ciphertext")
        if len(sealed) < ENCAPSULATED_BYTES + TAG_BYTES:
            raise Refused("wrong-box", "shorter than any sealed payload", field="ciphertext")
        return sealed

    @property
    def place(self) -> tuple[str, str]:
        """What boxes of one receipt are sorted by; none stands twice."""
        return self.side, self.auditor


class Opened(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a box holds: base64 of the call key of its side and of the slices."""

    key: str
    slices: list[str]


class AuditorKey:
    """A private key of use `auditor`: a 32-byte seed, expanded as X-Wing does (draft-connolly-cfrg-xwing-kem)."""

    def __init__(self, seed: bytes) -> None:
        """Derive both halves: SHAKE-256 of the seed gives 64 bytes for ML-KEM-768, then 32 for X25519."""
        if len(seed) != SEED_BYTES:
            raise Refused("bad-key", f"the seed of an auditor's key has {SEED_BYTES} bytes")
        expanded = hashlib.shake_256(seed).digest(ML_KEM_SEED_BYTES + X25519_BYTES)
        first = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:ML_KEM_SEED_BYTES])
        second = x25519.X25519PrivateKey.from_private_bytes(expanded[ML_KEM_SEED_BYTES:])
        self.seed = seed
        self.public = first.public_key().public_bytes_raw() + second.public_key().public_bytes_raw()
        self.kid = auditor_kid(self.public)
        self.hpke = MLKEM768X25519PrivateKey(first, second)


def auditor_kid(public: bytes) -> str:
    """Name an auditor's key by its 1,216 public bytes (specs/keys.md §1)."""
    return kid(public, b"")


def seal_box(public: bytes, commitment: Commitment, side: Side, key: bytes, slices: Sequence[bytes]) -> Box:
    """Encrypt one side of a call, committed to, to an auditor's public key. Raises `Refused`: bad-key, too-large."""
    plain = canonical(Opened(key=b64(key), slices=[b64(each) for each in slices]))
    recipient = public_key(public)
    try:
        sealed = _suite().encrypt(plain, recipient, info=_info(commitment, side))
    except ValueError as error:  # an X25519 point of small order
        raise Refused("bad-key", "a public key that nothing can be sealed to", field="hpke") from error
    box = Box(auditor=auditor_kid(public), ciphertext=b64(sealed), side=side)
    if len(canonical(box)) > MAX_BOX:
        raise Refused("too-large", f"a body of {sum(map(len, slices))} bytes is too large to be sealed in one box")
    return box


def commit_boxes(boxes: Iterable[Box]) -> Commitment:
    """Say in a receipt which boxes stand behind it: their documents, by side and auditor, are the leaves of a tree."""
    hashes = [leaf_hash(canonical(box)) for box in sorted(boxes, key=lambda each: each.place)]
    return Commitment(n=len(hashes), root="sha256:" + root_of(hashes).hex())


def open_box(private: AuditorKey, box: Box, commitment: Commitment) -> list[bytes]:
    """Decrypt a box and hold what it says against the receipt's commitment; return the slices, now believed.

    Raises `Refused`: wrong-recipient when the box names another key; wrong-box when it was altered, moved from another
    receipt or side, or holds something else than the receipt commits to.
    """
    if box.auditor != private.kid:
        raise Refused("wrong-recipient", f"sealed to key {box.auditor}, this is key {private.kid}", field="auditor")
    try:
        plain = _suite().decrypt(box.sealed(), private.hpke, info=_info(commitment, box.side))
    except InvalidTag as error:
        why = "the box does not open for this receipt and side: it was altered, or moved from another"
        raise Refused("wrong-box", why, field="ciphertext") from error
    try:
        opened = read(plain, Opened, limit=MAX_BOX)
        key, slices = unb64(opened.key), [unb64(each) for each in opened.slices]
    except Refused as refused:
        raise Refused("wrong-box", f"the box holds no body: {refused.why}", field="ciphertext") from refused
    if commit(key, slices) != commitment:
        raise Refused("wrong-box", "the box holds another body than the receipt commits to", field="ciphertext")
    return slices


def _suite() -> Suite:
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(commitment: Commitment, side: Side) -> bytes:
    return LABEL + bytes.fromhex(commitment.root.removeprefix("sha256:")) + b"\0" + side.encode()


def public_key(raw: bytes) -> MLKEM768X25519PublicKey:
    """Read an auditor's public key: of ML-KEM-768, then of X25519. Raises `Refused` bad-key."""
    if len(raw) != PUBLIC_BYTES:
        raise Refused("bad-key", f"an auditor's public key has {PUBLIC_BYTES} bytes", field="hpke")
    try:
        return MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(raw[:ML_KEM_768_BYTES]),
            x25519.X25519PublicKey.from_public_bytes(raw[ML_KEM_768_BYTES:]),
        )
    except ValueError as error:
        raise Refused("bad-key", "no MLKEM768-X25519 public key", field="hpke") from error
