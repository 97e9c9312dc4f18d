"""A token key is replaced while a job runs, in the steps of specs/operating.md §5: no call is refused meanwhile."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import controls.app
import receipts.app
import scope.app
from controls.commands import app as registry
from scope.client import header_of
from tests.conftest import Serve
from tests.receipts.gatehouse import Gatehouse, gatehouse
from tests.serving import serve_on

pytestmark = pytest.mark.anyio
MODULES: dict[str, Any] = {"scope": scope.app, "controls": controls.app, "receipts": receipts.app}


async def restart(house: Gatehouse, name: str) -> None:
    """End a service, and start it again at the same address."""
    await house.stop(name)
    port = int(getattr(house.urls, name).rpartition(":")[2])
    app = MODULES[name].create(house.directory / name / "settings.toml", clock=house.clock)
    house.stops[name] = await serve_on(app, socket.create_server(("127.0.0.1", port)))


async def rotate(house: Gatehouse, made: Path) -> str:
    """Make the token key's successor in a new file; gives its id."""
    old = house.key("scope", "token").kid
    words = ["keys", "rotate", old, "-o", str(made), "--dir", str(house.directory), "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, registry, words)
    kid: str = json.loads(result.stdout)["kid"]
    return kid


async def call(house: Gatehouse, token: str) -> str:
    """Call a tool with a token; gives what the tool said, or the code of the refusal."""
    _, _, body = await house.rpc(Authorization=f"Bearer {token}")
    found: str = body["result"]["content"][0]["text"] if "result" in body else body["error"]["data"]["code"]
    return found


async def test_a_token_key_is_replaced_and_no_call_is_refused(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as house:
        before, old, made = house.token, header_of(house.token).kid, house.directory / "scope/token.key.new"
        assert await call(house, before) == "done"
        new = await rotate(house, made)
        for name in ("scope", "controls", "receipts"):
            await restart(house, name)
        await house.ready()
        between = (await house.scope().token(house.job)).access_token
        assert header_of(between).kid == old
        assert [await call(house, token) for token in (before, between)] == ["done"] * 2

        made.replace(house.directory / "scope/token.key")
        await restart(house, "scope")
        await house.ready()
        after = (await house.scope().token(house.job)).access_token
        assert header_of(after).kid == new
        assert [await call(house, token) for token in (before, between, after)] == ["done"] * 3
        _, report = await house.audited()
    assert (report.verdict, report.findings, report.totals.calls) == ("PASS", [], 6)


async def test_a_gateway_that_was_not_told_first_believes_no_new_token(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as house:
        before, made = house.token, house.directory / "scope/token.key.new"
        await rotate(house, made)
        made.replace(house.directory / "scope/token.key")
        await restart(house, "scope")
        await house.ready()
        after = (await house.scope().token(house.job)).access_token
        assert [await call(house, token) for token in (before, after)] == ["done", "unknown-signer"]
        await restart(house, "receipts")
        await house.ready()
        assert [await call(house, token) for token in (before, after)] == ["done"] * 2
