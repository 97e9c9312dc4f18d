"""Child jobs: a job hands a part of its work on, with a part of its scope and purse (specs/grant.md §4).

Whoever opens a child shows a living token of the parent: the child's grant is narrowed from that token's. A child is
never wider, longer or deeper than its parent, has the same user, and dies with it; what it may is asked of
`verifier.delegation`, as an auditor will.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from controls.client import Document
from scope import mint, narrow, purse, store, tokens
from scope.authority import Authority
from scope.client import JobRequest
from scope.narrow import Held
from scope.tokens import Shown
from service.clients import Caller
from service.engine import reading
from verifier.admission import covers, find_target, may
from verifier.chain import terms
from verifier.decision import Subject
from verifier.delegation import widened
from verifier.grant import Grant, Scope
from verifier.manifest import Manifest
from verifier.policy import Chain
from verifier.refused import Refused

MOST_CHILDREN = 64  # of one job: its seal names each


class Parent(Struct, frozen=True):
    """The token that was shown, and its grant, which a child is narrowed from."""

    shown: Shown
    held: Held

    @property
    def scope(self) -> Scope:
        """What the parent's token may do."""
        return self.held.grant.scope

    @property
    def job(self) -> str:
        """The job that delegates."""
        return self.scope.job


async def parent_of(authority: Authority, caller: Caller, wanted: JobRequest, chain: Chain) -> Parent | None:
    """Find the parent that a request's token is of; None for a root job.

    Raises `Refused`: bad-parent-token, bad-value, scope-too-wide.
    """
    if wanted.parent_token is None:
        return None
    if wanted.user_token is not None:
        raise Refused("bad-value", "a child job has its parent's user", field="user_token")
    shown = tokens.read(authority.token_keys(), wanted.parent_token)
    async with reading(authority.engine) as db:
        if shown is None or shown.token.client_id != caller.client or not await mint.lives(db, authority, shown):
            raise _bad_parent()
        parent = Parent(shown, await narrow.held(db, shown.token.grant))
    deepest = terms(chain).token_constraints.max_delegation_depth
    if parent.scope.depth >= deepest:
        why = f"the policy allows {deepest} levels of delegation, and the parent is at level {parent.scope.depth}"
        raise Refused("scope-too-wide", why, field="parent_token")
    if parent.scope.policy not in {wanted.policy, *(each.parent for each in chain)}:
        hint = "Pin the parent's policy, or one that names it as its parent."
        raise Refused("scope-too-wide", "the policy does not stand under the parent job's", hint=hint, field="policy")
    return parent


async def manifests(
    authority: Authority, parent: Parent, servers: Collection[str] | None, now: int
) -> dict[str, Document[Manifest]]:
    """Fetch the manifests that the parent's grant pins: of some servers, or all. Raises `Refused`."""
    pinned = {name: pin for name, pin in parent.scope.manifests.items() if servers is None or name in servers}
    return {server: await authority.registry.manifest(pin, now) for server, pin in sorted(pinned.items())}


def inherit(
    parent: Parent, chain: Chain, known: Mapping[str, Manifest], subject: Subject
) -> tuple[list[str], list[str], list[str]]:
    """Return what of the parent's scope the child's policies allow its agent: tools, models, what they do not."""
    tools = [tool for tool in parent.scope.tools if _may(tool, chain, known, subject)]
    models = [model for model in parent.scope.models if covers(chain, model)]
    given = {*tools, *models}
    return tools, models, sorted({*parent.scope.tools, *parent.scope.models} - given)


async def admit(db: AsyncConnection, authority: Authority, parent: Parent, asked: JobRequest, scope: Scope) -> Scope:
    """Lock the parent, and take the child's share off its purse; in the transaction that opens the child.

    Raises `Refused`: job-not-open, bad-parent-token, too-many-children, scope-too-wide.
    """
    job = await store.job(db, parent.job, lock=True)
    if job is None or job.state != "open" or authority.clock() >= job.expires:
        raise Refused("job-not-open", "the parent job is closed, revoked or over", field="parent_token")
    if not await mint.lives(db, authority, parent.shown):  # it ended since it was shown
        raise _bad_parent()
    children = await store.children_of(db, job.job)
    if len(children) >= MOST_CHILDREN:
        raise Refused(
            "too-many-children", f"a job has at most {MOST_CHILDREN} child jobs", hint="Let a child delegate."
        )
    rest = purse.left(job, await store.lanes_of(db, job.job), children)
    return replace(scope, limits=purse.part(rest, asked.limits, scope.limits))


def require_inside(grant: Grant, parent: Parent) -> None:
    """Raise `Refused` scope-too-wide for the first field in which a child goes beyond its parent."""
    for field, why in widened(grant, parent.held.grant):
        raise Refused("scope-too-wide", f"the child job {why}", field=field)


def _bad_parent() -> Refused:
    hint = "Get a token of the parent job, and try again."
    return Refused("bad-parent-token", "this is no living token of a job of yours", hint=hint, field="parent_token")


def _may(tool: str, chain: Chain, known: Mapping[str, Manifest], subject: Subject) -> bool:
    kind, _, rest = tool.partition(":")
    server, _, name = rest.partition("/")
    target = find_target(known[server], kind, name)
    return target is not None and may(chain, subject, target)
