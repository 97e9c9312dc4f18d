"""A verdict as an in-toto Statement in a DSSE envelope, for tools that know no bundles (specs/exports.md §1)."""

from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from msgspec import Struct, to_builtins

from verifier.encoding import b64, canonical, digest
from verifier.envelope import pae
from verifier.refused import Refused
from verifier.report import Report

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:tallystick:verification:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signer(Struct, frozen=True):
    """Who speaks for the verdict: an Ed25519 key and its name."""

    key: Ed25519PrivateKey
    keyid: str

    @classmethod
    def parse(cls, pem: bytes) -> "Signer":
        """Read a private key in PEM. Raises `Refused` bad-key.

        The key id is the one that securesystemslib gives such a key by default, so that its keys fit as they are.
        """
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            hint = "Make one: tally keygen signer -o FILE"
            raise Refused("bad-key", "no private key in PEM without a passphrase", hint=hint) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Refused("bad-key", "a statement is signed with an Ed25519 key; this is one of another kind")
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        named = canonical({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}})
        return cls(key, sha256(named).hexdigest())

    def seal(self, payload: bytes) -> bytes:
        """Put a payload into a signed envelope."""
        signature = {"keyid": self.keyid, "sig": b64(self.key.sign(pae(PAYLOAD_TYPE, payload)))}
        return canonical({"payload": b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]})


def statement(
    name: str, bundle: str, report: Report, *, pin: str, version: str, keys: bytes | None = None, at: int | None = None
) -> bytes:
    """Write the Statement: the bundle is its subject, the verdict its predicate, with all that it was judged by.

    `bundle` is SHA-256 of its bytes in hex, `pin` the digest of the pin, `keys` the newer key lists that were given.
    """
    predicate: dict[str, Any] = {
        "verifier": {"name": "tallystick", "version": version},
        "verdict": report.verdict,
        "findings": dict(sorted(Counter(each.code for each in report.findings).items())),
        "unlisted": report.unlisted,
        "totals": to_builtins(report.totals),
        "replay": report.replay,
        "pin": pin,
        "proved": report.proved,
        "notProved": report.not_proved,
    }
    known = {"job": report.job, "policy": report.policy, "status": report.status, "seal": report.seal, "at": _said(at)}
    known["keys"] = None if keys is None else digest(keys)
    predicate |= {title: value for title, value in known.items() if value is not None}
    return canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": bundle}}],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
    )


def _said(at: int | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
