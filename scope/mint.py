"""Tokens: RFC 9068 access tokens of one job, signed with EdDSA, stored before anybody sees them (specs/token.md).

A token says exactly what its grant says and lives for minutes: 300 seconds unless asked otherwise, never longer than
the policy allows, never beyond the grant.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from hmac import compare_digest
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import narrow, revoke, store
from scope.authority import OVERSEERS, SECOND, Authority
from scope.client import ACCESS_TOKEN, Detail, IssuedToken, RevocationRequest
from scope.desk import Answer, Order
from scope.narrow import Held
from scope.store import Job
from scope.tokens import Shown, encode, read
from service.clients import Caller
from service.engine import reading, transact, writing
from verifier.encoding import is_id
from verifier.grant import Confirmation, Token, authorization_details
from verifier.refused import Refused
from verifier.revocation import Name

DEFAULT_TTL = 300
MOST_TOKENS = 4000  # of one job: its seal names each one that was used, in at most a mebibyte
MOST_WITHDRAWN = 64  # of one job by its client: its seal names each revocation, among at most a thousand


class Known(Struct, frozen=True):
    """What the database says that matters to some orders: read while their jobs are locked."""

    jobs: dict[str, tuple[Job, int]]  # each with how many tokens it was issued
    gone: set[Name]
    issued: Mapping[str, str]
    held: Mapping[str, Held]


async def mint(
    authority: Authority, caller: Caller, job: str, ttl: int | None, *, jkt: str | None = None
) -> IssuedToken:
    """Issue a token under a job's first grant, to the client that opened it; `jkt` is the key that it is bound to.

    Raises `Refused`: unknown-job, job-not-open, ttl-too-long, too-many-tokens, dpop-required, revoked.
    """
    if not is_id(job):  # what a database cannot read would fail everybody who shares the transaction
        raise _unknown()
    return await _signed(authority, Order(caller.client, job, ttl, jkt, None))


async def exchange(
    authority: Authority,
    caller: Caller,
    subject: str,
    ttl: int | None,
    details: Sequence[Detail] | None,
    *,
    jkt: str | None = None,
    job: str | None = None,
) -> IssuedToken:
    """Exchange a living token for a younger one of the same grant, or for a narrower one (RFC 8693); `job` names its.

    A bound token stays bound to its key. Raises `Refused` as `mint`; bad-token, bad-dpop-proof, scope-too-wide,
    too-many-grants.
    """
    shown = read(authority.token_keys(), subject)
    if shown is None:
        raise _bad_subject()
    if job not in {None, shown.token.txn}:
        raise Refused("bad-request", "the subject token is of another job", field="job")
    issued = await _signed(authority, Order(caller.client, shown.token.txn, ttl, jkt, shown), details)
    return msgspec.structs.replace(issued, issued_token_type=ACCESS_TOKEN)


async def _signed(authority: Authority, order: Order, details: Sequence[Detail] | None = None) -> IssuedToken:
    if details is None:
        token = await authority.desk.ask(order, partial(_issue, authority))
    else:
        token = await _narrower(authority, order, details)
    text = encode(token, authority.keys.token)
    return IssuedToken(access_token=text, token_type=_type(token), expires_in=token.exp - token.iat)


async def _issue(authority: Authority, orders: Sequence[Order]) -> list[Answer]:
    """Issue what was ordered, in one transaction; an order that is refused keeps no other from its token."""

    def work(db: Connection) -> list[Answer]:
        known = _look(db, authority, orders)
        answers = [_answer(authority, order, known) for order in orders]
        store.add_tokens(db, [_row(authority, each) for each in answers if isinstance(each, Token)])
        return answers

    return await transact(authority.engine, work)


async def _narrower(authority: Authority, order: Order, details: Sequence[Detail]) -> Token:
    """Issue a token for a part of what a grant carries, together with the grant for that part."""
    async with writing(authority.engine) as db:
        await store.lock_sequence(db)  # no key is revoked while it signs a grant
        await store.lock_jobs(db, store.named([order.job]))
        known = await db.run_sync(_look, authority, [order])
        job, held = _admit(authority, order, known, authority.keys.grant.kid)
        token = _claims(authority, job, await narrow.narrowed(db, authority, job, held, details), order)
        await db.run_sync(store.add_tokens, [_row(authority, token)])
    return token


def _look(db: Connection, authority: Authority, orders: Sequence[Order]) -> Known:
    """Lock the jobs of some orders against their end, and read what there is to know."""
    jobs = store.jobs_for_tokens(db, {order.job for order in orders})
    shown = [order.shown for order in orders if order.shown is not None]
    ours: list[Name] = [("key", authority.keys.token.kid), ("key", authority.keys.grant.kid)]
    grants = {_grant(order, jobs[order.job][0]) for order in orders if order.job in jobs}
    return Known(
        jobs=jobs,
        gone=store.revoked_among(db, {*ours, *(name for each in shown for name in each.names)}, authority.clock()),
        issued=store.jobs_of_tokens(db, [each.token.jti for each in shown]) if shown else {},
        held=narrow.all_held(db, grants),
    )


def _answer(authority: Authority, order: Order, known: Known) -> Answer:
    """Answer one order, and count its token: others of the same job may share the transaction."""
    try:
        job, held = _admit(authority, order, known)
        token = _claims(authority, job, held, order)
    except Refused as refused:
        return refused
    known.jobs[job.job] = (job, known.jobs[job.job][1] + 1)
    return token


def _admit(authority: Authority, order: Order, known: Known, *kids: str) -> tuple[Job, Held]:
    """Find the job and the grant of an order, in which these keys, and the tokens', sign."""
    job, issued = known.jobs.get(order.job, (None, 0))
    if order.shown is not None:
        _check_subject(order, order.shown, job, known, authority.clock())
    if job is None or job.client != order.client:
        raise _unknown()
    if any(("key", kid) in known.gone for kid in (authority.keys.token.kid, *kids)):
        hint = "Make another (tally keys rotate), and restart scope."
        raise Refused("revoked", "the key that signs grants or tokens is revoked", hint=hint)
    if issued >= MOST_TOKENS:
        hint = "Use a token until it expires; open a new job."
        raise Refused("too-many-tokens", f"a job has at most {MOST_TOKENS} tokens", hint=hint)
    return job, known.held[_grant(order, job)]


def _check_subject(order: Order, shown: Shown, job: Job | None, known: Known, now: int) -> None:
    """Refuse to exchange a token that is none of ours or no longer good, or that is bound to another key."""
    token = shown.token
    if job is None or job.client != order.client:  # who is no client of it learns nothing, not even whether it lives
        raise _bad_subject()
    open_still = job.state == "open" and now < min(job.expires, token.exp * SECOND)
    if not open_still or known.issued.get(token.jti) != order.job or not known.gone.isdisjoint(shown.names):
        raise _bad_subject()
    if token.cnf is not None and not compare_digest(token.cnf.jkt, order.jkt or ""):
        raise Refused("bad-dpop-proof", "the subject token is bound to another key", field="dpop")


def _grant(order: Order, job: Job) -> str:
    return job.grant if order.shown is None else order.shown.token.grant


def _unknown() -> Refused:
    return Refused("unknown-job", "this client opened no such job", field="job")


def _bad_subject() -> Refused:
    why = "the subject token is not one of ours that is still good"
    return Refused("bad-token", why, field="subject_token")


def _row(authority: Authority, token: Token) -> dict[str, Any]:
    shown = {name: getattr(token, name) for name in ("jti", "grant", "iat", "exp")}
    return {**shown, "job": token.txn, "kid": authority.keys.token.kid}


async def withdraw(authority: Authority, caller: Caller, raw: str) -> None:
    """Revoke one token for its client (RFC 7009); a token that is none, or no longer one, is no error.

    Raises `Refused`: forbidden, too-many-tokens.
    """
    shown = read(authority.token_keys(), raw)
    if shown is None:
        return
    token = shown.token
    if token.client_id != caller.client:
        raise Refused("forbidden", "the token was issued to another client")
    async with revoke.revoking(authority) as db:
        await store.lock_sequence(db)  # the same token withdrawn twice at once is revoked once
        if await lives(db, authority, shown):
            if await store.count_withdrawn(db, token.txn) >= MOST_WITHDRAWN:
                why = f"{MOST_WITHDRAWN} tokens of this job were revoked"
                raise Refused("too-many-tokens", why, hint="Close the job: all its tokens end with it.")
            wanted = RevocationRequest(kind="jti", value=token.jti, reason="revoked-by-client")
            await revoke.write(db, authority, wanted, caller.client)


async def introspect(authority: Authority, caller: Caller, raw: str) -> dict[str, Any]:
    """Say whether a token is live and what it says (RFC 7662); who is no overseer learns of its own tokens alone."""
    shown = read(authority.token_keys(), raw)
    foreign = shown is not None and shown.token.client_id != caller.client and caller.roles.isdisjoint(OVERSEERS)
    async with reading(authority.engine) as db:
        if shown is None or foreign or not await lives(db, authority, shown):
            return {"active": False}
    return {"active": True, "token_type": _type(shown.token), **msgspec.to_builtins(shown.token)}


def _type(token: Token) -> str:
    return "Bearer" if token.cnf is None else "DPoP"


def _claims(authority: Authority, job: Job, held: Held, order: Order) -> Token:
    now = authority.clock()
    issued = now // SECOND
    if job.state != "open" or now >= job.expires:
        raise Refused("job-not-open", "the job is closed, revoked or over", field="job")
    scope = held.grant.scope
    if scope.binding == "dpop" and order.jkt is None:
        hint = "Send a DPoP proof with the request."
        raise Refused("dpop-required", "this job's tokens are bound to a key", hint=hint, field="dpop")
    if order.ttl is not None and order.ttl > job.max_ttl:
        raise Refused("ttl-too-long", f"the policy allows tokens of {job.max_ttl} seconds", field="ttl")
    expires = min(issued + min(order.ttl or DEFAULT_TTL, job.max_ttl), job.expires // SECOND)
    if expires <= issued:
        raise Refused("job-not-open", "the job ends within this second", field="job")
    return Token(
        iss=scope.iss,
        sub=scope.agent,
        aud=scope.audience,
        client_id=scope.client,
        iat=issued,
        nbf=issued,
        exp=expires,
        jti=authority.random(16).hex(),
        txn=scope.job,
        policy_hash=scope.policy,
        scope_hash=scope.hash(),
        grant=held.digest,
        authorization_details=authorization_details(scope),
        cnf=None if order.jkt is None else Confirmation(jkt=order.jkt),
    )


async def lives(db: AsyncConnection, authority: Authority, shown: Shown) -> bool:
    """Tell whether a token of ours was issued, has time left, belongs to an open job and was not revoked."""
    now, token = authority.clock(), shown.token
    job = await store.job(db, token.txn)
    if job is None or job.state != "open" or now >= token.exp * SECOND or now >= job.expires:
        return False
    if await store.token_job(db, token.jti) != token.txn:
        return False
    return await store.revoked(db, shown.names, now) is None
