"""A small deterministic model server in OpenAI's shape, for trials without a model.

    python -m examples.model_upstream --port 8802 --key-file FILE

`POST /v1/chat/completions` (whole or streamed), `POST /v1/embeddings`, `GET /v1/models`, behind a bearer key of its
own. What it says is in `examples/script.py`.
"""

import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from examples import script
from examples.upstream import command_line, serve

T = TypeVar("T")

MODEL = "example-model"
CREATED = 1_767_225_600  # 2026-01-01T00:00:00Z: a clock would make answers differ
DIMENSIONS = 8
PIECE = 12  # characters a streamed chunk


class StreamOptions(Struct):
    """What a stream carries besides the answer."""

    include_usage: bool = False


class ChatRequest(Struct):
    """A request for a chat completion; fields that change nothing here are not read."""

    model: str
    messages: list[script.Message]
    stream: bool = False
    stream_options: StreamOptions | None = None


class EmbeddingRequest(Struct):
    """A request for embeddings."""

    model: str
    input: str | list[str]
    encoding_format: str = "float"


class FailedError(Exception):
    """An answer that is an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def chat(body: bytes) -> Response:
    """Answer a chat completion as the script wants it."""
    request = decoded(body, ChatRequest)
    if not request.messages:
        raise FailedError(HTTPStatus.BAD_REQUEST, "messages must not be empty", "invalid_value")
    if status := script.failure(request.messages):
        raise FailedError(status, "The script asked for this failure.", "scripted_failure")
    if request.stream:
        return StreamingResponse(events(request), media_type="text/event-stream")
    await asyncio.sleep(script.delay(request.messages))
    return json_response(completion(request))


async def events(request: ChatRequest) -> AsyncIterator[bytes]:
    """Server-sent events: the script's delay after the first, `[DONE]` at the end."""
    for index, chunk in enumerate(chunks(request)):
        yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        if index == 0:
            await asyncio.sleep(script.delay(request.messages))
    yield b"data: [DONE]\n\n"


def completion(request: ChatRequest) -> dict[str, Any]:
    """The answer as one `chat.completion`."""
    said = script.answer(request.messages)
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None}
    if said.calls:
        message["tool_calls"] = [tool_call(call, call.arguments) for call in said.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish_reason}
    return head(said.id, "chat.completion", request.model) | {"choices": [choice], "usage": said.usage}


def chunks(request: ChatRequest) -> Iterator[dict[str, Any]]:
    """The answer as `chat.completion.chunk`s; usage, where asked for, is null in all but the last."""
    said = script.answer(request.messages)
    counted = request.stream_options is not None and request.stream_options.include_usage
    start = head(said.id, "chat.completion.chunk", request.model) | ({"usage": None} if counted else {})
    for delta in deltas(said):
        yield start | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield start | {"choices": [{"index": 0, "delta": {}, "finish_reason": said.finish_reason}]}
    if counted:
        yield start | {"choices": [], "usage": said.usage}


def deltas(said: script.Answer) -> Iterator[dict[str, Any]]:
    """The answer in pieces: the role, then words, then each tool call's head and its arguments."""
    yield {"role": "assistant", "content": "" if said.text else None}
    for piece in pieces(said.text):
        yield {"content": piece}
    for index, call in enumerate(said.calls):
        yield {"tool_calls": [{"index": index} | tool_call(call, "")]}
        for piece in pieces(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def pieces(text: str) -> Iterator[str]:
    """The text cut into short pieces."""
    return (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def tool_call(call: script.ToolCall, arguments: str) -> dict[str, Any]:
    """A tool call in OpenAI's shape."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def head(answer_id: str, kind: str, model: str) -> dict[str, Any]:
    """The fields that an answer and each chunk begin with."""
    return {"id": answer_id, "object": kind, "created": CREATED, "model": model, "system_fingerprint": "fp_example"}


async def embeddings(body: bytes) -> Response:
    """Answer with a vector for each text."""
    request = decoded(body, EmbeddingRequest)
    texts = [request.input] if isinstance(request.input, str) else request.input
    data = [
        {"object": "embedding", "index": index, "embedding": embedding(text, request.encoding_format)}
        for index, text in enumerate(texts)
    ]
    used = sum(map(script.tokens, texts))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_response({"object": "list", "data": data, "model": request.model, "usage": usage})


def embedding(text: str, encoding_format: str) -> list[float] | str:
    """A vector made from the text's SHA-256, as numbers or as base64 of little-endian float32, equal in both."""
    vector = [byte / 256 - 0.5 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]
    if encoding_format == "base64":
        return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
    return vector


async def models(_body: bytes) -> Response:
    """The one model there is; requests may name any."""
    model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "examples"}
    return json_response({"object": "list", "data": [model]})


ROUTES = {
    ("POST", "/v1/chat/completions"): chat,
    ("POST", "/v1/embeddings"): embeddings,
    ("GET", "/v1/models"): models,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The model server, before the check of its key (`examples.upstream.Guarded`)."""
    if scope["type"] != "http":
        return
    body = await Request(scope, receive).body()
    try:
        response = await answered(scope["method"], scope["path"], body)
    except FailedError as failed:
        response = refusal(failed)
    response.headers["x-request-id"] = f"req_{script.fingerprint(body)}"
    await response(scope, receive, send)


async def answered(method: str, path: str, body: bytes) -> Response:
    """The answer of the route, if there is one."""
    if (method, path) not in ROUTES:
        raise FailedError(HTTPStatus.NOT_FOUND, "There is nothing here.", "not_found")
    return await ROUTES[method, path](body)


def decoded(body: bytes, kind: type[T]) -> T:
    """The request, or a 400 that says what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise FailedError(HTTPStatus.BAD_REQUEST, str(error), "invalid_value") from error


def refusal(failed: FailedError) -> Response:
    """A failure in OpenAI's error shape."""
    kind = "invalid_request_error" if failed.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {"message": str(failed), "type": kind, "param": None, "code": failed.code}
    return json_response({"error": error}, failed.status)


def json_response(content: object, status: int = HTTPStatus.OK) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


if __name__ == "__main__":
    serve(app, command_line("examples.model_upstream", "An example model server.", key_required=True).parse_args())
