"""Whom we believe, for what, and when: the auditor's pin and the signed key list (specs/keys.md).

The auditor pins root keys; the roots sign a list that gives every key an owner, ONE use and a time. Algorithm and use
are properties of the key in that list, never of a signature or a document.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from verifier.box import public_key
from verifier.encoding import Count, Digest, Id, SafeText, Time, Url, digest, parse, read, reject_duplicates, unb64
from verifier.envelope import Envelope, Signed
from verifier.refused import Refused
from verifier.signing import SUITE, PublicPair, kid

Use = Literal["policy", "registry", "token", "grant", "seal", "gateway", "approver", "revocation", "log", "auditor"]
Owner = SafeText
Reason = Literal["superseded", "retired", "compromise"]
Threshold = Annotated[int, Meta(ge=1, le=16)]
# Uses whose documents carry both signatures of the suite: their keys have both halves.
HYBRID_USES = frozenset({"policy", "registry", "grant", "seal", "gateway", "approver", "log"})
# What each kind of document is signed with (the registry's second signature on a policy: `policies.py`).
USE_OF = {
    "policy": "policy",
    "manifest": "registry",
    "prices": "registry",
    "grant": "grant",
    "seal": "seal",
    "approval": "approver",
    "revocation": "revocation",
    "heartbeat": "revocation",
    "latest": "registry",
}
MAX_PIN = 1 << 16
# A chain of key lists: each costs up to 16 signatures to check.
MAX_LISTS = 64
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
    """One key of the list: who owns it, the one thing that it is for, and when.

    A signing key is a pair (`ed25519`, `ml_dsa_44`); an auditor's is an encryption key in its place (`hpke`).
    """

    kid: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    use: Use
    owner: Owner
    ed25519: str | None = None
    ml_dsa_44: str | None = None
    hpke: str | None = None
    not_before: Time
    not_after: Time
    revoked_at: Time | None = None
    reason: Reason | None = None

    def pair(self) -> PublicPair:
        """Return the public pair. Raises `Refused` wrong-use for an auditor's key: it signs nothing."""
        if self.ed25519 is None:
            raise Refused("wrong-use", f"key {self.kid} of {self.owner} encrypts and signs nothing")
        return PublicPair(ed25519=self.ed25519, ml_dsa_44=self.ml_dsa_44)

    def recipient(self) -> bytes:
        """Return an auditor's public key, which payloads are sealed to. Raises `Refused`: wrong-use, bad-key."""
        if self.hpke is None:
            raise Refused("wrong-use", f"key {self.kid} of {self.owner} signs and encrypts nothing")
        raw = unb64(self.hpke, field="hpke")
        public_key(raw)
        return raw


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
        for key in listed.keys:
            _check_key(key)
        _once([half for key in listed.keys for half in _halves(key)], [root.pair().raw() for root in listed.roots])
        if listed.issued_at >= listed.expires:
            raise Refused("bad-keys", "the key list expires before it is issued", field="expires")
        if len({root.owner for root in listed.roots}) < listed.threshold:
            raise Refused(
                "bad-keys", "the threshold asks for more distinct owners than there are roots", field="threshold"
            )
        return listed


class Trust(Struct, frozen=True):
    """The key list of a job, which the pinned roots vouch for. The only way to get one is `Trust.establish`.

    `listed` is the list that the seal names, each key as the newest list known has it: ended or revoked since.
    `digests` names every list of the chain by its version, `newest` is the last list known.
    """

    pin: Pin
    listed: KeyList
    digest: str
    by_kid: dict[str, Key]
    digests: dict[int, str]
    newest: KeyList

    @classmethod
    def establish(cls, pin: Pin, raws: bytes | Sequence[bytes], *, newer: Sequence[bytes] = ()) -> "Trust":
        """Open a key list, or a chain of lists in the order of their versions, with the pinned roots alone.

        `newer` are later lists from elsewhere (`--keys`), for what became of the keys since. Raises `Refused`:
        unknown-root, wrong-rotation, old-keys, too-large, and the envelope's and the list's codes; as a `BrokenChain`
        where one of the lists is at fault.
        """
        chain = [raws] if isinstance(raws, bytes) else list(raws)
        if len(chain) + len(newer) > MAX_LISTS:
            raise Refused("too-large", f"more than {MAX_LISTS} key lists")
        links: list[_Link] = []
        digests: dict[int, str] = {}
        for place, raw in enumerate((*chain, *newer)):
            try:
                links.append(_open_next(pin, links, raw, digests if place >= len(chain) else None))
            except Refused as refused:
                raise BrokenChain(refused, place) from refused
            if place < len(chain):
                digests[links[-1].listed.version] = links[-1].digest
        last, newest = links[len(chain) - 1], links[-1]
        if pin.min_keys_version is not None and newest.listed.version < pin.min_keys_version:
            raise Refused(
                "old-keys",
                f"key list version {newest.listed.version}; the pin asks for {pin.min_keys_version} or later",
            )
        known = {key.kid: key for key in newest.listed.keys}
        listed = replace(last.listed, keys=[known[key.kid] for key in last.listed.keys])
        return cls(pin, listed, last.digest, {key.kid: key for key in listed.keys}, digests, newest.listed)

    def current(self, at: int, *, newest: bool = False) -> None:
        """Check that the list had not expired at a time (the seal's), nor outlived the pin's `max_keys_age`.

        With `newest` the last list known is asked, as for a time that the auditor names (`--at`).
        """
        listed = self.newest if newest else self.listed
        if at > listed.expires:
            raise Refused("keys-expired", "the key list had expired", hint="Ask for a newer key list.")
        if self.pin.max_keys_age is not None and at - listed.issued_at > self.pin.max_keys_age * SECOND:
            raise Refused("keys-expired", "the key list is older than the pin allows")

    def open(self, raw: bytes, kind: str) -> Signed:
        """Check form and signatures of a document of any kind but `keys`; who may sign it is `signer`'s question."""
        envelope = Envelope.parse(raw, kind)
        named = envelope.kids() & set(self.by_kid)
        return envelope.open(
            kind, {name: self.by_kid[name].pair() for name in named if self.by_kid[name].use != "auditor"}
        )

    def signer(self, kids: frozenset[str], use: str, owner: str | None, at: int, witnessed: int | None = None) -> Key:
        """Find a signer of one use whose owner is the document's issuer and whose key was good at `at`.

        Raises `Refused`: wrong-use, wrong-owner, key-not-valid, key-revoked.
        """
        return self.signers(kids, use, owner, at, witnessed)[0]

    def signers(
        self, kids: frozenset[str], use: str, owner: str | None, at: int, witnessed: int | None = None
    ) -> list[Key]:
        """Find every such signer, at least one; when there is none, the refusal is the first key's."""
        candidates = [self.by_kid[name] for name in sorted(kids) if self.by_kid[name].use == use]
        if not candidates:
            raise Refused("wrong-use", f"no signature by a key whose use is {use}", field="signatures")
        owned = [key for key in candidates if owner is None or key.owner == owner]
        if not owned:
            raise Refused(
                "wrong-owner", f"signed by a {use} key of {candidates[0].owner}, not of {owner}", field="signatures"
            )
        refusals = {key.kid: refused for key in owned if (refused := self._refusal(key, at, witnessed)) is not None}
        if len(refusals) == len(owned):
            raise refusals[owned[0].kid]
        return [key for key in owned if key.kid not in refusals]

    def good_at(self, key: Key, at: int, witnessed: int | None = None) -> None:
        """Check a key's window and revocation for a time; a compromise ends trust for every time.

        Unless somebody else's log had seen the document before the compromise: `witnessed` is that log's time.
        """
        refused = self._refusal(key, at, witnessed)
        if refused is not None:
            raise refused

    def _refusal(self, key: Key, at: int, witnessed: int | None) -> Refused | None:
        compromised = key.reason == "compromise" and (witnessed is None or witnessed >= (key.revoked_at or 0))
        if compromised:
            return Refused("key-revoked", f"key {key.kid} of {key.owner} was compromised")
        if key.revoked_at is not None and at >= key.revoked_at:
            return Refused("key-revoked", f"key {key.kid} of {key.owner} had been revoked")
        if not key.not_before <= at <= key.not_after:
            return Refused("key-not-valid", f"key {key.kid} of {key.owner} was not valid at that time")
        return None


def key_list_digest(raw: bytes) -> str:
    """Address a key list in an envelope."""
    return digest(Envelope.parse(raw, "keys").content())


class BrokenChain(Refused):
    """A key list that is not believed: `place` is which one, from 0, newer ones counted on."""

    def __init__(self, refused: Refused, place: int) -> None:
        """Say which list it was."""
        super().__init__(refused.code, refused.why, hint=refused.hint, field=refused.field)
        self.place = place


class _Link(Struct, frozen=True):
    """One list of a chain whose signatures are good."""

    listed: KeyList
    digest: str


def _open_next(pin: Pin, links: Sequence[_Link], raw: bytes, known: Mapping[int, str] | None) -> _Link:
    """Open the list behind those that are open; with `known`, the chain by version, it comes from elsewhere."""
    if not links:
        return _first(pin, raw)
    return _next(links[-1], raw) if known is None else _newer(pin, links[-1], raw, known)


def _first(pin: Pin, raw: bytes) -> _Link:
    """Open the first list of a chain: signed by the threshold of the pinned roots; its own may sign besides."""
    pinned = {root.pair().kid(): root for root in pin.roots}
    envelope = Envelope.parse(raw, "keys")
    if not envelope.kids() & set(pinned) and envelope.signatures:
        raise Refused(
            "unknown-root",
            "no pinned root signed this key list",
            hint="A key list of another installation proves nothing here.",
        )
    listed, signed = _open(envelope, pinned)
    if _owners(signed, pinned) < pin.threshold:
        raise Refused(
            "unknown-root", f"fewer than {pin.threshold} distinct owners of pinned roots signed this key list"
        )
    return _Link(listed, signed.digest)


def _next(former: _Link, raw: bytes) -> _Link:
    """Open the list after another one, as in TUF: signed by the thresholds of both (specs/keys.md §4)."""
    old, before = _roots(former.listed), former.listed
    listed, signed = _open(Envelope.parse(raw, "keys"), old)
    if listed.version != before.version + 1:
        raise _rotation(f"version {listed.version} stands behind version {before.version}", "version")
    _follows(before, listed)
    for whose, roots, threshold in (
        (f"version {before.version}", old, before.threshold),
        (f"version {listed.version} itself", _roots(listed), listed.threshold),
    ):
        if _owners(signed, roots) < threshold:
            raise _rotation(f"fewer than {threshold} distinct owners of roots of {whose} signed it", "signatures")
    return _Link(listed, signed.digest)


def _newer(pin: Pin, last: _Link, raw: bytes, digests: Mapping[int, str]) -> _Link:
    """Open a later list from elsewhere: the next one, or any later one that the pinned roots signed themselves."""
    envelope = Envelope.parse(raw, "keys")
    address, listed = digest(envelope.content()), KeyList.parse(envelope.content())
    if address == last.digest or digests.get(listed.version) == address:
        return last
    if listed.version <= last.listed.version:
        raise _rotation(f"version {listed.version} is given as newer than version {last.listed.version}", "version")
    if listed.version == last.listed.version + 1:
        return _next(last, raw)
    link = _first(pin, raw)
    _follows(last.listed, link.listed)
    return link


def _open(envelope: Envelope, roots: Mapping[str, Root]) -> tuple[KeyList, Signed]:
    """Read a list and check every signature, by these roots and its own; who has to sign is the caller's question."""
    listed = KeyList.parse(envelope.content())
    known = {**_roots(listed), **roots}
    return listed, envelope.open("keys", {name: root.pair() for name, root in known.items()})


def _roots(listed: KeyList) -> dict[str, Root]:
    return {root.pair().kid(): root for root in listed.roots}


def _owners(signed: Signed, roots: Mapping[str, Root]) -> int:
    """Count the distinct owners among those of `roots` who signed."""
    return len({roots[name].owner for name in signed.kids if name in roots})


def _follows(old: KeyList, new: KeyList) -> None:
    """Check that a later list keeps every key of the former: it may end one, never drop, move or revive it."""
    if new.issuer != old.issuer or new.issued_at < old.issued_at:
        raise _rotation("another issuer, or issued earlier, than the list before it", "issuer")
    found = {key.kid: key for key in new.keys}
    for key in old.keys:
        kept = found.get(key.kid)
        if kept is None:
            raise _rotation(f"key {key.kid} was dropped: a later list only ends a key", "keys")
        if (kept.use, kept.owner, kept.not_before) != (key.use, key.owner, key.not_before):
            raise _rotation(f"key {key.kid} has another use, owner or beginning than before", "keys")
        if kept.not_after > key.not_after or not _stays_revoked(key, kept):
            raise _rotation(f"key {key.kid} lives longer than it did before", "keys")


def _stays_revoked(key: Key, kept: Key) -> bool:
    """Tell whether a revocation is kept: no later than before, and a compromise stays one."""
    if key.revoked_at is None:
        return True
    return (
        kept.revoked_at is not None
        and kept.revoked_at <= key.revoked_at
        and (key.reason != "compromise" or kept.reason == "compromise")
    )


def _rotation(why: str, field: str) -> Refused:
    return Refused("wrong-rotation", why, field=field)


def _halves(key: Key) -> tuple[bytes, bytes]:
    """Give the public keys of one entry."""
    return key.pair().raw() if key.hpke is None else (key.recipient(), b"")


def _once(halves: Sequence[bytes], roots: Sequence[tuple[bytes, bytes]]) -> None:
    every = [half for half in (*halves, *(half for pair in roots for half in pair)) if half]
    if len(set(every)) != len(every):
        raise Refused("bad-keys", "a public key occurs twice: a pair has one use", field="keys")


def _check_key(key: Key) -> None:
    encrypts = key.use == "auditor"
    if encrypts != (key.hpke is not None) or encrypts != (key.ed25519 is None) or (encrypts and key.ml_dsa_44):
        raise Refused("bad-keys", f"key {key.kid}: an auditor has an hpke key, every other use a pair", field="keys")
    halves = _halves(key)
    if kid(*halves) != key.kid:
        raise Refused("bad-keys", f"{key.kid} is not the name of the key beside it", field="keys")
    if key.use in HYBRID_USES and not halves[1]:
        raise Refused("bad-keys", f"key {key.kid}: use {key.use} needs both halves", field="keys")
    if key.not_before >= key.not_after:
        raise Refused("bad-keys", f"key {key.kid} ends before it begins", field="keys")
    if (key.revoked_at is None) != (key.reason is None):
        raise Refused("bad-keys", f"key {key.kid}: a revocation has a time and a reason", field="keys")
