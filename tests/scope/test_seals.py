"""Seals: what ends a job, what its seal says, and that an auditor finds nothing wrong with it."""

from io import BytesIO

import msgspec
import pytest
from sqlalchemy import update

from controls.client import ControlsClient
from scope import seals
from scope.client import OpenedJob, RevocationRequest
from scope.tables import lanes as lane_rows
from tests.scope.conftest import SECOND, GatewayLane, Town, granted, refusal
from verifier import bundle
from verifier.audit import verify
from verifier.documents import open_revocation
from verifier.merkle import EMPTY, leaf_hash, root_of
from verifier.signing import SUITE


async def finished(town: Town, job: OpenedJob, name: str = "lane-1") -> GatewayLane:
    """Write a short lane and close it."""
    lane = await town.lane(job, name)
    lane.open()
    await lane.report()
    lane.note(3)
    lane.close()
    await lane.report()
    return lane


async def audit(town: Town, job: OpenedJob) -> tuple[str, list[str]]:
    """Put a bundle together and ask the verifier: the verdict and the codes of its findings."""
    registry = ControlsClient(town.session, town.urls.controls, town.trust)
    scope = town.scope("receipts")
    sealed = await scope.seal(job.job)
    documents = bundle.Documents(
        job=job.job, suite=SUITE, keys=await scope.keys(),
        policies=[(await registry.policy(job.policy, job.opened)).raw],
        manifests=[(await registry.manifest(await manifest(town, job), job.opened)).raw], grants=[bytes(job.grant)],
        revocations=await scope.revocations(job.job), seal=sealed,
    )  # fmt: skip
    lanes = []
    for lane in (await town.sealed(job.job)).value.lanes:
        mine = next(each for each in town.lanes if each.name == lane.lane)
        raws = mine.raws[: lane.size]
        note = mine.signed(
            lane.size, root_of(map(leaf_hash, raws)), closing=lane.size == len(mine.raws) and mine.closed
        )
        lanes.append(bundle.Lane(lane.lane, note, raws))
    report = verify(BytesIO(b"".join(bundle.write(documents, lanes))), town.trust.pin)
    return report.verdict, [finding.code for finding in report.findings]


async def manifest(town: Town, job: OpenedJob) -> str:
    """Name the manifest of the one server that the job's grant names."""
    return granted(job, town.trust).value.scope.manifests["crm-mcp"]


async def test_a_closed_job_is_sealed_when_every_lane_has_closed(town: Town) -> None:
    job = await town.open()
    issued = await town.scope().token(job.job)
    jti = (await town.scope().introspect(issued.access_token))["jti"]
    lane = await town.lane(job)
    lane.open()
    await lane.report(jti)
    assert await refusal(town.scope().seal(job.job)) == "not-sealed"
    assert (await town.scope().close(job.job)).state == "closing"
    await town.advance(1)
    assert await refusal(town.scope().seal(job.job)) == "not-sealed"
    lane.close()
    await lane.report()
    await town.advance()
    seal = (await town.sealed(job.job)).value
    assert (seal.status, seal.job, seal.policy, seal.grants) == ("complete", job.job, town.policy, [job.grant_digest])
    assert (seal.opened, seal.closed, seal.keys) == (job.opened, town.clock(), town.trust.digest)
    (sealed,) = seal.lanes
    assert (sealed.lane, sealed.origin, sealed.kid, sealed.gateway) == (
        lane.name,
        lane.origin,
        lane.key.kid,
        lane.gateway,
    )
    assert (sealed.size, sealed.root) == (2, "sha256:" + root_of(map(leaf_hash, lane.raws)).hex())
    assert [(token.jti, token.grant, token.exp - token.iat) for token in sealed.tokens] == [
        (jti, job.grant_digest, 300)
    ]
    status = await town.scope().status(job.job)
    assert (status.state, status.status, status.seal) == ("sealed", "complete", (await town.sealed(job.job)).digest)


async def test_an_auditor_passes_what_scope_sealed(town: Town) -> None:
    job = await town.open()
    await finished(town, job)
    await finished(town, job, "lane-2")
    await town.scope().close(job.job)
    await town.advance(1)
    assert await audit(town, job) == ("PASS", [])


async def test_a_job_without_lanes_is_sealed_at_once(town: Town) -> None:
    job = await town.open()
    await town.scope().close(job.job)
    await town.advance()
    seal = (await town.sealed(job.job)).value
    assert (seal.status, seal.lanes) == ("complete", [])
    assert await audit(town, job) == ("PASS", [])


async def test_a_job_expires_with_its_grant(town: Town) -> None:
    job = await town.open(expires_in=60)
    lane = await finished(town, job)
    await town.advance(59)
    assert (await town.scope().status(job.job)).state == "open"
    await town.advance(1)
    assert (await town.sealed(job.job)).value.status == "expired"
    assert await audit(town, job) == ("PASS", [])
    assert lane.closed


@pytest.mark.parametrize("reported", [0, 2])
async def test_a_lane_that_does_not_close_in_five_seconds_is_sealed_interrupted(town: Town, reported: int) -> None:
    job = await town.open()
    await finished(town, job, "lane-0")
    lane = await town.lane(job)
    if reported:
        lane.open()
        lane.note()
        await lane.report()
    lane.note(3)
    await town.scope().close(job.job)
    await town.advance(4.9)
    assert await refusal(town.scope().seal(job.job)) == "not-sealed"
    await town.advance(0.1)
    seal = (await town.sealed(job.job)).value
    assert seal.status == "interrupted"
    root = root_of(map(leaf_hash, lane.raws[:reported])) if reported else EMPTY
    assert (seal.lanes[1].size, seal.lanes[1].root) == (reported, "sha256:" + root.hex())
    verdict, codes = await audit(town, job)
    assert verdict == "INCOMPLETE", codes


async def test_a_revoked_jobs_seal_names_what_touched_it_and_nothing_else(town: Town) -> None:
    responder = town.scope("responder")
    await responder.revoke(RevocationRequest(kind="tool", value="crm-mcp/get_case", reason="before"))
    job = await town.open()
    jti = (await town.scope().introspect((await town.scope().token(job.job)).access_token))["jti"]
    lane = await town.lane(job)
    lane.open()
    await lane.report(jti)
    touching = [
        await responder.revoke(RevocationRequest(kind=kind, value=value, reason="incident"))  # type: ignore[arg-type]
        for kind, value in (("server", "other-mcp"), ("jti", jti))
    ]
    await responder.revoke(RevocationRequest(kind="agent", value="agent-2", reason="incident"))
    await responder.revoke(RevocationRequest(kind="jti", value="another", reason="incident"))
    touching.append(await responder.revoke(RevocationRequest(kind="agent", value="agent-1", reason="incident")))
    lane.close("revoked")
    await lane.report()
    await town.advance()
    await responder.revoke(RevocationRequest(kind="policy", value=town.policy, reason="after"))
    seal = (await town.sealed(job.job)).value
    assert (seal.status, seal.revocations) == ("revoked", [each.digest for each in touching])
    served = await town.scope("receipts").revocations(job.job)
    assert [open_revocation(town.trust, each).digest for each in served] == seal.revocations


async def test_marks_say_what_scope_knew_and_when(town: Town) -> None:
    job = await town.open()
    start = town.clock()
    lane = await town.lane(job)
    lane.open()
    await lane.report()

    async def at(seconds: float, notes: int = 1) -> None:
        await town.advance(start / SECOND + seconds - town.clock() / SECOND)
        lane.note(notes)
        await lane.report()

    await at(10)
    await at(61)
    await at(80)
    await town.scope("responder").revoke(RevocationRequest(kind="tool", value="crm-mcp/x", reason="incident"))
    await at(85)
    town.pass_seconds(1.5)
    lane.note(7)
    await lane.report()
    lane.close()
    await town.advance(3.5)
    await lane.report()
    town.pass_seconds(1)  # before the job closes: scope's own clockwork may seal it at any moment after
    await town.scope().close(job.job)
    await town.advance()
    marks = [((mark.time - start) / SECOND, mark.size) for mark in (await town.sealed(job.job)).value.lanes[0].marks]
    assert marks == [(0, 0), (61, 3), (80, 4), (86, 5), (90, 13), (91, 13)]


async def test_a_mark_that_is_due_is_written_without_any_head(town: Town) -> None:
    job = await town.open()
    lane = await finished(town, job)
    await town.scope("responder").revoke(RevocationRequest(kind="tool", value="crm-mcp/x", reason="incident"))
    revoked = town.clock()
    await town.advance(5)
    await town.advance(1)
    await town.scope().close(job.job)
    await town.advance(1)
    times = [mark.time for mark in (await town.sealed(job.job)).value.lanes[0].marks]
    assert revoked + 6 * SECOND in times
    assert await audit(town, job) == ("PASS", [])
    assert lane.closed


async def test_the_last_mark_has_the_time_at_which_no_head_could_come_any_more(town: Town) -> None:
    job = await town.open()
    lane = await town.lane(job)
    lane.open()
    await lane.report()
    await town.scope().close(job.job)
    began, locked = (town.clock() + seconds * SECOND for seconds in (5, 7))
    await seals.advance(msgspec.structs.replace(town.authority, clock=lambda: locked), began)
    last = (await town.sealed(job.job)).value.lanes[0].marks[-1]
    assert (last.time, last.size) == (locked, 1)


async def test_a_job_that_cannot_be_sealed_keeps_no_other_waiting(town: Town) -> None:
    jobs = [await town.open() for _ in range(3)]
    for number, job in enumerate(jobs):
        await finished(town, job, f"lane-{number}")
    async with town.authority.engine.begin() as db:
        await db.execute(update(lane_rows).where(lane_rows.c.lane == "lane-1").values(share=b"damaged"))
    for job in jobs:
        await town.scope().close(job.job)
    await town.advance()
    assert [await refusal(town.scope().seal(job.job)) for job in jobs] == ["accepted", "not-sealed", "accepted"]


async def test_no_job_is_sealed_under_an_expired_key_list(town: Town) -> None:
    job = await town.open()
    town.pass_seconds(366 * 86_400)
    await town.advance()
    assert await refusal(town.scope().seal(job.job)) == "not-sealed"
    assert (await town.scope().status(job.job)).state == "closing"


async def test_a_lane_that_closes_without_a_leaf_leaves_the_job_interrupted(town: Town) -> None:
    job = await town.open()
    lane = await town.lane(job)
    lane.closed = True
    await lane.report()
    await town.scope().close(job.job)
    await town.advance()
    assert (await town.sealed(job.job)).value.status == "interrupted"


async def test_a_sealed_job_never_changes(town: Town) -> None:
    job = await town.open()
    lane = await finished(town, job)
    await town.scope().close(job.job)
    await town.advance(1)
    before = await town.scope().seal(job.job)
    lane.note()
    answer = await town.scope("receipts").report_heads([lane.head()])
    assert [each.code for each in answer.refused] == ["job-sealed"]
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=job.job, reason="late"))
    await town.scope().close(job.job)
    await town.advance(7200)
    assert await town.scope().seal(job.job) == before
    assert (await town.scope().status(job.job)).reason == "complete"


async def test_whoever_waits_for_a_seal_gets_it(town: Town) -> None:
    job = await town.open()
    await town.scope().close(job.job)
    raw = await town.scope().wait_for_seal(job.job)
    assert raw == await town.scope().seal(job.job)
    assert await refusal(town.scope().wait_for_seal("job-unknown")) == "unknown-job"
