"""Revocation by user and by key, of what stands above, and until a time: what ends, what is refused, what goes on."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from scope.client import OpenedJob, RevocationRequest, Tools
from service import migrate
from service.engine import open_engine
from tests.conftest import Clock, Serve
from tests.scope.conftest import SECOND, GatewayLane, Town, refusal, running
from tests.scope.test_seals import audit
from tests.scope.test_users import AUDIENCE, ISSUER, Issuer
from verifier.documents import open_grant, open_revocation
from verifier.seal import Seal

GET = Tools(server="crm-mcp", tools=["get_case"])
DEEP = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required",
        "max_delegation_depth": 1}  # fmt: skip


def wanted(kind: str, value: str, **more: Any) -> RevocationRequest:
    return RevocationRequest(kind=kind, value=value, reason="incident", **more)  # type: ignore[arg-type]


async def revoke(town: Town, kind: str, value: str, **more: Any) -> int:
    """Revoke as the responder; gives how many jobs it ended."""
    return (await town.scope("responder").revoke(wanted(kind, value, **more))).jobs


async def reason(town: Town, job: OpenedJob) -> str | None:
    return (await town.scope().status(job.job)).reason


async def used(town: Town, job: OpenedJob, name: str = "lane-1") -> tuple[GatewayLane, str]:
    """Write a lane that has used a token of the job; gives the lane and the token."""
    token = (await town.scope().token(job.job)).access_token
    jti = (await town.scope().introspect(token))["jti"]
    lane = await town.lane(job, name)
    lane.open()
    await lane.report(jti)
    return lane, token


async def sealed(town: Town, job: OpenedJob, *lanes: GatewayLane, why: str = "complete") -> Seal:
    """Close the lanes of a job that ends, and fetch its seal."""
    for lane in lanes:
        lane.close(why)
        await lane.report()
    await town.advance(6)
    return (await town.sealed(job.job)).value


@pytest.fixture
async def people(
    tmp_path: Path, database_url: str, clock: Clock, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Town, Issuer], None]:
    """A town whose jobs work for users."""
    issuer = Issuer()
    provider = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["RS256"], "jwks_url": await serve(issuer)}
    monkeypatch.setenv("TALLY_SCOPE_IDENTITY_PROVIDERS", json.dumps({"login": {**provider, "claims": {}}}))
    monkeypatch.setenv("TALLY_SCOPE_IDENTITY_NETWORKS", '["127.0.0.0/8"]')
    async with running(tmp_path / "town", database_url, clock, monkeypatch) as town:
        town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
        yield town, issuer


async def test_a_revoked_users_jobs_end_and_no_new_one_opens(people: tuple[Town, Issuer]) -> None:
    town, issuer = people
    ann, bob = await town.open(user_token=issuer.token()), await town.open(user_token=issuer.token(sub="bob"))
    nobody = await town.open()
    child = await town.scope().child((await town.scope().token(ann.job)).access_token, town.job())
    user = open_grant(town.trust, bytes(ann.grant)).value.scope.user
    assert user is not None
    assert await revoke(town, "user", user) == 2
    assert [await reason(town, job) for job in (ann, child, bob, nobody)] == ["revoked", "revoked", None, None]
    assert await refusal(town.open(user_token=issuer.token())) == "revoked"
    await town.open(user_token=issuer.token(sub="bob"))
    for job in (child, ann):
        seal = await sealed(town, job)
        assert (seal.status, len(seal.revocations)) == ("revoked", 1)


async def test_a_revoked_grant_key_ends_what_it_signed_and_signs_nothing_more(town: Town) -> None:
    job = await town.open()
    lane, token = await used(town, job)
    kid = town.key("scope", "grant").kid
    assert await revoke(town, "key", kid) == 1
    assert await refusal(town.open()) == "revoked"
    assert not (await town.scope().introspect(token))["active"]
    seal = await sealed(town, job, lane, why="revoked")
    assert (seal.status, len(seal.revocations)) == ("revoked", 1)
    assert [each.kid for each in seal.lanes[0].tokens] == [None]


async def test_a_revoked_token_key_ends_its_tokens_and_no_job(town: Town) -> None:
    job = await town.open()
    lane, token = await used(town, job)
    assert (await town.ask("GET", "/jwks.json"))[2]["keys"] != []
    kid = town.key("scope", "token").kid
    assert await revoke(town, "key", kid) == 0
    assert await reason(town, job) is None
    assert not (await town.scope().introspect(token))["active"]
    for call in (town.scope().token(job.job), town.open()):
        assert await refusal(call) == "revoked"
    for call in (town.scope().refresh(token), town.scope().narrow(token, GET)):
        assert await refusal(call) == "bad-token"
    assert await refusal(town.scope().child(token, town.job())) == "bad-parent-token"
    assert (await town.ask("GET", "/jwks.json"))[2]["keys"] == []
    await town.advance(6.5)  # the mark at which every gateway had to know
    await town.scope().close(job.job)
    seal = await sealed(town, job, lane)
    assert [each.kid for each in seal.lanes[0].tokens] == [kid]
    assert (seal.status, len(seal.revocations)) == ("complete", 1)
    revoked = open_revocation(town.trust, (await town.scope("receipts").revocations(job.job))[0]).value
    due = revoked.time + 6 * SECOND
    assert {revoked.time, due} <= {mark.time for mark in seal.lanes[0].marks}


async def test_the_seal_names_a_revoked_token_key_only_where_it_signed_a_token_that_was_used(town: Town) -> None:
    jobs = [await town.open(), await town.open()]
    lanes = [(await used(town, job, f"lane-{n}"))[0] for n, job in enumerate(jobs)]
    async with town.authority.engine.begin() as db:  # signed before the key was rotated
        await db.execute(text("UPDATE tokens SET kid = :kid WHERE job = :job"), {"kid": "0" * 32, "job": jobs[1].job})
    kid = town.key("scope", "token").kid
    await revoke(town, "key", kid)
    found = []
    for job, lane in zip(jobs, lanes, strict=True):
        await town.scope().close(job.job)
        found.append(await sealed(town, job, lane))
    assert [len(seal.revocations) for seal in found] == [1, 0]
    assert [seal.lanes[0].tokens[0].kid for seal in found] == [kid, None]


async def test_a_policy_above_takes_the_jobs_below_it_with_it(town: Town) -> None:
    above = town.policy
    town.policy = await town.publish(policy_name="below", parent=above)
    job = await town.open()
    assert await revoke(town, "policy", above) == 1
    assert await reason(town, job) == "revoked"
    assert await refusal(town.open()) == "revoked"
    seal = await sealed(town, job)
    assert (seal.status, len(seal.revocations)) == ("revoked", 1)


async def test_what_a_revocation_ended_stays_ended_and_new_jobs_open_after_its_end(town: Town) -> None:
    job = await town.open()
    until = town.clock() + 60 * SECOND
    assert await revoke(town, "agent", "agent-1", until=until) == 1
    assert await refusal(town.open()) == "revoked"
    town.pass_seconds(59.9)
    assert await refusal(town.open()) == "revoked"
    town.pass_seconds(0.1)
    assert await reason(town, job) == "revoked"
    later = await town.open()
    assert await reason(town, later) is None
    await town.scope().close(later.job)
    assert (await sealed(town, later)).revocations == []


async def test_a_tool_is_granted_again_after_the_end_of_its_revocation(town: Town) -> None:
    before = await town.open()
    lane, _ = await used(town, before)
    await revoke(town, "server", "crm-mcp", until=town.clock() + 60 * SECOND)
    assert "mcp:crm-mcp/get_case" in (await town.open()).unavailable
    assert await refusal(town.open(authorization_details=[GET])) == "revoked"
    town.pass_seconds(60)
    assert (await town.open()).unavailable == ["tickets-mcp"]
    await town.open(authorization_details=[GET])
    await town.scope().close(before.job)
    assert len((await sealed(town, before, lane)).revocations) == 1


async def test_everything_may_be_stopped_for_a_minute(town: Town) -> None:
    await town.open()
    assert await revoke(town, "all", "*", until=town.clock() + 60 * SECOND) == 1
    assert await refusal(town.open()) == "revoked"
    town.pass_seconds(60)
    await town.open()


async def test_a_user_or_key_that_could_be_nobodys_and_an_end_that_cannot_be_are_refused(town: Town) -> None:
    kid, later = town.key("scope", "grant").kid, town.clock() + 60 * SECOND
    job = (await town.open()).job
    for request in (
        wanted("user", "ann"),
        wanted("key", "mine"),
        wanted("key", "0" * 32),
        wanted("key", town.key("scope", "seal").kid),
        wanted("key", town.key("receipts", "gateway").kid),
        wanted("key", kid, until=later),
        wanted("job", job, until=later),
        wanted("jti", "x", until=later),
        wanted("tool", "crm-mcp/get_case", until=town.clock()),
    ):
        assert await refusal(town.scope("responder").revoke(request)) == "bad-value", request
    assert await revoke(town, "user", "user-0") == 0


async def test_a_bundle_of_a_job_whose_grant_key_was_revoked_passes(town: Town) -> None:
    job = await town.open()
    lane = await town.lane(job)
    lane.open()
    lane.note(2)
    await lane.report()
    await revoke(town, "key", town.key("scope", "grant").kid)
    lane.close("revoked")
    await lane.report()
    await town.advance()
    assert await audit(town, job) == ("PASS", [])


async def test_no_key_is_revoked_between_a_narrower_grant_and_its_record(town: Town) -> None:
    tokens = [(await town.scope().token((await town.open()).job)).access_token for _ in range(6)]
    kid = town.key("scope", "grant").kid
    await asyncio.gather(
        *(refusal(town.scope().narrow(token, GET)) for token in tokens),
        town.scope("responder").revoke(wanted("key", kid)),
    )
    async with town.authority.engine.connect() as db:
        open_jobs = (await db.execute(text("SELECT count(*) FROM jobs WHERE state = 'open'"))).scalar_one()
    assert open_jobs == 0


async def test_jobs_from_before_are_found_by_what_names_them(town: Town) -> None:
    job, done = await town.open(), await town.open()
    await town.scope().close(done.job)
    await town.advance()
    url = str(town.authority.engine.url.render_as_string(hide_password=False))
    async with town.authority.engine.begin() as db:
        scope = (await db.execute(text("SELECT scope FROM jobs WHERE job = :job"), {"job": job.job})).scalar_one()
        said = msgspec.json.encode({**json.loads(scope), "user": "user-1"})
        await db.execute(text("UPDATE jobs SET scope = :scope WHERE job = :job"), {"scope": said, "job": job.job})
    await asyncio.to_thread(migrate.downgrade, "scope", url, "0004")
    await asyncio.to_thread(migrate.upgrade, "scope", url)
    engine = open_engine(url)
    async with engine.connect() as db:
        rows = (await db.execute(text("SELECT kind, value, job FROM targets ORDER BY kind"))).all()
    await engine.dispose()
    kid = town.key("scope", "grant").kid
    assert [tuple(row) for row in rows] == [
        ("agent", "agent-1", job.job), ("client", "orchestrator", job.job), ("key", kid, job.job),
        ("policy", town.policy, job.job), ("user", "user-1", job.job),
    ]  # fmt: skip
