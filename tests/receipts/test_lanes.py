"""Lanes from registration to the seal: what is written, what scope witnesses, what the auditor says."""

import asyncio
import errno
import os

import pytest
from msgspec.structs import replace

from receipts.bundles import Bundles, Part
from receipts.lanes import Cut
from receipts.log import Appended
from scope.client import RevocationRequest, ScopeClient
from service import keystore
from tests.conftest import free_port
from tests.receipts.conftest import MODEL, Calls, Epoch, Job, Town
from verifier.checkpoint import Proof
from verifier.encoding import canonical
from verifier.envelope import Envelope, seal_up
from verifier.leaf import Close, Deny, Note, Open, Token, decode
from verifier.refused import Refused
from verifier.seal import Seal, origin


async def opened(epoch: Epoch, town: Town) -> tuple[Job, Calls]:
    job = await town.job()
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    lane.token(job.claims)
    return job, Calls(lane, job)


async def test_a_finished_job_s_bundle_passes(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.model("get_case", "crm-mcp__search_customer")
    calls.tool()
    calls.tool("search_customer")
    calls.deny()
    await epoch.finish(job)
    report = epoch.verify(await epoch.bundle(job))
    assert (report.verdict, report.findings) == ("PASS", [])
    assert (report.totals.calls, report.totals.denials, report.status) == (3, 1, "complete")


async def sealed(bundles: Bundles, job: Job) -> Seal:
    raw = (await bundles.sealed(job.name)).seal
    assert raw is not None
    return Seal.parse(Envelope.parse(raw, "seal").content())


async def test_a_seal_gets_no_receipts_of_another_job_out_of_us(epoch: Epoch, town: Town) -> None:
    job, _ = await opened(epoch, town)
    await epoch.finish(job)
    other = await town.job()
    await epoch.finish(other)
    bundles = await epoch.bundles()
    [lane] = (await sealed(bundles, job)).lanes
    honest = await sealed(bundles, other)
    lying = replace(honest, lanes=[replace(lane, origin=origin(lane.gateway, other.name, lane.lane))])
    signed = seal_up("seal", canonical(lying), keystore.load(town.directory / "scope/seal.key", "seal"))
    parts = [Part(each.lane, each.origin, each.size) for each in lying.lanes]
    raw = await epoch.assembled(bundles, replace(await bundles.sealed(other.name), parts=parts, seal=signed))
    assert job.name.encode() not in raw
    assert raw.splitlines()[-1].startswith(b'{"head":')
    assert epoch.verify(raw).verdict == "FAIL"


async def test_first_calls_that_come_together_register_one_lane(epoch: Epoch, town: Town) -> None:
    job = await town.job()
    lanes = await asyncio.gather(*(epoch.lanes.of(job.grant, (job.policy,)) for _ in range(20)))
    assert len({id(lane) for lane in lanes}) == 1
    status = await town.scope("orchestrator").status(job.name)
    assert [lane.lane for lane in status.lanes] == [lanes[0].lane]


async def test_a_lane_s_key_is_a_file_that_nobody_else_can_read(epoch: Epoch, town: Town) -> None:
    job = await town.job()
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    path = town.settings.directory / "lanes" / f"{lane.lane}.key"
    assert path.read_bytes() == lane.key
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_a_durable_receipt_is_proved_under_a_signed_head(epoch: Epoch, town: Town) -> None:
    _, calls = await opened(epoch, town)
    pair = town.identity.pair.public
    for _ in range(9):
        denied = calls.deny()
        assert isinstance(denied, Appended)
        await calls.lane.durable(denied)
        proof = Proof.parse(calls.lane.proof(denied))
        assert proof.check(pair).size == denied.seq + 1
        assert decode(proof.extra) == denied.leaf


async def test_a_head_is_signed_once_for_many_proofs_of_one_commit(epoch: Epoch, town: Town) -> None:
    _, calls = await opened(epoch, town)
    many = [calls.deny() for _ in range(20)]
    assert isinstance(many[-1], Appended)
    await calls.lane.durable(many[-1])
    assert len({id(calls.lane.head) for _ in many}) == 1


async def test_a_token_is_written_at_its_first_use_only(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.lane.token(job.claims)
    assert calls.lane.counts["token"] == 1
    assert calls.lane.jtis == {job.claims.jti: 1}


async def test_times_never_go_back_when_the_clock_does(epoch: Epoch, town: Town) -> None:
    _, calls = await opened(epoch, town)
    ahead = calls.lane.time + 10_000_000
    calls.lane.time = ahead
    denied = calls.deny()
    assert isinstance(denied, Appended)
    assert denied.leaf.time == ahead


async def test_past_sixty_denials_a_minute_one_note_counts_the_rest(epoch: Epoch, town: Town) -> None:
    _, calls = await opened(epoch, town)
    written = [calls.deny() for _ in range(75)]
    assert [each is None for each in written] == [False] * 60 + [True] * 15
    calls.lane.time += 61_000_000
    last = calls.deny()
    assert isinstance(last, Appended)
    assert isinstance(last.leaf, Deny)
    assert (calls.lane.counts["deny"], calls.lane.counts["note"]) == (61, 1)


async def test_a_refused_leaf_leaves_no_trace(epoch: Epoch, town: Town) -> None:
    _, calls = await opened(epoch, town)
    size = calls.lane.tree.size
    with pytest.raises(Refused, match="bad-value"):
        calls.lane.append(lambda seq, time: Note(code="not harmless", seq=seq, time=time))
    assert calls.lane.tree.size == size


async def test_an_open_call_is_cut_when_its_job_closes(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    call = calls.begin(MODEL, "model-1")
    cut = calls.lane.calls[call] = Cut(lambda: None)
    cut.listen(lambda: calls.end(call, "get_case"))
    await epoch.finish(job)
    assert cut.code == "job-closed"
    report = epoch.verify(await epoch.bundle(job))
    assert (report.verdict, report.totals.lost) == ("PASS", 0)


async def test_a_call_that_does_not_end_in_time_is_ended_for_it(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    call = calls.begin(MODEL, "model-1")
    await epoch.finish(job)
    with pytest.raises(Refused, match="lane-closed"):
        calls.end(call)
    raw = await epoch.bundle(job)
    assert b'"status":"policy_cut"' in raw
    assert epoch.verify(raw).verdict == "PASS"


async def test_no_call_begins_in_a_lane_that_closes(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    await epoch.finish(job)
    with pytest.raises(Refused, match="lane-closed"):
        calls.begin(MODEL, "model-1")
    with pytest.raises(Refused, match="job-not-open"):
        await epoch.lanes.of(job.grant, (job.policy,))


async def test_a_revoked_job_s_lane_is_closed_as_revoked(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.model()
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=job.name, reason="incident"))
    reporting = asyncio.create_task(epoch.reporter.run())
    await town.scope("orchestrator").wait_for_seal(job.name)
    reporting.cancel()
    raw = await epoch.bundle(job)
    assert b'"reason":"revoked"' in raw
    report = epoch.verify(raw)
    assert (report.verdict, report.status) == ("PASS", "revoked")


async def test_a_lane_begins_with_open_and_ends_with_close(epoch: Epoch, town: Town) -> None:
    job, _ = await opened(epoch, town)
    await epoch.finish(job)
    leaves = [decode(line) for line in (await epoch.bundle(job)).splitlines()[-3:]]
    assert [type(leaf) for leaf in leaves] == [Open, Token, Close]
    assert isinstance(leaves[2], Close)
    assert (leaves[2].reason, leaves[2].counts.token) == ("complete", 1)


async def test_a_silent_gateway_s_job_is_sealed_at_the_last_witnessed_head(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.model()
    await asyncio.sleep(0.05)
    await epoch.reporter.report()
    calls.model()
    await town.scope("orchestrator").close(job.name)
    await town.scope("orchestrator").wait_for_seal(job.name)
    report = epoch.verify(await epoch.bundle(job))
    assert (report.verdict, report.status, report.totals.calls) == ("INCOMPLETE", "interrupted", 1)


async def test_a_lost_answer_of_scope_does_not_lose_the_lane(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.model()
    await asyncio.sleep(0.05)
    await epoch.reporter.report()
    calls.lane.witnessed = None
    calls.model()
    await epoch.finish(job)
    assert epoch.verify(await epoch.bundle(job)).verdict == "PASS"


async def test_scope_may_be_away_for_a_while(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    calls.model()
    await asyncio.sleep(0.05)
    there = epoch.reporter._scope
    epoch.reporter._scope = ScopeClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: "token")
    with pytest.raises(Refused, match="scope-unavailable"):
        await epoch.reporter.report()
    reporting = asyncio.create_task(epoch.reporter.run())
    await asyncio.sleep(0.05)
    assert calls.lane.witnessed is None
    epoch.reporter._scope = there
    reporting.cancel()
    await epoch.finish(job)
    assert epoch.verify(await epoch.bundle(job)).verdict == "PASS"


async def test_a_lane_that_was_sealed_without_us_takes_no_more_calls(epoch: Epoch, town: Town) -> None:
    job, calls = await opened(epoch, town)
    await town.scope("orchestrator").close(job.name)
    await town.scope("orchestrator").wait_for_seal(job.name)
    await epoch.reporter.report()
    with pytest.raises(Refused, match="lane-closed"):
        calls.begin(MODEL, "model-1")
    with pytest.raises(Refused, match="job-not-open"):
        await epoch.lanes.of(job.grant, (job.policy,))


async def test_a_first_call_while_scope_is_away_is_refused_and_the_next_tries_again(epoch: Epoch, town: Town) -> None:
    job = await town.job()
    there = epoch.lanes._scope
    epoch.lanes._scope = ScopeClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: "token")
    with pytest.raises(Refused, match="scope-unavailable"):
        await epoch.lanes.of(job.grant, (job.policy,))
    assert list((town.settings.directory / "lanes").iterdir()) == []
    epoch.lanes._scope = there
    assert (await epoch.lanes.of(job.grant, (job.policy,))).job == job.name


async def test_a_lane_whose_key_finds_no_room_is_not_registered_and_leaves_no_file(
    epoch: Epoch, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, keys = await town.job(), town.settings.directory / "lanes"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(Refused) as refused:
            await epoch.lanes.of(job.grant, (job.policy,))
    assert refused.value.code == "disk-full"
    assert list(keys.iterdir()) == []
    assert (await town.scope("orchestrator").status(job.name)).lanes == []
    assert (await epoch.lanes.of(job.grant, (job.policy,))).job == job.name
