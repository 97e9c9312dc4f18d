"""The bundle of a job that is under way: what is durable by now, judged INCOMPLETE, never more than that."""

import asyncio
import json
from pathlib import Path
from typing import Any

from scope.client import Tools
from tests.conftest import Serve
from tests.receipts.gatehouse import Gatehouse, gatehouse

FREE: dict[str, Any] = {"model_egress": {"require_proxy_receipts": False}}
UNDERWAY = "?underway=true"


def codes(house: Gatehouse, raw: bytes) -> tuple[str, set[str]]:
    report = house.judge(raw)
    return report.verdict, {each.code for each in report.findings}


async def test_what_is_durable_of_a_running_job_is_incomplete_and_nothing_worse(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        await house.rpc()
        house.upstream.hold = asyncio.Event()
        house.upstream.reached.clear()
        running = asyncio.create_task(house.rpc())
        await asyncio.wait_for(house.upstream.reached.wait(), 10)
        await house.revoke("tool", "crm-mcp/search_customer")
        raw = await house.bundle(UNDERWAY)
        assert codes(house, raw) == ("INCOMPLETE", {"no-seal", "interrupted", "no-answer"})
        kinds = [next(iter(json.loads(line))) for line in raw.splitlines()]
        assert (kinds.count("revocation"), kinds.count("head"), "seal" in kinds) == (1, 1, False)
        assert house.judge(raw).totals.calls == 2
        assert await house.bundle(UNDERWAY, "orchestrator") == raw
        house.upstream.hold.set()
        await running
        later = await house.bundle(UNDERWAY)
        assert codes(house, later) == ("INCOMPLETE", {"no-seal", "interrupted"})
        assert later.splitlines()[-1] != raw.splitlines()[-1]
        sealed, report = await house.audited()
        assert report.verdict == "PASS"
        assert await house.bundle(UNDERWAY) == sealed


async def test_a_job_without_a_call_has_a_bundle_without_a_lane(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        assert codes(house, await house.bundle(UNDERWAY)) == ("INCOMPLETE", {"no-seal"})
        assert json.loads(await house.bundle())["code"] == "not-sealed"


async def test_narrower_grants_are_in_it_and_strangers_get_none(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        part = Tools(server="crm-mcp", tools=["get_case"])
        house.token = (await house.scope().narrow(house.token, part)).access_token
        await house.rpc()
        raw = await house.bundle(UNDERWAY)
        assert codes(house, raw) == ("INCOMPLETE", {"no-seal", "interrupted"})
        assert raw.count(b'{"grant":') == 2
        for client in ("responder", "author"):
            assert json.loads(await house.bundle(UNDERWAY, client))["code"] in {"forbidden", "unauthenticated"}
        house.job = "job-of-nobody"
        assert json.loads(await house.bundle(UNDERWAY))["code"] == "unknown-job"
