"""The official clients, unmodified, against the real example upstreams; and what an auditor makes of it afterwards."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from openai import AuthenticationError, PermissionDeniedError

from tests.conftest import Serve, free_port
from tests.receipts.gatehouse import CRM_KEY, MODEL_KEY, PROVIDER, ROOT, Gatehouse, gatehouse

pytestmark = pytest.mark.anyio
MODEL = f"{PROVIDER}/small-1"


@asynccontextmanager
async def running(module: str, key: str, directory: Path) -> AsyncIterator[str]:
    """Run an example upstream as the process that it is in the demo; gives its base URL."""
    port = free_port()
    process = start(module, key, directory, port)
    try:
        while not listening(port):
            assert process.poll() is None, "the upstream ended before it listened"
            await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def start(module: str, key: str, directory: Path, port: int) -> subprocess.Popen[bytes]:
    directory.mkdir()
    key_file = directory / "key"
    key_file.write_text(key)
    return subprocess.Popen(
        [sys.executable, "-m", module, "--port", str(port), "--key-file", str(key_file)],
        cwd=ROOT,
    )


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def town(tmp_path: Path, serve: Serve) -> AsyncIterator[Gatehouse]:
    """The whole installation before both example upstreams."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(running("examples.model_upstream", MODEL_KEY, tmp_path / "model"))
        crm = await stack.enter_async_context(running("examples.crm_server", CRM_KEY, tmp_path / "crm"))
        yield await stack.enter_async_context(gatehouse(tmp_path, serve, crm=f"{crm}/mcp", model=f"{model}/v1"))


def prompt(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]}


async def test_an_agents_work_with_the_official_clients_passes_the_audit(tmp_path: Path, serve: Serve) -> None:
    async with town(tmp_path, serve) as house:
        async with house.openai() as openai, house.mcp() as mcp:
            asked = await openai.chat.completions.create(**prompt('call get_case {"case_id": "CASE-1"}'))
            assert asked.choices[0].message.tool_calls[0].function.name == "get_case"
            found = await mcp.call_tool("get_case", {"case_id": "CASE-1"})
            assert found.structured_content["customer_id"] == "CUST-1"

            stream = await openai.chat.completions.create(
                **prompt('call crm-mcp__search_customer {"query": "ada"}'), stream=True
            )
            chunks = [chunk async for chunk in stream]
            assert all(chunk.usage is None for chunk in chunks)
            result = await mcp.call_tool("search_customer", {"query": "ada"})
            assert "Ada Example" in result.content[0].text

            vectors = await openai.embeddings.create(model=MODEL, input=["one", "two"])
            assert len(vectors.data) == 2
            assert [each.id async for each in openai.models.list()] == [f"{PROVIDER}/*"]

            await openai.chat.completions.create(**prompt("call http_request {}"))
            with pytest.raises(MCPError) as refused:
                await mcp.call_tool("http_request", {"url": "http://x.example"})
            assert refused.value.data["code"] == "denied-tool"
            with pytest.raises(PermissionDeniedError) as denied:
                await openai.chat.completions.create(**prompt("hi"), extra_body={"tools": [{"type": "web_search"}]})
            assert denied.value.code == "hosted-tool"
        _, report = await house.audited()
        assert (report.verdict, report.findings) == ("PASS", [])
        assert (report.totals.calls, report.totals.denials) == (6, 2)


async def test_a_client_that_probes_for_the_revision_and_lists_tools_works(tmp_path: Path, serve: Serve) -> None:
    async with town(tmp_path, serve) as house, house.mcp("auto") as mcp:
        assert [tool.name for tool in (await mcp.list_tools()).tools] == ["get_case", "search_customer"]


async def test_the_official_clients_show_our_code_when_the_token_is_refused(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve) as house:
        house.token += "x"
        async with house.openai() as openai:
            with pytest.raises(AuthenticationError) as refused:
                await openai.chat.completions.create(**prompt("hi"))
            assert refused.value.code == "bad-token"
        async with house.mcp() as mcp:
            with pytest.raises(MCPError) as denied:
                await mcp.call_tool("get_case", {"case_id": "CASE-1"})
            assert denied.value.data["code"] == "bad-token"
