"""Signed documents, opened: form, signatures, one use, the issuer's own key, a time (specs/verification.md steps 2-5).

What a service signs is read back by these very functions, at publication as in an audit.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

from verifier.approval import Approval
from verifier.grant import Grant
from verifier.keys import Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.revocation import Heartbeat, Revocation
from verifier.seal import Seal

T = TypeVar("T")


class Opened(Struct, Generic[T], frozen=True):
    """A document whose signatures are good and whose signers may sign it: `kids` are all of them, but of an approval,
    a seal, a revocation or a heartbeat.
    """

    value: T
    digest: str
    payload: bytes
    kids: frozenset[str] = frozenset()


class Kind(Struct, Generic[T], frozen=True):
    """A kind of document that has no time of its own: its form, and who may have signed it at what time."""

    name: str
    parse: Callable[[bytes], T]
    check: Callable[[Trust, Opened[T], int], None]

    def open(self, trust: Trust, raw: bytes, at: int) -> Opened[T]:
        """Open a document for a time: the grant's. Whoever keeps what was opened asks `check` alone another time."""
        signed = trust.open(raw, self.name)
        opened = Opened(self.parse(signed.payload), signed.digest, signed.payload, signed.kids)
        self.check(trust, opened, at)
        return opened


def _check_draft(trust: Trust, opened: Opened[Policy], at: int) -> None:
    policy = opened.value
    authors = trust.signers(opened.kids, "policy", policy.issuer, at)
    quorum = trust.listed.author_quorum.get(policy.issuer, 1)
    if len(authors) < quorum:
        raise Refused(
            "below-quorum", f"{len(authors)} keys of {policy.issuer} signed, its policies need {quorum}", field="issuer"
        )
    policy.in_force(at)


def _check_policy(trust: Trust, opened: Opened[Policy], at: int) -> None:
    _check_draft(trust, opened, at)
    if all(key.owner == opened.value.issuer for key in trust.signers(opened.kids, "registry", None, at)):
        raise Refused("wrong-owner", "author and registry are one owner: nobody else has seen this policy")


def _check_registered(trust: Trust, opened: Opened[Manifest] | Opened[Prices], at: int) -> None:
    trust.signer(opened.kids, "registry", opened.value.issuer, at)


DRAFT = Kind("policy", Policy.parse, _check_draft)
POLICY = Kind("policy", Policy.parse, _check_policy)
MANIFEST = Kind("manifest", Manifest.parse, _check_registered)
PRICES = Kind("prices", Prices.parse, _check_registered)


def open_draft_policy(trust: Trust, raw: bytes, at: int) -> Opened[Policy]:
    """Open a policy that an author signed: what an author hands to the registry."""
    return DRAFT.open(trust, raw, at)


def open_policy(trust: Trust, raw: bytes, at: int) -> Opened[Policy]:
    """Open a published policy: it counts with the author's and the registry's signatures. `at` is the grant's time."""
    return POLICY.open(trust, raw, at)


def open_manifest(trust: Trust, raw: bytes, at: int) -> Opened[Manifest]:
    """Open a tool manifest signed by a registry key of its issuer. `at` is the grant's time."""
    return MANIFEST.open(trust, raw, at)


def open_prices(trust: Trust, raw: bytes, at: int) -> Opened[Prices]:
    """Open a price table signed by a registry key of its issuer. `at` is the grant's time."""
    return PRICES.open(trust, raw, at)


def open_grant(trust: Trust, raw: bytes) -> Opened[Grant]:
    """Open a grant; the key must have been good when it was issued."""
    signed = trust.open(raw, "grant")
    grant = Grant.parse(signed.payload)
    trust.signer(signed.kids, "grant", grant.scope.iss, grant.issued_at)
    return Opened(grant, signed.digest, signed.payload, signed.kids)


def open_approval(trust: Trust, raw: bytes) -> Opened[Approval]:
    """Open an approval; the approver's key must have been good when it was given."""
    signed = trust.open(raw, "approval")
    approval = Approval.parse(signed.payload)
    trust.signer(signed.kids, "approver", approval.approver, approval.time)
    return Opened(approval, signed.digest, signed.payload)


def open_seal(trust: Trust, raw: bytes, witnessed: int | None = None) -> Opened[Seal]:
    """Open a seal. Nothing vouches for its time: a compromised seal key makes every seal of it untrusted.

    Unless a log had seen this seal before that (`witnessed`, specs/seal.md §4).
    """
    signed = trust.open(raw, "seal")
    seal = Seal.parse(signed.payload)
    trust.signer(signed.kids, "seal", seal.iss, seal.closed, witnessed)
    return Opened(seal, signed.digest, signed.payload)


def open_revocation(trust: Trust, raw: bytes) -> Opened[Revocation]:
    """Open one revocation."""
    signed = trust.open(raw, "revocation")
    revocation = Revocation.parse(signed.payload)
    trust.signer(signed.kids, "revocation", revocation.iss, revocation.time)
    return Opened(revocation, signed.digest, signed.payload)


def open_heartbeat(trust: Trust, raw: bytes) -> Opened[Heartbeat]:
    """Open a heartbeat; whether it is fresh is the caller's question."""
    signed = trust.open(raw, "heartbeat")
    heartbeat = Heartbeat.parse(signed.payload)
    trust.signer(signed.kids, "revocation", heartbeat.iss, heartbeat.time)
    return Opened(heartbeat, signed.digest, signed.payload)


def addressed(opened: Opened[T], wanted: str) -> Opened[T]:
    """Check that a document is the one that was asked for. Raises `Refused` wrong-digest."""
    if opened.digest != wanted:
        raise Refused("wrong-digest", f"asked for {wanted[:18]}…, got {opened.digest[:18]}…")
    return opened
