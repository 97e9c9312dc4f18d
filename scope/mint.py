"""Tokens: RFC 9068 access tokens of one job, signed with EdDSA, stored before anybody sees them (specs/token.md).

A token says exactly what its grant says and lives for minutes: 300 seconds unless asked otherwise, never longer than
the policy allows, never beyond the grant.
"""

import base64
import binascii
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import narrow, revoke, store
from scope.authority import SECOND, Authority
from scope.client import ACCESS_TOKEN, Detail, IssuedToken, RevocationRequest
from scope.narrow import Held
from scope.store import Job
from service.clients import Caller
from service.engine import reading
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
    key = authority.keys.token
    async with authority.engine.begin() as db:
        if details is not None:
            await store.lock_sequence(db)  # no key is revoked while it signs a grant
        found = await store.job(db, job, lock=details is not None, share=details is None)
        if found is None or found.client != caller.client:
            raise Refused("unknown-job", "this client opened no such job", field="job")
        _require_open(found, authority.clock())
        await _refuse_revoked(db, authority, key.kid, *([] if details is None else [authority.keys.grant.kid]))
        held = await narrow.held(db, subject or found.grant)
        if details is not None:
            held = await narrow.narrowed(db, authority, found, held, details)
        if held.grant.scope.binding == "dpop" and jkt is None:
            hint = "Send a DPoP proof with the request."
            raise Refused("dpop-required", "this job's tokens are bound to a key", hint=hint, field="dpop")
        token = _claims(authority, found, held, ttl, jkt)
        if await store.count_tokens(db, job) >= MOST_TOKENS:
            hint = "Use a token until it expires; open a new job."
            raise Refused("too-many-tokens", f"a job has at most {MOST_TOKENS} tokens", hint=hint)
        await store.add_token(
            db, {"jti": token.jti, "job": job, "grant": token.grant, "iat": token.iat, "exp": token.exp, "kid": key.kid}
        )
    signed = encode(token, key)
    return IssuedToken(access_token=signed, token_type=_type(token), expires_in=token.exp - token.iat)


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


def _claims(authority: Authority, job: Job, held: Held, ttl: int | None, jkt: str | None) -> Token:
    now = authority.clock()
    issued = now // SECOND
    _require_open(job, now)
    if ttl is not None and ttl > job.max_ttl:
        raise Refused("ttl-too-long", f"the policy allows tokens of {job.max_ttl} seconds", field="ttl")
    expires = min(issued + min(ttl or DEFAULT_TTL, job.max_ttl), job.expires // SECOND)
    if expires <= issued:
        raise Refused("job-not-open", "the job ends within this second", field="job")
    scope = held.grant.scope
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
        cnf=None if jkt is None else Confirmation(jkt=jkt),
    )


def _require_open(job: Job, now: int) -> None:
    if job.state != "open" or now >= job.expires:
        raise Refused("job-not-open", "the job is closed, revoked or over", field="job")


async def lives(db: AsyncConnection, authority: Authority, shown: Shown) -> bool:
    """Tell whether a token of ours was issued, has time left, belongs to an open job and was not revoked."""
    now, token = authority.clock(), shown.token
    job = await store.job(db, token.txn)
    if job is None or job.state != "open" or now >= token.exp * SECOND or now >= job.expires:
        return False
    if await store.token_job(db, token.jti) != token.txn:
        return False
    return await store.revoked(db, [("jti", token.jti), ("key", shown.kid)], now) is None


async def _refuse_revoked(db: AsyncConnection, authority: Authority, *kids: str) -> None:
    """Refuse to sign with a revoked key; the job is locked, so none is revoked meanwhile."""
    if await store.revoked(db, [("key", kid) for kid in kids], authority.clock()) is not None:
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
