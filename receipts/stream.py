"""Server-sent events: cut out of a stream as they come, and written again in our own framing (WHATWG HTML §9.2)."""

import re
from collections.abc import AsyncIterator

import aiohttp

from receipts.upstream import UpstreamFailed

MAX_EVENT = 1 << 20
MAX_STREAM = 1 << 26

_blank_line = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")  # atomic: one CRLF is not two line ends
_line = re.compile(rb"\r\n|\n|\r")


async def events(answer: aiohttp.ClientResponse, limit: int = MAX_STREAM) -> AsyncIterator[tuple[bytes, bytes | None]]:
    """Yield each event as (its bytes, its data); no data for a comment. What follows the last blank line is no event.

    Raises `UpstreamFailed`: response-too-large.
    """
    rest, total = b"", 0
    async for piece in answer.content.iter_any():
        total += len(piece)
        # What was looked through before holds no blank line, but it may hold most of one.
        looked = max(0, len(rest) - 3)
        rest += piece
        # A lone CR at the end may be half a line ending.
        ready = rest if not rest.endswith(b"\r") else rest[:-1]
        start = 0
        for end in _blank_line.finditer(ready, looked):
            raw = rest[start : end.end()]
            start = end.end()
            yield raw, data(raw)
        rest = rest[start:]
        if len(rest) > MAX_EVENT or total > limit:
            raise UpstreamFailed("response-too-large", "the upstream's stream is larger than the gateway reads")


def data(event: bytes) -> bytes | None:
    """Return an event's data: its `data` lines joined, None without any."""
    lines = [line[5:].removeprefix(b" ") for line in _line.split(event) if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(content: bytes) -> bytes:
    """Write one event; its data has no line break."""
    return b"data: " + content + b"\n\n"


def comment(content: str) -> bytes:
    """Write a comment, which every client ignores."""
    return f": {content}\n\n".encode()
