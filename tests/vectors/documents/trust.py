"""Key lists, pins, envelopes."""

import json
from collections.abc import Callable
from typing import Any

from tests.vectors.bundles.make import bent
from tests.vectors.case import PASS
from tests.vectors.documents.make import ZERO, Make, rows
from tests.world import NOW, World, key, pair, root
from verifier.box import AuditorKey
from verifier.encoding import b64, canonical
from verifier.envelope import seal_up
from verifier.keys import Key
from verifier.policy import DAY

AUDITOR_KEY = AuditorKey(bytes(range(32)))
AUDITOR = Key(
    kid=AUDITOR_KEY.kid, use="auditor", owner="auditor-1", hpke=b64(AUDITOR_KEY.public),
    not_before=NOW - DAY, not_after=NOW + 365 * DAY,
)  # fmt: skip


def keys(change: Callable[[dict[str, Any]], Any], signer: str = "root") -> Make:
    """Bend the honest key list and have a root sign it."""
    return lambda: seal_up("keys", bent(World().keys_payload, change), pair(signer))


def _half(use: str = "policy") -> Make:
    """List a key that has only its Ed25519 half."""
    short = key("author", use, "security-team", ml_dsa_44=None)
    short_kid = short.pair().kid()
    fields = json.loads(canonical(short)) | {"kid": short_kid}
    return keys(lambda it: it.update(keys=[fields]))


def with_auditor(**changes: Any) -> Make:
    """List an auditor's key besides."""
    fields = json.loads(canonical(AUDITOR)) | changes
    return keys(lambda it: it["keys"].append(fields))


KEYS = rows(
    ("honest", PASS, "signed by the pinned root", keys(lambda _: None)),
    ("attacker", "UNTRUSTED unknown-root", "signed by somebody else's root", keys(lambda _: None, "attacker")),
    (
        "short-key",
        "MALFORMED bad-key",
        "a public key of 31 bytes",
        keys(lambda it: it["keys"][0].update(ed25519="AAAA")),
    ),
    ("one-half", "MALFORMED bad-keys", "a policy key without its ML-DSA-44 half", _half()),
    (
        "key-twice",
        "MALFORMED bad-keys",
        "one key, two uses",
        keys(lambda it: it["keys"].append({**it["keys"][0], "use": "seal"})),
    ),
    (
        "moved-name",
        "MALFORMED bad-keys",
        "a name that is not its key's",
        keys(lambda it: it["keys"][0].update(kid="0" * 32)),
    ),
    (
        "revoked-without-reason",
        "MALFORMED bad-keys",
        "a revocation has a time and a reason",
        keys(lambda it: it["keys"][0].update(revoked_at=NOW)),
    ),
    (
        "key-backwards",
        "MALFORMED bad-keys",
        "a key that ends before it begins",
        keys(lambda it: it["keys"][0].update(not_after=0)),
    ),
    (
        "list-backwards",
        "MALFORMED bad-keys",
        "a list that expires before it is issued",
        keys(lambda it: it.update(expires=0)),
    ),
    (
        "threshold",
        "MALFORMED bad-keys",
        "a threshold that the roots cannot reach",
        keys(lambda it: it.update(threshold=2)),
    ),
    ("auditor", PASS, "an auditor's key, which encrypts", with_auditor()),
    (
        "auditor-pair",
        "MALFORMED bad-keys",
        "a pair for an auditor",
        keys(lambda it: it["keys"][4].update(use="auditor")),
    ),
    ("auditor-short", "MALFORMED bad-key", "an auditor's key of 31 bytes", with_auditor(hpke=b64(bytes(31)))),
    ("auditor-no-key", "MALFORMED bad-key", "bytes that are no ML-KEM-768 key", with_auditor(hpke=b64(b"\xff" * 1216))),
    ("auditor-moved-name", "MALFORMED bad-keys", "a name of another key", with_auditor(kid="0" * 32)),
    ("hpke-of-gateway", "MALFORMED bad-keys", "an encryption key that should sign", with_auditor(use="gateway")),
    ("newer", PASS, "a later version, with nothing new", keys(lambda it: it.update(version=2))),
    (
        "newer-compromise",
        PASS,
        "a later version: the seal's key was compromised",
        keys(lambda it: (it.update(version=2), it["keys"][3].update(revoked_at=NOW + DAY, reason="compromise"))),
    ),
    ("other", PASS, "another list of the same version", keys(lambda it: it.update(expires=it["expires"] + 1))),
    ("log-half", "MALFORMED bad-keys", "a log's key without its ML-DSA-44 half", _half("log")),
    ("use", "MALFORMED bad-value", "a use that is none of the ten", keys(lambda it: it["keys"][0].update(use="admin"))),
)


def pinned(**changes: Any) -> Make:
    """Bend the honest pin."""
    return lambda: bent(canonical(World().pin()), lambda it: it.update(changes))


PINS = rows(
    ("honest", PASS, "one root", pinned()),
    (
        "spaces",
        PASS,
        "a person may write a pin by hand",
        lambda: json.dumps(json.loads(canonical(World().pin())), indent=1).encode(),
    ),
    ("empty", "UNTRUSTED bad-pin", "an attacker's bundle under an empty pin", lambda: b""),
    ("no-roots", "UNTRUSTED bad-pin", "a pin that trusts nobody proves nothing", pinned(roots=[])),
    ("not-json", "UNTRUSTED bad-pin", "no JSON", lambda: b"trust everything"),
    ("duplicate-key", "UNTRUSTED bad-pin", "a key twice", lambda: b'{"threshold":2,"threshold":1}'),
    ("unknown-field", "UNTRUSTED bad-pin", "a misspelt expectation is not ignored", pinned(jobs="job-1")),
    ("threshold", "UNTRUSTED bad-pin", "a threshold that the roots cannot reach", pinned(threshold=2)),
    (
        "one-owner-twice",
        "UNTRUSTED bad-pin",
        "thresholds count owners, not keys",
        pinned(roots=json.loads(canonical([root("root", "owner-1"), root("root-2", "owner-1")])), threshold=2),
    ),
    ("suite", "UNTRUSTED bad-pin", "no suite that this version knows", pinned(suites=["tally-2"])),
)


def envelope(change: Callable[[bytes], bytes], kind: str = "revocation") -> Make:
    """Bend the envelope of a revocation."""

    def made() -> bytes:
        world = World()
        return change(seal_up(kind, canonical(world.revoke("job", world.job, NOW)), pair("revocation")))

    return made


ENVELOPES = rows(
    ("honest", PASS, "one Ed25519 signature, as revocations carry", envelope(lambda raw: raw)),
    (
        "payload-type",
        "MALFORMED wrong-kind",
        "a heartbeat where a revocation belongs",
        envelope(lambda raw: raw, "heartbeat"),
    ),
    (
        "unknown-signer",
        "UNTRUSTED unknown-signer",
        "a key that no list names",
        envelope(lambda raw: raw.replace(pair("revocation").kid.encode(), b"0" * 32)),
    ),
    (
        "bad-signature",
        "FAIL bad-signature",
        "a changed signature",
        envelope(lambda raw: raw.replace(b'"sig":"', b'"sig":"AAAAAAAA').replace(raw[-15:-7], b"", 1)),
    ),
    (
        "no-signature",
        "FAIL missing-signature",
        "none at all",
        envelope(lambda raw: raw[: raw.index(b'"signatures":[')] + b'"signatures":[]}'),
    ),
    ("spaces", "MALFORMED not-canonical", "written again", envelope(lambda raw: json.dumps(json.loads(raw)).encode())),
    ("unpadded", "MALFORMED bad-base64", "base64 without padding", envelope(lambda raw: raw.replace(b'=="}', b'"}'))),
    (
        "unknown-field",
        "MALFORMED unknown-field",
        "a field that nobody signs",
        envelope(lambda raw: raw.replace(b"{", b'{"alg":"EdDSA",', 1)),
    ),
    ("truncated", "MALFORMED truncated", "half of it", envelope(lambda raw: raw[:100])),
    ("too-large", "MALFORMED too-large", "more than any revocation has", envelope(lambda raw: raw + b" " * 80_000)),
    kind="revocation",
) | rows(
    (
        "another-address",
        "FAIL wrong-digest",
        "signed well, and not the document that was asked for",
        envelope(lambda raw: raw),
    ),
    kind="revocation",
    asked=ZERO,
)
