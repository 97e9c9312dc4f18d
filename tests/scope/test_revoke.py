"""Revocation: durable, signed, in one sequence without gaps, whoever revokes at the same time."""

import asyncio

import pytest

from scope import revoke
from scope.client import RevocationRequest
from tests.scope.conftest import Town, refusal
from verifier.documents import open_heartbeat, open_revocation


def wanted(kind: str, value: str, **more: str) -> RevocationRequest:
    """Ask for a revocation."""
    return RevocationRequest(kind=kind, value=value, reason="incident", **more)  # type: ignore[arg-type]


async def test_a_revocation_is_signed_and_served_after_the_sequence_asked_for(town: Town) -> None:
    responder = town.scope("responder")
    done = [await responder.revoke(wanted("agent", f"agent-{n}", ticket=f"INC-{n}")) for n in range(2, 5)]
    assert [each.sequence for each in done] == [1, 2, 3]
    heartbeat, entries = await town.scope("receipts").snapshot(1)
    beat = open_heartbeat(town.trust, heartbeat).value
    assert (beat.sequence, beat.time, beat.iss) == (3, town.clock(), town.urls.scope)
    opened = [open_revocation(town.trust, each) for each in entries]
    assert [each.value.sequence for each in opened] == [2, 3]
    assert [each.digest for each in opened] == [each.digest for each in done[1:]]
    first = opened[0].value
    assert (first.target.kind, first.target.value, first.ticket, first.actor) == (
        "agent",
        "agent-3",
        "INC-3",
        "responder",
    )


async def test_nothing_revoked_is_a_heartbeat_at_zero(town: Town) -> None:
    heartbeat, entries = await town.scope("receipts").snapshot(0)
    assert (open_heartbeat(town.trust, heartbeat).value.sequence, entries) == (0, [])


async def test_the_sequence_has_no_gaps_whoever_revokes_at_once(town: Town) -> None:
    job = (await town.open()).job
    tokens = await asyncio.gather(*(town.scope().token(job) for _ in range(10)))
    targets = [
        wanted("agent", "nobody"),
        wanted("tool", "crm-mcp/http_request"),  # no job gets it: one that is revoked while a job opens refuses the job
        wanted("jti", "abc"),
        wanted("server", "x"),
    ]
    bad = [refusal(town.scope("responder").revoke(wanted("job", "job-unknown"))) for _ in range(5)]
    await asyncio.gather(
        *(town.scope("responder").revoke(targets[n % 4]) for n in range(20)),
        *(town.scope().revoke_token(each.access_token) for each in tokens),
        *(town.open() for _ in range(3)),
        *bad,
    )
    heartbeat, entries = await town.scope("receipts").snapshot(0)
    sequences = [open_revocation(town.trust, each).value.sequence for each in entries]
    assert sequences == list(range(1, 31))
    assert open_heartbeat(town.trust, heartbeat).value.sequence == 30


async def test_revocations_of_grants_end_the_jobs_that_they_name(town: Town) -> None:
    jobs = {agent: (await town.open(agent=agent)).job for agent in ("a-1", "a-2", "a-3")}
    responder = town.scope("responder")
    assert (await responder.revoke(wanted("agent", "a-1"))).jobs == 1
    assert (await responder.revoke(wanted("tool", "crm-mcp/get_case"))).jobs == 0
    assert (await responder.revoke(wanted("job", jobs["a-2"]))).jobs == 1
    assert [(await town.scope().status(job)).reason for job in jobs.values()] == ["revoked", "revoked", None]
    assert (await responder.revoke(wanted("all", "*"))).jobs == 1
    assert (await town.scope().status(jobs["a-3"])).reason == "revoked"


@pytest.mark.parametrize("kind", ["policy", "client"])
async def test_a_policy_or_a_client_takes_all_its_jobs_with_it(town: Town, kind: str) -> None:
    jobs = [(await town.open()).job for _ in range(2)]
    done = await town.scope("responder").revoke(wanted(kind, town.policy if kind == "policy" else "orchestrator"))
    assert done.jobs == 2
    assert {(await town.scope().status(job)).reason for job in jobs} == {"revoked"}


async def test_a_target_that_could_fit_nothing_is_refused_and_takes_no_number(town: Town) -> None:
    responder = town.scope("responder")
    for kind, value, code in (
        ("job", "job-unknown", "unknown-job"),
        ("all", "everything", "bad-value"),
        ("agent", "*", "bad-value"),
        ("tool", "get_case", "bad-value"),
        ("model", "gpt", "bad-value"),
        ("server", "a/b", "bad-value"),
        ("policy", "mine", "bad-value"),
        ("nonsense", "a", "bad-value"),
        ("agent", "a b", "bad-value"),
    ):
        assert await refusal(responder.revoke(wanted(kind, value))) == code, (kind, value)
    assert (await responder.revoke(wanted("agent", "a"))).sequence == 1


async def test_a_snapshot_holds_at_most_a_thousand_and_says_that_there_is_more(town: Town) -> None:
    async with town.authority.engine.begin() as db:
        for n in range(1003):
            await revoke.write(db, town.authority, wanted("agent", f"a-{n}"), "responder")
    heartbeat, entries = await town.scope("receipts").snapshot(0)
    assert len(entries) == 1000
    assert open_heartbeat(town.trust, heartbeat).value.sequence == 1003
    _, rest = await town.scope("receipts").snapshot(1000)
    assert [open_revocation(town.trust, each).value.sequence for each in rest] == [1001, 1002, 1003]
