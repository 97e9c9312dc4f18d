"""Revocation: what is revoked is revoked for ever, in one sequence without gaps (specs/revocation.md)."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from scope import store
from scope.authority import Authority
from scope.client import RevocationRequest, Revoked
from scope.store import JobNames
from scope.tables import acts
from service.engine import writing
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.refused import Refused
from verifier.revocation import OF_GRANT, Revocation, Target

DIGEST_LENGTH = len("sha256:") + 64


async def revoke(authority: Authority, wanted: RevocationRequest, actor: str) -> Revoked:
    """Revoke in a transaction of its own: when this returns it is durable. Raises `Refused`: unknown-job, bad-value."""
    check_target(authority, wanted)
    async with revoking(authority) as db:
        await require_job(db, wanted)
        return await write(db, authority, wanted, actor)


async def require_job(db: AsyncConnection, wanted: RevocationRequest) -> None:
    """Raise `Refused` unknown-job when a job is to be revoked that there is not."""
    if wanted.kind == "job" and await store.job(db, wanted.value) is None:
        raise Refused("unknown-job", "there is no such job", field="value")


@asynccontextmanager
async def revoking(authority: Authority) -> AsyncGenerator[AsyncConnection, None]:
    """Open a transaction that revokes; once it is durable, followers of the feed hear of it."""
    async with writing(authority.engine) as db:
        yield db
    authority.feed.wake()


async def write(db: AsyncConnection, authority: Authority, wanted: RevocationRequest, actor: str) -> Revoked:
    """Sign the next revocation, witness every lane that it touches, and let the jobs that it ends begin to close."""
    sequence = await store.lock_sequence(db) + 1
    chosen = touched(authority, wanted)
    await store.lock_jobs(db, chosen)
    now = authority.clock()
    payload = written(authority, wanted, actor=actor, sequence=sequence, at=now)
    revocation = Revocation.parse(payload)
    envelope = seal_up("revocation", payload, authority.keys.revocation)
    await store.add_revocation(db, revocation, digest(payload), envelope)
    await store.write_due_marks(db, chosen, now)
    await store.mark(db, chosen, now)
    await store.owe_mark(db, chosen, now)
    await acts.append(
        db,
        at=now,
        by=actor,
        act="revoked",
        subject="all" if wanted.kind == "all" else wanted.value,
        digest=digest(payload),
        kind=wanted.kind,
        sequence=sequence,
        reason=wanted.reason,
        ticket=wanted.ticket,
        until=wanted.until,
    )
    ended = await store.end_jobs(db, chosen, "revoked", now, actor) if ends(authority, wanted) else []
    return Revoked(sequence=sequence, time=now, digest=digest(payload), jobs=len(ended))


def written(authority: Authority, wanted: RevocationRequest, *, actor: str, sequence: int, at: int) -> bytes:
    """Write a revocation. Raises `Refused` bad-value for an `until` that cannot be."""
    payload = canonical(
        Revocation(
            iss=authority.issuer,
            sequence=sequence,
            time=at,
            target=Target(wanted.kind, wanted.value),
            reason=wanted.reason,
            actor=actor,
            ticket=wanted.ticket,
            note=wanted.note,
            until=wanted.until,
        )
    )
    Revocation.parse(payload)
    return payload


def touched(authority: Authority, wanted: RevocationRequest) -> JobNames:
    """Choose the jobs that it touches: a token key may have signed tokens of any."""
    if use(authority, wanted) == "token":
        return store.unsealed("all", "*")
    return store.unsealed(wanted.kind, wanted.value)


def ends(authority: Authority, wanted: RevocationRequest) -> bool:
    """Tell whether it ends jobs: without its tokens a job goes on, by those of another key."""
    return wanted.kind in OF_GRANT and use(authority, wanted) != "token"


def use(authority: Authority, wanted: RevocationRequest) -> str:
    """Name the use of the key that is revoked; nothing when it is none of ours, or something else is revoked."""
    key = authority.trust.by_kid.get(wanted.value) if wanted.kind == "key" else None
    return key.use if key is not None and key.owner == authority.issuer else ""


def check_target(authority: Authority, wanted: RevocationRequest) -> None:
    """Refuse a target that could never fit anything: it would look like a revocation and be none."""
    Target(wanted.kind, wanted.value).check()
    kind, value = wanted.kind, wanted.value
    first, slash, rest = value.partition("/")
    fits = {
        "key": use(authority, wanted) in {"grant", "token"},
        "policy": value.startswith("sha256:") and len(value) == DIGEST_LENGTH,
        "tool": bool(slash and first and rest),
        "model": bool(slash and first and rest),
        "server": not slash,
    }
    if not fits.get(kind, True):
        raise Refused("bad-value", f"this value names no {kind}", field="value")
