"""What a job would get: its scope under its policy, and what it cannot have (specs/grant.md §§3-4).

A scope asked for outside the policy is refused by name, never quietly narrowed; no scope asked is all that the policy
allows on servers with an approved manifest, in a child job all of that which its parent's token carries. No grant names
a tool that is revoked: an auditor of a later job need not know of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from controls.client import Document
from scope import children, store
from scope.authority import Authority
from scope.children import Parent
from scope.client import Detail, JobRequest, Models
from service.chains import with_ancestors
from service.clients import Caller
from service.engine import reading
from verifier.admission import admits, expand, within
from verifier.chain import terms
from verifier.decision import Subject
from verifier.grant import BINDINGS, LIMITS, Binding, Budget, Scope, server_of
from verifier.manifest import Manifest
from verifier.policy import Chain, Policy, check_enforceable
from verifier.refused import Refused

Manifests = dict[str, Document[Manifest]]
Fetch = Callable[[Collection[str] | None, int], Awaitable[Manifests]]  # of some servers, or of all, at a time
Widest = Callable[[Mapping[str, Manifest]], tuple[list[str], list[str], list[str]]]  # tools, models, unavailable


class Planned(Struct, frozen=True):
    """A job that may be opened: its scope under its policy, what was asked for, whose child it is."""

    scope: Scope
    chain: Chain
    asked: JobRequest
    parent: Parent | None
    unavailable: list[str]


class Targets(Struct, frozen=True):
    """Tools and models that a job gets, what it does not get, the manifests of its servers."""

    tools: list[str]
    models: list[str]
    unavailable: list[str]
    manifests: Manifests


async def plan(authority: Authority, caller: Caller, wanted: JobRequest) -> Planned:
    """Find what a request comes to.

    Raises `Refused`: the policy's own, policy-withdrawn, not-admitted, unknown-server, scope-too-wide, and those of
    the user's or the parent's token.
    """
    now = authority.clock()
    chain = await _chain(authority, wanted.policy, now)
    standing = await authority.registry.status(wanted.policy)
    if standing.status != "published" or standing.manifests is None:
        raise Refused("policy-withdrawn", "the policy was withdrawn: no new job may pin it", field="policy")
    admits(chain, agent=wanted.agent, job_type=wanted.job_type, environment=wanted.environment)
    parent = await children.parent_of(authority, caller, wanted, chain)
    subject = await _subject(authority, caller, wanted, parent, now)
    if parent is None:
        fetch, widest = partial(_approved, authority, standing.manifests), partial(expand, chain, subject=subject)
    else:
        fetch = partial(children.manifests, authority, parent)
        widest = partial(children.inherit, parent, chain, subject=subject)
    targets = await _targets(authority, wanted, fetch, widest)
    servers = {server_of(tool) for tool in targets.tools}
    scope = Scope(
        iss=authority.issuer,
        job=subject.job,
        job_type=subject.job_type,
        environment=subject.environment,
        agent=subject.agent,
        client=subject.client,
        user=subject.user,
        claims=dict(subject.claims) or None,
        act=subject.act,
        audience=authority.audience,
        binding=_binding(chain, wanted, parent),
        policy=wanted.policy,
        manifests={server: each.digest for server, each in targets.manifests.items() if server in servers},
        tools=targets.tools,
        models=targets.models,
        limits=_limits(chain, wanted.limits),
        depth=subject.depth,
        client_counter=None if parent is None else parent.scope.client_counter,
    )
    within(scope, chain, _values(targets.manifests))
    return Planned(scope, chain, wanted, parent, targets.unavailable)


def _binding(chain: Chain, wanted: JobRequest, parent: Parent | None) -> Binding:
    """Bind tokens as the strictest of policy, request and parent asks."""
    asked: list[Binding] = [terms(chain).token_constraints.binding, wanted.binding]
    return max(asked if parent is None else [*asked, parent.scope.binding], key=BINDINGS.index)


async def _subject(
    authority: Authority, caller: Caller, wanted: JobRequest, parent: Parent | None, now: int
) -> Subject:
    """Name who will act: for a user whose token is verified, or for the parent's."""
    job = f"job-{authority.random(12).hex()}"
    subject = Subject(wanted.agent, caller.client, job, wanted.job_type, wanted.environment)
    if parent is not None:
        above = parent.scope
        act = above.agent if above.agent != wanted.agent else None
        return replace(subject, act=act, depth=above.depth + 1, user=above.user, claims=above.claims or {})
    if wanted.user_token is None:
        return subject
    user = await authority.users.verify(wanted.user_token, now)
    return replace(subject, user=user.name, claims=user.claims)


async def _targets(authority: Authority, wanted: JobRequest, fetch: Fetch, widest: Widest) -> Targets:
    """Find what is asked for, or the widest that may be, without the tools that are revoked: nobody named them."""
    now = authority.clock()
    if wanted.authorization_details is not None:
        tools, models = _asked(wanted.authorization_details)
        return Targets(tools, models, [], await fetch({server_of(tool) for tool in tools}, now))
    manifests = await fetch(None, now)
    tools, models, unavailable = widest(_values(manifests))
    async with reading(authority.engine) as db:
        gone = set(await store.revoked_tools(db, tools, now))
    left = [tool for tool in tools if tool not in gone]
    return Targets(left, models, sorted([*unavailable, *gone]), manifests)


async def _chain(authority: Authority, wanted: str, now: int) -> Chain:
    """Fetch a policy and its ancestors, each in force now. Raises `Refused`: theirs, bad-policy, unsupported."""

    async def fetch(digest: str) -> Policy:
        policy = (await authority.registry.policy(digest, now)).value
        check_enforceable(policy)
        return policy

    return await with_ancestors(await fetch(wanted), fetch)


def _asked(details: Sequence[Detail]) -> tuple[list[str], list[str]]:
    """Read RFC 9396 authorization details as sorted sets of tools and models."""
    tools = {name for each in details if not isinstance(each, Models) for name in each.names()}
    models = {model for each in details if isinstance(each, Models) for model in each.models}
    return sorted(tools), sorted(models)


async def _approved(
    authority: Authority, offered: Mapping[str, str], servers: Collection[str] | None, now: int
) -> Manifests:
    """Fetch the manifests of some servers, or of all that are offered; one that cannot be had is a refusal."""
    names, fetch = sorted(offered if servers is None else servers), authority.registry.approved_manifest
    found = await asyncio.gather(*(fetch(name, now, offered.get(name)) for name in names))
    return dict(zip(names, found, strict=True))


def _limits(chain: Chain, asked: Budget) -> Budget:
    """Take what was asked for, and the policies' budget where nothing was; `within` refuses more."""
    budgets = terms(chain).budgets
    values = {name: getattr(asked, name) for name in LIMITS}
    return Budget(**{name: getattr(budgets, name) if value is None else value for name, value in values.items()})


def _values(manifests: Manifests) -> dict[str, Manifest]:
    return {server: each.value for server, each in manifests.items()}
