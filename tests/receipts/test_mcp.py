"""The MCP path over real sockets: what goes through, what is refused, and which receipt it leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from scope.client import LaneRequest
from tests.conftest import Serve
from tests.receipts.gatehouse import CRM_KEY, META, REVISION, Gatehouse, gatehouse, tool_result
from verifier.report import Report
from verifier.seal import origin

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncGenerator[Gatehouse, None]:
    async with gatehouse(tmp_path, serve) as made:
        yield made


def code(answer: tuple[int, Any, Any]) -> str:
    """Name the code of a refusal."""
    found: str = answer[2]["error"]["data"]["code"]
    return found


def verdict(audited: tuple[bytes, Report]) -> list[str]:
    """Name what an auditor finds in the job's bundle."""
    return [each.code for each in audited[1].findings]


def request(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META, **params}}


HEADERS = {
    "accept": "application/json",
    "mcp_protocol_version": REVISION,
    "mcp_method": "tools/call",
    "mcp_name": "get_case",
}


WHOLE = json.dumps(request(name="get_case", arguments={"case_id": "A"})).encode()


async def test_a_tool_call_that_a_model_asked_for_goes_through_with_two_receipts(house: Gatehouse) -> None:
    await house.asked_for("crm-mcp__get_case")
    status, headers, body = await house.rpc()
    assert (status, body["id"], body["result"]["content"][0]["text"]) == (200, 7, "done")
    model_end, begin, end = (await house.leaves("begin", "end"))[1:]
    assert (begin.call, end.call) == (headers["tally-receipt"], headers["tally-receipt"])
    assert (begin.rule, begin.parent.call, begin.parent.id) == ("allow-1", model_end.call, "call_0")
    assert (begin.facts.labels, begin.target.tool) == (("customer_provided",), "get_case")
    assert (end.status, end.screens) == ("ok", ("content-type", "data", "injection", "size"))


async def test_the_upstream_gets_our_own_request_with_our_own_credential(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    await house.rpc(tally_job=house.job, cookie="session=1", x_secret="mine")
    headers, body = house.upstream.requests[-1]
    assert headers["authorization"] == f"Bearer {CRM_KEY}"
    assert house.token.encode() not in body + json.dumps(headers).encode()
    assert not {"cookie", "x-secret", "tally-job"} & headers.keys()
    assert [headers[f"mcp-{name}"] for name in ("name", "method", "protocol-version")] == [
        "get_case",
        "tools/call",
        REVISION,
    ]
    assert json.loads(body)["params"]["arguments"] == {"case_id": "CASE-1"}
    assert json.loads(body)["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] == "tallystick"


async def test_refusals_leave_a_denial_by_whoever_refused(house: Gatehouse) -> None:
    for name, arguments, said, by in (
        ("http_request", {"url": "http://x"}, "denied-tool", "policy"),
        ("export_customers", {"format": "csv"}, "not-allowed", "policy"),
        ("get_case", {"case_id": "CASE-1", "new": 1}, "unknown-argument", "gateway"),
        ("get_case", {}, "bad-arguments", "gateway"),
        ("no_tool", {}, "unknown-tool", "gateway"),
    ):
        await house.asked_for(name)
        sent = len(house.upstream.requests)
        answer = await house.rpc(name=name, arguments=arguments)
        denied = await house.last()
        assert (answer[0], code(answer), denied.kind, denied.code, denied.by) == (200, said, "deny", said, by)
        assert answer[1]["tally-receipt"] == denied.call
        assert "tally-proof" in answer[1]
        assert len(house.upstream.requests) == sent


async def test_a_tool_call_that_no_model_asked_for_is_refused_and_one_answer_is_used_once(house: Gatehouse) -> None:
    assert code(await house.rpc()) == "no-model-call"
    await house.asked_for("get_case")
    assert (await house.rpc())[2]["result"]
    assert code(await house.rpc()) == "no-model-call"
    assert (await house.last()).by == "gateway"


async def test_a_named_parent_must_be_an_unused_call_of_that_tool(house: Gatehouse) -> None:
    await house.asked_for("get_case", "search_customer")
    call = (await house.leaves("end"))[-1].call
    assert code(await house.rpc(tally_parent=f"{call}/call_1")) == "no-model-call"
    assert code(await house.rpc(tally_parent=f"{call}/nothing")) == "no-model-call"
    body = request(name="get_case", arguments={"case_id": "A"})
    body["params"]["_meta"] = {**META, "tallystick/parent": {"call": call, "id": "call_0"}}
    assert (await house.post("/mcp/crm-mcp", body, **HEADERS))[2]["result"]
    assert (await house.leaves("begin"))[-1].parent.id == "call_0"
    body["params"]["_meta"]["tallystick/parent"] = "call_0"
    assert code(await house.post("/mcp/crm-mcp", body, **HEADERS)) == "bad-parent"


async def test_after_a_tool_error_the_model_may_have_its_call_tried_again(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    house.upstream.say(tool_result("no such case", isError=True))
    assert (await house.rpc())[2]["result"]["isError"]
    assert (await house.last()).tool_error
    house.upstream.say(tool_result("done"))
    assert not (await house.rpc())[2]["result"]["isError"]


@pytest.mark.parametrize(
    ("headers", "number"),
    [
        ({"mcp_name": "search_customer"}, -32020),
        ({"mcp_name": "=?base64?Z2V0X2Nhc2U?="}, -32020),
        ({"mcp_name": "=?base64?Z2V0X2Nhc2V=?="}, -32020),
        ({"mcp_method": "tools/list"}, -32020),
        ({"mcp_protocol_version": "2025-11-25"}, -32020),
        ({"mcp_param_region": "eu"}, -32020),
        ({"accept": "text/html"}, -32600),
        ({"content_type": "text/plain"}, -32600),
        ({"content_encoding": "gzip"}, -32600),
    ],
)
async def test_a_header_that_contradicts_the_body_is_refused(
    house: Gatehouse, headers: dict[str, str], number: int
) -> None:
    body = request(name="get_case", arguments={"case_id": "A"})
    status, _, answer = await house.post("/mcp/crm-mcp", body, **{**HEADERS, **headers})
    assert (status, answer["error"]["code"]) == (400, number)
    assert (await house.last()).kind == "deny"
    assert house.upstream.requests == []


async def test_headers_that_are_missing_are_refused_and_encoded_ones_are_read(house: Gatehouse) -> None:
    body = request(name="get_case", arguments={"case_id": "A"})
    for missing in ("mcp_protocol_version", "mcp_method", "mcp_name"):
        status, _, answer = await house.post("/mcp/crm-mcp", body, **{k: v for k, v in HEADERS.items() if k != missing})
        assert (status, answer["error"]["code"]) == (400, -32020)
    await house.asked_for("get_case")
    encoded = {**HEADERS, "mcp_name": "=?base64?Z2V0X2Nhc2U=?="}
    assert (await house.post("/mcp/crm-mcp", body, **encoded))[2]["result"]


@pytest.mark.parametrize(
    ("raw", "number", "said"),
    [
        (b"{", -32700, "not-json"),
        (b"\xff", -32700, "not-utf8"),
        (b"[" * 40 + b"]" * 40, -32700, "too-deep"),
        (WHOLE.replace(b'"id": 1', b'"id": 1, "id": 1'), -32700, "duplicate-key"),
        (WHOLE.replace(b'"case_id": "A"', b'"case_id": "A", "case_id": "B"'), -32700, "duplicate-key"),
        (b"[]", -32600, "bad-request"),
        (json.dumps({**request(), "id": [1]}).encode(), -32600, "bad-request"),
        (json.dumps({**request(), "params": {}}).encode(), -32602, "bad-params"),
        (json.dumps(request(name="get_case", arguments=[1])).encode(), -32602, "bad-params"),
    ],
)
async def test_a_body_that_cannot_be_read_one_way_is_refused(
    house: Gatehouse, raw: bytes, number: int, said: str
) -> None:
    answer = await house.post("/mcp/crm-mcp", raw, **HEADERS)
    assert (answer[0], answer[2]["error"]["code"], code(answer)) == (400, number, said)
    assert house.upstream.requests == []


async def test_a_body_over_the_limit_is_refused(house: Gatehouse) -> None:
    answer = await house.rpc(arguments={"case_id": "A" * (1 << 20)})
    assert (answer[0], code(answer)) == (413, "too-large")


async def test_an_unsupported_revision_is_told_the_supported_one(house: Gatehouse) -> None:
    body = request("server/discover")
    body["params"]["_meta"] = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    headers = {**HEADERS, "mcp_method": "server/discover", "mcp_protocol_version": "2099-01-01"}
    status, _, answer = await house.post("/mcp/crm-mcp", body, **headers)
    assert (status, answer["error"]["code"], answer["error"]["data"]["supported"]) == (400, -32022, [REVISION])


async def test_other_methods_and_servers_are_denied(house: Gatehouse) -> None:
    for method in ("logging/setLevel", "completion/complete", "initialize", "subscriptions/listen"):
        answer = await house.rpc(method)
        assert (answer[0], answer[2]["error"]["code"], code(answer)) == (404, -32601, "not-allowed")
        assert (await house.last()).target.server == "crm-mcp"
    answer = await house.post("/mcp/other", request(name="get_case", arguments={}), **HEADERS)
    assert code(answer) == "unknown-server"


async def test_the_list_shows_what_manifest_and_grant_both_name_and_is_nobody_elses(house: Gatehouse) -> None:
    _, _, body = await house.rpc("tools/list")
    listed = body["result"]
    assert [each["name"] for each in listed["tools"]] == ["get_case", "search_customer"]
    assert listed["tools"][0]["description"] == "What get_case does."
    assert (listed["ttlMs"], listed["cacheScope"], listed["resultType"]) == (0, "private", "complete")
    assert await house.leaves() == []
    _, _, found = await house.rpc("server/discover")
    assert (found["result"]["supportedVersions"], found["result"]["capabilities"]) == ([REVISION], {"tools": {}})


async def test_only_post_is_answered_and_a_page_of_another_origin_is_not(house: Gatehouse) -> None:
    for method in ("GET", "DELETE"):
        async with house.session.request(method, f"{house.gateway}/mcp/crm-mcp") as answer:
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
    status, _, _ = await house.rpc(origin="http://evil.example")
    assert status == 403


async def test_the_resource_is_what_was_called_and_its_document_names_the_authorization_server(
    house: Gatehouse,
) -> None:
    status, headers, answer = await house.rpc(authorization="Bearer nothing")
    assert (status, answer["error"]["data"]["code"]) == (401, "bad-token")
    metadata = headers["www-authenticate"].partition('resource_metadata="')[2].rstrip('"')
    async with house.session.get(metadata) as document:
        said = await document.json()
    assert said["resource"] == f"{house.gateway}/mcp/crm-mcp"
    assert said["authorization_servers"] == [house.urls.scope]


@pytest.mark.parametrize("name", ["a%0D%0Aset-cookie%3A%20a%3D1", "%E2%82%AC", "a%22b"])
async def test_a_servers_name_cannot_write_a_header(house: Gatehouse, name: str) -> None:
    url = URL(f"{house.gateway}/mcp/{name}", encoded=True)
    async with house.session.post(url, data=b"{}") as answer:
        assert (answer.status, "set-cookie" in answer.headers) == (401, False)
        assert answer.headers["www-authenticate"].endswith(f'/mcp/{name}"')


async def test_a_header_that_stands_twice_is_refused_by_name(house: Gatehouse) -> None:
    for name in ("origin", "authorization", "tally-job", "mcp-name"):
        sent = [
            ("authorization", f"Bearer {house.token}"),
            *((each.replace("_", "-"), v) for each, v in HEADERS.items()),
        ]
        sent += [("content-type", "application/json"), (name, "a"), (name, "b")]
        async with house.session.post(f"{house.gateway}/mcp/crm-mcp", data=WHOLE, headers=sent) as answer:
            assert (answer.status, (await answer.json())["error"]["data"]["code"]) == (400, "duplicate-header")


async def test_a_call_naming_another_job_is_refused_in_the_tokens_own_lane(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    assert code(await house.rpc(tally_job="job-other")) == "wrong-job"
    assert (await house.last()).code == "wrong-job"


async def test_a_redirect_is_not_followed_and_its_place_is_not_told(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    sent = len(house.upstream.requests)
    house.upstream.say(b"{}", status=307, location="http://127.0.0.1:1/secret")
    answer = await house.rpc()
    assert code(answer) == "upstream-status"
    assert "secret" not in json.dumps(answer[2])
    assert len(house.upstream.requests) == sent + 1
    assert ((await house.last()).status, (await house.last()).code) == ("upstream_error", "upstream-status")


@pytest.mark.parametrize(
    ("pieces", "headers", "said"),
    [
        ([b"not json"], {}, "upstream-answer"),
        ([b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}'], {}, "upstream-answer"),
        ([b'{"jsonrpc":"2.0","id":2,"result":{}}'], {}, "upstream-answer"),
        ([b'{"jsonrpc":"2.0","id":1}'], {}, "upstream-answer"),
        ([tool_result("x", resultType="input_required", inputRequests={"a": {"method": "m"}})], {}, "not-allowed"),
        ([tool_result("x", resultType="another")], {}, "upstream-answer"),
        ([tool_result("x" * (1 << 20))], {}, "response-too-large"),
        ([b"<html>"], {"content_type": "text/html"}, "content-type"),
        ([tool_result("x")], {"content_encoding": "gzip"}, "upstream-answer"),
        ([b"data: {}\n\n"], {"content_type": "text/event-stream"}, "broken-stream"),
    ],
)
async def test_an_answer_that_cannot_be_passed_on_is_withheld_and_the_call_ends(
    house: Gatehouse, pieces: list[bytes], headers: dict[str, str], said: str
) -> None:
    await house.asked_for("get_case")
    house.upstream.say(*pieces, **headers)
    assert code(await house.rpc()) == said
    end = await house.last()
    assert (end.kind, end.code) == ("end", said)
    assert end.status == ("policy_cut" if said == "not-allowed" else "upstream_error")


async def test_an_upstream_may_answer_with_a_stream_of_events(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    progress = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
    answer = b"data: " + tool_result("streamed") + b"\n\n"
    house.upstream.say(b": ping\n\n" + progress, answer, content_type="text/event-stream")
    assert (await house.rpc())[2]["result"]["content"][0]["text"] == "streamed"
    assert (await house.last()).recv.n == 3


async def test_a_servers_own_error_reaches_the_caller_under_the_callers_id(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    house.upstream.say(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}', status=400)
    status, _, body = await house.rpc()
    assert (status, body) == (200, {"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "no"}})
    assert (await house.last()).status == "upstream_error"


async def test_hidden_text_is_flagged_and_delivered(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    house.upstream.say(tool_result("hello\U000e0049\u202e"))
    assert "hello" in (await house.rpc())[2]["result"]["content"][0]["text"]
    assert (await house.last()).flags == ("bidi-text", "tag-text")


async def test_a_client_that_leaves_gets_its_end(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    house.upstream.hold, house.upstream.reached = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(house.rpc())
    await house.upstream.reached.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    while (await house.last()).kind != "end":  # noqa: ASYNC110 - the ledger is asked as an auditor asks it
        await asyncio.sleep(0.02)
    assert ((await house.last()).status, (await house.last()).code) == ("client_abort", "client-gone")
    house.upstream.hold.set()


async def test_closing_the_job_cuts_a_call_under_way(house: Gatehouse) -> None:
    await house.asked_for("get_case")
    house.upstream.hold, house.upstream.reached = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(house.rpc())
    await house.upstream.reached.wait()
    await house.scope().close(house.job)
    assert code(await call) == "job-closed"
    assert [each.status for each in await house.leaves("end")][-1] == "policy_cut"
    house.upstream.hold.set()
    await house.scope().wait_for_seal(house.job)
    assert (await house.last()).kind == "close"


async def test_an_upstream_that_is_not_there_is_an_error_with_its_receipt(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, crm="http://127.0.0.1:1/mcp") as house:
        await house.asked_for("get_case")
        assert code(await house.rpc()) == "upstream-unreachable"
        assert (await house.last()).status == "upstream_error"


async def test_a_server_in_a_network_that_is_not_open_is_refused_before_it_begins(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, crm="http://169.254.169.254/mcp") as house:
        await house.asked_for("get_case")
        assert code(await house.rpc()) == "upstream-forbidden"
        assert (await house.last()).kind == "deny"


async def test_what_is_limited_in_a_job_is_refused_in_a_lane_that_is_not_its_first(
    tmp_path: Path, serve: Serve
) -> None:
    async with gatehouse(tmp_path, serve, budgets={"per_tool": {"crm-mcp/get_case": 5}}) as house:
        pair = house.key("receipts", "gateway")
        name = origin(house.urls.receipts, house.job, "lane-0")
        earlier = LaneRequest(lane="lane-0", gateway=house.urls.receipts, kid=pair.kid, origin=name)
        await house.scope("receipts").register_lane(house.job, earlier)
        await house.asked_for("get_case", "search_customer")
        assert code(await house.rpc()) == "limit-unknown"
        assert ((await house.last()).by, (await house.last()).code) == ("gateway", "limit-unknown")
        assert (await house.rpc(name="search_customer", arguments={"query": "A"}))[2]["result"]


async def test_hidden_text_is_withheld_where_the_policy_blocks_it(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, responses={"injection": "block"}) as house:
        await house.asked_for("get_case", "get_case")
        house.upstream.say(tool_result("hello\U000e0049"))
        status, _, body = await house.rpc()
        assert (status, body["error"]["data"]["code"]) == (200, "injection")
        assert "hello" not in str(body)
        end = await house.last()
        assert (end.status, end.code, end.flags) == ("policy_cut", "injection", ("tag-text",))
        house.upstream.say(tool_result("hello"))
        assert (await house.rpc())[2]["result"]["content"][0]["text"] == "hello"


REDACTING = {
    "data_classes": {
        "allow": ["internal", "customer_provided"],
        "deny": ["secrets", "credentials", "payment_instruments"],
        "on_violation": "redact",
    }
}
CARD = "4111 1111 1111 1111"


async def test_an_argument_that_holds_what_the_policy_denies_is_denied_by_its_label(house: Gatehouse) -> None:
    await house.asked_for("search_customer")
    sent = len(house.upstream.requests)
    assert code(await house.rpc(name="search_customer", arguments={"query": f"card {CARD}"})) == "data-class"
    denied = await house.last()
    assert (denied.by, denied.rule, denied.facts.labels) == (
        "policy", "data_classes", ("customer_provided", "payment_instruments")
    )  # fmt: skip
    assert len(house.upstream.requests) == sent


async def test_an_answer_that_holds_what_the_policy_denies_is_withheld(house: Gatehouse) -> None:
    await house.asked_for("get_case", "get_case")
    house.upstream.say(tool_result(f"paid with {CARD}"))
    answer = await house.rpc()
    assert code(answer) == "data-class"
    assert CARD not in str(answer)
    end = await house.last()
    assert (end.status, end.code) == ("policy_cut", "data-class")
    assert end.labels == ("customer_provided", "payment_instruments")
    assert verdict(await house.audited()) == []


async def test_what_is_denied_is_replaced_both_ways_where_the_policy_says_so(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **REDACTING) as house:
        await house.asked_for("search_customer", "search_customer")
        house.upstream.say(tool_result(f"paid with {CARD}", structuredContent={"card": CARD, "n": 1}))
        _, _, body = await house.rpc(name="search_customer", arguments={"query": f"card {CARD}"})
        assert body["result"]["content"][0]["text"] == "paid with [redacted:payment_instruments]"
        assert body["result"]["structuredContent"] == {"card": "[redacted:payment_instruments]", "n": 1}
        sent = json.loads(house.upstream.requests[-1][1])
        assert sent["params"]["arguments"] == {"query": "card [redacted:payment_instruments]"}
        begin, end = (await house.leaves("begin", "end"))[-2:]
        assert (begin.facts.labels, end.labels, end.redactions) == (("customer_provided",), ("customer_provided",), 3)
        house.upstream.say(tool_result("ok", structuredContent={"n": 4111111111111111}))
        assert code(await house.rpc(name="search_customer", arguments={"query": "A"})) == "data-class"
        assert verdict(await house.audited()) == []
