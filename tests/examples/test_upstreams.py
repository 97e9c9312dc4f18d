"""Both example upstreams, as the processes that they are in the demo, asked by the official clients."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from examples import script

ROOT = Path(__file__).parents[2]
KEY = "upstream-key"
REVISION = "2026-07-28"


@dataclass(frozen=True)
class Upstream:
    """A running upstream: where it listens and what it let in."""

    url: str
    calls: Path

    def received(self) -> list[str]:
        """The requests let in so far."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    async def next_after(self, before: list[str]) -> str:
        """The first request let in after these, once it is there."""
        for _ in range(3000):
            if len(self.received()) > len(before):
                break
            await asyncio.sleep(0.01)
        return self.received()[len(before)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with running("examples.model_upstream", tmp_path_factory.mktemp("model")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def chat(model: Upstream) -> Iterator[openai.OpenAI]:
    with client(model) as official:
        yield official


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with running("examples.crm_server", tmp_path_factory.mktemp("crm"), "--slow-seconds", "600") as upstream:
        yield upstream


@contextmanager
def running(module: str, directory: Path, *options: str) -> Iterator[Upstream]:
    """The upstream's process, from when it listens until the block ends."""
    key, calls, port = directory / "key", directory / "calls", free_port()
    key.write_text(KEY + "\n")
    arguments = ["--port", str(port), "--key-file", str(key), "--calls-file", str(calls), *options]
    with ExitStack() as ending:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT)
        ending.callback(process.wait)
        ending.callback(process.kill)
        wait_until_listening(port, process)
        yield Upstream(f"http://127.0.0.1:{port}", calls)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the upstream ended before it listened"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the upstream does not listen")


def ask(chat: openai.OpenAI, *lines: str, **options: Any) -> Any:
    """One chat completion, whose user message has these lines."""
    messages = options.pop("messages", [{"role": "user", "content": "\n".join(lines)}])
    return chat.chat.completions.create(model="example-model", messages=messages, **options)


def client(model: Upstream, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{model.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_the_model_asks_for_the_tool_calls_of_its_script(chat: openai.OpenAI) -> None:
    answer = ask(chat, "Please help.", 'call get_case {"case_id": "CASE-1"}', "call export_customers")
    asked = answer.choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in asked] == [
        ("get_case", '{"case_id": "CASE-1"}'),
        ("export_customers", "{}"),
    ]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert len({call.id for call in asked}) == 2


def test_the_same_conversation_gets_the_same_answer_and_another_gets_other_ids(chat: openai.OpenAI) -> None:
    first, again, other = (ask(chat, line) for line in ("call a", "call a", "call a {}"))
    assert first == again
    assert first.choices[0].message.tool_calls[0].id != other.choices[0].message.tool_calls[0].id
    assert first.id != other.id


def test_a_conversation_that_ends_with_a_tool_result_gets_the_final_words(chat: openai.OpenAI) -> None:
    question = {"role": "user", "content": "call get_case"}
    asked = ask(chat, messages=[question]).choices[0].message
    result = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "closed"}
    answer = ask(chat, messages=[question, asked.model_dump(exclude_none=True), result])
    assert answer.choices[0].message.content == "The task is done; tool results read: 1."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_carries_the_whole_answer_and_its_usage_in_the_last_chunk(chat: openai.OpenAI) -> None:
    lines = ('call search_customer {"query": "ada", "limit": 2}', "call get_case")
    whole = ask(chat, *lines)
    chunks = list(ask(chat, *lines, stream=True, stream_options={"include_usage": True}))
    calls: dict[int, list[str]] = {}
    for delta in (call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []):
        at = calls.setdefault(delta.index, ["", "", ""])
        at[0] += delta.id or ""
        at[1] += delta.function.name or ""
        at[2] += delta.function.arguments or ""
    asked = whole.choices[0].message.tool_calls
    assert list(calls.values()) == [[call.id, call.function.name, call.function.arguments] for call in asked]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert {chunk.id for chunk in chunks} == {whole.id}


def test_a_stream_of_words_without_usage_asked_has_none(chat: openai.OpenAI) -> None:
    chunks = list(ask(chat, "Hello", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "There is nothing to do."
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_usage_adds_up_and_grows_with_the_text(chat: openai.OpenAI) -> None:
    short, long = ask(chat, "Hello").usage, ask(chat, "Hello " * 20).usage
    assert short.prompt_tokens + short.completion_tokens == short.total_tokens
    assert (short.prompt_tokens, long.prompt_tokens) == (2, 30)


def test_the_script_can_make_the_model_fail(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        ask(chat, "fail 429")
    assert refused.value.code == "scripted_failure"
    with pytest.raises(openai.InternalServerError):
        ask(chat, "fail 503", stream=True)


def test_a_slow_answer_is_asked_for_in_seconds() -> None:
    assert script.delay([script.Message("user", "slow 0.25\ncall x\nslow 2")]) == 2.25
    assert script.delay([script.Message("user", "go slow 9")]) == 0


def test_a_slow_stream_sends_its_first_chunk_before_it_waits(chat: openai.OpenAI) -> None:
    with ask(chat, "slow 600", stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"


async def test_a_slow_answer_has_arrived_at_the_model_before_it_is_given(model: Upstream) -> None:
    before = model.received()
    async with openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key=KEY, max_retries=0) as slow_client:
        create = slow_client.chat.completions.create
        slow = asyncio.create_task(create(model="m", messages=[{"role": "user", "content": "slow 600"}]))
        assert await model.next_after(before) == "POST /v1/chat/completions"
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


def test_the_model_refuses_any_key_but_its_own(model: Upstream) -> None:
    with client(model, "the-caller-s-token") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
    assert httpx2.get(f"{model.url}/v1/models").status_code == 401


@pytest.mark.parametrize("key", [None, b"", b"\n", b"\xff"])
def test_an_upstream_without_a_usable_key_does_not_start(tmp_path: Path, key: bytes | None) -> None:
    file = tmp_path / "key"
    if key is not None:
        file.write_bytes(key)
    command = [sys.executable, "-m", "examples.model_upstream", "--port", "0", "--key-file", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert ended.returncode == 2
    assert "--key-file" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"model":"m"}', b'{"model":"m","messages":[]}', b'{"model":1,"messages":[{"role":"user"}]}'],
)
def test_a_bad_request_gets_a_400_in_openai_s_shape(model: Upstream, body: bytes) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx2.post(f"{model.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_value"


def test_embeddings_are_the_same_as_numbers_and_as_base64(chat: openai.OpenAI) -> None:
    create = chat.embeddings.create
    numbers = create(model="e", input=["ada", "grace"], encoding_format="float")
    packed = create(model="e", input=["ada", "grace"])
    assert [item.embedding for item in numbers.data] == [list(item.embedding) for item in packed.data]
    assert numbers.data[0].embedding != numbers.data[1].embedding
    assert numbers.usage.total_tokens == 3


def test_the_models_are_listed(chat: openai.OpenAI) -> None:
    assert [item.id for item in chat.models.list()] == ["example-model"]


@asynccontextmanager
async def mcp_client(crm: Upstream, mode: str = REVISION, seen: list[str] | None = None) -> AsyncIterator[Client]:
    """The official client with the upstream's key; `seen` takes the methods that it sends."""

    async def note(request: httpx2.Request) -> None:
        if seen is not None:
            seen.append(request.headers.get("mcp-method", "none"))

    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, event_hooks={"request": [note]}) as http,
        Client(streamable_http_client(f"{crm.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def call(crm: Upstream, tool: str, arguments: dict[str, Any]) -> Any:
    """One tool call at revision 2026-07-28."""
    async with mcp_client(crm) as client:
        return await client.call_tool(tool, arguments)


async def test_the_crm_lists_its_four_tools(crm: Upstream) -> None:
    async with mcp_client(crm) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == ["search_customer", "get_case", "http_request", "export_customers"]
    assert tools[0].input_schema["required"] == ["query"]
    assert set(tools[0].input_schema["properties"]) == {"query", "limit"}


async def test_the_crm_is_negotiated_by_discovery_without_a_session(crm: Upstream) -> None:
    seen: list[str] = []
    async with mcp_client(crm, mode="auto", seen=seen) as client:
        assert client.protocol_version == REVISION
        assert client.server_info is not None
        assert client.server_info.name == "crm-mcp"
    assert seen == ["server/discover"]


async def test_the_crm_finds_customers_by_name_or_city(crm: Upstream) -> None:
    by_city = await call(crm, "search_customer", {"query": "LONDON"})
    assert [row["customer_id"] for row in by_city.structured_content["result"]] == ["CUST-1"]
    limited = await call(crm, "search_customer", {"query": "example", "limit": 1})
    assert [row["name"] for row in limited.structured_content["result"]] == ["Ada Example"]


async def test_the_crm_reads_a_case_and_calls_an_unknown_one_a_tool_error(crm: Upstream) -> None:
    known = await call(crm, "get_case", {"case_id": "CASE-2"})
    assert known.structured_content["status"] == "closed"
    unknown = await call(crm, "get_case", {"case_id": "CASE-0"})
    assert unknown.is_error
    assert unknown.content[0].text.endswith("no case CASE-0")


async def test_the_crm_has_the_tools_that_the_example_policy_does_not_allow(crm: Upstream) -> None:
    fetched = await call(crm, "http_request", {"url": "http://127.0.0.1:1/"})
    assert fetched.structured_content == {"result": "200 OK from http://127.0.0.1:1/"}
    exported = await call(crm, "export_customers", {"format": "json"})
    assert [row["customer_id"] for row in json.loads(exported.structured_content["result"])][-1] == "CUST-4"


async def test_the_slow_case_arrives_before_it_is_answered(crm: Upstream) -> None:
    before = crm.received()
    slow = asyncio.create_task(call(crm, "get_case", {"case_id": "CASE-SLOW"}))
    assert await crm.next_after(before) == "POST /mcp tools/call get_case"
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


def test_the_crm_refuses_a_header_that_contradicts_the_body(crm: Upstream) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"_meta": meta, "name": "http_request", "arguments": {"url": "x"}}
    headers = {
        "authorization": f"Bearer {KEY}",
        "accept": "application/json",
        "mcp-protocol-version": REVISION,
        "mcp-method": "tools/call",
        "mcp-name": "get_case",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = httpx2.post(f"{crm.url}/mcp", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


def test_the_crm_refuses_any_key_but_its_own(crm: Upstream) -> None:
    answer = httpx2.post(f"{crm.url}/mcp", json={}, headers={"authorization": "Bearer the-caller-s-token"})
    assert answer.status_code == 401


def test_the_example_policy_allows_two_of_the_crm_s_tools_and_denies_one() -> None:
    draft = msgspec.json.decode((ROOT / "examples/policies/minimal.json").read_bytes())
    assert draft["allowed_tools"][0] == {"kind": "mcp", "server": "crm-mcp", "tools": ["search_customer", "get_case"]}
    assert "http_request" in draft["denied_tools"][0]["tools"]
