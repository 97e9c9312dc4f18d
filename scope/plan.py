"""What a job would get: its scope under its policy, and what it cannot have (specs/grant.md §§3-4).

A scope asked for outside the policy is refused by name, never quietly narrowed; no scope asked is all that the policy
allows on servers with an approved manifest, in a child job all of that which its parent's token carries. No grant names
a tool that is revoked: an auditor of a later job need not know of it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

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
Offered = Mapping[str, str]  # by server, the digests of the manifests that a new job gets


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
        targets = await _of_root(authority, wanted, subject, chain, standing.manifests)
    else:
        targets = await _of_child(authority, wanted, subject, chain, parent)
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


async def _of_root(
    authority: Authority, wanted: JobRequest, subject: Subject, chain: Chain, offered: Offered
) -> Targets:
    now = authority.clock()
    if wanted.authorization_details is not None:
        tools, models = _asked(wanted.authorization_details)
        return Targets(tools, models, [], await _manifests(authority, set(map(server_of, tools)), offered, now))
    manifests = await _manifests(authority, offered, offered, now)
    return await _unrevoked(authority, Targets(*expand(chain, _values(manifests), subject), manifests), now)


async def _of_child(
    authority: Authority, wanted: JobRequest, subject: Subject, chain: Chain, parent: Parent
) -> Targets:
    now = authority.clock()
    if wanted.authorization_details is not None:
        tools, models = _asked(wanted.authorization_details)
        return Targets(tools, models, [], await children.manifests(authority, parent, tools, now))
    manifests = await children.manifests(authority, parent, None, now)
    found = children.inherit(parent, chain, _values(manifests), subject)
    return await _unrevoked(authority, Targets(*found, manifests), now)


async def _unrevoked(authority: Authority, found: Targets, now: int) -> Targets:
    """Leave out the tools that are revoked: nobody asked for them by name."""
    async with reading(authority.engine) as db:
        gone = set(await store.revoked_tools(db, found.tools, now))
    left = [tool for tool in found.tools if tool not in gone]
    return replace(found, tools=left, unavailable=sorted([*found.unavailable, *gone]))


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


async def _manifests(authority: Authority, servers: Iterable[str], offered: Offered, now: int) -> Manifests:
    """Fetch the manifests of some servers; one that cannot be had is a refusal."""
    names, fetch = sorted(servers), authority.registry.approved_manifest
    found = await asyncio.gather(*(fetch(name, now, offered.get(name)) for name in names))
    return dict(zip(names, found, strict=True))


def _limits(chain: Chain, asked: Budget) -> Budget:
    """Take what was asked for, and the policies' budget where nothing was; `within` refuses more."""
    budgets = terms(chain).budgets
    values = {name: getattr(asked, name) for name in LIMITS}
    return Budget(**{name: getattr(budgets, name) if value is None else value for name, value in values.items()})


def _values(manifests: Manifests) -> dict[str, Manifest]:
    return {server: each.value for server, each in manifests.items()}
