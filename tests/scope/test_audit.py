"""The record of scope: one entry an act, in the act's own transaction, one chain, and nobody changes it."""

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from controls.client import Connection, audit_lines
from scope.client import RevocationRequest, Tools, claims_of
from service.app import now
from service.audit import Entry, Line, check
from tests.conftest import START
from tests.scope.conftest import GatewayLane, Town, refusal, running
from verifier.refused import Refused
from verifier.seal import MOST_INCIDENTS

GET = Tools(server="crm-mcp", tools=["get_case"])
DEEP = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required",
        "max_delegation_depth": 1}  # fmt: skip


async def record(town: Town) -> list[bytes]:
    """Fetch the record as an auditor does."""
    http = Connection(town.session, town.urls.scope, lambda: town.credential("auditor"))
    return [line async for line in audit_lines(http)]


async def entries(town: Town, after: int = 0) -> list[Entry]:
    """Read the record, which must be one chain, behind a position."""
    lines = await record(town)
    check(lines)
    return [msgspec.json.decode(line, type=Line).entry for line in lines][after:]


def told(entry: Entry) -> tuple[str, str, str, dict[str, Any]]:
    return entry.act, entry.actor, entry.subject, msgspec.json.decode(entry.details)


def revocation(kind: str, value: str) -> RevocationRequest:
    return RevocationRequest(kind=kind, value=value, reason="incident", ticket="INC-7")  # type: ignore[arg-type]


async def test_opening_narrowing_and_registering_are_one_entry_each_and_a_token_is_none(town: Town) -> None:
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
    job = await town.open()
    whole = (await town.scope().token(job.job)).access_token
    for _ in range(2):
        await town.scope().refresh(whole)
        part = claims_of((await town.scope().narrow(whole, GET)).access_token)
    child = await town.scope().child(whole, town.job(agent="helper-1"))
    lane = await town.lane(child)
    await town.scope("receipts").register_lane(child.job, lane.request())
    opened, narrowed, delegated, registered = await entries(town)
    assert told(opened) == ("job-opened", "orchestrator", job.job, {"agent": "agent-1", "policy": town.policy})
    assert (opened.digest, opened.time) == (job.grant_digest, town.clock())
    assert told(narrowed) == ("grant-narrowed", "orchestrator", job.job, {"parent": job.grant_digest})
    assert narrowed.digest == part.grant
    said = {"agent": "helper-1", "parent": job.job, "policy": town.policy}
    assert told(delegated) == ("job-opened", "orchestrator", child.job, said)
    said = {"gateway": town.urls.receipts, "job": child.job, "kid": lane.key.kid}
    assert told(registered) == ("lane-registered", "receipts", "lane-1", said)


async def test_whoever_ends_a_job_is_recorded_with_the_reason_and_its_seal_with_its_digest(town: Town) -> None:
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
    parent, revoked = await town.open(), await town.open(agent="agent-2")
    token = (await town.scope().token(parent.job)).access_token
    child = await town.scope().child(token, town.job())
    short = await town.open(expires_in=30)
    for _ in range(2):
        await town.scope().close(parent.job)
    await town.scope("responder").revoke(revocation("agent", "agent-2"))
    await town.advance(31)
    await town.advance(1)
    found = await entries(town, 4)
    ends = sorted([parent.job, child.job])
    assert [told(each) for each in found if each.act != "job-sealed"] == [
        *(("job-closing", "orchestrator", each, {"reason": "complete"}) for each in ends),
        ("revoked", "responder", "agent-2", {"kind": "agent", "reason": "incident", "sequence": 1, "ticket": "INC-7"}),
        ("job-closing", "responder", revoked.job, {"reason": "revoked"}),
        ("job-closing", town.urls.scope, short.job, {"reason": "expired"}),
    ]
    seals = {each.subject: (each.actor, each.digest, each.details) for each in found if each.act == "job-sealed"}
    assert set(seals) == {parent.job, child.job, revoked.job, short.job}
    for name, (actor, digest, details) in seals.items():
        sealed = await town.sealed(name)
        assert (actor, digest) == (town.urls.scope, sealed.digest)
        assert msgspec.json.decode(details) == {"status": sealed.value.status}
    assert len(found) == 5 + 4


async def test_a_fork_and_a_stranger_are_incidents_on_record(town: Town) -> None:
    lane = await town.lane(await town.open())
    lane.open()
    lane.note(3)
    await lane.report("neverissued")
    await lane.report("neverissued")
    fork = GatewayLane(town, lane.job, lane.name)
    fork.open()
    await town.scope("receipts").report_heads([fork.head()])
    said = {"job": lane.job.job}
    assert [told(each) for each in await entries(town, 2)] == [
        ("revoked", "receipts", "neverissued", {"kind": "jti", "reason": "unknown-token", "sequence": 1}),
        ("incident", "receipts", "lane-1", {**said, "code": "unknown-token", "value": "neverissued"}),
        ("incident", "receipts", "lane-1", {**said, "code": "inconsistent-head", "value": "4"}),
    ]
    lane.close()
    await lane.report()
    await town.scope().close(lane.job.job)
    await town.advance()
    sealed = (await town.sealed(lane.job.job)).value
    assert sealed.status == "complete"
    assert [(each.lane, each.code) for each in sealed.incidents or ()] == [
        ("lane-1", "inconsistent-head"), ("lane-1", "unknown-token"),
    ]  # fmt: skip


async def test_of_many_incidents_a_seal_names_the_first_hundred_and_without_any_it_names_none(town: Town) -> None:
    quiet, loud = await town.lane(await town.open(), "lane-0"), await town.lane(await town.open(), "lane-1")
    for lane in (quiet, loud):
        lane.open()
        lane.note(3)
        await lane.report()
    fork = GatewayLane(town, loud.job, loud.name)
    fork.open()
    for _ in range(MOST_INCIDENTS + 5):
        town.pass_seconds(0.001)
        await town.scope("receipts").report_heads([fork.head()])
    for lane in (quiet, loud):
        lane.close()
        await lane.report()
        await town.scope().close(lane.job.job)
    await town.advance()
    assert (await town.sealed(quiet.job.job)).value.incidents is None
    named = (await town.sealed(loud.job.job)).value.incidents or []
    assert [each.time for each in named] == [START + 1000 * n for n in range(1, MOST_INCIDENTS + 1)]


async def test_a_revoked_token_is_recorded_and_everything_is_called_all(town: Town) -> None:
    token = (await town.scope().token((await town.open()).job)).access_token
    for _ in range(2):
        await town.scope().revoke_token(token)
    await town.scope("responder").revoke(revocation("all", "*"))
    found = await entries(town, 1)
    subjects = [claims_of(token).jti, "all", claims_of(token).txn]
    assert [(each.act, each.actor, each.subject) for each in found] == [
        *zip(("revoked", "revoked", "job-closing"), ("orchestrator", "responder", "responder"), subjects, strict=True)
    ]


async def test_a_refused_act_leaves_no_entry(town: Town) -> None:
    job = await town.open()
    lane = await town.lane(job)
    token = (await town.scope().token(job.job)).access_token
    before = await record(town)
    other = Tools(server="crm-mcp", tools=["http_request"])
    calls: list[tuple[Awaitable[object], str]] = [
        (town.open(policy="sha256:" + "0" * 64), "unknown-policy"),
        (town.open(authorization_details=[other]), "scope-too-wide"),
        (town.scope().child(token, town.job()), "scope-too-wide"),
        (town.scope().narrow(token, other), "scope-too-wide"),
        (town.scope().token(job.job, ttl=901), "ttl-too-long"),
        (town.scope().close("job-unknown"), "unknown-job"),
        (town.scope("responder").revoke(revocation("job", "job-unknown")), "unknown-job"),
        (town.scope("responder").revoke(revocation("tool", "get_case")), "bad-value"),
        (town.scope("auditor").revoke(revocation("all", "*")), "forbidden"),
        (town.scope("receipts").register_lane(job.job, lane.request(kid="0" * 32)), "lane-taken"),
        (town.lane(job, "lane-2", kid="0" * 32), "unknown-signer"),
        (town.lane(job, "lane-2", gateway="https://other.example"), "wrong-gateway"),
    ]
    for call, code in calls:
        assert await refusal(call) == code
    assert await record(town) == before


async def test_the_record_comes_in_pages_to_auditors(town: Town) -> None:
    for _ in range(3):
        await town.open()
    seen, path = [], "/audit?limit=2"
    while path:
        page = (await town.ask("GET", path, "auditor"))[2]
        seen += [each["entry"]["position"] for each in page["items"]]
        path = f"/audit?limit=2&after={page['next']}" if "next" in page else ""
    assert seen == [1, 2, 3]


async def test_no_row_is_changed_deleted_or_emptied_away(town: Town) -> None:
    await town.open()
    before = await record(town)
    statements = ["UPDATE acts SET hash = 'x'", "DELETE FROM acts", "UPDATE acts SET position = 7"]
    statements += ["TRUNCATE acts"] if town.authority.engine.dialect.name == "postgresql" else []
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            async with town.authority.engine.begin() as db:
                await db.execute(text(statement))
    assert await record(town) == before


async def test_an_act_whose_entry_cannot_be_written_is_not_done(town: Town) -> None:
    job, done = await town.open(), await town.open()
    lane = await town.lane(job)
    lane.open()
    await lane.report()
    await town.lane(done, "lane-9")
    await town.scope().close(done.job)
    token = (await town.scope().token(job.job)).access_token
    before, state = await record(town), await town.scope().status(job.job)
    postgresql = town.authority.engine.dialect.name == "postgresql"
    async with town.authority.engine.begin() as db:
        await db.execute(
            text("ALTER TABLE acts ADD CONSTRAINT full_up CHECK (position < 0) NOT VALID")
            if postgresql
            else text("CREATE TRIGGER full_up BEFORE INSERT ON acts BEGIN SELECT RAISE(ABORT, 'full'); END")
        )
    fork = GatewayLane(town, job, lane.name)
    fork.note()
    with capture_logs() as logged:
        for call in (
            town.open(),
            town.scope().narrow(token, GET),
            town.lane(job, "lane-2"),
            town.scope().close(job.job),
            town.scope("responder").revoke(revocation("job", job.job)),
            town.scope().revoke_token(token),
            town.scope("receipts").report_heads([fork.head(jtis=["neverissued"])]),
            town.scope("receipts").report_heads([fork.head()]),
        ):
            assert await refusal(call) == "internal-error"
        await town.advance(3600)
    assert {(each.get("act"), each.get("job")) for each in logged if "act" in each} == {
        ("_expire", job.job), ("seal", done.job),
    }  # fmt: skip
    assert await record(town) == before
    assert await town.scope().status(job.job) == state
    assert (await town.scope().status(done.job)).state == "closing"
    assert (await town.scope("receipts").snapshot(0))[1] == []
    assert (await town.scope("auditor").incidents()).incidents == []
    assert len((await town.ask("GET", "/jobs", "orchestrator"))[2]["jobs"]) == 2


async def test_acts_at_once_make_one_chain_without_a_gap(town: Town) -> None:
    town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
    jobs = await asyncio.gather(*(town.open(agent=f"agent-{n}") for n in range(8)))
    lanes = await asyncio.gather(*(town.lane(job, f"lane-{n}") for n, job in enumerate(jobs)))
    tokens = [(await town.scope().token(job.job)).access_token for job in jobs]
    forks = [GatewayLane(town, job, f"lane-{n}") for n, job in enumerate(jobs)]
    for lane, fork in zip(lanes, forks, strict=True):
        lane.open()
        lane.note(2)
        fork.note(1)
    await asyncio.gather(*(lane.report() for lane in lanes))
    await asyncio.gather(
        *(town.scope("receipts").report_heads([fork.head() for fork in forks]) for _ in range(3)),
        *(town.scope("receipts").report_heads([fork.head() for fork in reversed(forks)]) for _ in range(3)),
        *(town.lane(job, f"lane-1{n}") for n, job in enumerate(jobs[:5])),
        *(town.scope().narrow(token, GET) for token in tokens[:5]),
        *(town.scope().child(token, town.job()) for token in tokens[:5]),
        *(town.scope().close(job.job) for job in jobs[5:7]),
        *(town.scope("responder").revoke(revocation("agent", f"agent-{n}")) for n in (7, 8, 9)),
        *(town.open(agent="other") for _ in range(3)),
    )
    counted = Counter(each.act for each in await entries(town))
    assert counted == {
        "job-opened": 8 + 5 + 3, "lane-registered": 8 + 5, "incident": 6 * 8, "grant-narrowed": 5, "job-closing": 3,
        "revoked": 3,
    }  # fmt: skip


@pytest.fixture
async def city(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Town, None]:
    """A town by the real clock, on each engine."""
    async with running(tmp_path / "city", database_url, now, monkeypatch) as made:
        yield made


async def test_a_process_killed_in_between_leaves_neither_act_nor_entry(city: Town) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.commands", "run", "scope", "--dir", str(city.installation),
        env={**os.environ, "TALLY_SCOPE_LISTEN": listen, "TALLY_SCOPE_TICK_MILLISECONDS": "20"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    city.url = f"http://{listen}"
    try:
        await ready(city)
        working = [asyncio.create_task(work(city, number)) for number in range(6)]
        await asyncio.sleep(2)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await asyncio.gather(*working)
    city.url = city.urls.scope
    found = await entries(city)
    assert len([each for each in found if each.act == "job-opened"]) > 6
    async with city.authority.engine.connect() as db:
        for act, query in (
            ("job-opened", "SELECT job FROM jobs"),
            ("job-closing", "SELECT job FROM jobs WHERE state <> 'open'"),
            ("job-sealed", "SELECT job FROM seals"),
            ("lane-registered", "SELECT lane FROM lanes"),
            ("revoked", "SELECT value FROM revocations"),
        ):
            acted = (await db.execute(text(query))).scalars()
            assert sorted(acted) == sorted(each.subject for each in found if each.act == act), act


async def ready(town: Town) -> None:
    """Wait until scope answers."""
    for _ in range(600):
        with suppress(aiohttp.ClientError):
            if (await town.ask("GET", "/readyz"))[0] == 200:
                return
        await asyncio.sleep(0.05)
    raise AssertionError("scope did not get ready")


async def work(town: Town, number: int) -> None:
    """Open jobs and end them one way or the other, until nobody answers."""
    with suppress(Refused):
        for turn in range(1000):
            job = await town.open()
            await town.lane(job, f"lane-{number}-{turn}")
            if turn % 2:
                await town.scope("responder").revoke(revocation("job", job.job))
            else:
                await town.scope().close(job.job)
