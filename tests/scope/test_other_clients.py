"""Two orchestrators, and two gateways, of one scope: what is one's is nobody else's of the same role."""

import asyncio

import pytest

from scope.client import Tools
from service import keystore
from tests.scope.conftest import GatewayLane, Town, refusal

GET = Tools(server="crm-mcp", tools=["get_case"])


@pytest.fixture
async def shared(town: Town) -> Town:
    """A scope with another client beside each of the two: `rival` and `receipts-2`."""
    await asyncio.to_thread(_admit, town)
    await town.restart()
    return town


def _admit(town: Town) -> None:
    for name, role in (("rival", "orchestrator"), ("receipts-2", "gateway")):
        keystore.make_private_directory(town.installation / name)
        key = keystore.generate("client", name, random=town.random)
        keystore.save(town.installation / name / "client.key", key)
        with (town.installation / "scope/clients.toml").open("a") as clients:
            clients.write(f'\n[clients.{name}]\ned25519 = "{key.pair().public.ed25519}"\nroles = ["{role}"]\n')


async def test_a_job_and_its_tokens_are_of_the_orchestrator_that_opened_it(shared: Town) -> None:
    strict = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required"}
    shared.policy = await shared.publish(policy_name="deep", token_constraints={**strict, "max_delegation_depth": 1})
    job, rival = (await shared.open()).job, shared.scope("rival")
    stolen = (await shared.scope().token(job)).access_token
    assert await refusal(rival.token(job)) == "unknown-job"
    assert await refusal(rival.refresh(stolen)) == "bad-token"
    assert await refusal(rival.narrow(stolen, GET)) == "bad-token"
    assert await refusal(rival.child(stolen, shared.job())) == "bad-parent-token"
    assert await rival.introspect(stolen) == {"active": False}
    assert await refusal(rival.revoke_token(stolen)) == "forbidden"
    for asked in (rival.status(job), rival.close(job), rival.seal(job)):
        assert await refusal(asked) == "unknown-job"
    assert (await rival.jobs()).jobs == []
    own = (await rival.open(shared.job())).job
    assert [each.job for each in (await rival.jobs()).jobs] == [own]
    found = await shared.scope().status(job)
    assert (found.state, found.grants, found.children) == ("open", [found.grant], [])
    assert (await shared.scope().introspect(stolen))["active"] is True


async def test_a_lane_is_of_the_gateway_that_registered_it(shared: Town) -> None:
    lane = await shared.lane(await shared.open())
    lane.open()
    other = shared.scope("receipts-2")
    assert await refusal(other.register_lane(lane.job.job, GatewayLane(shared, lane.job, lane.name).request())) == (
        "lane-taken"
    )
    assert [each.code for each in (await other.report_heads([lane.head()])).refused] == ["unknown-lane"]
    assert [each.size for each in (await shared.scope().status(lane.job.job)).lanes] == [0]
    assert (await shared.scope("auditor").incidents()).incidents == []
    await shared.scope().close(lane.job.job)
    assert (await other.report_heads([])).closing == []
    assert [each.job for each in (await shared.scope("receipts").report_heads([])).closing] == [lane.job.job]
