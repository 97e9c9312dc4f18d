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

# RFC 8032 §7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_ed25519_signs_and_verifies_as_rfc_8032_says(seed: str, public: str, message: str, signature: str) -> None:
    made = KeyPair(bytes.fromhex(seed))
    assert made.public == PublicPair(ed25519=b64(bytes.fromhex(public)))
    assert made.ed25519(bytes.fromhex(message)).hex() == signature
    assert verify_ed25519(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


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
