"""A bare pass-through: the gateway's server and its HTTP client with nothing between. `--upstream URL --port PORT`."""

import sys
from functools import cache
from typing import Any

import aiohttp

from tests.bench.upstream import reply, serve, whole

HEADERS = frozenset({"content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name"})


@cache
def session() -> aiohttp.ClientSession:
    """Open the one session, on the event loop that asks first."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Send one request on as it came, and its answer back."""
    body = await whole(receive)
    pairs = ((name.decode(), value.decode()) for name, value in scope["headers"])
    headers = {name: value for name, value in pairs if name in HEADERS}
    url = sys.argv[sys.argv.index("--upstream") + 1] + scope["path"]
    async with session().post(url, data=body, headers=headers) as answer:
        await reply(send, await answer.read())


if __name__ == "__main__":
    serve(app)
