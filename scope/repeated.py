"""A job asked for again, because its answer was lost: the answer again, and no second job (specs/http.md §2).

A client names its request by a `request_id`. What is compared is everything but the two tokens in it, which a client
rightly has fresh when it asks again: of these, whose they are.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw
from msgspec.structs import asdict, replace
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import purse, store, tokens
from scope.authority import Authority
from scope.client import JobRequest, OpenedJob
from scope.store import Job
from service.clients import Caller
from verifier.encoding import canonical, digest
from verifier.refused import Refused


async def answered(db: AsyncConnection, authority: Authority, caller: Caller, wanted: JobRequest) -> OpenedJob | None:
    """Find what this request was answered; None when it is new. Raises `Refused` request-differs, unknown-issuer."""
    if wanted.request_id is None:
        return None
    found = await store.request(db, caller.client, wanted.request_id)
    if found is None:
        return None
    job = await store.job(db, found.job)
    assert job is not None, "a request is kept with its job"
    same = found.asked == asked(wanted) and _same_parent(authority, job, wanted)
    if not same or not _same_user(authority, job, wanted):
        why = f"another request of this name opened {job.job}"
        hint = "Repeat a request as it was, or give a new one a request_id of its own."
        raise Refused("request-differs", why, hint=hint, field="request_id")
    envelope = await store.grant(db, job.grant)
    assert envelope is not None, "a job is kept with its grant"
    return answer(asdict(job), envelope, found.unavailable)


def answer(row: Mapping[str, Any], envelope: bytes, unavailable: list[str]) -> OpenedJob:
    """Tell of a job by its row, the first time as every other."""
    return OpenedJob(
        job=row["job"],
        grant=Raw(envelope),
        grant_digest=row["grant"],
        policy=row["policy"],
        opened=row["opened"],
        expires=row["expires"],
        unavailable=unavailable,
    )


def asked(wanted: JobRequest) -> str:
    """Digest a request without its tokens."""
    return digest(canonical(replace(wanted, user_token=None, parent_token=None)))


def _same_parent(authority: Authority, job: Job, wanted: JobRequest) -> bool:
    """Tell whether a request is for a child of the same job; the token that shows it may have expired."""
    if wanted.parent_token is None or job.parent is None:
        return wanted.parent_token is None and job.parent is None
    shown = tokens.read(authority.token_keys(), wanted.parent_token)
    return shown is not None and shown.token.txn == job.parent


def _same_user(authority: Authority, job: Job, wanted: JobRequest) -> bool:
    """Tell whether a request is for the same user, by a token's own word: it is not used again."""
    user = None if job.parent is not None else purse.scope_of(job).user
    return user == (None if wanted.user_token is None else authority.users.claimed(wanted.user_token))
