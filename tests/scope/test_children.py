"""A job hands a part of its work on: a part of its scope, its purse and its time, and it ends with it."""

import asyncio
from typing import Any

import pytest

from scope import children, jobs
from scope.authority import Authority
from scope.client import JobRequest, Models, OpenedJob, RevocationRequest, Tools, claims_of
from scope.plan import Planned, plan
from service.clients import Caller
from tests.scope.conftest import Town, granted, refusal
from verifier.delegation import widened
from verifier.encoding import canonical, digest
from verifier.grant import Budget, Scope
from verifier.seal import Seal

GET = Tools(server="crm-mcp", tools=["get_case"])
SEARCH = Tools(server="crm-mcp", tools=["search_customer"])
DEEP = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required",
        "max_delegation_depth": 2}  # fmt: skip


async def deep(town: Town, **changes: Any) -> None:
    """Publish a policy that lets jobs delegate."""
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP, **changes)


async def child(town: Town, parent: OpenedJob | str, **asked: Any) -> OpenedJob:
    """Open a child of a job, by a new token of it."""
    name = parent if isinstance(parent, str) else parent.job
    token = (await town.scope().token(name)).access_token
    return await town.scope().child(token, town.job(**asked))


async def seal_of(town: Town, job: OpenedJob) -> Seal:
    return (await town.sealed(job.job)).value


def scope_of(town: Town, job: OpenedJob) -> Scope:
    return granted(job, town.trust).value.scope


async def test_a_child_inherits_what_its_parents_token_carries(town: Town) -> None:
    await deep(town)
    parent = await town.open(authorization_details=[GET, Models(models=["openrouter_via_fal/*"])])
    made = await child(town, parent, agent="helper-1")
    above, below = granted(parent, town.trust).value, granted(made, town.trust).value
    assert (below.parent, below.scope.depth, below.scope.act) == (parent.grant_digest, 1, "agent-1")
    assert (below.scope.tools, below.scope.models) == (above.scope.tools, above.scope.models)
    assert below.scope.manifests == above.scope.manifests
    assert list(widened(below, above)) == []
    status = await town.scope().status(parent.job)
    assert (status.children, (await town.scope().status(made.job)).parent) == ([made.job], parent.job)
    same = await child(town, parent)
    assert scope_of(town, same).act is None  # the same agent delegates to itself


async def test_a_child_gets_a_part_and_never_more(town: Town) -> None:
    await deep(town)
    parent = await town.open(authorization_details=[GET])
    for asked in (
        {"authorization_details": [SEARCH]},
        {"authorization_details": [Tools(server="crm-mcp", tools=["get_case", "search_customer"])]},
        {"authorization_details": [Models(models=["openrouter_via_fal/*"])]},
        {"environment": "production"},
        {"expires_in": 3601},
    ):
        assert await refusal(child(town, parent, **asked)) == "scope-too-wide", asked
    assert await refusal(child(town, parent, user_token="x")) == "bad-value"
    other = await town.publish(policy_name="other", token_constraints=DEEP)
    assert await refusal(child(town, parent, policy=other)) == "scope-too-wide"


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_token_that_ends_while_the_child_is_planned_opens_none(
    town: Town, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    await deep(town)
    parent = await town.open()
    token = (await town.scope().token(parent.job, 60)).access_token

    async def slow(authority: Authority, caller: Caller, wanted: JobRequest) -> Planned:
        planned = await plan(authority, caller, wanted)
        if end == "revoked":
            await town.scope().revoke_token(token)
        else:
            town.pass_seconds(60)
        return planned

    monkeypatch.setattr(jobs, "plan", slow)
    assert await refusal(town.scope().child(token, town.job())) == "bad-parent-token"


async def test_a_child_of_a_narrower_token_is_inside_that_token(town: Town) -> None:
    await deep(town)
    parent = await town.open()
    whole = (await town.scope().token(parent.job)).access_token
    part = (await town.scope().narrow(whole, GET)).access_token
    made = await town.scope().child(part, town.job())
    assert granted(made, town.trust).value.parent == claims_of(part).grant != parent.grant_digest
    assert scope_of(town, made).tools == ["mcp:crm-mcp/get_case"]
    assert await refusal(town.scope().child(part, town.job(authorization_details=[SEARCH]))) == "scope-too-wide"


async def test_a_child_may_be_under_a_policy_that_stands_under_its_parents(town: Town) -> None:
    await deep(town)
    above = town.policy
    parent = await town.open()
    stricter = await town.publish(
        policy_name="stricter", token_constraints=DEEP, parent=above,
        allowed_tools=[{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}],
    )  # fmt: skip
    made = await child(town, parent, policy=stricter)
    assert scope_of(town, made).tools == ["mcp:crm-mcp/get_case"]
    assert made.unavailable == ["mcp:crm-mcp/search_customer"]
    town.policy = above
    assert await refusal(child(town, made)) == "scope-too-wide"  # not back to the laxer one


async def test_depth_ends_where_the_policy_says(town: Town) -> None:
    flat = await town.open()
    assert await refusal(child(town, flat)) == "scope-too-wide"
    await deep(town)
    job = await town.open()
    for depth in (1, 2):
        job = await child(town, job)
        assert scope_of(town, job).depth == depth
    assert await refusal(child(town, job)) == "scope-too-wide"


@pytest.mark.parametrize("token", ["", "nothing", "a.b.c"])
async def test_only_a_living_token_of_ones_own_opens_a_child(town: Town, token: str) -> None:
    await deep(town)
    assert await refusal(town.scope().child(token, town.job())) == "bad-parent-token"
    job = await town.open()
    own = (await town.scope().token(job.job)).access_token
    assert await refusal(town.scope("responder").child(own, town.job())) == "forbidden"
    await town.scope().revoke_token(own)
    assert await refusal(town.scope().child(own, town.job())) == "bad-parent-token"
    other = (await town.scope().token(job.job, ttl=10)).access_token
    town.pass_seconds(11)
    assert await refusal(town.scope().child(other, town.job())) == "bad-parent-token"
    living = (await town.scope().token(job.job)).access_token
    await town.scope().close(job.job)
    assert await refusal(town.scope().child(living, town.job())) == "bad-parent-token"


async def test_one_purse_is_shared_by_lanes_and_children(town: Town) -> None:
    await deep(town, budgets={"calls": 100})
    parent = await town.open()
    lane = await town.lane(parent)
    assert lane.registered.share.calls == 50  # half: the job may delegate
    first = await child(town, parent)
    assert scope_of(town, first).limits.calls == 25
    second = await child(town, parent, limits=Budget(calls=20))
    assert scope_of(town, second).limits.calls == 20
    assert await refusal(child(town, parent, limits=Budget(calls=6))) == "scope-too-wide"
    third = await child(town, parent)
    assert scope_of(town, third).limits.calls == 3
    assert (await town.lane(second, "lane-2")).registered.share.calls == 10
    grandchild = await child(town, second)
    assert scope_of(town, grandchild).limits.calls == 5
    leaf = await town.lane(grandchild, "lane-3")
    assert leaf.registered.share.calls == 5  # nobody is below it
    assert [each.registered.alone for each in town.lanes] == [True, False, False]


async def test_children_opened_at_once_share_and_never_overdraw(town: Town) -> None:
    await deep(town, budgets={"calls": 10})
    parent = await town.open()
    made = await asyncio.gather(
        *(child(town, parent, limits=Budget(calls=3)) for _ in range(6)), return_exceptions=True
    )
    opened = [each for each in made if isinstance(each, OpenedJob)]
    assert len(opened) == 3
    assert sorted((await town.scope().status(parent.job)).children) == sorted(each.job for each in opened)


async def test_a_parent_ends_with_its_children_and_is_sealed_after_them(town: Town) -> None:
    await deep(town)
    parent = await town.open()
    made = await child(town, parent, limits=Budget(calls=4))
    below = await child(town, made, limits=Budget(calls=1))
    lane = await town.lane(below)
    lane.open()
    await lane.report()
    assert (await town.scope().close(parent.job)).state == "closing"
    for each in (made, below):
        assert (await town.scope().status(each.job)).state == "closing"
    await town.advance()
    assert await refusal(town.scope().seal(parent.job)) == "not-sealed"  # its grandchild's lane is still open
    lane.close()
    await lane.report()
    await town.advance()
    top, middle, bottom = [await seal_of(town, each) for each in (parent, made, below)]
    assert [(each.job, each.grant, each.share.calls) for each in top.children] == [(made.job, made.grant_digest, 4)]
    assert top.children[0].seal == digest(canonical(middle))
    assert [each.seal for each in middle.children] == [digest(canonical(bottom))]
    assert bottom.children == []
    assert top.closed >= middle.closed >= bottom.closed


async def test_what_is_revoked_above_ends_what_is_below_and_stands_in_its_seal(town: Town) -> None:
    await deep(town)
    parent = await town.open()
    made = await child(town, parent, agent="helper-1")
    lane = await town.lane(made)
    lane.open()
    await lane.report()
    done = await town.scope("responder").revoke(RevocationRequest(kind="agent", value="agent-1", reason="incident"))
    assert done.jobs == 2
    status = await town.scope().status(made.job)
    assert (status.state, status.reason) == ("closing", "revoked")
    lane.close("revoked")
    await lane.report()
    await town.advance()
    seal = await seal_of(town, made)
    assert (seal.status, seal.revocations) == ("revoked", [done.digest])
    assert len(seal.lanes[0].marks) >= 3  # registered, revoked, closed


async def test_a_child_goes_on_when_a_sister_is_revoked(town: Town) -> None:
    await deep(town)
    parent = await town.open()
    made, sister = await child(town, parent, agent="helper-1"), await child(town, parent, agent="helper-2")
    done = await town.scope("responder").revoke(RevocationRequest(kind="job", value=sister.job, reason="incident"))
    assert done.jobs == 1
    assert [(await town.scope().status(each.job)).state for each in (parent, made)] == ["open", "open"]
    assert (await town.scope().status(sister.job)).state != "open"


async def test_a_job_that_expires_takes_its_children_with_it(town: Town) -> None:
    await deep(town)
    parent = await town.open(expires_in=60)
    made = await child(town, parent)
    assert made.expires == parent.expires
    await town.advance(61)
    await town.advance(6)
    assert [(await seal_of(town, each)).status for each in (made, parent)] == ["expired", "expired"]


async def test_a_job_has_only_so_many_children(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "MOST_CHILDREN", 1)
    await deep(town)
    parent = await town.open()
    await child(town, parent)
    assert await refusal(child(town, parent)) == "too-many-children"
