"""Key pairs of suite `tally-1`: Ed25519 and ML-DSA-44 as ONE key, and the envelope they sign (specs/envelope.md).

Ed25519 is libsodium's: small-order and non-canonical points are refused. ML-DSA-44 is FIPS 204, pure, empty context.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache, lru_cache

import nacl.bindings as sodium
import nacl.exceptions
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from msgspec import Struct

from verifier.encoding import b64, unb64
from verifier.refused import Refused

SUITE = "tally-1"
ED25519 = "ed25519"
ML_DSA_44 = "ml-dsa-44"
ED25519_BYTES = 32
ML_DSA_44_BYTES = 1312

Sign = Callable[[bytes], bytes]


class PublicPair(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The public half of one key: base64 of 32 bytes of Ed25519 and, where the use asks for it, 1,312 of ML-DSA-44."""

    ed25519: str
    ml_dsa_44: str | None = None

    def kid(self) -> str:
        """Name the key by its content, so that a name cannot be moved to another key (specs/keys.md §1)."""
        return kid(*self.raw())

    def raw(self) -> tuple[bytes, bytes]:
        """Return both public keys as bytes, the second empty where there is none; refuses other lengths."""
        return _raw(self)


@lru_cache(maxsize=512)
def _raw(pair: PublicPair) -> tuple[bytes, bytes]:
    """Decode a pair once: every signature asks for it."""
    first = unb64(pair.ed25519, field="ed25519")
    second = unb64(pair.ml_dsa_44, field="ml_dsa_44") if pair.ml_dsa_44 is not None else b""
    if len(first) != ED25519_BYTES or (pair.ml_dsa_44 is not None and len(second) != ML_DSA_44_BYTES):
        raise Refused("bad-key", "a public key of the wrong length")
    return first, second


def kid(ed25519: bytes, ml_dsa_44: bytes) -> str:
    """Compute a key id: the first 32 hex digits of SHA-256 over the label and both public keys."""
    return hashlib.sha256(b"tally-key/1\0" + ed25519 + ml_dsa_44).hexdigest()[:32]


class KeyPair:
    """A private key of the suite. Made from two 32-byte seeds; `ml_dsa_44` signing can be replaced (vectors)."""

    def __init__(
        self, ed25519_seed: bytes, ml_dsa_44_seed: bytes | None = None, *, ml_dsa_44: Sign | None = None
    ) -> None:
        """Derive both keys; without the second seed the key signs with Ed25519 alone."""
        public, self._secret = sodium.crypto_sign_seed_keypair(ed25519_seed)
        self._ml: Sign | None = None
        second = b""
        if ml_dsa_44_seed is not None:
            self_test()
            private = mldsa.MLDSA44PrivateKey.from_seed_bytes(ml_dsa_44_seed)
            second = private.public_key().public_bytes_raw()
            self._ml = ml_dsa_44 or private.sign
        self.public = PublicPair(ed25519=b64(public), ml_dsa_44=b64(second) if second else None)
        self.raw = public, second
        self.kid = kid(public, second)

    def ed25519(self, message: bytes) -> bytes:
        """Sign with Ed25519: 64 bytes."""
        return sodium.crypto_sign(message, self._secret)[:64]

    def ml_dsa_44(self, message: bytes) -> bytes:
        """Sign with ML-DSA-44: 2,420 bytes. Raises `Refused` when this key has no such half."""
        if self._ml is None:
            raise Refused("missing-signature", "this key has no ML-DSA-44 half")
        return self._ml(message)


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Check an Ed25519 signature by libsodium's rules."""
    try:
        sodium.crypto_sign_open(signature + message, public)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return len(signature) == sodium.crypto_sign_BYTES


def verify_ml_dsa_44(public: bytes, message: bytes, signature: bytes) -> bool:
    """Check an ML-DSA-44 signature (FIPS 204, pure, empty context)."""
    self_test()
    try:
        _ml_public(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify(algorithm: str, pair: Mapping[str, bytes], message: bytes, signature: bytes) -> bool:
    """Check one signature by the algorithm that the KEY has; what the document says of itself is never asked."""
    if algorithm == ED25519:
        return verify_ed25519(pair[ED25519], message, signature)
    return verify_ml_dsa_44(pair[ML_DSA_44], message, signature)


@cache
def self_test() -> None:
    """Refuse to work without ML-DSA-44: a build that lacks it must not quietly check one signature of two."""
    try:
        key = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))
        key.public_key().verify(key.sign(SUITE.encode()), SUITE.encode())
    except UnsupportedAlgorithm as error:
        raise Refused(
            "no-ml-dsa",
            "this build of cryptography has no ML-DSA-44",
            hint="Install cryptography 50 or later from a wheel.",
        ) from error


@lru_cache(maxsize=512)
def _ml_public(public: bytes) -> mldsa.MLDSA44PublicKey:
    return mldsa.MLDSA44PublicKey.from_public_bytes(public)
