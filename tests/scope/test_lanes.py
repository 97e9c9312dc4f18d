"""Lanes: who may write one, which heads count, what is an incident, how a gateway learns that a job closes."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import lanes, store
from scope.client import LaneRequest, RevocationRequest
from scope.tables import incidents
from service.engine import reading
from tests.scope.conftest import GatewayLane, Town, refusal
from verifier.documents import open_revocation
from verifier.encoding import MAX_INT, b64
from verifier.grant import Budget
from verifier.merkle import EMPTY, leaf_hash, root_of


async def report(lane: GatewayLane, **changes: Any) -> str:
    """Report a lane's head, perhaps a bent one; gives the refusal's code."""
    answer = await lane.town.scope("receipts").report_heads([lane.head(**changes)])
    return answer.refused[0].code if answer.refused else "accepted"


async def recorded(town: Town) -> list[tuple[str, str, str]]:
    """List the incidents: lane, code, value."""
    async with reading(town.authority.engine) as db:
        return [(row.lane, row.code, row.value) for row in await db.execute(select(incidents))]


async def test_a_lane_gets_the_whole_budget_and_the_same_request_the_same_answer(town: Town) -> None:
    job = await town.open(limits=Budget(calls=5))
    lane = await town.lane(job)
    assert (lane.registered.share, lane.registered.opened) == (Budget(calls=5), job.opened)
    again = await town.scope("receipts").register_lane(job.job, lane.request())
    assert again == lane.registered
    (known,) = (await town.scope().status(job.job)).lanes
    assert (known.lane, known.size, known.closed) == ("lane-1", 0, False)


async def test_what_a_closed_lane_left_of_its_share_is_there_for_the_next(town: Town) -> None:
    job = await town.open(limits=Budget(calls=10, tokens=100))
    gateway = town.scope("receipts")
    shares = []
    for number, spent in enumerate((Budget(calls=3, tokens=30), None, Budget(calls=1, tokens=99)), start=1):
        lane = await town.lane(job, f"lane-{number}", share="half")
        shares.append(lane.registered.share)
        lane.open()
        lane.close()
        assert (await gateway.report_heads([lane.head(spent=spent)])).refused == []
    shares.append((await town.lane(job, "lane-4")).registered.share)
    # 10 and 100; 7 and 70 are left, a lane that says nothing has spent its share; more than a share leaves nothing.
    assert shares == [Budget(calls=each, tokens=most) for each, most in ((5, 50), (4, 35), (2, 18), (2, 0))]


async def test_a_lane_that_is_open_says_nothing_of_what_it_spent(town: Town) -> None:
    job = await town.open(limits=Budget(calls=10))
    lane = await town.lane(job)
    lane.open()
    assert (await town.scope("receipts").report_heads([lane.head(spent=Budget(calls=1))])).refused == []
    assert (await town.lane(job, "lane-2")).registered.share == Budget(calls=0)


async def test_a_second_lane_gets_nothing_of_a_purse_that_the_first_has_whole(town: Town) -> None:
    job = await town.open(limits=Budget(calls=5, wall_seconds=60))
    first = await town.lane(job)
    second = await town.scope("receipts").register_lane(job.job, GatewayLane(town, job, "lane-2").request())
    assert second.share == Budget(calls=0, wall_seconds=60)
    assert (first.registered.alone, second.alone) == (True, False)


async def test_a_lane_of_another_gateway_key_or_origin_is_refused(town: Town) -> None:
    job, other = await town.open(), await town.open()
    lane = GatewayLane(town, job, "lane-1")
    gateway = town.scope("receipts")

    async def code(name: str, asked: LaneRequest) -> str:
        return await refusal(gateway.register_lane(name, asked))

    assert await code(job.job, lane.request(gateway="https://another.example")) == "wrong-gateway"
    assert await code(job.job, lane.request(origin="another.example/tally/x/y")) == "wrong-origin"
    assert await code(other.job, lane.request()) == "wrong-origin"
    unknown = GatewayLane(town, msgspec.structs.replace(job, job="job-unknown"), "lane-1")
    assert await code("job-unknown", unknown.request()) == "unknown-job"
    assert await code(job.job, lane.request(kid="0" * 32)) == "unknown-signer"
    assert await code(job.job, lane.request(kid=town.key("scope", "seal").kid)) == "wrong-use"
    await gateway.register_lane(job.job, lane.request())
    assert await code(other.job, GatewayLane(town, other, "lane-1").request()) == "lane-taken"
    await town.scope().close(job.job)
    assert await code(job.job, GatewayLane(town, job, "lane-2").request()) == "job-not-open"
    town.pass_seconds(3600)
    assert await code(other.job, GatewayLane(town, other, "lane-3").request()) == "job-not-open"


async def test_heads_that_extend_the_last_are_witnessed(town: Town) -> None:
    lane = await town.lane(await town.open())
    for count in (1, 1, 5, 9, 1):
        lane.note(count)
        await lane.report()
        await lane.report()
    (known,) = (await town.scope().status(lane.job.job)).lanes
    assert known.size == 17
    assert await recorded(town) == []


async def test_a_head_that_does_not_extend_the_last_is_an_incident_and_changes_nothing(town: Town) -> None:
    lane = await town.lane(await town.open())
    lane.note(5)
    await lane.report()
    hashes = [leaf_hash(raw) for raw in lane.raws]
    fork = [*hashes[:4], leaf_hash(b"another"), leaf_hash(b"more")]
    lane.note()
    good = lane.head()
    for bent in (
        {"note": lane.signed(6, root_of(fork))},
        {"note": lane.signed(5, root_of(fork[:5])), "consistency": []},
        {"note": lane.signed(3, root_of(hashes[:3])), "consistency": []},
        {"note": lane.signed(0, EMPTY), "consistency": []},
        {"consistency": []},
        {"consistency": [*good.consistency, b64(bytes(32))]},
    ):
        assert await report(lane, **bent) == "inconsistent-head"
    assert (
        await report(lane, note=lane.signed(6, bytes(32), key=town.key("orchestrator", "client"))) == "unknown-signer"
    )
    assert await report(lane, closed=True) == "missing-signature"
    assert await report(lane, note="nonsense") == "bad-checkpoint"
    assert [code for _, code, _ in await recorded(town)] == [
        *["inconsistent-head"] * 6, "unknown-signer", "missing-signature", "bad-checkpoint",
    ]  # fmt: skip
    assert await report(lane) == "accepted"
    (known,) = (await town.scope().status(lane.job.job)).lanes
    assert known.size == 6


async def test_a_head_of_another_lane_or_of_an_impossible_empty_tree_is_an_incident(town: Town) -> None:
    job = await town.open()
    lane, other = await town.lane(job, "lane-1"), await town.lane(job, "lane-2")
    other.note()
    lane.note()
    assert await report(lane, note=other.head().note) == "inconsistent-head"
    assert await report(lane, note=lane.signed(0, bytes(32))) == "inconsistent-head"
    assert await report(lane, consistency=[b64(bytes(32))]) == "inconsistent-head"
    assert await report(lane, consistency=["QQ"]) == "bad-base64"
    assert await report(lane) == "accepted"


async def test_a_size_that_no_seal_could_name_is_an_incident(town: Town) -> None:
    lane = await town.lane(await town.open())
    assert await report(lane, note=lane.signed(MAX_INT + 1, bytes(32))) == "inconsistent-head"
    assert [code for _, code, _ in await recorded(town)] == ["inconsistent-head"]


async def test_a_job_has_no_more_lanes_than_its_seal_can_carry(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_LANES", 2)
    job = await town.open()
    first = await town.lane(job, "lane-1")
    await town.lane(job, "lane-2")
    gateway = town.scope("receipts")
    third = GatewayLane(town, job, "lane-3")
    assert await refusal(gateway.register_lane(job.job, third.request())) == "too-many-lanes"
    assert await refusal(gateway.register_lane(job.job, first.request())) == "accepted"


async def test_one_bad_head_does_not_spoil_the_others(town: Town) -> None:
    job = await town.open()
    good, bad = await town.lane(job, "lane-1"), await town.lane(job, "lane-2")
    stranger = GatewayLane(town, job, "lane-3")
    for lane in (good, bad, stranger):
        lane.note(2)
    heads = [bad.head(note=bad.signed(0, bytes(32))), good.head(), stranger.head()]
    answer = await town.scope("receipts").report_heads(heads)
    assert [(each.lane, each.code) for each in answer.refused] == [
        ("lane-2", "inconsistent-head"), ("lane-3", "unknown-lane"),
    ]  # fmt: skip
    assert {lane.lane: lane.size for lane in (await town.scope().status(job.job)).lanes} == {"lane-1": 2, "lane-2": 0}
    assert await refusal(town.scope("receipts").report_heads([good.head(), good.head()])) == "bad-value"


async def test_a_token_that_was_never_issued_for_the_job_is_an_incident_and_revoked(town: Town) -> None:
    lane = await town.lane(await town.open())
    other = await town.scope().token((await town.open()).job)
    foreign = (await town.scope().introspect(other.access_token))["jti"]
    lane.note()
    await lane.report("neverissued", foreign)
    await lane.report("neverissued", foreign)
    _, entries = await town.scope("receipts").snapshot(0)
    revoked = [open_revocation(town.trust, each).value for each in entries]
    assert {(each.target.kind, each.target.value, each.reason) for each in revoked} == {
        ("jti", "neverissued", "unknown-token"), ("jti", foreign, "unknown-token"),
    }  # fmt: skip
    assert len(revoked) == 2
    assert sorted(await recorded(town)) == sorted(
        [("lane-1", "unknown-token", "neverissued"), ("lane-1", "unknown-token", foreign)]
    )


async def test_a_report_of_many_unknown_tokens_is_taken_bit_by_bit(town: Town) -> None:
    lane = await town.lane(await town.open())
    lane.note()
    strangers = [f"never-{number}" for number in range(lanes.MOST_STRANGERS + 2)]
    assert await refusal(lane.report(*strangers)) == "too-many-requests"
    assert len(await recorded(town)) == lanes.MOST_STRANGERS
    await lane.report(*strangers)
    assert {value for _, _, value in await recorded(town)} == set(strangers)


async def test_a_revoked_stranger_waits_for_no_lane(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = await town.lane(await town.open())
    lane.note()
    seen: list[int] = []
    lock_jobs = store.lock_jobs

    async def watched(db: AsyncConnection, chosen: store.JobNames) -> list[str]:
        seen.append(len(await recorded(town)))  # what another connection sees: what is committed
        return await lock_jobs(db, chosen)

    monkeypatch.setattr(store, "lock_jobs", watched)
    await lane.report("neverissued")
    assert seen == [0, 1]


async def test_a_gateway_learns_which_of_its_jobs_are_closing_until_their_lanes_are_closed(town: Town) -> None:
    gateway = town.scope("receipts")
    ended, revoked, going = [await town.lane(await town.open(), f"lane-{n}") for n in range(3)]
    for lane in (ended, revoked, going):
        lane.note(2)
        await lane.report()
    assert (await gateway.report_heads([])).closing == []
    await town.scope().close(ended.job.job)
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=revoked.job.job, reason="incident"))
    closing = {each.job: each.reason for each in (await gateway.report_heads([going.head()])).closing}
    assert closing == {ended.job.job: "complete", revoked.job.job: "revoked"}
    ended.close()
    await ended.report()
    assert [each.job for each in (await gateway.report_heads([])).closing] == [revoked.job.job]


async def test_a_closed_lane_takes_no_other_head(town: Town) -> None:
    lane = await town.lane(await town.open())
    lane.note(2)
    lane.close()
    await lane.report()
    await lane.report()
    lane.note()
    assert await report(lane) == "lane-closed"
    assert await recorded(town) == []
