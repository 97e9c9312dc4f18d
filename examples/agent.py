"""An agent runtime that works through the gateway with the official `openai` and `mcp` clients."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from openai import APIStatusError, AsyncOpenAI

from examples.stage import PROVIDER

MODEL = f"{PROVIDER}/small-1"
SERVER = "crm-mcp"


class Refusal(Exception):  # noqa: N818 - a gateway's no is an outcome
    """The gateway refused a call: its code, and the receipt's name where there is one."""

    def __init__(self, code: str) -> None:
        """Keep the code."""
        super().__init__(code)
        self.code = code


class Agent:
    """One agent with one token. `headers` are added to each call."""

    def __init__(self, gateway: str, token: str, headers: dict[str, str] | None = None) -> None:
        """Take the gateway's base URL and the job's token."""
        self.gateway = gateway
        self.token = token
        self.headers = headers or {}
        self.proofs: list[str] = []

    async def ask(self, prompt: str, *, stream: bool = False, **more: Any) -> list[dict[str, Any]]:
        """Ask the model; return the tool calls that it wants. Raises `Refusal`."""
        async with AsyncOpenAI(
            base_url=f"{self.gateway}/v1", api_key=self.token, max_retries=0, default_headers=self.headers
        ) as model:
            try:
                return await (self._streamed if stream else self._whole)(model, prompt, more)
            except APIStatusError as error:
                raise Refusal(str(error.code)) from error

    async def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool of the CRM; return its text. Raises `Refusal`."""
        async with self._mcp() as client:
            try:
                result = await client.call_tool(tool, arguments)
            except MCPError as error:
                data = error.error.data if isinstance(error.error.data, dict) else {}
                raise Refusal(str(data.get("code", error.error.code))) from error
            return "".join(getattr(part, "text", "") for part in result.content)

    async def tools(self) -> list[str]:
        """List the tools that the gateway shows."""
        async with self._mcp() as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    async def work(self, prompt: str, *, stream: bool = False) -> list[str]:
        """Ask the model, and perform every tool call that it asks for."""
        return [await self.call(each["name"], each["arguments"]) for each in await self.ask(prompt, stream=stream)]

    async def _whole(self, model: AsyncOpenAI, prompt: str, more: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await model.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], **more
        )
        self.proofs.append(answer.headers.get("tally-proof", ""))
        calls = answer.parse().choices[0].message.tool_calls or []
        return [
            {"name": each.function.name, "arguments": json.loads(each.function.arguments)}
            for each in calls
            if each.type == "function"
        ]

    async def _streamed(self, model: AsyncOpenAI, prompt: str, more: dict[str, Any]) -> list[dict[str, Any]]:
        pieces: dict[int, dict[str, str]] = {}
        stream = await model.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True, **more
        )
        async for chunk in stream:
            for choice in chunk.choices:
                for each in choice.delta.tool_calls or []:
                    piece = pieces.setdefault(each.index, {"name": "", "arguments": ""})
                    if each.function:
                        piece["name"] += each.function.name or ""
                        piece["arguments"] += each.function.arguments or ""
        return [{"name": each["name"], "arguments": json.loads(each["arguments"])} for each in pieces.values()]

    @asynccontextmanager
    async def _mcp(self) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.token}", **self.headers}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(
                streamable_http_client(f"{self.gateway}/mcp/{SERVER}", http_client=http), mode="2026-07-28", cache=None
            ) as client,
        ):
            yield client


async def refused(act: Callable[[], Any]) -> str:
    """Do what must be refused; return the code, or `allowed`."""
    try:
        await act()
    except Refusal as refusal:
        return refusal.code
    except BaseExceptionGroup as group:
        found, _ = group.split(Refusal)
        if found is None:
            raise
        leaf: BaseException = found
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        return str(leaf)
    return "allowed"
