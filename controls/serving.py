"""Documents by digest on the bare ASGI interface: what agents and gateways fetch most has no framework in its way.

A document under its digest never changes, so its bytes are kept in memory, and whoever has them is told so (304). The
answers are those of the routes that the application describes (specs/http.md §1); anything else goes on to it.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from controls import pricing, publish, register
from controls.publish import Registry
from service.problems import MEDIA_TYPE, problem
from verifier.refused import Refused

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
FOR_EVER = "public, max-age=31536000, immutable"
MAX_KEPT, MAX_BYTES = 4096, 1 << 26
OK, NOT_MODIFIED, NOT_FOUND = 200, 304, 404

_path = re.compile(r"/(policies|manifests|prices)/(sha256:[0-9a-f]{64})/?").fullmatch
Find = Callable[[str], Awaitable[bytes]]


def in_front_of(site: ASGIApp, registry: Registry) -> ASGIApp:
    """Answer for documents by digest, and let all else through to the application."""
    documents = Documents(registry)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] == "GET":
            found = _path(scope["path"])
            if found is not None and await documents.answer(found[1], found[2], scope, send):
                return
        await site(scope, receive, send)

    return application


class Documents:
    """The documents that were asked for lately."""

    def __init__(self, registry: Registry) -> None:
        """Start with none."""
        self._registry = registry
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size = 0

    async def answer(self, kind: str, digest: str, scope: Scope, send: Send) -> bool:
        """Send a document, 304, or that there is none; false when the application has to say what is wrong."""
        try:
            raw = self._lately(kind, digest) or await self._find(kind, digest)
        except Refused as refused:
            await _send(send, NOT_FOUND, problem(refused, NOT_FOUND), MEDIA_TYPE, [(b"cache-control", b"no-store")])
            return True
        except Exception:  # noqa: BLE001 - the application meets the same, and says it as it says every bug
            return False
        tag = f'"{digest}"'
        headers = [(b"etag", tag.encode()), (b"cache-control", FOR_EVER.encode())]
        asked = next((value for name, value in scope["headers"] if name == b"if-none-match"), None)
        known = asked is not None and matches(asked.decode("latin-1"), tag)
        await _send(send, NOT_MODIFIED if known else OK, b"" if known else raw, ENVELOPE, headers)
        return True

    def _lately(self, kind: str, digest: str) -> bytes | None:
        raw = self._kept.get((kind, digest))
        if raw is not None:
            self._kept.move_to_end((kind, digest))
        return raw

    async def _find(self, kind: str, digest: str) -> bytes:
        """Find a document in the registry, and keep it. Raises `Refused`: unknown-policy, -manifest, -prices."""
        async with self._registry.reading() as db:
            if kind == "policies":
                raw = (await publish.find(db, digest)).envelope
            elif kind == "manifests":
                raw = (await register.find_manifest(db, digest)).envelope
            else:
                raw = await pricing.find(db, digest)
        self._kept[kind, digest] = raw
        self._size += len(raw)
        while len(self._kept) > MAX_KEPT or self._size > MAX_BYTES:
            self._size -= len(self._kept.popitem(last=False)[1])
        return raw


def matches(asked: str, tag: str) -> bool:
    """Tell whether an `If-None-Match` names a document (RFC 9110 §13.1.2)."""
    return any(each.strip().removeprefix("W/") in {tag, "*"} for each in asked.split(","))


async def _send(send: Send, status: int, body: bytes, kind: str, headers: list[tuple[bytes, bytes]]) -> None:
    every = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body, "more_body": False})
