"""Envelopes: form, and that a signature counts only for the key, kind and bytes that it was made for."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.refusal import refused
from tests.world import pair
from verifier.encoding import b64, canonical
from verifier.envelope import KINDS, MAX_SIGNATURES, Envelope, Signature, pae, payload_type, seal_up
from verifier.signing import KeyPair

A, B = pair("a"), pair("b")
KEYS = {A.kid: A.public, B.kid: B.public}


def envelope(**changes: Any) -> bytes:
    """Write an honest envelope of a policy, with some fields replaced."""
    made = {
        "payload": b64(b"{}"),
        "payloadType": payload_type("policy"),
        "signatures": [{"keyid": f"{A.kid}/ed25519", "sig": b64(bytes(64))}],
    }
    return canonical(made | changes)


def test_pae_is_the_example_of_the_dsse_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_the_pae_counts_bytes_not_characters() -> None:
    assert pae("t", "é".encode()) == b"DSSEv1 1 t 2 \xc3\xa9"


@given(st.text("ab 1", max_size=6), st.binary(max_size=6), st.text("ab 1", max_size=6), st.binary(max_size=6))
def test_two_documents_never_share_a_pae(one: str, first: bytes, two: str, second: bytes) -> None:
    assert (pae(one, first) == pae(two, second)) == ((one, first) == (two, second))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sealed_up_opens_with_its_signers(kind: str) -> None:
    raw = seal_up(kind, b'{"a":1}', A, B)
    signed = Envelope.parse(raw, kind).open(kind, KEYS)
    assert signed.payload == b'{"a":1}'
    assert signed.kids == {A.kid, B.kid}
    assert Envelope.parse(raw, kind).encode() == raw


def test_another_signature_does_not_change_the_address_and_keeps_the_first() -> None:
    one = Envelope.parse(seal_up("policy", b"{}", A), "policy")
    two = one.signed_by("policy", A, B)
    assert set(one.signatures) < set(two.signatures)
    assert two.open("policy", KEYS).digest == one.open("policy", KEYS).digest


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (envelope(payloadType=payload_type("grant")), "wrong-kind", "payloadType"),
        (envelope(payload="QR=="), "non-canonical-base64", "payload"),
        (envelope(payload="QQ"), "bad-base64", "payload"),
        (envelope(signatures=[{"keyid": "a", "sig": "QR=="}]), "non-canonical-base64", "sig"),
        (envelope(signatures=[{"keyid": "b", "sig": ""}, {"keyid": "a", "sig": ""}]), "bad-signatures", "signatures"),
        (envelope(signatures=[{"keyid": "a", "sig": ""}] * 2), "bad-signatures", "signatures"),
        (
            envelope(signatures=[{"keyid": f"{each:03}", "sig": ""} for each in range(MAX_SIGNATURES + 1)]),
            "too-large",
            "signatures",
        ),
        (envelope(payload=b64(bytes((1 << 18) + 1))), "too-large", "payload"),
        (envelope(payload="A" * (1 << 20)), "too-large", None),
        (envelope(x=1), "unknown-field", None),
        (envelope(signatures=[{"keyid": "a", "sig": "", "alg": "none"}]), "unknown-field", None),
        (b" " + envelope(), "not-canonical", None),
        (b"{}", "missing-field", None),
    ],
)
def test_an_envelope_of_another_form_is_refused(raw: bytes, code: str, field: str | None) -> None:
    with refused(code, field):
        Envelope.parse(raw, "policy")


def test_a_bare_payload_is_no_envelope() -> None:
    with refused("unknown-field"):
        Envelope.parse(b'{"policy_name":"x"}', "policy")


def _open(signatures: list[Signature], kind: str = "policy", payload: bytes = b"{}") -> None:
    ordered = sorted(signatures, key=lambda each: each.keyid)
    raw = Envelope(b64(payload), payload_type(kind), ordered).encode()
    Envelope.parse(raw, kind).open(kind, KEYS)


def _signatures(kind: str, payload: bytes, key: KeyPair) -> list[Signature]:
    return Envelope.parse(seal_up(kind, payload, key), kind).signatures


def test_no_signature_at_all_is_refused() -> None:
    with refused("missing-signature"):
        _open([])


@pytest.mark.parametrize("kept", [0, 1])
def test_one_of_two_signatures_stripped_is_refused(kept: int) -> None:
    with refused("missing-signature"):
        _open([_signatures("policy", b"{}", A)[kept]])


def test_two_halves_by_different_keys_are_no_pair() -> None:
    with refused("missing-signature"):
        _open([_signatures("policy", b"{}", A)[0], _signatures("policy", b"{}", B)[1]])


def test_a_second_signer_who_signed_by_half_spoils_the_first() -> None:
    with refused("missing-signature"):
        _open([*_signatures("policy", b"{}", A), _signatures("policy", b"{}", B)[0]])


def test_a_kind_that_asks_for_one_signature_gets_exactly_one() -> None:
    second = b64(A.ml_dsa_44(pae(payload_type("revocation"), b"{}")))
    _open(_signatures("revocation", b"{}", A), kind="revocation")
    with refused("missing-signature"):
        _open([*_signatures("revocation", b"{}", A), Signature(f"{A.kid}/ml-dsa-44", second)], kind="revocation")


def test_a_signature_of_another_kind_of_document_does_not_fit() -> None:
    with refused("bad-signature"):
        _open(_signatures("grant", b"{}", A))


def test_a_signature_of_another_payload_does_not_fit() -> None:
    with refused("bad-signature"):
        _open(_signatures("policy", b"{ }", A))


def test_a_signer_whom_nobody_names_is_refused_although_another_is_good() -> None:
    with refused("unknown-signer"):
        _open([*_signatures("policy", b"{}", A), *_signatures("policy", b"{}", pair("stranger"))])


@pytest.mark.parametrize("algorithm", ["none", "hs256", "", "ED25519", "ed25519/x"])
def test_the_document_does_not_choose_its_algorithm(algorithm: str) -> None:
    good = _signatures("policy", b"{}", A)
    with refused("unknown-signer"):
        _open([good[1], Signature(f"{A.kid}/{algorithm}", good[0].sig)])


def test_a_key_without_a_second_half_has_no_second_signature() -> None:
    half = KeyPair(bytes(32))
    raw = Envelope(b64(b"{}"), payload_type("latest"), [Signature(f"{half.kid}/ml-dsa-44", b64(bytes(2420)))]).encode()
    with refused("unknown-signer"):
        Envelope.parse(raw, "latest").open("latest", {half.kid: half.public})


def test_base64_of_the_envelope_is_read_by_python_alike() -> None:
    raw = seal_up("policy", bytes(range(256)), A)
    assert base64.b64decode(Envelope.parse(raw, "policy").payload, validate=True) == bytes(range(256))
