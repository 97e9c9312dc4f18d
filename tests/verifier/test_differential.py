"""Ours against what others wrote: the same inputs, the same answer, from fixed seeds.

`rfc8785` writes JSON, `securesystemslib` opens envelopes, `dilithium-py` is FIPS 204 in plain Python, `cryptography`
(OpenSSL) and PyNaCl (libsodium) sign with Ed25519, PyJWT reads tokens. Where two rules differ by intent, ours is the
stricter one, and the test says in which cases.
"""

import base64
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from dilithium_py.ml_dsa import ML_DSA_44
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from nacl.signing import SigningKey
from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, Key, Signature, SSlibKey

from receipts.tokens import BadToken, check_time, read_token
from scope.mint import encode
from tests.refusal import refused
from tests.world import GATEWAY, SCOPE, World, key, pair
from verifier.encoding import MAX_INT, b64, canonical, read
from verifier.envelope import KINDS, Envelope, pae, payload_type, seal_up
from verifier.grant import Token, authorization_details
from verifier.keys import Trust
from verifier.signing import KeyPair, PublicPair, verify_ed25519, verify_ml_dsa_44

# The canonical form ---------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True)
scalars = st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.text(max_size=12)
values = st.recursive(
    scalars, lambda part: st.lists(part, max_size=4) | st.dictionaries(names, part, max_size=4), max_leaves=12
)


@settings(max_examples=600)
@given(values)
def test_the_canonical_form_is_that_of_rfc8785_byte_for_byte(value: Any) -> None:
    raw = canonical(value)
    assert raw == rfc8785.dumps(value)
    assert read(raw, object, limit=1 << 20) == value


@settings(max_examples=400)
@given(values, st.integers(0, 5), st.booleans())
def test_bytes_that_rfc8785_would_not_write_are_refused(value: Any, spaces: int, escaped: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever another writer makes of a value, we read it only where it is the one form."""
    raw = json.dumps(value, indent=spaces or None, ensure_ascii=escaped, sort_keys=not escaped).encode(
        "utf-8", "surrogatepass"
    )
    if raw == rfc8785.dumps(value):
        assert read(raw, object, limit=1 << 20) == value
    else:
        with refused("not-canonical"):
            read(raw, object, limit=1 << 20)


# Envelopes ------------------------------------------------------------------------------------------------------------


class PlainKey(Key):
    """A key of securesystemslib for pure ML-DSA-44, by the implementation in plain Python.

    Its own ML-DSA signs another message than the payload's encoding, with a label of TUF's before it.
    """

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "PlainKey":
        return cls(keyid, "ml-dsa-44", "pure", key_dict)

    def to_dict(self) -> dict[str, Any]:
        return self.keyval

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        if not _plain(bytes.fromhex(self.keyval["public"]), data, bytes.fromhex(signature.signature)):
            raise UnverifiedSignatureError


def theirs(public: PublicPair, kid: str) -> list[Key]:
    """Write both halves of a pair as keys of securesystemslib."""
    first, second = public.raw()
    found: list[Key] = [SSlibKey(f"{kid}/ed25519", "ed25519", "ed25519", {"public": first.hex()})]
    return [*found, PlainKey.from_dict(f"{kid}/ml-dsa-44", {"public": second.hex()})] if second else found


AUTHOR, STRANGER = pair("author"), pair("stranger")
KINDS_OF_BOTH = [kind for kind, (_, both) in KINDS.items() if both]


@settings(max_examples=300)
@given(st.text(max_size=40), st.binary(max_size=200))
def test_the_bytes_that_are_signed_are_those_of_securesystemslib(kind: str, payload: bytes) -> None:
    assert pae(kind, payload) == Dsse(payload, kind, {}).pae()


@pytest.mark.parametrize("kind", KINDS)
def test_securesystemslib_verifies_our_envelopes_both_signatures(kind: str) -> None:
    raw = seal_up(kind, b'{"a":1}', AUTHOR)
    wanted = theirs(AUTHOR.public, AUTHOR.kid)[: 2 if KINDS[kind][1] else 1]
    envelope = Dsse.from_dict(json.loads(raw))
    assert set(envelope.verify(wanted, threshold=len(wanted))) == {each.keyid for each in wanted}
    assert envelope.payload == Envelope.parse(raw, kind).content()
    with pytest.raises(VerificationError):
        envelope.verify(theirs(STRANGER.public, AUTHOR.kid), threshold=1)


@settings(max_examples=60)
@given(st.sampled_from(KINDS_OF_BOTH), st.binary(max_size=60), st.data())
def test_both_refuse_an_envelope_whose_payload_type_or_signature_changed(
    kind: str, payload: bytes, data: st.DataObject
) -> None:
    fields = json.loads(seal_up(kind, payload, AUTHOR))
    what = data.draw(st.sampled_from(["payload", "payloadType", "ed25519", "ml-dsa-44"]))
    if what == "payload":
        fields["payload"] = b64(payload + b"x")
    elif what == "payloadType":
        fields["payloadType"] = kind_of = payload_type(data.draw(st.sampled_from(sorted(set(KINDS_OF_BOTH) - {kind}))))
        kind = kind_of.removeprefix("application/vnd.tallystick.").removesuffix(".v1+json")
    else:
        (signature,) = (each for each in fields["signatures"] if each["keyid"].endswith(what))
        bent = bytearray(base64.b64decode(signature["sig"]))
        bent[data.draw(st.integers(0, len(bent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        signature["sig"] = b64(bytes(bent))
    keys = theirs(AUTHOR.public, AUTHOR.kid)
    with refused("bad-signature"):
        Envelope.parse(canonical(fields), kind).open(kind, {AUTHOR.kid: AUTHOR.public})
    with pytest.raises(VerificationError):
        Dsse.from_dict(fields).verify(keys, threshold=2)


@settings(max_examples=100)
@given(
    st.sampled_from([kind for kind, (_, both) in KINDS.items() if not both]),
    st.binary(max_size=60),
    st.binary(min_size=32, max_size=32),
)
def test_we_open_what_securesystemslib_signed(kind: str, payload: bytes, seed: bytes) -> None:
    signer = CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))
    public = PublicPair(ed25519=b64(bytes.fromhex(signer.public_key.keyval["public"])))
    envelope = Dsse(payload, payload_type(kind), {})
    made = envelope.sign(signer)
    raw = canonical(
        {
            "payload": b64(payload),
            "payloadType": payload_type(kind),
            "signatures": [{"keyid": f"{public.kid()}/ed25519", "sig": b64(bytes.fromhex(made.signature))}],
        }
    )
    assert Envelope.parse(raw, kind).open(kind, {public.kid(): public}).payload == payload


# Signatures -----------------------------------------------------------------------------------------------------------


@cache
def ml_dsa(seed: int) -> tuple[bytes, bytes, KeyPair]:
    """Derive one key twice: in plain Python (public, secret), and as ours."""
    public, secret = ML_DSA_44.key_derive(seed.to_bytes(32, "big"))
    return public, secret, KeyPair(bytes(32), seed.to_bytes(32, "big"))


@settings(max_examples=40)
@given(st.integers(0, 7), st.binary(max_size=100))
def test_ml_dsa_44_and_plain_python_verify_each_others_signatures(seed: int, message: bytes) -> None:
    public, secret, ours = ml_dsa(seed)
    assert ours.public.raw()[1] == public
    assert ML_DSA_44.verify(public, message, ours.ml_dsa_44(message))
    for deterministic in (True, False):
        assert verify_ml_dsa_44(public, message, ML_DSA_44.sign(secret, message, deterministic=deterministic))


@settings(max_examples=80)
@given(st.integers(0, 7), st.binary(min_size=1, max_size=40), st.data())
def test_ml_dsa_44_and_plain_python_refuse_the_same_bent_signatures(
    seed: int, message: bytes, data: st.DataObject
) -> None:
    public, secret, _ = ml_dsa(seed)
    bent = bytearray(ML_DSA_44.sign(secret, message, deterministic=True))
    way = data.draw(st.sampled_from(["bit", "hint", "cut", "longer", "message", "context", "key"]))
    if way in ("bit", "hint"):
        first = len(bent) - 84 if way == "hint" else 0  # the hint ends a signature, and has forms that say the same
        bent[data.draw(st.integers(first, len(bent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    signature = {"cut": bytes(bent[:-1]), "longer": bytes(bent) + b"\0"}.get(way, bytes(bent))
    if way == "context":
        signature = ML_DSA_44.sign(secret, message, b"c", deterministic=True)
    if way == "message":
        message += b"\0"
    if way == "key":
        public = ml_dsa((seed + 1) % 8)[0]
    assert not verify_ml_dsa_44(public, message, signature)
    assert not _plain(public, message, signature)


def _plain(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        return bool(ML_DSA_44.verify(public, message, signature))
    except ValueError:
        return False


@settings(max_examples=300)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.data())
def test_ed25519_is_that_of_openssl_and_of_libsodium_on_what_they_sign(
    seed: bytes, message: bytes, data: st.DataObject
) -> None:
    ours, openssl, sodium = KeyPair(seed), Ed25519PrivateKey.from_private_bytes(seed), SigningKey(seed)
    public = ours.raw[0]
    assert public == openssl.public_key().public_bytes_raw() == bytes(sodium.verify_key)
    assert ours.ed25519(message) == openssl.sign(message) == sodium.sign(message).signature
    assert verify_ed25519(public, message, openssl.sign(message))
    bent = bytearray(openssl.sign(message))
    bent[data.draw(st.integers(0, 63))] ^= 1 << data.draw(st.integers(0, 7))
    assert not verify_ed25519(public, message, bytes(bent))
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(bytes(bent), message)


# Tokens ---------------------------------------------------------------------------------------------------------------

STAND = int(time.time())  # PyJWT has no other clock: every offset is hours, far more than a run takes
WORLD = World()
LISTED = replace(WORLD.listed, keys=[key("token", "token", SCOPE, not_before=0, not_after=MAX_INT)])
TOKENS = Trust.establish(WORLD.pin(), seal_up("keys", canonical(LISTED), pair("root")))
HONEST = Token(
    iss=SCOPE, sub="agent-1", aud=GATEWAY, client_id="orchestrator-1", iat=STAND - 7200, nbf=STAND - 7200,
    exp=STAND + 7200, jti="token-1", txn="job-1", policy_hash=WORLD.policy_digest,
    scope_hash=WORLD.grant.scope.hash(), grant=WORLD.grant_digest,
    authorization_details=authorization_details(WORLD.grant.scope),
)  # fmt: skip


def ours_says(token: str) -> str | None:
    """Read a token as the gateway does; None when it is accepted."""
    try:
        check_time(read_token(token, TOKENS, issuer=SCOPE, audience=GATEWAY, now=STAND * 1_000_000), STAND * 1_000_000)
    except BadToken as bad:
        return bad.code
    return None


def pyjwt_accepts(token: str) -> bool:
    """Read it as a resource server built on PyJWT would, by the same pinned key."""
    public = Ed25519PublicKey.from_public_bytes(pair("token").raw[0])
    try:
        jwt.decode(
            token, public, algorithms=["EdDSA"], audience=GATEWAY, issuer=SCOPE,
            options={"require": ["exp", "iat", "nbf", "aud", "iss", "sub", "jti"]},
        )  # fmt: skip
    except jwt.PyJWTError:
        return False
    return True


def compact(header: Any, claims: Any, sign: Callable[[bytes], bytes]) -> str:
    """Write a JWS whatever it says."""
    parts = [
        base64.urlsafe_b64encode(each if isinstance(each, bytes) else json.dumps(each).encode()).rstrip(b"=")
        for each in (header, claims)
    ]
    signed = b".".join(parts)
    return (signed + b"." + base64.urlsafe_b64encode(sign(signed)).rstrip(b"=")).decode()


HEADER = {"alg": "EdDSA", "kid": pair("token").kid, "typ": "at+jwt"}
CLAIMS = json.loads(canonical(HONEST))


def test_a_token_that_scope_writes_is_read_alike_by_pyjwt_and_by_the_gateway() -> None:
    token = encode(HONEST, pair("token"))
    assert ours_says(token) is None
    assert pyjwt_accepts(token)
    assert jwt.get_unverified_header(token) == HEADER
    public = Ed25519PublicKey.from_public_bytes(pair("token").raw[0])
    assert jwt.decode(token, public, algorithms=["EdDSA"], audience=GATEWAY, issuer=SCOPE) == CLAIMS


def test_a_token_that_pyjwt_signs_is_accepted_by_the_gateway() -> None:
    private = Ed25519PrivateKey.from_private_bytes(pair("token")._secret[:32])
    headers = {"kid": pair("token").kid, "typ": "at+jwt"}
    assert ours_says(jwt.encode(CLAIMS, private, algorithm="EdDSA", headers=headers)) is None


ODD_TIME = st.sampled_from(
    [STAND - 100_000, STAND - 10_000, STAND + 10_000, STAND + 100_000, 0, -1, "x", None, 1.5, True, [], 2**70]
)
ODD_NAME = st.sampled_from([GATEWAY, SCOPE, "https://other.example", [GATEWAY], ["https://other.example"], "", None, 7])
CHANGES = st.fixed_dictionaries(
    {},
    optional={"exp": ODD_TIME, "nbf": ODD_TIME, "iat": ODD_TIME, "aud": ODD_NAME, "iss": ODD_NAME, "sub": ODD_NAME,
              "jti": ODD_NAME},
)  # fmt: skip


@settings(max_examples=1000)
@given(CHANGES, st.sets(st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti"]), max_size=1))
def test_what_pyjwt_refuses_the_gateway_refuses(changes: dict[str, Any], dropped: set[str]) -> None:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if name not in dropped}
    token = compact(HEADER, claims, pair("token").ed25519)
    if not pyjwt_accepts(token):
        assert ours_says(token) is not None
    if claims == CLAIMS:
        assert ours_says(token) is None


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"alg": "none"}, "bad-token"),
        ({"alg": "HS256"}, "bad-token"),
        ({"alg": "ES256"}, "bad-token"),
        ({"alg": "eddsa"}, "bad-token"),
        ({"alg": ["EdDSA"]}, "bad-token"),
        ({"alg": None}, "bad-token"),
        ({"crit": ["exp"]}, "bad-token"),
        ({"b64": False, "crit": ["b64"]}, "bad-token"),
        ({"kid": pair("stranger").kid}, "unknown-signer"),
        ({"typ": "JWT"}, "bad-token"),
        ({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}}, "bad-token"),
    ],
)
def test_a_header_of_another_algorithm_or_key_is_refused_by_both_or_by_us(header: dict[str, Any], code: str) -> None:
    """PyJWT looks at neither `kid`, `typ` nor `jwk` here, as its caller must; of the algorithm both are sure."""
    token = compact({**HEADER, **header}, CLAIMS, pair("token").ed25519)
    assert ours_says(token) == code
    if header.keys() & {"alg", "crit"}:
        assert not pyjwt_accepts(token)


@settings(max_examples=300)
@given(st.data())
def test_a_bent_token_is_refused_by_both(data: st.DataObject) -> None:
    token = bytearray(encode(HONEST, pair("token")).encode())
    at = data.draw(st.integers(0, len(token) - 1))
    token[at] ^= 1 << data.draw(st.integers(0, 6))
    bent = token.decode()
    assert ours_says(bent) is not None
    assert not pyjwt_accepts(bent) or _same(bent)


def _same(bent: str) -> bool:
    """Tell whether only the last, unused bits of base64url differ, which PyJWT lets pass and we do not."""
    honest = encode(HONEST, pair("token"))
    return [base64.urlsafe_b64decode(each + "==") for each in bent.split(".")] == [
        base64.urlsafe_b64decode(each + "==") for each in honest.split(".")
    ]
