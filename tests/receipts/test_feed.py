"""A gateway hears of a revocation at once: running calls are cut, and it finds its way back after scope was away."""

import asyncio
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import scope.app
from scope.client import RevocationRequest, ScopeClient
from tests.conftest import Serve
from tests.receipts.gatehouse import PROVIDER, Gatehouse, gatehouse
from tests.serving import serve_on
from verifier.refused import Refused

FREE: dict[str, Any] = {"model_egress": {"require_proxy_receipts": False}}


def code(answer: tuple[int, Any, Any]) -> str | None:
    error: dict[str, Any] = answer[2].get("error", {})
    return error.get("data", {}).get("code")


async def stuck(house: Gatehouse) -> asyncio.Task[tuple[int, Any, Any]]:
    """Begin a tool call whose upstream does not answer."""
    house.upstream.hold = asyncio.Event()
    house.upstream.reached.clear()
    call = asyncio.create_task(house.rpc())
    await asyncio.wait_for(house.upstream.reached.wait(), 10)
    return call


@pytest.mark.parametrize("kind", ["jti", "tool", "server", "job", "agent"])
async def test_a_running_call_is_cut_when_what_it_needs_is_revoked(tmp_path: Path, serve: Serve, kind: str) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        call = await stuck(house)
        jti = (await house.leaves("token"))[0].jti
        values = {"jti": jti, "tool": "crm-mcp/get_case", "server": "crm-mcp", "job": house.job, "agent": "agent-1"}
        await house.revoke(kind, values[kind])
        assert code(await asyncio.wait_for(call, 5)) in {"revoked", "job-closed"}
        end = (await house.leaves("end"))[0]
        assert end.status == "policy_cut"
        assert house.upstream.hold is not None
        house.upstream.hold.set()


async def test_a_running_call_goes_on_when_something_else_is_revoked(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        call = await stuck(house)
        for kind, value in (("tool", "crm-mcp/search_customer"), ("agent", "agent-2"), ("jti", "other")):
            await house.revoke(kind, value)
        await asyncio.sleep(0.5)
        assert house.upstream.hold is not None
        house.upstream.hold.set()
        assert code(await call) is None
        assert [each.status for each in await house.leaves("end")] == ["ok"]


async def test_before_it_revokes_a_responder_sees_how_many_calls_run(tmp_path: Path, serve: Serve) -> None:
    async def running(house: Gatehouse, wanted: int) -> int:
        for _ in range(50):
            await asyncio.sleep(0.1)
            asked = RevocationRequest(kind="agent", value="agent-1", reason="incident")
            if (found := (await house.scope("responder").preview(asked)).running) == wanted:
                break
        return found

    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        call = await stuck(house)
        during = await running(house, 1)
        assert house.upstream.hold is not None
        house.upstream.hold.set()
        await call
        assert (during, await running(house, 0)) == (1, 0)


async def test_a_stream_of_a_model_is_cut_in_the_middle(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        piece = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small-1",
                 "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}  # fmt: skip
        house.upstream.say(
            b"data: " + json.dumps(piece).encode() + b"\n\n", b"data: [DONE]\n\n", content_type="text/event-stream"
        )
        house.upstream.hold = asyncio.Event()
        async with house.openai() as client:
            stream = await client.chat.completions.create(
                model=f"{PROVIDER}/small-1", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            assert (await anext(stream)).choices[0].delta.content == "hi"
            began = time.monotonic()
            await house.revoke("model", f"{PROVIDER}/small-1")
            with pytest.raises(Exception, match="revoked"):
                async for _ in stream:
                    pass
            assert time.monotonic() - began < 5
        house.upstream.hold.set()
        assert [each.status for each in await house.leaves("end")] == ["policy_cut"]


async def test_a_gateway_hears_scope_again_soon_after_it_came_back_and_logs_it(tmp_path: Path, serve: Serve) -> None:
    with capture_logs() as logged:
        await away_and_back(tmp_path, serve, logged)
    assert told(logged) == ["revocations", "heard-again", "revoked"]


def told(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what a gateway's log says of its hearing, in order."""
    return [each["event"] for each in logged if each["event"] in {"revocations", "heard-again", "revoked"}]


async def away_and_back(tmp_path: Path, serve: Serve, logged: Sequence[Mapping[str, Any]]) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        assert code(await house.rpc()) is None
        await house.stop("scope")
        house.clock.pass_seconds(6)
        while not told(logged):  # the gateway asks again after a quarter of a second
            assert code(await house.rpc()) == "stale-revocations"
        port = int(house.urls.scope.rpartition(":")[2])
        app = scope.app.create(house.directory / "scope/settings.toml", clock=house.clock)
        house.stops["scope"] = await serve_on(app, socket.create_server(("127.0.0.1", port)))
        began = time.monotonic()
        while code(await house.rpc()) is not None:
            pass
        assert time.monotonic() - began < 5
        await house.revoke("agent", "agent-1")
        while (said := code(await house.rpc())) is None:
            pass
        assert said in {"revoked", "lane-closed", "job-closed"}


async def test_a_clock_that_steps_back_stops_calls_and_costs_no_lane(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        assert code(await house.rpc()) is None
        house.clock.pass_seconds(-3600)
        assert code(await house.rpc()) is not None
        await asyncio.sleep(2.5)  # heads are reported, or would be
        with pytest.raises(Refused, match="clock-stepped"):
            await house.revoke("agent", "agent-1")
        house.clock.pass_seconds(3600)
        for _ in range(100):
            await asyncio.sleep(0.1)
            if (said := code(await house.rpc())) is None:
                break
        assert said is None
        _, report = await house.audited()
        assert (report.findings, report.totals.lanes) == ([], 1)


async def test_without_a_feed_the_snapshot_is_asked_for(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blocked(_self: ScopeClient, _after: int, silence: float = 0.01) -> Any:
        await asyncio.sleep(silence)
        raise Refused("scope-unavailable", "a proxy keeps the lines")
        yield

    monkeypatch.setattr(ScopeClient, "follow", blocked)
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        assert code(await house.rpc()) is None
        await house.revoke("tool", "crm-mcp/get_case")
        while (said := code(await house.rpc())) is None:
            pass
        assert said == "revoked"
