"""Boxes: a body opens for its auditor, at its receipt, as it was committed to, and for nobody else."""

import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.refusal import refused
from tests.vectors.case import VECTORS
from verifier import box as boxes
from verifier.box import MAX_BOX, PUBLIC_BYTES, AuditorKey, Box, commit_boxes, open_box, seal_box
from verifier.commitment import SIDES, call_key, commit
from verifier.encoding import b64, canonical, unb64
from verifier.leaf import Commitment
from verifier.merkle import root_of
from verifier.signing import kid

XWING = bytes.fromhex("5c2e2f2f5e5c")  # the label of X-Wing
AUDITOR, OTHER = AuditorKey(bytes(range(32))), AuditorKey(bytes(32))
KEY = call_key(bytes(32), "call-1", "sent")
SLICES = [b"{", b'"a":1', b"}"]
COMMITMENT = commit(KEY, SLICES)
INFO = b"tally-box/1\0" + bytes.fromhex(COMMITMENT.root[7:]) + b"\0sent"
SEALED = seal_box(AUDITOR.public, COMMITMENT, "sent", KEY, SLICES)


def test_a_box_opens_for_its_auditor() -> None:
    assert open_box(AUDITOR, Box.parse(canonical(SEALED)), COMMITMENT) == SLICES
    assert SEALED.place == ("sent", AUDITOR.kid)


def test_an_auditors_key_is_named_by_its_public_bytes() -> None:
    assert len(AUDITOR.public) == PUBLIC_BYTES
    assert AUDITOR.kid == kid(AUDITOR.public, b"") == SEALED.auditor


@given(st.lists(st.binary(max_size=30), max_size=5), st.sampled_from(SIDES))
def test_what_was_sealed_comes_out(slices: list[bytes], side: boxes.Side) -> None:
    commitment = commit(KEY, slices)
    assert open_box(AUDITOR, seal_box(AUDITOR.public, commitment, side, KEY, slices), commitment) == slices


def test_a_box_for_another_key_is_named() -> None:
    with refused("wrong-recipient", "auditor"):
        open_box(OTHER, SEALED, COMMITMENT)


def test_a_box_that_only_says_that_it_is_for_this_key_does_not_open() -> None:
    with refused("wrong-box", "ciphertext"):
        open_box(OTHER, replace(SEALED, auditor=OTHER.kid), COMMITMENT)


def test_a_box_moved_to_another_receipt_or_side_does_not_open() -> None:
    with refused("wrong-box", "ciphertext"):
        open_box(AUDITOR, SEALED, commit(call_key(bytes(32), "call-2", "sent"), SLICES))
    with refused("wrong-box", "ciphertext"):
        open_box(AUDITOR, replace(SEALED, side="req"), COMMITMENT)


@pytest.mark.parametrize("at", [0, 1087, 1088, 1119, 1120, -1])
def test_a_box_with_one_changed_bit_does_not_open(at: int) -> None:
    sealed = bytearray(unb64(SEALED.ciphertext))
    sealed[at] ^= 1
    with refused("wrong-box", "ciphertext"):
        open_box(AUDITOR, replace(SEALED, ciphertext=b64(bytes(sealed))), COMMITMENT)


def test_a_box_that_is_cut_short_is_refused() -> None:
    with refused("wrong-box", "ciphertext"):
        replace(SEALED, ciphertext=b64(unb64(SEALED.ciphertext)[:1135])).sealed()
    with refused("bad-base64", "ciphertext"):
        replace(SEALED, ciphertext="*").sealed()


def test_a_box_with_another_body_than_the_receipts_is_refused() -> None:
    for slices in ([b"{", b'"a":2', b"}"], [b'{"a":1', b"}"], []):
        with refused("wrong-box", "ciphertext"):
            open_box(AUDITOR, seal_box(AUDITOR.public, COMMITMENT, "sent", KEY, slices), COMMITMENT)
    with refused("wrong-box", "ciphertext"):
        open_box(AUDITOR, seal_box(AUDITOR.public, COMMITMENT, "sent", bytes(32), SLICES), COMMITMENT)


@pytest.mark.parametrize(
    "plain", [b"", b"not json", b'{"key":"","slices":[],"x":1}', b'{"key":"*","slices":[]}', b'{"key": "","slices":[]}']
)
def test_a_box_that_holds_no_body_is_refused(plain: bytes) -> None:
    public = boxes.public_key(AUDITOR.public)
    sealed = boxes._suite().encrypt(plain, public, info=INFO)
    with refused("wrong-box", "ciphertext"):
        open_box(AUDITOR, replace(SEALED, ciphertext=b64(sealed)), COMMITMENT)


@pytest.mark.parametrize(
    "public",
    [b"", AUDITOR.public[:-1], AUDITOR.public + b"\0", b"\xff" * PUBLIC_BYTES, AUDITOR.public[:1184] + bytes(32)],
    ids=["empty", "short", "long", "modulus", "small order"],
)
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    with refused("bad-key", "hpke"):
        seal_box(public, COMMITMENT, "sent", KEY, SLICES)


def test_a_seed_has_32_bytes() -> None:
    with refused("bad-key"):
        AuditorKey(bytes(31))


def test_a_body_that_no_line_holds_is_not_sealed() -> None:
    with refused("too-large"):
        seal_box(AUDITOR.public, COMMITMENT, "sent", KEY, [bytes(MAX_BOX // 16 * 9)])
    with refused("too-large"):
        Box.parse(b" " * (MAX_BOX + 1))


def test_a_key_is_expanded_as_the_first_vector_of_x_wing_says() -> None:
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public = AuditorKey(bytes.fromhex(seed)).public.hex()
    assert public.startswith("e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5")
    assert public.endswith("859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534")


def written_out(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open by the formulas: the combiner of X-Wing, then RFC 9180 §5.1 and §5.2 with HKDF-SHA256 and AES-256-GCM."""
    expanded = hashlib.shake_256(seed).digest(96)
    first, second, rest = sealed[:1088], sealed[1088:1120], sealed[1120:]
    ours = X25519PrivateKey.from_private_bytes(expanded[64:])
    inner = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(first)
    outer = ours.exchange(X25519PublicKey.from_public_bytes(second))
    shared = hashlib.sha3_256(inner + outer + second + ours.public_key().public_bytes_raw() + XWING).digest()
    suite = b"HPKE" + (0x647A).to_bytes(2, "big") + (1).to_bytes(2, "big") + (2).to_bytes(2, "big")

    def extract(salt: bytes, label: bytes, content: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + content, "sha256")

    def expand(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
        said = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return hmac.digest(secret, said + b"\1", "sha256")[:length]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    nonce = expand(secret, b"base_nonce", context, 12)
    return AESGCM(expand(secret, b"key", context, 32)).decrypt(nonce, rest, None)


def test_the_frozen_box_opens_by_the_formulas_written_out() -> None:
    frozen = json.loads((VECTORS / "frozen" / "box.json").read_bytes())
    sealed = unb64(frozen["box"]["ciphertext"])
    info = b"tally-box/1\0" + bytes.fromhex(frozen["commitment"]["root"][7:]) + b"\0sent"
    plain = json.loads(written_out(bytes.fromhex(frozen["seed"]), sealed, info))
    assert [unb64(each).hex() for each in plain["slices"]] == frozen["slices"]


def test_the_frozen_box_opens_as_it_always_did() -> None:
    frozen = json.loads((VECTORS / "frozen" / "box.json").read_bytes())
    auditor = AuditorKey(bytes.fromhex(frozen["seed"]))
    assert auditor.public.hex() == frozen["public"]
    commitment = Commitment(**frozen["commitment"])
    assert [each.hex() for each in open_box(auditor, Box(**frozen["box"]), commitment)] == frozen["slices"]
    with refused("wrong-box", "ciphertext"):
        open_box(auditor, Box(**frozen["forged"]), commitment)


def test_a_receipt_commits_to_the_documents_of_its_boxes_in_their_order() -> None:
    made = [replace(SEALED, side="req"), SEALED, replace(SEALED, auditor="f" * 32)]
    root = root_of(hashlib.sha256(b"\0" + canonical(each)).digest() for each in made)
    assert commit_boxes(reversed(made)) == Commitment(n=3, root="sha256:" + root.hex())
