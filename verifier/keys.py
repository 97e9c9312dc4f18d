"""Whom we believe, for what, and when: the auditor's pin and the signed key list (specs/keys.md).

The auditor pins root keys; the roots sign a list that gives every key an owner, ONE use and a time. Algorithm and use
are properties of the key in that list, never of a signature or a document.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import Count, Digest, Id, SafeText, Time, Url, digest, parse, read, reject_duplicates
from verifier.envelope import Envelope, Signed
from verifier.refused import Refused
from verifier.signing import SUITE, PublicPair, kid

Use = Literal["policy", "registry", "token", "grant", "seal", "gateway", "approver", "revocation", "log", "auditor"]
Owner = SafeText
Reason = Literal["superseded", "retired", "compromise"]
Threshold = Annotated[int, Meta(ge=1, le=16)]
# Uses whose documents carry both signatures of the suite: their keys have both halves.
HYBRID_USES = frozenset({"policy", "registry", "grant", "seal", "gateway", "approver"})
# What each kind of document is signed with (the registry's second signature on a policy: `policies.py`).
USE_OF = {
    "policy": "policy",
    "manifest": "registry",
    "grant": "grant",
    "seal": "seal",
    "revocation": "revocation",
    "heartbeat": "revocation",
    "latest": "registry",
}
MAX_PIN = 1 << 16
SECOND = 1_000_000


class Root(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One root key: it signs key lists and nothing else."""

    owner: Owner
    ed25519: str
    ml_dsa_44: str

    def pair(self) -> PublicPair:
        """Return the public pair."""
        return PublicPair(ed25519=self.ed25519, ml_dsa_44=self.ml_dsa_44)


class Pin(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an auditor knows beforehand, from a channel that is not the bundle (`pin.json`).

    `max_keys_age` and `max_skew_seconds` are seconds. Nothing in a bundle can relax a pin.
    """

    roots: Annotated[list[Root], Meta(min_length=1, max_length=16)]
    threshold: Threshold
    suites: Annotated[list[str], Meta(min_length=1, max_length=8)]
    min_keys_version: Count | None = None
    max_keys_age: Count | None = None
    max_skew_seconds: Annotated[int, Meta(ge=0, le=3600)] = 5
    require_full_replay: bool = False
    job: Id | None = None
    policy: Digest | None = None
    gateway: Url | None = None

    @classmethod
    def parse(cls, raw: bytes) -> "Pin":
        """Read a pin as a person wrote it (spaces allowed, duplicate keys not).

        Raises `Refused`: an unusable pin proves nothing.
        """
        if not raw.strip():
            raise Refused("bad-pin", "the pin is empty", hint="Ask the operator for pin.json over a channel you trust.")
        try:
            reject_duplicates(raw[: MAX_PIN + 1])
            pin = parse(raw, cls, limit=MAX_PIN)
            kids = {root.pair().kid() for root in pin.roots}
        except Refused as refused:
            where = f" at {refused.field}" if refused.field else ""
            raise Refused(
                "bad-pin", f"the pin cannot be used: {refused.why}{where}", hint="Compare it with specs/keys.md §2."
            ) from refused
        if len(kids) != len(pin.roots) or len({root.owner for root in pin.roots}) < pin.threshold:
            raise Refused("bad-pin", "the threshold asks for more distinct root owners than are pinned")
        if SUITE not in pin.suites:
            raise Refused("bad-pin", f"suite {SUITE} is not among the accepted suites; this verifier knows no other")
        return pin


class Key(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key of the list: who owns it, the one thing that it is for, and when."""

    kid: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    use: Use
    owner: Owner
    ed25519: str
    ml_dsa_44: str | None = None
    not_before: Time
    not_after: Time
    revoked_at: Time | None = None
    reason: Reason | None = None

    def pair(self) -> PublicPair:
        """Return the public pair."""
        return PublicPair(ed25519=self.ed25519, ml_dsa_44=self.ml_dsa_44)


class KeyList(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The list of everybody's keys, signed by a threshold of roots."""

    issuer: Owner
    version: Annotated[int, Meta(ge=1, le=2**31)]
    issued_at: Time
    expires: Time
    roots: Annotated[list[Root], Meta(min_length=1, max_length=16)]
    threshold: Threshold
    author_quorum: dict[Owner, Threshold]
    keys: Annotated[list[Key], Meta(max_length=4096)]

    @classmethod
    def parse(cls, payload: bytes) -> "KeyList":
        """Read a key list and check what it says of itself. Raises `Refused`: bad-keys and the reading codes."""
        listed = read(payload, cls, limit=1 << 20)
        pairs = [key.pair() for key in listed.keys] + [root.pair() for root in listed.roots]
        _once([half for pair in pairs for half in pair.raw() if half])
        if listed.issued_at >= listed.expires:
            raise Refused("bad-keys", "the key list expires before it is issued", field="expires")
        if len({root.owner for root in listed.roots}) < listed.threshold:
            raise Refused(
                "bad-keys", "the threshold asks for more distinct owners than there are roots", field="threshold"
            )
        for key in listed.keys:
            _check_key(key)
        return listed


class Trust(Struct, frozen=True):
    """A key list that the pinned roots signed. The only way to get one is `Trust.establish`."""

    pin: Pin
    listed: KeyList
    digest: str
    by_kid: dict[str, Key]

    @classmethod
    def establish(cls, pin: Pin, raw: bytes) -> "Trust":
        """Open a key list with the pinned roots alone.

        Raises `Refused`: unknown-root, old-keys and the envelope's codes.
        """
        envelope = Envelope.parse(raw, "keys")
        roots = {root.pair().kid(): root for root in pin.roots}
        if not {each.keyid.rpartition("/")[0] for each in envelope.signatures} & set(roots) and envelope.signatures:
            raise Refused(
                "unknown-root",
                "no pinned root signed this key list",
                hint="A key list of another installation proves nothing here.",
            )
        signed = envelope.open("keys", {name: root.pair() for name, root in roots.items()})
        if len({roots[name].owner for name in signed.kids}) < pin.threshold:
            raise Refused(
                "unknown-root", f"fewer than {pin.threshold} distinct owners of pinned roots signed this key list"
            )
        listed = KeyList.parse(signed.payload)
        if pin.min_keys_version is not None and listed.version < pin.min_keys_version:
            raise Refused(
                "old-keys", f"key list version {listed.version}; the pin asks for {pin.min_keys_version} or later"
            )
        return cls(pin, listed, signed.digest, {key.kid: key for key in listed.keys})

    def current(self, at: int) -> None:
        """Check that the list had not expired at a time (the seal's), nor outlived the pin's `max_keys_age`."""
        if at > self.listed.expires:
            raise Refused("keys-expired", "the key list had expired", hint="Ask for a newer key list.")
        if self.pin.max_keys_age is not None and at - self.listed.issued_at > self.pin.max_keys_age * SECOND:
            raise Refused("keys-expired", "the key list is older than the pin allows")

    def open(self, raw: bytes, kind: str) -> Signed:
        """Check form and signatures of a document of any kind but `keys`; who may sign it is `signer`'s question."""
        envelope = Envelope.parse(raw, kind)
        named = {each.keyid.rpartition("/")[0] for each in envelope.signatures}
        return envelope.open(kind, {name: self.by_kid[name].pair() for name in named if name in self.by_kid})

    def signer(self, kids: frozenset[str], use: str, owner: str | None, at: int) -> Key:
        """Find the signer of one use whose owner is the document's issuer and whose key was good at `at`.

        Raises `Refused`: wrong-use, wrong-owner, key-not-valid, key-revoked.
        """
        candidates = [self.by_kid[name] for name in sorted(kids) if self.by_kid[name].use == use]
        if not candidates:
            raise Refused("wrong-use", f"no signature by a key whose use is {use}", field="signatures")
        owned = [key for key in candidates if owner is None or key.owner == owner]
        if not owned:
            raise Refused(
                "wrong-owner", f"signed by a {use} key of {candidates[0].owner}, not of {owner}", field="signatures"
            )
        self.good_at(owned[0], at)
        return owned[0]

    def good_at(self, key: Key, at: int) -> None:
        """Check a key's window and revocation for a time; a compromise ends trust for every time."""
        if key.reason == "compromise":
            raise Refused("key-revoked", f"key {key.kid} of {key.owner} was compromised")
        if key.revoked_at is not None and at >= key.revoked_at:
            raise Refused("key-revoked", f"key {key.kid} of {key.owner} had been revoked")
        if not key.not_before <= at <= key.not_after:
            raise Refused("key-not-valid", f"key {key.kid} of {key.owner} was not valid at that time")


def key_list_digest(raw: bytes) -> str:
    """Address a key list in an envelope."""
    return digest(Envelope.parse(raw, "keys").content())


def _once(values: list[bytes]) -> None:
    if len(set(values)) != len(values):
        raise Refused("bad-keys", "a public key occurs twice: a pair has one use", field="keys")


def _check_key(key: Key) -> None:
    first, second = key.pair().raw()
    if kid(first, second) != key.kid:
        raise Refused("bad-keys", f"{key.kid} is not the name of the key beside it", field="keys")
    if key.use in HYBRID_USES and not second:
        raise Refused("bad-keys", f"key {key.kid}: use {key.use} needs both halves", field="keys")
    if key.use == "auditor":
        raise Refused("unsupported", "auditor keys are not read by this version", field="keys")
    if key.not_before >= key.not_after:
        raise Refused("bad-keys", f"key {key.kid} ends before it begins", field="keys")
    if (key.revoked_at is None) != (key.reason is None):
        raise Refused("bad-keys", f"key {key.kid}: a revocation has a time and a reason", field="keys")
