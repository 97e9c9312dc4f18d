"""What a server says of itself: its `tools/list`, fetched as a client of MCP would (revision 2026-07-28, stateless).

The answer is untrusted: pages, bytes and time are bounded, addresses guarded, redirects not followed, nothing is run.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from controls.drafts import ListedTool, Listing
from service.app import VERSION
from service.reach import GuardedResolver, Network, allows
from verifier.encoding import reject_duplicates
from verifier.refused import Refused

REVISION = "2026-07-28"
META = "io.modelcontextprotocol/"
MAX_BYTES, MAX_PAGES, MAX_TOOLS = 1 << 22, 20, 1000
TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=5)


async def fetch(url: str, allowed: Sequence[Network]) -> dict[str, ListedTool]:
    """List a server's tools, by name. Raises `Refused`: upstream-forbidden, scan-failed."""
    if not allows(url, allowed):
        hint = "Allow its network: upstream_networks in the registry's settings."
        raise Refused("upstream-forbidden", "the server lies in a network that the registry may not reach", hint=hint)
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(aiohttp.ThreadedResolver(), allowed))
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=jar, trust_env=False) as session:
        found: dict[str, ListedTool] = {}
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            tools, cursor = await _page(session, url, cursor)
            found |= {tool.name: tool for tool in tools}
            if len(found) > MAX_TOOLS:
                raise _failed(f"it lists more than {MAX_TOOLS} tools")
            if cursor is None:
                return found
    raise _failed(f"its list has more than {MAX_PAGES} pages")


async def _page(session: aiohttp.ClientSession, url: str, cursor: str | None) -> tuple[list[ListedTool], str | None]:
    meta = {
        META + "protocolVersion": REVISION,
        META + "clientInfo": {"name": "tallystick", "version": VERSION},
        META + "clientCapabilities": {},
    }
    params = {"_meta": meta, **({} if cursor is None else {"cursor": cursor})}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params})
    headers = {
        "Accept": "application/json, text/event-stream", "Content-Type": "application/json",
        "MCP-Protocol-Version": REVISION, "Mcp-Method": "tools/list", "User-Agent": "tallystick",
    }  # fmt: skip
    try:
        async with session.post(
            URL(url, encoded=True), data=BytesIO(body), headers=headers, allow_redirects=False
        ) as answer:
            if answer.status != 200 or answer.content_type != "application/json":  # noqa: PLR2004 - what is read
                raise _failed(f"it answers {answer.status} {answer.content_type[:64]!r}")
            raw = await _whole(answer)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _failed(type(error).__name__) from error
    return _read(raw)


def _read(raw: bytes) -> tuple[list[ListedTool], str | None]:
    try:
        value = reject_duplicates(raw)
        result: Any = value.get("result") if isinstance(value, dict) else None
        cursor = result.get("nextCursor") if isinstance(result, dict) else None
        tools = msgspec.json.decode(msgspec.json.encode(result), type=Listing).tools
    except (msgspec.ValidationError, msgspec.DecodeError, Refused) as error:
        raise _failed("its answer is no list of tools") from error
    if cursor is not None and not isinstance(cursor, str):
        raise _failed("its answer is no list of tools")
    return tools, cursor


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > MAX_BYTES:
            raise _failed(f"its answer is larger than {MAX_BYTES} bytes")
    return content


def _failed(why: str) -> Refused:
    return Refused("scan-failed", f"the server could not be asked for its tools: {why}")
