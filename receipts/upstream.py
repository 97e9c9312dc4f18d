"""The way out: one HTTP client for models and tools, which reaches only the addresses that it may.

The address is checked where the connection is made (service/reach.py). No redirect is followed, no cookie kept, no
proxy of the environment used, no request sent twice.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from io import BytesIO
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from service.reach import GuardedResolver, Network, allows
from verifier.refused import Refused

CONNECT_SECONDS = 10
# An idle connection is dropped before common servers drop it: a request on a dead one would count as sent.
KEEP_SECONDS = 3
DNS_SECONDS = 30
MAX_JUDGED = 1024
LARGE = 1 << 20  # from here on aiohttp wants a file, to give others a turn between its pieces


class UpstreamFailed(Exception):  # noqa: N818 - an outcome that the receipt names
    """The upstream did not answer as it should; `outcome` and `code` go into the receipt."""

    outcome: Literal["upstream_error", "policy_cut"] = "upstream_error"

    def __init__(self, code: str, why: str, status: int = 502) -> None:
        """Name the failure; `status` is what a client of models gets."""
        super().__init__(why)
        self.code = code
        self.why = why
        self.status = status


class PolicyCut(UpstreamFailed):
    """What the upstream answered may not be handed out."""

    outcome = "policy_cut"


class Upstream:
    """The connections to every upstream."""

    def __init__(
        self, allowed: Sequence[Network], *, read_seconds: float = 300, resolver: AbstractResolver | None = None
    ) -> None:
        """Open no connection yet; belongs to one event loop."""
        self._reachable = lru_cache(MAX_JUDGED)(lambda url: allows(url, allowed))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=GuardedResolver(resolver or aiohttp.ThreadedResolver(), allowed),
                ttl_dns_cache=DNS_SECONDS,
                keepalive_timeout=KEEP_SECONDS,
                limit=0,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def require_reachable(self, url: str) -> None:
        """Refuse a literal address before anything begins: aiohttp asks no resolver about one. Raises `Refused`."""
        if not self._reachable(url):
            raise Refused("upstream-forbidden", "the upstream lies in a network that the gateway may not reach")

    @asynccontextmanager
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; the answer is read inside. Raises `UpstreamFailed` for whatever goes wrong on the way."""
        data = body if len(body) < LARGE else BytesIO(body)
        sent = {
            "User-Agent": "tallystick",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **headers,
        }
        try:
            async with self._session.post(
                URL(url, encoded=True), data=data, headers=sent, allow_redirects=False
            ) as answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise UpstreamFailed(
                        "upstream-answer", "the upstream compressed its answer although it was asked not to"
                    )
                yield answer
        except Refused as refused:
            raise UpstreamFailed(refused.code, refused.why) from refused
        except TimeoutError as error:
            raise UpstreamFailed("upstream-timeout", "the upstream did not answer in time", 504) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFailed(
                "upstream-unreachable", f"the upstream cannot be reached: {type(error).__name__}"
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def whole(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read an answer's whole body. Raises `UpstreamFailed` response-too-large beyond the limit."""
    content = b""
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > limit:
            raise UpstreamFailed("response-too-large", f"the upstream's answer is larger than {limit} bytes")
    return content
