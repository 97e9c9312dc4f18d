"""Publishing policies: checked as an auditor will check them, countersigned, frozen, and withdrawn when need be.

    PUT envelope -> signatures -> address -> author, contents, time -> its own tests -> serial -> countersigned

Nothing is stored unless all of it holds; what is stored is never changed.
"""

from contextlib import AbstractAsyncContextManager

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controls import store
from controls.store import Head, StoredPolicy
from service.clients import Clock
from service.engine import reading
from verifier.documents import open_draft_policy, open_policy
from verifier.draft import run_tests
from verifier.encoding import canonical
from verifier.envelope import Envelope, seal_up
from verifier.keys import Trust
from verifier.latest import Latest
from verifier.policy import Policy, check_enforceable
from verifier.refused import Refused
from verifier.signing import KeyPair


class Registry(Struct, frozen=True, kw_only=True):
    """This registry: its base URL, its key, the key list that it believes and serves, its database and clock."""

    issuer: str
    key: KeyPair
    trust: Trust
    key_list: bytes
    engine: AsyncEngine
    clock: Clock

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction: committed at the end of the block, rolled back on any error."""
        return self.engine.begin()

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open one consistent view of the database."""
        return reading(self.engine).connect()


class Published(Struct, frozen=True):
    """A published policy as it is served for ever; `new` is false when it had been published before."""

    envelope: bytes
    digest: str
    new: bool


async def publish(db: AsyncConnection, raw: bytes, digest: str, registry: Registry, *, by: str, now: int) -> Published:
    """Check a signed policy as the verifier will, then countersign and store it, all in the caller's transaction.

    A payload that is published already answers with its frozen envelope, whatever has happened to it since. Raises
    `Refused`: the envelope's and the policy's codes, wrong-digest, policy-not-valid, policy-test-failed, unsupported,
    stale-serial, wrong-supersedes.
    """
    if registry.trust.open(raw, "policy").digest != digest:
        raise Refused("wrong-digest", "the address is not the digest of this policy")
    if known := await store.policy(db, digest):
        return Published(known.envelope, digest, new=False)
    policy = open_draft_policy(registry.trust, raw, now).value
    _one_author(registry.trust, policy)
    check_enforceable(policy)
    run_tests((policy,))
    envelope = Envelope.parse(raw, "policy").signed_by("policy", registry.key).encode()
    open_policy(registry.trust, envelope, now)
    if await _take_serial(db, policy, digest):
        kids = registry.trust.open(envelope, "policy").kids
        await store.add_policy(db, _row(policy, digest, envelope, by, now), kids)
        return Published(envelope, digest, new=True)
    known = await store.policy(db, digest)
    if known is None:
        raise _stale(policy)
    return Published(known.envelope, digest, new=False)


async def withdraw(db: AsyncConnection, digest: str, *, by: str, reason: str, now: int) -> StoredPolicy:
    """Withdraw a policy from new jobs; a second withdrawal changes nothing. Raises `Refused` unknown-policy."""
    await find(db, digest)
    await store.withdraw(db, digest, at=now, by=by, reason=reason)
    return await find(db, digest)


async def find(db: AsyncConnection, digest: str) -> StoredPolicy:
    """Find a published policy. Raises `Refused` unknown-policy."""
    if found := await store.policy(db, digest):
        return found
    raise Refused("unknown-policy", "no policy is published under this digest")


async def latest(db: AsyncConnection, name: str, issuer: str | None, registry: Registry, *, now: int) -> bytes:
    """Sign which policy of a name is the newest. Raises `Refused`: unknown-policy, issuer-needed."""
    heads = await store.heads(db, name, issuer)
    if not heads:
        raise Refused("unknown-policy", "no policy is published under this name")
    if len(heads) > 1:
        raise Refused("issuer-needed", "several issuers have a policy of this name", hint="Add ?issuer=.")
    policy = await find(db, heads[0].digest)
    said = Latest(
        issuer=registry.issuer,
        time=now,
        policy_issuer=policy.issuer,
        policy_name=policy.name,
        policy=policy.digest,
        serial=policy.serial,
        withdrawn=policy.withdrawn_at is not None,
    )
    return seal_up("latest", canonical(said), registry.key)


def _one_author(trust: Trust, policy: Policy) -> None:
    """A quorum is what a wider policy asks for; what is not compared is not published."""
    if trust.listed.author_quorum.get(policy.issuer, 1) > 1:
        raise Refused("unsupported", f"an author quorum of {policy.issuer} is not judged by this version")


async def _take_serial(db: AsyncConnection, policy: Policy, digest: str) -> bool:
    """Make this policy the newest of its name; false when its serial is not higher than the newest one's."""
    head = await store.claim_head(db, policy.issuer, policy.policy_name)
    if head is not None and policy.serial <= head.serial:
        return False
    if policy.supersedes is not None and policy.supersedes != (head.digest if head else None):
        raise Refused("wrong-supersedes", "supersedes is not the newest policy of this name", field="supersedes")
    new = Head(issuer=policy.issuer, name=policy.policy_name, serial=policy.serial, digest=digest)
    return await store.move_head(db, new)


def _stale(policy: Policy) -> Refused:
    return Refused(
        "stale-serial",
        f"serial {policy.serial} is not higher than the last of {policy.policy_name} by {policy.issuer}",
        hint="Build the policy with a higher serial and sign it again.",
        field="serial",
    )


def _row(policy: Policy, digest: str, envelope: bytes, by: str, now: int) -> dict[str, object]:
    return {
        "digest": digest,
        "issuer": policy.issuer,
        "name": policy.policy_name,
        "serial": policy.serial,
        "valid_from": policy.valid_from,
        "valid_until": policy.valid_until,
        "envelope": envelope,
        "published_at": now,
        "published_by": by,
    }
