"""Publishing policies: checked as an auditor will check them, countersigned, frozen, and withdrawn when need be.

    PUT envelope -> signatures -> address -> author, contents, time -> its own tests -> serial -> countersigned

Nothing is stored unless all of it holds; what is stored is never changed.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import lru_cache

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controls import pricing, store
from controls.analysis import compare
from controls.store import Head, StoredPolicy
from controls.tables import audit
from service.chains import with_ancestors
from service.clients import Clock
from service.engine import reading, writing
from verifier.chain import MAX_CHAIN, terms
from verifier.documents import open_draft_policy, open_policy
from verifier.draft import run_tests
from verifier.encoding import canonical
from verifier.envelope import Envelope, seal_up
from verifier.keys import Trust
from verifier.latest import Latest
from verifier.policy import Chain, Policy, check_enforceable
from verifier.refused import MAX_WHY, Refused
from verifier.signing import KeyPair


class Registry(Struct, frozen=True, kw_only=True):
    """This registry: its base URL, its key, the key list that it believes and serves, its database and clock.

    `reachable` are networks in which servers may be scanned besides public addresses.
    """

    issuer: str
    key: KeyPair
    trust: Trust
    key_list: bytes
    engine: AsyncEngine
    clock: Clock
    reachable: tuple[str, ...] = ()

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction: committed at the end of the block, rolled back on any error."""
        return writing(self.engine)

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open one consistent view of the database."""
        return reading(self.engine)


class Published(Struct, frozen=True):
    """A published policy as it is served for ever; `new` is false when it had been published before."""

    envelope: bytes
    digest: str
    new: bool


async def lineage(db: AsyncConnection, policy: Policy) -> Chain:
    """Put a policy and its ancestors together, whatever has become of them, as far as they are published."""
    chain = [policy]
    while len(chain) < MAX_CHAIN and (parent := chain[-1].parent) is not None:
        found = await store.policy(db, parent)
        if found is None:
            break
        chain.append(read(found.envelope))
    return tuple(chain)


class Compared(Struct, frozen=True):
    """What is known before the transaction: the newest policy of the name, and how the new one relates to it.

    `word` is `first`, a relation, or `allowed` where a wider one was asked for.
    """

    head: str | None
    word: str


async def compared(raw: bytes, digest: str, registry: Registry, *, allow_wider: bool) -> Compared:
    """Hold a policy against the newest of its name, before anything is locked: it may take seconds.

    Raises `Refused`: the envelope's and the policy's codes, wider-policy with what it lets through besides.
    """
    policy = Policy.parse(registry.trust.open(raw, "policy").payload)
    async with registry.reading() as db:
        if await store.policy(db, digest):
            return Compared(None, "published")
        head = await store.head(db, policy.issuer, policy.policy_name)
        newest = None if head is None else await store.policy(db, head.digest)
        if newest is None or allow_wider:
            return Compared(newest.digest if newest else None, "allowed" if newest else "first")
        chains = await lineage(db, read(newest.envelope)), await lineage(db, policy)
    found = await asyncio.to_thread(compare, *chains)
    if found.may_be_wider:
        why = "; ".join(found.widening) or found.why
        raise Refused(
            "wider-policy",
            f"{found.relation}: {why}"[:MAX_WHY],
            hint="Narrow it, or publish it with --allow-wider and the signatures that the author's quorum asks for.",
        )
    return Compared(newest.digest, found.relation)


async def publish(
    db: AsyncConnection, raw: bytes, digest: str, registry: Registry, *, compared: Compared, by: str, now: int
) -> Published:
    """Check a signed policy as the verifier will, then countersign and store it, all in the caller's transaction.

    A payload that is published already answers with its frozen envelope, whatever has happened to it since. Raises
    `Refused`: the envelope's and the policy's codes, wrong-digest, policy-not-valid, policy-test-failed, unsupported,
    unknown-prices, stale-serial, wrong-supersedes, published-meanwhile.
    """
    if registry.trust.open(raw, "policy").digest != digest:
        raise Refused("wrong-digest", "the address is not the digest of this policy")
    if known := await store.policy(db, digest):
        return Published(known.envelope, digest, new=False)
    policy = open_draft_policy(registry.trust, raw, now).value
    chain = await chain_of(db, policy)
    for each in chain:
        check_enforceable(each)
        each.in_force(now)
    if (prices := terms(chain).prices) is not None:
        await pricing.find(db, prices)
    run_tests(chain)
    signed = Envelope.parse(raw, "policy").signed_by("policy", registry.key)
    envelope = signed.encode()
    open_policy(registry.trust, envelope, now)
    if await _take_serial(db, policy, digest, compared):
        await store.add_policy(db, _row(policy, digest, envelope, by, now), signed.kids())
        said = {"serial": policy.serial, "issuer": policy.issuer, "wider": compared.word}
        await audit.append(db, at=now, by=by, act="policy-published", subject=policy.policy_name, digest=digest, **said)
        return Published(envelope, digest, new=True)
    known = await store.policy(db, digest)
    if known is None:
        raise _stale(policy)
    return Published(known.envelope, digest, new=False)


async def chain_of(db: AsyncConnection, policy: Policy) -> Chain:
    """Put a policy and its published ancestors together, none of them withdrawn.

    Raises `Refused`: unknown-parent, parent-withdrawn, bad-policy for more than four.
    """

    async def fetch(parent: str) -> Policy:
        found = await store.policy(db, parent)
        if found is None:
            raise Refused("unknown-parent", f"no policy is published as {parent[:18]}…", field="parent")
        if found.withdrawn_at is not None:
            raise Refused("parent-withdrawn", f"the ancestor {found.name} was withdrawn", field="parent")
        return read(found.envelope)

    return await with_ancestors(policy, fetch)


@lru_cache(maxsize=64)
def read(envelope: bytes) -> Policy:
    """Read a policy that is published: it was checked then."""
    return Policy.parse(Envelope.parse(envelope, "policy").content())


async def standing(db: AsyncConnection, digest: str) -> tuple[StoredPolicy, StoredPolicy | None]:
    """Find a policy, and the one that was withdrawn: itself, or the nearest of its ancestors."""
    found = each = await find(db, digest)
    while each.withdrawn_at is None and (parent := read(each.envelope).parent) is not None:
        each = await find(db, parent)
    return found, each if each.withdrawn_at is not None else None


async def withdraw(db: AsyncConnection, digest: str, *, by: str, reason: str, now: int) -> StoredPolicy:
    """Withdraw a policy from new jobs; a second withdrawal changes nothing. Raises `Refused` unknown-policy."""
    found = await find(db, digest)
    if found.withdrawn_at is None:
        await store.withdraw(db, digest, at=now, by=by, reason=reason)
        await audit.append(
            db, at=now, by=by, act="policy-withdrawn", subject=found.name, digest=digest, reason=reason[:256]
        )
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


async def _take_serial(db: AsyncConnection, policy: Policy, digest: str, compared: Compared) -> bool:
    """Make this policy the newest of its name; false when its serial is not higher than the newest one's."""
    head = await store.claim_head(db, policy.issuer, policy.policy_name)
    if head is not None and policy.serial <= head.serial:
        return False
    if policy.supersedes is not None and policy.supersedes != (head.digest if head else None):
        raise Refused("wrong-supersedes", "supersedes is not the newest policy of this name", field="supersedes")
    if (head.digest if head else None) != compared.head:
        raise Refused(
            "published-meanwhile", f"another policy of {policy.policy_name} was published meanwhile", hint="Try again."
        )
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
