"""The model path over real sockets: side doors, budgets, streams, broken answers."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.receipts.gatehouse import MODEL_KEY, PROVIDER, Gatehouse, completion, gatehouse
from verifier.checkpoint import Proof
from verifier.encoding import canonical, digest, unb64
from verifier.leaf import Reservation, Target, ToolCall
from verifier.prices import Price, Prices

pytestmark = pytest.mark.anyio
EVENTS = "text/event-stream"


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncGenerator[Gatehouse, None]:
    async with gatehouse(tmp_path, serve) as made:
        made.upstream.say(completion())
        yield made


def code(answer: tuple[int, Any, Any]) -> str:
    found: str = answer[2]["error"]["code"]
    return found


def said(**part: Any) -> dict[str, Any]:
    """Say one thing in one part."""
    return {"messages": [{"role": "user", "content": [part]}]}


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> bytes:
    """One event of a stream; without a delta it has no choice."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small-1"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


CALLS = [{"index": number, "id": f"call_{number}", "function": {"name": "f"}} for number in range(65)]
LONGER = {"index": 0, "function": {"name": "_and_more"}}
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def stream(house: Gatehouse, *pieces: bytes, **asked: Any) -> list[bytes]:
    """Let the provider stream this; return the events that the caller gets."""
    house.upstream.say(*pieces, content_type=EVENTS)
    body = {"model": "small-1", "stream": True, "messages": [{"role": "user", "content": "hi"}], **asked}
    headers = {"Authorization": f"Bearer {house.token}", "Content-Type": "application/json"}
    url = f"{house.gateway}/v1/chat/completions"
    async with house.session.post(url, json=body, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, EVENTS)
        return [each + b"\n\n" for each in (await answer.read()).split(b"\n\n") if each]


async def test_a_chat_goes_through_under_our_own_key_and_leaves_two_receipts(house: Gatehouse) -> None:
    status, headers, body = await house.chat("hello", temperature=0.7)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hi")
    sent, raw = house.upstream.requests[-1]
    assert sent["authorization"] == f"Bearer {MODEL_KEY}"
    assert house.token.encode() not in raw + json.dumps(sent).encode()
    assert raw == b'{"model":"small-1","temperature":0.7,"messages":[{"role":"user","content":"hello"}]}'
    begin, end = await house.leaves("begin", "end")
    assert (begin.call, end.call, begin.rule) == (headers["tally-receipt"], headers["tally-receipt"], "model-1")
    assert begin.target == Target(provider=PROVIDER, model="small-1", operation="chat.completions")
    assert (end.status, end.usage.input, end.usage.output, end.upstream_id) == ("ok", 3, 2, "chatcmpl-1")
    assert (begin.sent.n, end.recv.n, end.dlv.n) == (3, 1, 1)


async def test_the_proof_in_the_header_proves_the_end_under_the_gateways_key(house: Gatehouse) -> None:
    _, headers, _ = await house.chat()
    proof = Proof.parse(unb64(headers["tally-proof"]).decode())
    proof.check(house.gateway_key)
    assert json.loads(proof.extra)["call"] == headers["tally-receipt"]


async def test_a_plain_model_name_means_the_grants_single_provider(house: Gatehouse) -> None:
    assert (await house.chat(model="other/name-2"))[0] == 200
    assert (await house.last()).model == "small-1"
    assert (await house.leaves("begin"))[-1].target.model == "other/name-2"


@pytest.mark.parametrize(
    ("changes", "reason", "by"),
    [
        ({"tools": [{"type": "web_search"}]}, "hosted-tool", "policy"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "python"}]}, "hosted-tool", "policy"),
        ({"web_search_options": {}}, "hosted-tool", "policy"),
        ({"store": True}, "provider-state", "policy"),
        ({"previous_response_id": "resp_1"}, "provider-state", "policy"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "provider-state", "policy"),
        (said(type="image_url", image_url={"url": "https://x.example/y.png"}), "remote-content", "policy"),
        (said(type="file", file={"file_id": "f"}), "remote-content", "policy"),
        (said(type="file", file={"file_data": "https://x.example/y.pdf"}), "remote-content", "policy"),
        (said(type="input_audio", input_audio={"data": "https://x.example/y.wav"}), "remote-content", "policy"),
        (said(type="image_url", image_url={"url": "data:,", "file_id": "f"}), "remote-content", "policy"),
        (said(type="text", text="hi", image_url={"url": "https://x.example/y"}), "unknown-field", "gateway"),
        (said(type=[]), "unknown-field", "gateway"),
        ({"messages": [{"role": "user", "content": "hi", "documents": ["https://x"]}]}, "unknown-field", "gateway"),
        ({"prediction": {"type": "content", "content": [{"type": "url"}]}}, "unknown-field", "gateway"),
        (said(type="video_url"), "unknown-field", "gateway"),
        ({"plugins": [{"id": "web"}]}, "unknown-field", "gateway"),
        ({"functions": []}, "unknown-field", "gateway"),
        ({"messages": "hi"}, "bad-value", "gateway"),
        ({"tools": [{"function": {}}]}, "bad-value", "gateway"),
        ({"stream": 1}, "bad-value", "gateway"),
        ({"max_tokens": -1}, "bad-value", "gateway"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "bad-value", "gateway"),
        ({"model": "a model"}, "bad-value", "gateway"),
    ],
)
async def test_side_doors_and_unknown_fields_are_refused(
    house: Gatehouse, changes: dict[str, Any], reason: str, by: str
) -> None:
    answer = await house.chat(**changes)
    denied = await house.last()
    assert (code(answer), denied.kind, denied.code, denied.by) == (reason, "deny", reason, by)
    assert answer[0] == (403 if by == "policy" else 400)
    assert house.upstream.requests == []


async def test_a_body_of_many_tiny_messages_is_refused_before_it_is_hashed(house: Gatehouse) -> None:
    raw = b'{"model":"small-1","messages":[' + b",".join([b"{}"] * 5000) + b"]}"
    answer = await house.post("/v1/chat/completions", raw)
    assert (answer[0], code(answer), (await house.last()).kind) == (413, "too-large", "deny")
    assert house.upstream.requests == []


async def test_a_picture_that_the_request_carries_itself_is_no_side_door(house: Gatehouse) -> None:
    picture = said(type="image_url", image_url={"url": "data:image/png;base64,AAAA"})
    assert (await house.chat(**picture, store=False))[0] == 200
    sound = said(type="input_audio", input_audio={"data": "AAAA", "format": "wav"})
    assert (await house.chat(**sound))[0] == 200


async def test_duplicate_keys_never_reach_the_provider(house: Gatehouse) -> None:
    raw = b'{"model":"small-1","messages":[],"tools":[],"tools":[{"type":"web_search"}]}'
    answer = await house.post("/v1/chat/completions", raw)
    assert (answer[0], code(answer)) == (400, "duplicate-key")
    assert house.upstream.requests == []


async def test_the_policys_longest_answer_is_asked_for_and_never_more(tmp_path: Path, serve: Serve) -> None:
    egress = {"models": [{"max_output_tokens": 100}]}
    async with gatehouse(tmp_path, serve, model_egress=egress) as house:
        house.upstream.say(completion())
        await house.chat()
        assert json.loads(house.upstream.requests[-1][1])["max_completion_tokens"] == 100
        await house.chat(n=2)
        assert json.loads(house.upstream.requests[-1][1])["max_completion_tokens"] == 50
        await house.chat(max_tokens=100)
        assert "max_completion_tokens" not in json.loads(house.upstream.requests[-1][1])
        assert code(await house.chat(max_tokens=101)) == "max-output-tokens"
        assert code(await house.chat(max_tokens=100, n=2)) == "max-output-tokens"


async def test_a_spent_budget_refuses_by_policy_before_anything_is_sent(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, budgets={"calls": 2}) as house:
        house.upstream.say(completion())
        assert [(await house.chat())[0] for _ in range(2)] == [200, 200]
        assert code(await house.chat()) == "budget-calls"
        assert ((await house.last()).by, (await house.last()).rule) == ("policy", "model-1")
        assert len(house.upstream.requests) == 2


async def test_many_calls_at_once_spend_a_budget_once(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, budgets={"calls": 3}) as house:
        house.upstream.say(completion())
        answers = await asyncio.gather(*(house.chat() for _ in range(12)))
        assert sorted(answer[0] for answer in answers) == [200] * 3 + [403] * 9
        assert len(house.upstream.requests) == 3


async def test_a_token_budget_reserves_before_and_counts_the_providers_figures_after(
    tmp_path: Path, serve: Serve
) -> None:
    async with gatehouse(tmp_path, serve, budgets={"tokens": 20_000}) as house:
        house.upstream.say(completion())
        assert (await house.chat())[0] == 200
        begin = (await house.leaves("begin"))[-1]
        assert begin.reservation.tokens == len(house.upstream.requests[-1][1]) + 16_384
        assert (await house.chat())[0] == 200
        assert code(await house.chat(max_tokens=19_990)) == "budget-tokens"


async def test_a_stream_goes_out_event_by_event_and_ends_with_its_proof(house: Gatehouse) -> None:
    deltas = [{"role": "assistant", "content": ""}, {"content": "hi"}]
    events = await stream(house, *(chunk(each, usage=None) for each in deltas), chunk(usage=USAGE), DONE)
    assert [json.loads(each[6:])["choices"][0]["delta"] for each in events[:2]] == deltas
    assert b"usage" not in b"".join(events[:2])
    mark, call, proof = events[2].removeprefix(b": ").decode().split()
    end = await house.last()
    assert (mark, call, events[3:]) == ("tally-receipt", end.call, [DONE])
    Proof.parse(unb64(proof).decode()).check(house.gateway_key)
    assert (end.status, end.stream, end.usage.input, end.recv.n, end.dlv.n) == ("ok", "complete", 3, 4, 3)
    assert json.loads(house.upstream.requests[-1][1])["stream_options"] == {"include_usage": True}


async def test_a_caller_that_asks_for_usage_gets_it(house: Gatehouse) -> None:
    asked = {"stream_options": {"include_usage": True}}
    events = await stream(house, chunk({"content": "hi"}), chunk(usage=USAGE), DONE, **asked)
    assert json.loads(events[1][6:])["usage"] == USAGE


async def test_tool_calls_of_a_stream_are_recorded_once(house: Gatehouse) -> None:
    start = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "get_case", "arguments": ""}}
    more = {"index": 0, "id": "call_a", "function": {"arguments": "{}"}}
    other = {"index": 1, "id": "call b", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    await stream(house, *(chunk({"tool_calls": [each]}) for each in (start, more, other)), DONE)
    calls = (await house.last()).tool_calls
    assert calls[0] == ToolCall(id="call_a", name="get_case")
    assert calls[1].id.startswith("sha256:")


async def test_a_stream_s_tool_calls_are_those_that_its_clients_read(house: Gatehouse) -> None:
    both = json.loads(chunk({"tool_calls": [CALLS[1]]})[6:])
    both["choices"][0]["message"] = {"tool_calls": [CALLS[0]]}
    await stream(house, b"data: " + json.dumps(both).encode() + b"\n\n", DONE)
    assert (await house.last()).tool_calls == (ToolCall(id="call_1", name="f"),)


async def test_the_last_event_waits_for_the_receipt_and_the_others_do_not(house: Gatehouse) -> None:
    house.upstream.hold = asyncio.Event()
    house.upstream.say(chunk({"content": "early"}), DONE, content_type=EVENTS)
    body = {"model": "small-1", "stream": True, "messages": []}
    headers = {"Authorization": f"Bearer {house.token}"}
    async with house.session.post(f"{house.gateway}/v1/chat/completions", json=body, headers=headers) as answer:
        assert b"early" in await answer.content.readuntil(b"\n\n")
        assert (await house.leaves())[-1].kind == "begin"
        house.upstream.hold.set()
        rest = await answer.read()
    assert rest.endswith(DONE)
    assert (await house.last()).kind == "end"


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([chunk({"content": "hi"})], "broken-stream"),
        ([chunk({"content": "hi"}), b'data: {"error":{"message":"out"}}\n\n'], "upstream-answer"),
        ([chunk({"content": "hi"}), b'data: {"id":"a","id":"b"}\n\n'], "upstream-answer"),
        ([chunk({"content": "hi"}), b"data: {\n\n"], "upstream-answer"),
        ([chunk({"tool_calls": CALLS})], "too-many-tool-calls"),
        ([chunk({"tool_calls": [CALLS[0]]}), chunk({"tool_calls": [LONGER]})], "upstream-answer"),
        ([chunk({"tool_calls": [CALLS[0]]}), chunk({"tool_calls": [{"index": 0, "id": "b"}]})], "upstream-answer"),
    ],
)
async def test_a_stream_that_breaks_says_so_and_ends_its_receipt(
    house: Gatehouse, pieces: list[bytes], said: str
) -> None:
    events = await stream(house, *pieces)
    assert json.loads(events[-1][6:])["error"]["code"] == said
    end = await house.last()
    assert (end.kind, end.code, end.stream, end.tool_calls) == ("end", said, "cut", ())
    assert end.status == ("policy_cut" if said == "too-many-tool-calls" else "upstream_error")


async def test_a_client_that_leaves_a_stream_gets_its_end(house: Gatehouse) -> None:
    house.upstream.hold = asyncio.Event()
    house.upstream.say(chunk({"content": "early"}), DONE, content_type=EVENTS)
    body = {"model": "small-1", "stream": True, "messages": []}
    headers = {"Authorization": f"Bearer {house.token}"}
    async with house.session.post(f"{house.gateway}/v1/chat/completions", json=body, headers=headers) as answer:
        await answer.content.readuntil(b"\n\n")
        answer.close()
    while (await house.last()).kind != "end":  # noqa: ASYNC110 - the ledger is asked as an auditor asks it
        await asyncio.sleep(0.02)
    end = await house.last()
    assert (end.status, end.stream, end.dlv.n) == ("client_abort", "cut", 1)
    house.upstream.hold.set()


async def test_an_answer_with_more_tool_calls_than_a_receipt_holds_is_withheld(house: Gatehouse) -> None:
    house.upstream.say(completion(*["f"] * 65))
    assert code(await house.chat()) == "too-many-tool-calls"
    assert ((await house.last()).status, (await house.last()).tool_calls) == ("policy_cut", ())
    house.upstream.say(completion(*["f"] * 64))
    assert (await house.chat())[0] == 200
    assert len((await house.last()).tool_calls) == 64


@pytest.mark.parametrize(
    ("status", "given", "headers"),
    [
        (429, 429, {}),
        (503, 503, {}),
        (401, 502, {}),
        (403, 502, {}),
        (302, 502, {"location": "http://127.0.0.1:1/"}),
    ],
)
async def test_a_providers_refusal_gets_a_receipt_and_tells_nothing_of_our_key(
    house: Gatehouse, status: int, given: int, headers: dict[str, str]
) -> None:
    house.upstream.say(f'{{"error":{{"message":"bad key {MODEL_KEY}"}}}}'.encode(), status=status, **headers)
    answer = await house.chat()
    assert (answer[0], code(answer)) == (given, "upstream-status")
    assert MODEL_KEY not in json.dumps(answer[2])
    assert ((await house.last()).status, len(house.upstream.requests)) == ("upstream_error", 1)


async def test_a_status_that_is_none_is_answered_as_a_bad_gateway(tmp_path: Path, serve: Serve) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as odd:
        url = f"http://127.0.0.1:{odd.sockets[0].getsockname()[1]}/v1"
        async with gatehouse(tmp_path, serve, model=url) as house:
            answered = await house.chat()
            assert (answered[0], code(answered)) == (502, "upstream-status")


@pytest.mark.parametrize(
    "raw",
    [b"", b"no", b"[]", b'{"choices":1}', b'{"usage":{"prompt_tokens":-1}}', b'{"id":"a","id":"b"}', b'{"error":{}}'],
)
async def test_an_answer_of_another_shape_is_withheld(house: Gatehouse, raw: bytes) -> None:
    house.upstream.say(raw)
    answer = await house.chat()
    assert (answer[0], code(answer), (await house.last()).status) == (502, "upstream-answer", "upstream_error")


async def test_embeddings_go_through_text_by_text(house: Gatehouse) -> None:
    house.upstream.say(b'{"object":"list","data":[],"model":"small-1","usage":{"prompt_tokens":4,"total_tokens":4}}')
    status, _, _ = await house.post("/v1/embeddings", {"model": "small-1", "input": ["one", "two"]})
    begin, end = await house.leaves("begin", "end")
    assert (status, begin.target.operation, begin.sent.n, end.usage.input) == (200, "embeddings", 5, 4)
    assert code(await house.post("/v1/embeddings", {"model": "m", "input": "x", "store": True})) == "unknown-field"


@pytest.mark.parametrize(
    "given", [[{"image": "https://x.example/y.png"}], [["text"]], {"a": 1}, None, [True], [1, "a"]]
)
async def test_an_embedding_of_anything_but_texts_and_tokens_is_refused(house: Gatehouse, given: Any) -> None:
    assert code(await house.post("/v1/embeddings", {"model": "small-1", "input": given})) == "bad-value"
    assert house.upstream.requests == []


async def test_models_are_listed_from_the_grant_without_a_receipt(house: Gatehouse) -> None:
    headers = {"Authorization": f"Bearer {house.token}"}
    async with house.session.get(f"{house.gateway}/v1/models", headers=headers) as answer:
        assert [each["id"] for each in (await answer.json())["data"]] == [f"{PROVIDER}/*"]
    assert await house.leaves() == []


async def test_what_this_version_does_not_serve_is_not_found(house: Gatehouse) -> None:
    for path in ("/v1/responses", "/v1/messages", "/v1/files"):
        answer = await house.post(path, {})
        assert (answer[0], code(answer)) == (404, "not-found")
    async with house.session.get(f"{house.gateway}/v1/chat/completions") as answer:
        assert answer.status == 405


async def test_past_sixty_denials_a_minute_one_note_stands_for_the_rest(house: Gatehouse) -> None:
    for _ in range(70):
        assert code(await house.chat(store=True)) == "provider-state"
    assert len(await house.leaves("deny")) == 60
    await house.scope().close(house.job)
    await house.scope().wait_for_seal(house.job)
    assert [(each.code, each.count) for each in await house.leaves("note")] == [("denials", 10)]


CARD = "4111 1111 1111 1111"


async def test_a_prompt_that_holds_what_the_policy_denies_is_denied_by_its_label(house: Gatehouse) -> None:
    assert code(await house.chat(f"my card is {CARD}")) == "data-class"
    denied = await house.last()
    assert (denied.by, denied.rule, denied.facts.labels) == ("policy", "data_classes", ("payment_instruments",))
    assert house.upstream.requests == []


async def test_a_models_answer_that_holds_what_the_policy_denies_is_withheld(house: Gatehouse) -> None:
    house.upstream.say(completion().replace(b'"hi"', f'"use {CARD}"'.encode()))
    answer = await house.chat()
    assert (answer[0], code(answer)) == (403, "data-class")
    assert CARD not in str(answer)
    end = await house.last()
    assert (end.status, end.labels) == ("policy_cut", ("payment_instruments",))


async def test_a_stream_is_cut_before_what_the_policy_denies(house: Gatehouse) -> None:
    pieces = ["hello ", "my card is ", "4111 11", "11 1111 ", "1111", " ok"]
    events = await stream(house, *(chunk({"content": each}) for each in pieces), DONE)
    assert json.loads(events[-1][6:])["error"]["code"] == "data-class"
    assert [json.loads(each[6:])["choices"][0]["delta"]["content"] for each in events[:-2]] == pieces[:2]
    end = await house.last()
    assert (end.status, end.code, end.stream, end.labels) == (
        "policy_cut", "data-class", "cut", ("payment_instruments",)
    )  # fmt: skip


async def test_prompts_and_answers_are_replaced_where_the_policy_says_so(tmp_path: Path, serve: Serve) -> None:
    classes = {"allow": ["*"], "deny": ["payment_instruments"], "on_violation": "redact"}
    async with gatehouse(tmp_path, serve, data_classes=classes) as house:
        house.upstream.say(completion().replace(b'"hi"', f'"use {CARD}, my key is AKIAIOSFODNN7EXAMPLE"'.encode()))
        _, _, body = await house.chat(f"my card is {CARD}")
        said = body["choices"][0]["message"]["content"]
        assert said == "use [redacted:payment_instruments], my key is AKIAIOSFODNN7EXAMPLE"
        sent = json.loads(house.upstream.requests[-1][1])
        assert sent["messages"][0]["content"] == "my card is [redacted:payment_instruments]"
        end = await house.last()
        assert (end.labels, end.redactions) == (("secrets",), 2)
        _, report = await house.audited()
        assert report.findings == []


def table(models: str = "small-*") -> Prices:
    """Price some models: two dollars a million tokens read, eight a million written."""
    price = Price(provider=PROVIDER, models=[models], operations=["*"], input=2_000_000_000, output=8_000_000_000)
    return Prices(issuer="example.registrar", name="list", serial=1, issued_at=1, prices=[price])


def within(cost: int, prices: Prices) -> dict[str, Any]:
    """Limit what a job may cost."""
    egress = {"require_proxy_receipts": True, "provider": PROVIDER, "prices": digest(canonical(prices))}
    return {"prices": prices, "budgets": {"cost_nano_usd": cost}, "model_egress": egress}


async def test_a_budget_of_cost_reserves_before_and_counts_the_providers_figures_after(
    tmp_path: Path, serve: Serve
) -> None:
    async with gatehouse(tmp_path, serve, **within(1_000_000, table())) as house:
        house.upstream.say(completion())
        assert (await house.chat(max_tokens=50))[0] == 200
        begin, _ = await house.leaves("begin", "end")
        body = len(house.upstream.requests[-1][1])
        assert begin.reservation == Reservation(cost_nano_usd=(body * 2 + 50 * 8) * 1000)
        for _ in range(6):  # each costs 3 x 2 + 2 x 8 thousands of a million, and reserves some six hundred
            assert (await house.chat(max_tokens=50))[0] == 200
        refused = await house.chat(max_tokens=100)
        assert (refused[0], code(refused)) == (403, "budget-cost")
        denied = await house.last()
        assert (denied.by, denied.rule) == ("policy", "model-1")
        raw, report = await house.audited()
        assert report.findings == []
        assert raw.count(b'{"prices":') == 1


async def test_a_model_without_a_price_is_refused_where_costs_are_limited(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **within(1_000_000, table("large-*"))) as house:
        refused = await house.chat()
        assert (refused[0], code(refused)) == (403, "no-price")
        assert house.upstream.requests == []
        assert (await house.last()).by == "gateway"
