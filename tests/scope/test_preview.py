"""What a revocation would touch, before it is made: counted, named, and nothing done."""

from typing import Any

import pytest
from sqlalchemy import text

from scope import preview
from scope.client import Models, Preview, RevocationRequest, Tools, claims_of
from tests.scope.conftest import SECOND, Town, refusal

GET = Tools(server="crm-mcp", tools=["get_case"])
SMALL = Models(models=["openrouter_via_fal/small-*"])


def wanted(kind: str, value: str, **more: Any) -> RevocationRequest:
    return RevocationRequest(kind=kind, value=value, reason="incident", **more)  # type: ignore[arg-type]


async def shown(town: Town, kind: str, value: str) -> Preview:
    """Ask as the responder."""
    return await town.scope("responder").preview(wanted(kind, value))


async def counted(town: Town, kind: str, value: str) -> tuple[bool, int, int, int]:
    found = await shown(town, kind, value)
    return found.ends, found.jobs, found.tokens, found.lanes


async def test_of_a_tool_server_or_model_the_open_jobs_count_that_may_call_it(town: Town) -> None:
    get, small, whole = [
        await town.open(**asked)
        for asked in ({"authorization_details": [GET]}, {"authorization_details": [SMALL]}, {})
    ]  # fmt: skip
    for job in (get, small):
        await town.scope().token(job.job)
    await town.lane(get)
    await town.scope().close((await town.open()).job)
    assert await counted(town, "tool", "crm-mcp/get_case") == (False, 2, 1, 1)
    assert await counted(town, "tool", "crm-mcp/search_customer") == (False, 1, 0, 0)
    assert await counted(town, "server", "crm-mcp") == (False, 2, 1, 1)
    assert await counted(town, "server", "other") == (False, 0, 0, 0)
    assert await counted(town, "model", "openrouter_via_fal/small-1") == (False, 2, 1, 0)
    assert await counted(town, "model", "openrouter_via_fal/large") == (False, 1, 0, 0)
    found = await shown(town, "tool", "crm-mcp/get_case")
    assert (found.names, found.gateways, found.complete) == ([whole.job, get.job], [town.urls.receipts], True)


async def test_calls_that_run_are_counted_as_gateways_said_last(town: Town) -> None:
    first, second, other = await town.open(), await town.open(), await town.open(agent="agent-2")
    lanes = [await town.lane(job, f"lane-{n}") for n, job in enumerate((first, second, other))]
    for lane, running in zip(lanes, (3, 4, 5), strict=True):
        lane.open()
        await lane.report(running=running)
    assert (await shown(town, "agent", "agent-1")).running == 7
    assert (await shown(town, "tool", "crm-mcp/get_case")).running == 12
    lanes[0].note()
    await lanes[0].report(running=1)
    lanes[1].close()
    await lanes[1].report()
    assert ((await shown(town, "all", "*")).running, (await shown(town, "job", second.job)).running) == (6, 0)
    assert (await shown(town, "agent", "nobody")).running == 0


async def test_of_a_key_what_it_signed_counts(town: Town) -> None:
    jobs = [await town.open() for _ in range(2)]
    for job in jobs:
        await town.scope().token(job.job)
    async with town.authority.engine.begin() as db:  # signed before the key was rotated
        await db.execute(text("UPDATE tokens SET kid = :kid WHERE job = :job"), {"kid": "0" * 32, "job": jobs[1].job})
    assert await counted(town, "key", town.key("scope", "token").kid) == (False, 2, 1, 0)
    assert await counted(town, "key", town.key("scope", "grant").kid) == (True, 2, 2, 0)


async def test_tokens_that_expired_or_are_revoked_do_not_count(town: Town) -> None:
    job = await town.open()
    tokens = [(await town.scope().token(job.job, ttl)).access_token for ttl in (10, 60, 60)]
    await town.scope().revoke_token(tokens[1])
    assert await counted(town, "job", job.job) == (True, 1, 2, 0)
    town.pass_seconds(10)
    assert await counted(town, "job", job.job) == (True, 1, 1, 0)
    assert await counted(town, "jti", claims_of(tokens[2]).jti) == (False, 1, 1, 0)
    found = await shown(town, "jti", claims_of(tokens[1]).jti)
    assert (found.tokens, found.again) == (0, True)


async def test_of_many_jobs_the_newest_are_named_and_a_bound_is_said(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "MOST_NAMES", 2)
    monkeypatch.setattr(preview, "MOST_JOBS", 3)
    jobs = [(await town.open()).job for _ in range(4)]
    found = await shown(town, "agent", "agent-1")
    assert (found.jobs, found.names, found.complete) == (4, jobs[:1:-1], True)
    found = await shown(town, "server", "crm-mcp")
    assert (found.jobs, found.names, found.complete) == (3, jobs[:1:-1], False)


async def test_what_would_be_refused_is_refused_and_nothing_is_done(town: Town) -> None:
    job = await town.open()
    responder = town.scope("responder")
    for request, code in (
        (wanted("job", "job-none"), "unknown-job"), (wanted("tool", "get_case"), "bad-value"),
        (wanted("user", "ann"), "bad-value"), (wanted("key", "0" * 32), "bad-value"),
        (wanted("job", job.job, until=town.clock() + SECOND), "bad-value"),
        (wanted("agent", "agent-1", until=town.clock()), "bad-value"),
    ):  # fmt: skip
        assert await refusal(responder.preview(request)) == code, request
        assert await refusal(responder.revoke(request)) == code, request
    await responder.preview(wanted("all", "*"))
    assert (await town.scope().status(job.job)).state == "open"
    assert (await town.scope("receipts").snapshot(0))[1] == []
    assert [each["entry"]["act"] for each in (await town.ask("GET", "/audit", "auditor"))[2]["items"]] == ["job-opened"]
