"""Child jobs through the gateway: each within its grant, one purse, and bundles that an auditor holds together."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from scope.client import JobRequest, Models, Tools
from tests.conftest import Serve
from tests.receipts.gatehouse import PROVIDER, Gatehouse, gatehouse
from verifier.audit import verify
from verifier.keys import Pin
from verifier.report import Report
from verifier.tree import hold_together

DEEP: dict[str, Any] = {
    "token_constraints": {"max_delegation_depth": 2},
    "model_egress": {"require_proxy_receipts": False},
    "budgets": {"calls": 8},
}
GET = Tools(server="crm-mcp", tools=["get_case"])


def code(answer: tuple[int, Any, Any]) -> str | None:
    error: dict[str, Any] = answer[2].get("error", {})
    return error.get("data", {}).get("code")


async def delegate(house: Gatehouse, agent: str, *details: Any) -> None:
    """Open a child of the house's job; from now on the house is the child."""
    asked = JobRequest(
        agent=agent, policy=house.policy, job_type="support", environment="test",
        authorization_details=list(details) or None,
    )  # fmt: skip
    house.job = (await house.scope().child(house.token, asked)).job
    house.token = (await house.scope().token(house.job)).access_token


async def bundles(house: Gatehouse, *jobs: str) -> Mapping[str, Report]:
    """Close the first job, wait for all seals; give what an auditor says of all bundles together."""
    await house.scope().close(jobs[0])
    pin, reports = Pin.parse((house.directory / "pin.json").read_bytes()), {}
    for job in jobs:
        await house.scope().wait_for_seal(job)
        house.job = job
        reports[job] = verify(BytesIO(await house.bundle()), pin)
    hold_together(reports)
    return reports


async def test_a_family_of_three_works_and_its_bundles_pass_together(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **DEEP) as house:
        await house.open()
        jobs = [house.job]
        assert code(await house.rpc()) is None
        await delegate(house, "helper-1", GET, Models(models=[f"{PROVIDER}/small-*"]))
        jobs.append(house.job)
        assert code(await house.rpc()) is None
        await delegate(house, "helper-2", GET)
        jobs.append(house.job)
        assert code(await house.rpc()) is None
        assert (await house.chat())[2]["error"]["code"] == "unknown-model"
        reports = await bundles(house, *jobs)
        assert [reports[job].verdict for job in jobs] == ["PASS", "PASS", "PASS"]
        assert [reports[job].kin.depth for job in jobs if (reports[job].kin)] == [0, 1, 2]


async def test_a_parents_bundle_alone_says_which_child_is_missing(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **DEEP) as house:
        await house.open()
        parent = house.job
        await delegate(house, "helper-1")
        reports = await bundles(house, parent)
        assert [each.code for each in reports[parent].findings] == ["missing-child"]


async def test_the_children_of_a_job_cannot_spend_more_than_its_purse(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **DEEP) as house:
        await house.open()
        parent, token = house.job, house.token
        assert code(await house.rpc()) is None  # a lane of four
        children = []
        for agent in ("helper-1", "helper-2"):  # two, then one of the four that are left
            house.token = token
            await delegate(house, agent)
            children.append(house.job)
            while (said := code(await house.rpc())) is None:
                pass
            assert said == "budget-calls"
        house.job, house.token = parent, token
        for _ in range(3):
            assert code(await house.rpc()) is None
        assert code(await house.rpc()) == "budget-calls"
        reports = await bundles(house, parent, *children)
        assert {each.verdict for each in reports.values()} == {"PASS"}


async def test_a_child_is_cut_off_when_its_grandparent_is_revoked(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **DEEP) as house:
        await house.open()
        top = house.job
        await delegate(house, "helper-1")
        await delegate(house, "helper-2")
        assert code(await house.rpc()) is None
        await house.revoke("agent", "agent-1")
        while (said := code(await house.rpc())) in {None, "budget-calls"}:
            pass
        assert said in {"revoked", "lane-closed"}
        below = house.job
        await house.scope().wait_for_seal(top)
        report = verify(BytesIO(await house.bundle()), Pin.parse((house.directory / "pin.json").read_bytes()))
        assert (house.job, report.status, report.verdict) == (below, "revoked", "PASS")


async def test_what_a_policy_limits_in_a_job_is_not_multiplied_by_delegating(tmp_path: Path, serve: Serve) -> None:
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "limits": {"calls_per_job": 2}}
    async with gatehouse(tmp_path, serve, **{**DEEP, "allowed_tools": [rule]}) as house:
        await house.open()
        assert code(await house.rpc()) is None
        await delegate(house, "helper-1")
        assert code(await house.rpc()) == "limit-unknown"
