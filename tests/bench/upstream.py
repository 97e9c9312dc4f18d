"""The fastest upstream that there can be: a fixed answer for the model path and one for MCP. `--port PORT`.

A model named `asks-N` wants `get_case` N times, so that as many tool calls may follow; any other model just answers.
"""

import json
import re
import sys
from functools import cache
from typing import Any

import uvicorn

TOOL = "get_case"
ARGUMENTS = {"case_id": "CASE-1"}
CASE = {**ARGUMENTS, "customer_id": "CUST-1", "status": "open", "subject": "Invoice shows the wrong address"}
RESULT = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "content": [{"type": "text", "text": json.dumps(CASE)}],
            "structuredContent": CASE,
            "isError": False,
            "resultType": "complete",
        },
    }
).encode()
_asks = re.compile(rb'"asks-([0-9]{1,2})"')


@cache
def completion(asked: int) -> bytes:
    """Answer a chat, asking for that many tool calls."""
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}}
        for number in range(asked)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls} if calls else _said("Good morning.")
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small-1"}
    usage = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
    return json.dumps({**head, "choices": [choice], "usage": usage}).encode()


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    body = await whole(receive)
    asks = _asks.search(body)
    answer = RESULT if scope["path"] == "/mcp" else completion(int(asks[1]) if asks else 0)
    await reply(send, answer)


async def whole(receive: Any) -> bytes:
    """Read a request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def reply(send: Any, body: bytes) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(application: Any) -> None:
    """Serve on loopback, at the port on the command line, as the services are served."""
    port = int(sys.argv[sys.argv.index("--port") + 1])
    uvicorn.run(
        application, host="127.0.0.1", port=port, loop="uvloop", http="httptools", ws="none", log_level="warning",
        access_log=False, lifespan="off",
    )  # fmt: skip


if __name__ == "__main__":
    serve(app)
