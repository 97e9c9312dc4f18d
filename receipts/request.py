"""One HTTP request and its answer on the bare ASGI interface: the gateway's hot path has no framework."""

from collections.abc import Iterable, Mapping
from typing import Any

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from receipts.tokens import Credential
from service.problems import retry_after
from verifier.refused import Refused

MAX_BODY = 1 << 20
JSON = "application/json"


class Answer(Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    content_type: str = JSON


def refusal_headers(code: str, receipt: str | None) -> dict[str, str]:
    """Write what goes with a refusal in every shape: its receipt, and when to try again."""
    return ({"tally-receipt": receipt} if receipt else {}) | retry_after(code)


class Request:
    """What the caller sent, and the way back to it."""

    def __init__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Read the headers; the body is read when somebody may send one."""
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.address: str = (scope.get("client") or ("", 0))[0]
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._receive = receive
        self._send = send
        self.started = False

    def header(self, name: str) -> str | None:
        """Return a header's value. Raises `Refused` duplicate-header: two readers may keep different ones."""
        key = name.encode()
        found = [value for each, value in self._headers if each == key]
        if len(found) > 1:
            raise Refused("duplicate-header", f"the header {name} stands more than once", field=name)
        return found[0].decode("latin-1").strip() if found else None

    def credential(self) -> Credential:
        """Give what says who calls. Raises `Refused` duplicate-header."""
        proof = self.header("dpop")
        return Credential(self.header("authorization"), () if proof is None else (proof,), self.method, self.path)

    def header_names(self) -> Iterable[str]:
        """Return the names of all headers, in lower case."""
        return (name.decode("latin-1") for name, _ in self._headers)

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """Read the whole body. Raises `Refused`: too-large, client-gone, bad-encoding."""
        if (self.header("content-encoding") or "identity") != "identity":
            raise Refused("bad-encoding", "compressed requests are not read", field="content-encoding")
        if (length := self.header("content-length")) is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        message: Any = await self._receive()
        content = message.get("body", b"")
        while message.get("more_body"):
            message = await self._receive()
            content += message.get("body", b"")
            if len(content) > limit:
                raise _too_large(limit)
        if message["type"] != "http.request":
            raise Refused("client-gone", "the client left before its request was complete")
        if len(content) > limit:
            raise _too_large(limit)
        return bytes(content)

    async def gone(self) -> None:
        """Wait until the client has closed the connection; only after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        length = {"content-length": str(len(answer.body))}
        await self.start(answer.status, answer.content_type, {**answer.headers, **length})
        await self.write(answer.body, last=True)

    async def start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.started = True
        every = {"content-type": content_type, "cache-control": "no-store", **headers}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, content: bytes, *, last: bool = False) -> None:
        """Send a part of the body; waits while the transport is full."""
        await self._send({"type": "http.response.body", "body": content, "more_body": not last})


def _too_large(limit: int) -> Refused:
    return Refused("too-large", f"the body is larger than {limit} bytes")
