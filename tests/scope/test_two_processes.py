"""Two scope processes on one PostgreSQL are one scope: jobs, lanes, the sequence, seals, and what counts once."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from controls.client import Connection, audit_lines
from scope.client import ASSERTION, OpenedJob, RevocationRequest, ScopeClient, claims_of
from service.audit import Line, check
from service.dpop import Prover
from tests.conftest import seeded
from tests.scope.conftest import Town, jwk_of
from tests.scope.processes import Process, city
from tests.scope.witness import Lane
from verifier.documents import open_heartbeat, open_revocation, open_seal


class Two:
    """One scope at two addresses: a call is made of one of them, the first or the second."""

    def __init__(self, town: Town, processes: list[Process]) -> None:
        self.town, self.processes = town, processes

    def at(self, which: int, client: str = "orchestrator") -> ScopeClient:
        """Call one of the processes as somebody."""
        return ScopeClient(self.town.session, self.processes[which].url, lambda: self.town.credential(client))

    async def post(self, which: int, path: str, **given: object) -> tuple[int, dict[str, object]]:
        """Send one request to one of the processes, exactly as it is given."""
        url = self.processes[which].url + path
        async with self.town.session.post(url, **given) as answer:  # type: ignore[arg-type]
            return answer.status, await answer.json(content_type=None)

    async def lane(self, which: int, job: OpenedJob, name: str) -> Lane:
        """Register a lane at one of the processes, and write its first receipt."""
        lane = Lane(self.town, job, name)
        lane.registered = await self.at(which, "receipts").register_lane(job.job, lane.request())
        lane.open()
        return lane

    async def report(self, which: int, lane: Lane) -> list[str]:
        """Report a lane's newest head at one of the processes; gives the jobs that it hears are closing."""
        answer = await self.at(which, "receipts").report_heads([lane.news()])
        assert answer.refused == []
        lane.acknowledged(len(lane.raws))
        return [each.job for each in answer.closing]


@pytest.fixture
async def two(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Two, None]:
    """Two processes that serve."""
    async with city(tmp_path / "city", postgres, monkeypatch, 2) as (town, processes):
        await asyncio.gather(*(each.start() for each in processes))
        yield Two(town, processes)
        for each in processes:
            await each.stop()
        assert not [line for line in processes[0].log().splitlines() if '"bug"' in line]


def revocation(agent: str) -> RevocationRequest:
    return RevocationRequest(kind="agent", value=agent, reason="incident")


async def test_what_one_process_began_the_other_goes_on_with(two: Two) -> None:
    job = await two.at(0).open(two.town.job())
    whole = await two.at(1).token(job.job)
    younger = await two.at(0).refresh(whole.access_token)
    assert (await two.at(1).introspect(younger.access_token))["active"]
    lane = await two.lane(1, job, "lane-1")
    assert (await two.at(0, "receipts").register_lane(job.job, lane.request())) == lane.registered
    lane.use(claims_of(younger.access_token))
    assert await two.report(0, lane) == []
    lane.note(3)
    assert await two.report(1, lane) == []
    await two.at(1).close(job.job)
    lane.note()
    assert await two.report(0, lane) == [job.job]
    lane.close()
    await two.report(1, lane)
    sealed = [await two.at(which).wait_for_seal(job.job) for which in (0, 1, 0)]
    assert len(set(sealed)) == 1
    seal = open_seal(two.town.trust, sealed[0]).value
    (told,) = seal.lanes
    jti = claims_of(younger.access_token).jti
    assert (seal.status, told.size, [each.jti for each in told.tokens]) == ("complete", len(lane.raws), [jti])
    assert not (await two.at(0).introspect(younger.access_token))["active"]
    assert (await two.at(0, "auditor").incidents()).incidents == []


async def follow(two: Two, which: int, last: int) -> list[int]:
    """Follow one process's feed up to a sequence."""
    seen = list[int]()
    async with aclosing(two.at(which, "receipts").follow(0)) as lines:
        async for _, revocations in lines:
            seen += [open_revocation(two.town.trust, each).value.sequence for each in revocations]
            if seen and seen[-1] >= last:
                break
    return seen


async def test_revocations_at_both_make_one_sequence_without_a_gap(two: Two) -> None:
    jobs = [await two.at(n % 2).open(two.town.job(agent=f"agent-{n}")) for n in range(10)]
    followers = [asyncio.create_task(follow(two, which, 40)) for which in (0, 1)]
    await asyncio.sleep(0.3)
    done = await asyncio.gather(
        *(two.at(n % 2, "responder").revoke(revocation(f"agent-{n % 20}")) for n in range(40)),
    )
    assert sorted(each.sequence for each in done) == list(range(1, 41))
    assert sum(each.jobs for each in done) == len(jobs)
    assert await asyncio.wait_for(asyncio.gather(*followers), 20) == [list(range(1, 41))] * 2
    first, second = [await two.at(which, "receipts").snapshot(0) for which in (0, 1)]
    assert first[1] == second[1]
    assert [open_heartbeat(two.town.trust, each[0]).value.sequence for each in (first, second)] == [40, 40]


async def test_both_look_after_time_and_every_job_gets_one_seal(two: Two) -> None:
    expiring = [await two.at(n % 2).open(two.town.job(expires_in=1 + n % 2)) for n in range(12)]
    jobs = [await two.at(n % 2).open(two.town.job()) for n in range(8)]
    lanes = [await two.lane(n % 2, job, f"lane-{n}") for n, job in enumerate(jobs)]
    await asyncio.gather(*(two.at(which).close(job.job) for job in jobs for which in (0, 1)))
    for lane in lanes:
        lane.close()
    await asyncio.gather(*(two.report(n % 2, lane) for n, lane in enumerate(lanes)))
    sealed = {
        job.job: [await two.at(which).wait_for_seal(job.job, seconds=60) for which in (0, 1)]
        for job in (*expiring, *jobs)
    }
    assert all(first == second for first, second in sealed.values())
    found = Counter(open_seal(two.town.trust, first).value.status for first, _ in sealed.values())
    assert found["expired"] == len(expiring)
    assert found["complete"] + found["interrupted"] == len(jobs)  # a slow machine may take longer than a gateway has
    http = Connection(two.town.session, two.processes[1].url, lambda: two.town.credential("auditor"))
    lines = [line async for line in audit_lines(http)]
    check(lines)
    entries = [msgspec.json.decode(line, type=Line).entry for line in lines]
    for act in ("job-opened", "job-closing", "job-sealed"):
        assert Counter(each.subject for each in entries if each.act == act) == dict.fromkeys(sealed, 1)


async def test_a_clients_token_counts_once_whichever_process_it_is_shown_to(two: Two) -> None:
    for used in (0, 1):
        bearer = {"Authorization": f"Bearer {two.town.credential('receipts')}"}
        asked = {"headers": bearer, "json": {"heads": []}}
        assert (await two.post(used, "/heads", **asked))[0] == 200
        for which in (0, 1):
            status, said = await two.post(which, "/heads", **asked)
            assert (status, said["code"]) == (401, "unauthenticated")


async def test_what_was_used_is_refused_after_a_restart_too(two: Two) -> None:
    asked = {"headers": {"Authorization": f"Bearer {two.town.credential('receipts')}"}, "json": {"heads": []}}
    assert (await two.post(1, "/heads", **asked))[0] == 200
    await two.processes[1].kill()
    await two.processes[1].start()
    assert (await two.post(1, "/heads", **asked))[0] == 401


async def test_of_a_token_shown_to_both_at_once_one_is_taken(two: Two) -> None:
    for _ in range(8):  # an address may fail thirty times a minute
        bearer = {"Authorization": f"Bearer {two.town.credential('receipts')}"}
        asked = [two.post(which, "/heads", headers=bearer, json={"heads": []}) for which in (0, 1, 0, 1)]
        assert sorted(status for status, _ in await asyncio.gather(*asked)) == [200, 401, 401, 401]


async def test_an_assertion_and_a_proof_of_possession_count_once_at_the_token_endpoint_of_both(two: Two) -> None:
    job = await two.at(0).open(two.town.job(binding="dpop"))
    key = two.town.key("orchestrator", "client")
    prover = Prover(key.ed25519, jwk_of(key), two.town.clock, seeded("proofs"))
    address = f"{two.town.urls.scope}/token"
    issued = await two.at(0).token(job.job, proving=lambda method, _, nonce: prover.proof(method, address, nonce=nonce))
    assert issued.token_type == "DPoP"

    def form() -> dict[str, str]:
        assertion = {"client_assertion_type": ASSERTION, "client_assertion": two.town.credential("orchestrator")}
        return {"grant_type": "client_credentials", "job": job.job, **assertion}

    async with two.town.session.post(f"{two.processes[1].url}/token", data=form()) as answer:
        assert (await answer.json())["code"] == "dpop-required"
        nonce = answer.headers["DPoP-Nonce"]
    proof, first = {"DPoP": prover.proof("POST", address, nonce=nonce)}, form()
    assert (await two.post(0, "/token", headers=proof, data=first))[0] == 200
    status, said = await two.post(1, "/token", headers=proof, data=form())
    assert (status, said["code"]) == (400, "bad-dpop-proof")
    fresh = {"DPoP": prover.proof("POST", address, nonce=nonce)}
    status, said = await two.post(1, "/token", headers=fresh, data=first)
    assert (status, said["code"]) == (401, "unauthenticated")
    fresh = {"DPoP": prover.proof("POST", address, nonce=nonce)}
    assert (await two.post(1, "/token", headers=fresh, data=form()))[0] == 200
