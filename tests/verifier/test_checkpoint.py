"""Signed heads and proofs: C2SP's text, both signatures of a closing head, one form of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.refusal import refused
from tests.world import pair
from verifier.checkpoint import (
    ED25519_TYPE,
    ML_DSA_44_TYPE,
    Checkpoint,
    Proof,
    key_id,
    note_text,
    number,
    proof,
    sign_head,
    subtree_message,
)
from verifier.encoding import MAX_INT, b64, unb64
from verifier.merkle import inclusion_proof, leaf_hash, root_of
from verifier.signing import KeyPair, verify_ed25519

ORIGIN, SIZE, ROOT = "gateway.example/tally/job-1/lane-1", 7, bytes(range(32))
KEY, OTHER = pair("gateway"), pair("other")
RUNNING = sign_head(KEY, ORIGIN, SIZE, ROOT)
CLOSING = sign_head(KEY, ORIGIN, SIZE, ROOT, closing_at=1_790_000_000)

# The example of signed notes, from Go's golang.org/x/mod/sumdb/note, which C2SP signed-note specifies.
NOTE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE_LINE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


def lines(note: str) -> list[str]:
    """Take the signature lines of a note."""
    return note.rpartition("\n\n")[2].splitlines(keepends=True)


def test_the_example_of_signed_notes_verifies_under_our_key_ids() -> None:
    name, ident, key = NOTE_KEY.split("+", 2)
    public, blob = unb64(key), unb64(NOTE_LINE)
    assert public[:1] == ED25519_TYPE
    assert key_id(name, ED25519_TYPE, public[1:]).hex() == ident == blob[:4].hex()
    assert verify_ed25519(public[1:], NOTE_TEXT.encode(), blob[4:])


def test_a_running_head_is_a_signed_note_written_out() -> None:
    first, _ = KEY.public.raw()
    text = f"{ORIGIN}\n7\n{b64(ROOT)}\n"
    blob = key_id(ORIGIN, ED25519_TYPE, first) + KEY.ed25519(text.encode())
    assert f"{text}\n— {ORIGIN} {b64(blob)}\n" == RUNNING
    assert note_text(ORIGIN, SIZE, ROOT) == text
    assert verify_ed25519(first, text.encode(), blob[4:])


def test_a_closing_head_signs_the_subtree_message_with_its_time() -> None:
    assert subtree_message("a", 1, "bc", 7, ROOT) == (
        b"subtree/v1\n\0\x01a" + (1).to_bytes(8, "big") + b"\x02bc" + bytes(8) + (7).to_bytes(8, "big") + ROOT
    )
    head = Checkpoint.parse(CLOSING)
    assert head.check(KEY.public, closing=True) == 1_790_000_000
    assert [line.key_id for line in head.lines] == [
        key_id(ORIGIN, ED25519_TYPE, KEY.public.raw()[0]),
        key_id(ORIGIN, ML_DSA_44_TYPE, KEY.public.raw()[1]),
    ]


def test_a_head_reads_back() -> None:
    head = Checkpoint.parse(RUNNING)
    assert (head.origin, head.size, head.root) == (ORIGIN, SIZE, ROOT)
    assert head.check(KEY.public, closing=False) is None
    assert Checkpoint.parse(CLOSING).check(KEY.public, closing=False) == 1_790_000_000


TEXT = note_text(ORIGIN, SIZE, ROOT)
LINE = lines(RUNNING)[0]


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        TEXT + "\n",
        TEXT + LINE,
        RUNNING[:-1],
        RUNNING + "\n",
        f"{TEXT}extension\n\n{LINE}",
        f"{ORIGIN}\n7\n\n{LINE}",
        RUNNING.replace("\n7\n", "\n07\n"),
        RUNNING.replace("\n7\n", "\n-7\n"),
        RUNNING.replace("\n7\n", "\n7 \n"),
        RUNNING.replace("\n7\n", "\n\u0667\n"),
        RUNNING.replace("\n7\n", "\n" + "9" * 17 + "\n"),
        f"\n7\n{b64(ROOT)}\n\n{LINE}",
        f"{ORIGIN}\n7\n{b64(ROOT[:31])}\n\n{LINE}",
        f"{'é' * 128}\n7\n{b64(ROOT)}\n\n{LINE}",
        RUNNING.replace("— ", "- "),
        RUNNING.replace("— ", "—  "),
        f"{TEXT}\n— a+b AAAA\n",
        RUNNING + "x" * (1 << 14),
    ],
)
def test_a_note_of_another_form_is_no_checkpoint(note: str) -> None:
    with refused("bad-checkpoint"):
        Checkpoint.parse(note)


def test_the_base64_of_a_note_has_one_spelling() -> None:
    with refused("non-canonical-base64"):
        Checkpoint.parse(RUNNING.replace(b64(ROOT), b64(ROOT)[:-2] + "9="))
    with refused("bad-base64"):
        Checkpoint.parse(RUNNING.replace("=\n", "\n"))


@pytest.mark.parametrize(
    ("note", "closing", "code"),
    [
        (RUNNING, True, "missing-signature"),
        (TEXT + "\n" + lines(CLOSING)[1], False, "missing-signature"),
        (TEXT + "\n" + LINE + LINE, False, "missing-signature"),
        (TEXT + "\n" + lines(CLOSING)[1] + lines(CLOSING)[0], True, "missing-signature"),
        (CLOSING + lines(CLOSING)[1], True, "missing-signature"),
        (RUNNING.replace("\n7\n", "\n8\n"), False, "bad-signature"),
        (RUNNING.replace(ORIGIN, "gateway.example/tally/job-1/lane-2"), False, "unknown-signer"),
        (RUNNING.replace(f"— {ORIGIN}", "— somebody"), False, "unknown-signer"),
        (sign_head(OTHER, ORIGIN, SIZE, ROOT), False, "unknown-signer"),
        (RUNNING + lines(sign_head(OTHER, ORIGIN, SIZE, ROOT))[0], False, "unknown-signer"),
        (
            TEXT + "\n" + lines(CLOSING)[0] + lines(sign_head(OTHER, ORIGIN, SIZE, ROOT, closing_at=1))[1],
            True,
            "unknown-signer",
        ),
        (f"{TEXT}\n— {ORIGIN} QQ==\n", False, "unknown-signer"),
    ],
)
def test_a_head_with_other_signatures_is_refused(note: str, closing: bool, code: str) -> None:  # noqa: FBT001
    with refused(code):
        Checkpoint.parse(note).check(KEY.public, closing=closing)


def test_the_time_of_a_closing_head_is_signed() -> None:
    blob = bytearray(unb64(lines(CLOSING)[1].split()[2]))
    for position in (4, 11):
        bent = bytes(blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :])
        with refused("bad-signature"):
            Checkpoint.parse(f"{TEXT}\n{LINE}— {ORIGIN} {b64(bent)}\n").check(KEY.public, closing=True)


def test_a_key_without_a_second_half_closes_nothing() -> None:
    half = KeyPair(bytes(32))
    blob = key_id(ORIGIN, ML_DSA_44_TYPE, b"") + bytes(8 + 2420)
    note = sign_head(half, ORIGIN, SIZE, ROOT) + f"— {ORIGIN} {b64(blob)}\n"
    with refused("bad-signature"):
        Checkpoint.parse(note).check(half.public, closing=True)


LEAVES = [b"%d" % each for each in range(7)]
HASHES = [leaf_hash(each) for each in LEAVES]
HEAD = sign_head(KEY, ORIGIN, 7, root_of(HASHES))


@pytest.mark.parametrize("index", range(7))
def test_a_proof_carries_its_leaf_into_the_signed_tree(index: int) -> None:
    made = Proof.parse(proof(LEAVES[index], index, inclusion_proof(HASHES, index), HEAD))
    assert made.extra == LEAVES[index]
    assert made.check(KEY.public).size == 7
    assert Proof.parse(made.encode()) == made


def test_a_proof_of_another_leaf_index_or_head_does_not_hold() -> None:
    path = inclusion_proof(HASHES, 3)
    for text in (
        proof(LEAVES[2], 3, path, HEAD),
        proof(LEAVES[3], 2, path, HEAD),
        proof(LEAVES[3], 3, path[:-1], HEAD),
        proof(LEAVES[3], 3, path, sign_head(KEY, ORIGIN, 7, ROOT)),
    ):
        with refused("bad-proof"):
            Proof.parse(text).check(KEY.public)
    with refused("unknown-signer"):
        Proof.parse(proof(LEAVES[3], 3, path, HEAD)).check(OTHER.public)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2", "bad-proof"),
        ("extra ", "extra: ", "bad-proof"),
        ("index 3", "index three", "bad-checkpoint"),
        ("index 3", "3", "bad-proof"),
        ("index 3", "index 03", "bad-checkpoint"),
        ("extra Mw==", "extra Mx==", "non-canonical-base64"),
    ],
)
def test_a_proof_of_another_form_is_refused(old: str, new: str, code: str) -> None:
    text = proof(LEAVES[3], 3, inclusion_proof(HASHES, 3), HEAD)
    assert old in text
    with refused(code):
        Proof.parse(text.replace(old, new))
    with refused("bad-proof"):
        Proof.parse("")


@given(st.integers(0, MAX_INT))
def test_a_number_has_one_spelling(value: int) -> None:
    assert number(str(value)) == value
    with refused("bad-checkpoint"):
        number(f"0{value}")
