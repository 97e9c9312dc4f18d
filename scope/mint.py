"""Tokens: RFC 9068 access tokens of one job, signed with EdDSA, stored before anybody sees them (specs/token.md).

A token says exactly what its grant says and lives for minutes: 300 seconds unless asked otherwise, never longer than
the policy allows, never beyond the grant.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import partial
from hmac import compare_digest
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import narrow, revoke, store
from scope.authority import SECOND, Authority
from scope.client import ACCESS_TOKEN, Detail, IssuedToken, RevocationRequest
from scope.desk import Answer, Order
from scope.narrow import Held
from scope.store import Job
from service.clients import Caller
from service.engine import reading, transact, writing
from verifier.grant import Confirmation, Token, authorization_details
from verifier.refused import Refused
from verifier.signing import KeyPair, verify_ed25519

DEFAULT_TTL = 300
MAX_TOKEN = 1 << 17
MOST_TOKENS = 4000  # of one job: its seal names each one that was used, in at most a mebibyte
READERS = {"gateway", "responder", "auditor"}  # who may learn of anybody's token


class Shown(Struct, frozen=True):
    """A token that somebody showed, and the key that signed it."""

    token: Token
    kid: str


class _Header(Struct, frozen=True):
    alg: str
    kid: str
    typ: str


async def mint(
    authority: Authority,
    caller: Caller,
    job: str,
    ttl: int | None,
    *,
    subject: str | None = None,
    details: Sequence[Detail] | None = None,
    jkt: str | None = None,
) -> IssuedToken:
    """Issue a token to the client that opened the job: under its first grant, or that of a `subject` token.

    With `details` the token carries that part of it; `jkt` is the key that it is bound to. Raises `Refused`:
    unknown-job, job-not-open, ttl-too-long, too-many-tokens, scope-too-wide, too-many-grants, dpop-required.
    """
    order = Order(caller.client, job, ttl, subject, jkt)
    if details is None:
        token = await authority.desk.ask(order, partial(_issue, authority))
    else:
        token = await _narrower(authority, order, details)
    signed = encode(token, authority.keys.token)
    return IssuedToken(access_token=signed, token_type=_type(token), expires_in=token.exp - token.iat)


async def _issue(authority: Authority, orders: Sequence[Order]) -> list[Answer]:
    """Issue what was ordered, in one transaction; an order that is refused keeps no other from its token."""
    return await transact(authority.engine, lambda db: _issue_all(db, authority, orders))


def _issue_all(db: Connection, authority: Authority, orders: Sequence[Order]) -> list[Answer]:
    jobs = store.jobs_for_tokens(db, {order.job for order in orders})
    try:
        _refuse_revoked(db, authority, authority.keys.token.kid)
    except Refused as refused:
        return [refused for _ in orders]
    named = {order.grant or jobs[order.job][0].grant for order in orders if order.job in jobs}
    held = narrow.all_held(db, named)
    answers = [_answer(authority, order, jobs.get(order.job, (None, 0)), held) for order in orders]
    store.add_tokens(db, [_row(authority, each) for each in answers if isinstance(each, Token)])
    return answers


def _answer(authority: Authority, order: Order, found: tuple[Job | None, int], held: Mapping[str, Held]) -> Answer:
    try:
        job = _admit(order, *found)
        return _claims(authority, job, held[order.grant or job.grant], order)
    except Refused as refused:
        return refused


async def _narrower(authority: Authority, order: Order, details: Sequence[Detail]) -> Token:
    """Issue a token for a part of what a grant carries, together with the grant for that part."""
    kids = authority.keys.token.kid, authority.keys.grant.kid
    async with writing(authority.engine) as db:
        await store.lock_sequence(db)  # no key is revoked while it signs a grant
        found = await store.job(db, order.job, lock=True)
        job = _admit(order, found, await store.count_tokens(db, order.job))
        await db.run_sync(_refuse_revoked, authority, *kids)
        held = await narrow.held(db, order.grant or job.grant)
        token = _claims(authority, job, await narrow.narrowed(db, authority, job, held, details), order)
        await db.run_sync(store.add_tokens, [_row(authority, token)])
    return token


def _admit(order: Order, job: Job | None, issued: int) -> Job:
    if job is None or job.client != order.client:
        raise Refused("unknown-job", "this client opened no such job", field="job")
    if issued >= MOST_TOKENS:
        hint = "Use a token until it expires; open a new job."
        raise Refused("too-many-tokens", f"a job has at most {MOST_TOKENS} tokens", hint=hint)
    return job


def _row(authority: Authority, token: Token) -> dict[str, Any]:
    shown = {name: getattr(token, name) for name in ("jti", "grant", "iat", "exp")}
    return {**shown, "job": token.txn, "kid": authority.keys.token.kid}


async def exchange(
    authority: Authority,
    caller: Caller,
    subject: str,
    ttl: int | None,
    details: Sequence[Detail] | None,
    *,
    jkt: str | None = None,
) -> IssuedToken:
    """Exchange a living token for a younger one of the same grant, or for a narrower one (RFC 8693).

    A bound token stays bound to its key. Raises `Refused` bad-token and bad-dpop-proof as well.
    """
    shown = read(authority, subject)
    async with reading(authority.engine).connect() as db:
        if shown is None or not await lives(db, authority, shown):
            raise Refused("bad-token", "the subject token is not one of ours that is still good", field="subject_token")
    token = shown.token
    if token.cnf is not None and not compare_digest(token.cnf.jkt, jkt or ""):
        raise Refused("bad-dpop-proof", "the subject token is bound to another key", field="dpop")
    issued = await mint(authority, caller, token.txn, ttl, subject=token.grant, details=details, jkt=jkt)
    return msgspec.structs.replace(issued, issued_token_type=ACCESS_TOKEN)


async def withdraw(authority: Authority, caller: Caller, raw: str) -> None:
    """Revoke one token for its client (RFC 7009); a token that is none, or no longer one, is no error."""
    shown = read(authority, raw)
    if shown is None:
        return
    token = shown.token
    if token.client_id != caller.client:
        raise Refused("forbidden", "the token was issued to another client")
    async with revoke.revoking(authority) as db:
        if await lives(db, authority, shown):
            wanted = RevocationRequest(kind="jti", value=token.jti, reason="revoked-by-client")
            await revoke.write(db, authority, wanted, caller.client)


async def introspect(authority: Authority, caller: Caller, raw: str) -> dict[str, Any]:
    """Say whether a token is live and what it says (RFC 7662); who is no reader learns of its own tokens alone."""
    shown = read(authority, raw)
    foreign = shown is not None and shown.token.client_id != caller.client and caller.roles.isdisjoint(READERS)
    async with reading(authority.engine).connect() as db:
        if shown is None or foreign or not await lives(db, authority, shown):
            return {"active": False}
    return {"active": True, "token_type": _type(shown.token), **msgspec.to_builtins(shown.token)}


def _type(token: Token) -> str:
    return "Bearer" if token.cnf is None else "DPoP"


def encode(token: Token, key: KeyPair) -> str:
    """Write a token as a JWS in compact form."""
    signed = f"{_header(key.kid)}.{_b64url(msgspec.json.encode(token))}"
    return f"{signed}.{_b64url(key.ed25519(signed.encode()))}"


def read(authority: Authority, raw: str) -> Shown | None:
    """Read a token of ours: the header is, byte for byte, the one that we write for a key that was not revoked."""
    header, _, rest = raw.partition(".")
    public = {_header(key.kid): key for key in authority.token_keys()}
    payload, dot, signature = rest.partition(".")
    if header not in public or not dot or len(raw) > MAX_TOKEN:
        return None
    try:
        key = public[header]
        if not verify_ed25519(key.pair().raw()[0], f"{header}.{payload}".encode(), _unb64url(signature)):
            return None
        return Shown(msgspec.json.decode(_unb64url(payload), type=Token), key.kid)
    except (binascii.Error, ValueError):
        return None


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
    return await store.revoked(db, [("jti", token.jti), ("key", shown.kid)], now) is None


def _refuse_revoked(db: Connection, authority: Authority, *kids: str) -> None:
    """Refuse to sign with a revoked key; the job is locked, so none is revoked meanwhile."""
    if store.revoked_of(db, [("key", kid) for kid in kids], authority.clock()) is not None:
        hint = "Make another (tally keys rotate), and restart scope."
        raise Refused("revoked", "the key that signs grants or tokens is revoked", hint=hint)


def _header(kid: str) -> str:
    return _b64url(msgspec.json.encode(_Header("EdDSA", kid, "at+jwt")))


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64url(text: str) -> bytes:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _b64url(raw) != text:
        raise ValueError("not the one spelling")
    return raw
