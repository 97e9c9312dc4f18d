"""Key pairs of the suite: both halves, one rule for Ed25519, nothing without ML-DSA-44."""

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.refusal import refused
from tests.world import pair
from verifier import signing
from verifier.encoding import b64
from verifier.signing import KeyPair, PublicPair, kid, self_test, verify_ed25519, verify_ml_dsa_44


def test_a_signature_of_another_length_message_or_key_does_not_verify() -> None:
    made = pair("somebody")
    first, second = made.public.raw()
    ed, ml = made.ed25519(b"message"), made.ml_dsa_44(b"message")
    assert verify_ed25519(first, b"message", ed)
    assert verify_ml_dsa_44(second, b"message", ml)
    for signature in (ed[:-1], ed + b"m", ed + b"\0", b"", ed[::-1]):
        assert not verify_ed25519(first, b"message", signature)
    assert not verify_ed25519(first, b"essage", ed + b"m")
    assert not verify_ed25519(first[:-1], b"message", ed)
    for signature in (ml[:-1], ml + b"\0", b"", ml[::-1]):
        assert not verify_ml_dsa_44(second, b"message", signature)
    assert not verify_ml_dsa_44(second, b"massage", ml)
    assert not verify_ml_dsa_44(second[:-1], b"message", ml)


def test_a_message_signed_under_another_context_does_not_verify() -> None:
    private = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    public = private.public_key().public_bytes_raw()
    assert verify_ml_dsa_44(public, b"message", private.sign(b"message"))
    assert not verify_ml_dsa_44(public, b"message", private.sign(b"message", b"context"))


def test_a_key_signs_what_another_library_verifies_and_the_other_way_round() -> None:
    made = KeyPair(bytes(range(32)))
    other = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert other.public_key().public_bytes_raw() == made.public.raw()[0]
    other.public_key().verify(made.ed25519(b"message"), b"message")
    token = jwt.encode({"sub": "agent-1"}, other, algorithm="EdDSA")
    message, _, signature = token.rpartition(".")
    assert verify_ed25519(made.public.raw()[0], message.encode(), jwt.utils.base64url_decode(signature))


def test_a_kid_is_made_of_both_halves_and_names_one_key() -> None:
    first, second = pair("somebody").public.raw()
    assert pair("somebody").public.kid() == pair("somebody").kid == kid(first, second)
    assert kid(first, b"") != kid(first, second) != kid(first, second[::-1])


def test_a_key_without_its_second_half_does_not_sign_with_it() -> None:
    with refused("missing-signature"):
        KeyPair(bytes(32)).ml_dsa_44(b"message")


@pytest.mark.parametrize(("first", "second"), [(31, None), (33, None), (32, 1311), (32, 0), (0, 1312)])
def test_a_public_key_of_another_length_is_refused(first: int, second: int | None) -> None:
    public = PublicPair(ed25519=b64(bytes(first)), ml_dsa_44=None if second is None else b64(bytes(second)))
    with refused("bad-key"):
        public.raw()


def test_without_ml_dsa_44_nothing_is_checked_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without it raises when a key is loaded; one signature of two must never be enough."""

    def missing(_: bytes) -> None:
        raise UnsupportedAlgorithm("no ML-DSA here")

    monkeypatch.setattr(signing.mldsa.MLDSA44PrivateKey, "from_seed_bytes", missing)
    self_test.cache_clear()
    try:
        with refused("no-ml-dsa"):
            verify_ml_dsa_44(bytes(1312), b"message", bytes(2420))
        with refused("no-ml-dsa"):
            KeyPair(bytes(32), bytes(32))
    finally:
        monkeypatch.undo()
        self_test()
