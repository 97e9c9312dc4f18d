"""Tools that the runtime runs itself; resources, prompts, and what servers ask their client for."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from receipts import local
from scope.client import Tools
from tests.conftest import Serve
from tests.receipts.gatehouse import META, REVISION, Gatehouse, gatehouse, tool, tool_result
from verifier.manifest import Manifest, Prompt, Resource

pytestmark = pytest.mark.anyio

CARD = "4111 1111 1111 1111"
RULES: list[dict[str, Any]] = [
    {
        "kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "search_customer"],
        "resources": ["file:///docs/*"], "prompts": ["summary"], "server_requests": ["elicitation/create"],
    },
    {"kind": "local", "server": "runtime", "tools": ["read_file"]},
]  # fmt: skip
POLICY: dict[str, Any] = {
    "allowed_tools": RULES,
    "model_egress": {"require_proxy_receipts": False},
    "data_classes": {"allow": ["*"], "deny": ["payment_instruments"], "on_violation": "redact"},
}
LOCAL = Manifest(
    issuer="example.registrar", server="runtime", serial=1, issued_at=1,
    tools=[tool("read_file", {"type": "object", "properties": {"path": {"type": "string"}}}), tool("shell")],
)  # fmt: skip
REVIEWED: dict[str, Any] = {
    "resources": [
        Resource(
            uri="file:///docs/*", description="Documents.", sensitivity="internal", data_classes=["internal"],
            approval="none",
        ),
        Resource(
            uri="file:///etc/passwd", description="No.", sensitivity="secret", data_classes=[], approval="none",
        ),
    ],
    "prompts": [
        Prompt(
            name="summary", description="Sum a case up.", sensitivity="internal", data_classes=[], approval="none",
            input_schema='{"type":"object","properties":{"case":{"type":"string"}}}',
        ),
    ],
}  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncGenerator[Gatehouse, None]:
    async with gatehouse(tmp_path, serve, local=LOCAL, reviewed=REVIEWED, **POLICY) as made:
        yield made


def code(answer: tuple[int, Any, Any]) -> str:
    said: str = answer[2]["code"] if "code" in answer[2] else answer[2]["error"]["data"]["code"]
    return said


async def authorize(house: Gatehouse, name: str = "read_file", **arguments: Any) -> tuple[int, Any, Any]:
    return await house.post("/authorize", {"server": "runtime", "tool": name, "arguments": arguments})


async def findings(house: Gatehouse) -> list[str]:
    return [each.code for each in (await house.audited())[1].findings]


async def test_a_tool_of_the_runtime_is_decided_before_and_its_result_recorded_after(house: Gatehouse) -> None:
    status, headers, body = await authorize(house, path=f"/data/{CARD}")
    assert (status, body["allowed"]) == (200, True)
    assert body["arguments"] == {"path": "/data/[redacted:payment_instruments]"}
    begin = await house.last()
    assert (begin.kind, begin.observed, begin.rule, begin.call) == ("begin", "runtime", "allow-2", body["call"])
    assert headers["tally-receipt"] == body["call"]
    said = {"status": "ok", "content": {"text": f"paid with {CARD}"}}
    status, headers, answer = await house.post(f"/authorize/{body['call']}/result", said)
    assert (status, answer["content"]) == (200, {"text": "paid with [redacted:payment_instruments]"})
    end = await house.last()
    assert (end.status, end.redactions, end.screens) == ("ok", 2, ("data", "injection", "size"))
    assert headers["tally-proof"]
    assert code(await house.post(f"/authorize/{body['call']}/result", said)) == "unknown-call"
    assert house.upstream.requests == []
    raw, report = await house.audited()
    assert (report.findings, report.totals.observed) == ([], 1)
    assert b'"observed":"runtime"' in raw


async def test_what_a_runtime_may_not_run_is_denied_with_a_receipt(house: Gatehouse) -> None:
    for name, arguments, said, status in (
        ("shell", {}, "not-allowed", 403), ("read_file", {"other": 1}, "unknown-argument", 403),
        ("no_tool", {}, "unknown-tool", 403),
    ):  # fmt: skip
        answer = await authorize(house, name, **arguments)
        assert (answer[0], code(answer)) == (status, said)
        assert (await house.last()).code == said
        assert answer[2]["receipt"] == answer[1]["tally-receipt"]
    assert code(await house.post("/authorize", {"server": "crm-mcp", "tool": "get_case"})) == "unknown-tool"
    assert (await house.post("/authorize", b"{"))[0] == 400
    assert (await house.post("/authorize", {"server": "runtime"}))[0] == 400
    assert (await house.post("/authorize", {}, Authorization="Bearer x"))[0] == 401
    assert (
        code(await house.post("/mcp/runtime", rpc("tools/call", name="read_file"), **headed("tools/call", "read_file")))
        == "unknown-tool"
    )


async def test_a_result_is_of_the_job_that_asked_and_of_an_open_call(house: Gatehouse) -> None:
    _, _, body = await authorize(house, path="/a")
    mine = house.token
    await house.open()
    assert code(await house.post(f"/authorize/{body['call']}/result", {"status": "ok"})) == "unknown-call"
    house.token = mine
    assert (await house.post(f"/authorize/{body['call']}/result", {"status": "no"}))[0] == 400
    answer = await house.post(f"/authorize/{body['call']}/result", {"status": "error", "content": "no such file"})
    assert (answer[0], answer[2]["content"]) == (200, "no such file")


async def test_a_call_whose_result_never_comes_is_ended_with_its_job(house: Gatehouse) -> None:
    await authorize(house, path="/a")
    _, report = await house.audited()
    assert report.findings == []
    assert (await house.last()).kind == "close"
    assert [each.status for each in await house.leaves("end")] == ["policy_cut"]


async def test_a_regulated_job_runs_nothing_that_only_its_runtime_sees(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, local=LOCAL, regulated=True, **POLICY) as house:
        answer = await authorize(house, path="/a")
        assert (answer[0], code(answer)) == (403, "observed-by-runtime")


def rpc(method: str, /, **params: Any) -> dict[str, Any]:
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}}}
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": meta, **params}}


def headed(method: str, name: str | None = None) -> dict[str, str]:
    named = {"mcp_name": name} if name else {}
    return {"mcp_method": method, "mcp_protocol_version": REVISION, "accept": "application/json", **named}


async def ask(house: Gatehouse, method: str, name: str | None = None, /, **params: Any) -> tuple[int, Any, Any]:
    return await house.post("/mcp/crm-mcp", rpc(method, **params), **headed(method, name))


async def test_resources_and_prompts_are_listed_by_grant_and_read_by_rule(house: Gatehouse) -> None:
    assert (await ask(house, "server/discover"))[2]["result"]["capabilities"].keys() == {
        "tools",
        "resources",
        "prompts",
    }
    assert (await ask(house, "resources/list"))[2]["result"]["resources"] == []
    (prompt,) = (await ask(house, "prompts/list"))[2]["result"]["prompts"]
    assert (prompt["name"], prompt["arguments"]) == ("summary", [{"name": "case", "required": False}])
    uri = "file:///docs/a.md"
    contents = {"contents": [{"uri": uri, "text": "hello"}], "resultType": "complete"}
    house.upstream.say(json.dumps({"jsonrpc": "2.0", "id": 1, "result": contents}).encode())
    _, _, body = await ask(house, "resources/read", uri, uri=uri)
    assert body["result"]["contents"][0]["text"] == "hello"
    headers, sent = house.upstream.requests[-1]
    assert (headers["mcp-method"], headers["mcp-name"]) == ("resources/read", uri)
    assert json.loads(sent)["params"].keys() == {"_meta", "uri"}
    begin, _ = (await house.leaves("begin", "end"))[-2:]
    assert (begin.target.resource, begin.target.tool, begin.facts.labels) == (uri, None, ("internal",))
    house.upstream.say(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"messages": []}}).encode())
    assert (await ask(house, "prompts/get", "summary", name="summary", arguments={"case": "A"}))[2]["result"]
    assert (await house.leaves("begin"))[-1].target.prompt == "summary"
    for method, name, params, said in (
        ("resources/read", "file:///etc/passwd", {"uri": "file:///etc/passwd"}, "not-allowed"),
        ("resources/read", "file:///home/x", {"uri": "file:///home/x"}, "unknown-tool"),
        ("resources/read", "file:///docs/%2e", {"uri": "file:///docs/%2e"}, "bad-params"),
        ("prompts/get", "other", {"name": "other"}, "unknown-tool"),
        ("prompts/get", "summary", {"name": "summary", "arguments": {"x": "A"}}, "unknown-argument"),
        ("completion/complete", None, {}, "not-allowed"),
    ):
        assert code(await ask(house, method, name, **params)) == said, (method, name)
    assert await findings(house) == []


ELICIT = {"where": {"method": "elicitation/create", "params": {"message": "which case?"}}}


def input_required(requests: dict[str, Any] = ELICIT, state: Any = "upstream-state") -> bytes:
    result = {"resultType": "input_required", "inputRequests": requests, "requestState": state}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


async def test_a_server_may_ask_its_client_what_the_rule_names_and_gets_its_state_back_once(house: Gatehouse) -> None:
    house.upstream.say(input_required())
    asked = {"name": "get_case", "arguments": {"case_id": "A"}}
    _, _, body = await ask(house, "tools/call", "get_case", **asked)
    assert body["result"]["inputRequests"] == ELICIT
    state = body["result"]["requestState"]
    assert state != "upstream-state"
    assert (await house.last()).server_requests == ("elicitation/create",)
    sent = json.loads(house.upstream.requests[-1][1])["params"]["_meta"]
    assert sent["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
    answers = {"where": {"action": "accept", "content": {"case": "A"}}}
    retried = {**asked, "requestState": state, "inputResponses": answers}
    other = {**retried, "arguments": {"case_id": "B"}}
    house.upstream.say(tool_result("done"))
    assert code(await ask(house, "tools/call", "get_case", **other)) == "unknown-state"
    assert code(await ask(house, "tools/call", "get_case", **retried)) == "unknown-state"  # a wrong try spends it
    house.upstream.say(input_required())
    state = (await ask(house, "tools/call", "get_case", **asked))[2]["result"]["requestState"]
    house.upstream.say(tool_result("done"))
    assert (await ask(house, "tools/call", "get_case", **{**retried, "requestState": state}))[2]["result"]["content"]
    params = json.loads(house.upstream.requests[-1][1])["params"]
    assert (params["requestState"], params["inputResponses"]) == ("upstream-state", answers)
    assert await findings(house) == []


@pytest.mark.parametrize(
    ("requests", "state", "said"),
    [
        ({"a": {"method": "sampling/createMessage"}}, None, "not-allowed"),
        ({"a": {"method": 1}}, None, "upstream-answer"),
        ({"a": 1}, None, "upstream-answer"),
        ({}, None, "upstream-answer"),
        ({}, 1, "upstream-answer"),
        ({str(number): {"method": "elicitation/create"} for number in range(17)}, None, "upstream-answer"),
    ],
)
async def test_what_no_rule_lets_a_server_ask_is_withheld(
    house: Gatehouse, requests: dict[str, Any], state: Any, said: str
) -> None:
    house.upstream.say(input_required(requests, state))
    assert code(await ask(house, "tools/call", "get_case", name="get_case", arguments={"case_id": "A"})) == said
    end = await house.last()
    assert (end.status == "policy_cut") is (said == "not-allowed")
    assert end.server_requests is None


async def test_a_narrower_token_calls_what_it_carries_and_the_bundle_names_its_grant(house: Gatehouse) -> None:
    whole = house.token
    part = Tools(server="crm-mcp", tools=["get_case"])
    house.token = (await house.scope().narrow(whole, part)).access_token
    house.upstream.say(tool_result("done"))
    asked = {"name": "get_case", "arguments": {"case_id": "A"}}
    assert (await ask(house, "tools/call", "get_case", **asked))[2]["result"]["content"]
    assert code(await authorize(house, path="/a")) == "unknown-server"
    other = {"name": "search_customer", "arguments": {"query": "A"}}
    assert code(await ask(house, "tools/call", "search_customer", **other)) == "not-granted"
    assert (await ask(house, "tools/list"))[2]["result"]["tools"][0]["name"] == "get_case"
    house.token = whole
    assert (await ask(house, "tools/call", "search_customer", **other))[2]["result"]["content"]
    raw, report = await house.audited()
    assert report.findings == []
    assert raw.count(b'{"grant":') == 2


async def test_a_job_that_reports_nothing_is_refused_in_the_end(
    house: Gatehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_OPEN", 2)
    calls = [(await authorize(house, path="/a"))[2]["call"] for _ in range(2)]
    assert code(await authorize(house, path="/a")) == "too-many-open"
    assert (await house.post(f"/authorize/{calls[0]}/result", {"status": "ok"}))[0] == 200
    assert (await authorize(house, path="/a"))[0] == 200
    await house.open()  # another job has room of its own
    assert (await authorize(house, path="/a"))[0] == 200


async def test_a_large_body_is_looked_through_as_well(house: Gatehouse) -> None:
    path = "word " * 10_000 + CARD
    _, _, body = await authorize(house, path=path)
    assert body["arguments"]["path"].endswith("[redacted:payment_instruments]")
