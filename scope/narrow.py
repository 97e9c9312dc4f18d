"""Narrower tokens inside a job: token exchange with `authorization_details` (RFC 8693, RFC 9396; specs/grant.md §4).

An agent that hands a part of its work on hands on less than it has. A narrower token has a grant of its own, narrowed
from the subject token's and signed like any; the same scope asked for again is the same grant.
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import store
from scope.authority import Authority
from scope.client import Detail, Models
from scope.store import Job
from scope.tables import acts
from verifier.conditions import any_glob
from verifier.encoding import canonical, digest
from verifier.envelope import Envelope, seal_up
from verifier.grant import Grant, Scope, server_of
from verifier.refused import Refused

MOST_KNOWN = 4096
MOST_GRANTS = 64  # of one job: its seal names each


class Held(Struct, frozen=True):
    """A grant with its digest, and the keys that signed it."""

    grant: Grant
    digest: str
    kids: frozenset[str]


_known: dict[str, Held] = {}


async def held(db: AsyncConnection, wanted: str) -> Held:
    """Read a grant that was issued here."""
    return (await db.run_sync(all_held, {wanted}))[wanted]


def all_held(db: Connection, wanted: set[str]) -> dict[str, Held]:
    """Read grants that were issued here; what a digest names never changes, so that each is read once."""
    known = {name: held for name in wanted if (held := _known.get(name)) is not None}
    if fresh := wanted - known.keys():
        found = {name: _held(raw, name) for name, raw in store.grants_named(db, fresh).items()}
        if len(_known) > MOST_KNOWN:
            _known.clear()
        _known.update(found)
        known |= found
    return known


async def of_job(db: AsyncConnection, job: str) -> list[Held]:
    """List a job's grants as they were issued, the one that opened it first."""
    found = [_held(raw, name) for name, raw in await store.grants_of(db, job)]
    return sorted(found, key=lambda each: (each.grant.issued_at, each.digest))


async def above(db: AsyncConnection, job: Sequence[Held]) -> list[Held]:
    """List the grants of the jobs that delegated this one, whose own grants these are: up to the root job's."""
    known, found = {each.digest for each in job}, list[Held]()
    parents = [each.grant.parent for each in job if each.grant.parent is not None]
    while wanted := [each for each in parents if each not in known]:
        each = await held(db, wanted[0])
        known.add(each.digest)
        found.append(each)
        parents = [*wanted[1:], *([each.grant.parent] if each.grant.parent is not None else [])]
    return found


async def narrowed(
    db: AsyncConnection, authority: Authority, job: Job, parent: Held, details: Sequence[Detail]
) -> Held:
    """Find or issue the grant for a part of another one's scope, in the caller's transaction.

    Raises `Refused`: scope-too-wide, too-many-grants.
    """
    scope = _part(parent.grant.scope, details)
    if scope == parent.grant.scope:
        return parent
    known = await of_job(db, job.job)
    for each in known:
        if each.grant.parent == parent.digest and each.grant.scope == scope:
            return each
    if len(known) >= MOST_GRANTS:
        raise Refused("too-many-grants", f"a job has at most {MOST_GRANTS} different scopes", hint="Open a new job.")
    now = max(authority.clock(), parent.grant.issued_at)
    authority.keys.require(authority.trust, authority.issuer, now)
    grant = replace(parent.grant, issued_at=now, parent=parent.digest, scope=scope)
    payload = canonical(grant)
    Grant.parse(payload)
    envelope = await asyncio.to_thread(seal_up, "grant", payload, authority.keys.grant)
    await store.add_grant(db, digest(payload), job.job, envelope)
    await store.add_targets(db, job.job, [("key", authority.keys.grant.kid)])
    said = {"digest": digest(payload), "parent": parent.digest}
    await acts.append(db, at=now, by=job.client, act="grant-narrowed", subject=job.job, **said)
    return _held(envelope, digest(payload))


def _part(scope: Scope, details: Sequence[Detail]) -> Scope:
    """Take what was asked for out of a scope. Raises `Refused` scope-too-wide for what is not in it."""
    tools = sorted({name for each in details if not isinstance(each, Models) for name in each.names()})
    models = sorted({model for each in details if isinstance(each, Models) for model in each.models})
    for name in tools:
        if name not in scope.tools:
            raise Refused("scope-too-wide", f"the subject token does not carry {name}", field="authorization_details")
    for model in models:
        if not any_glob(scope.models, model):
            raise Refused("scope-too-wide", f"the subject token does not carry {model}", field="authorization_details")
    servers = {server_of(name) for name in tools}
    pinned = {server: pin for server, pin in scope.manifests.items() if server in servers}
    return replace(scope, tools=tools, models=models, manifests=pinned)


def read_details(text: str) -> list[Detail]:
    """Read the form's `authorization_details`. Raises `Refused` bad-value."""
    try:
        return msgspec.json.decode(text, type=list[Detail])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = "authorization_details are a JSON list of types that this server knows"
        raise Refused("bad-value", why, field="authorization_details") from error


@lru_cache(1024)
def _held(raw: bytes, name: str) -> Held:
    envelope = Envelope.parse(raw, "grant")
    return Held(Grant.parse(envelope.content()), name, frozenset(envelope.kids()))
