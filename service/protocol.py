"""HTTP as uvicorn speaks it, with an end: what belongs to no body is bounded; and an answer in one piece.

A body has its limit in the application. The head of a request and the trailers of a chunked body are kept until they
are complete, and neither uvicorn nor its parser counts them: anybody could fill the memory without a word of who it is.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 1 << 18  # the largest token of a job is half of it
LEAVING = "tally.leaving"  # where an answer that never ends puts, in its ASGI scope, what ends it


class Joined:
    """A transport whose writes of one turn of the event loop leave together: head and body in one packet.

    uvicorn writes them one after the other, a system call and a wake-up of the client each.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep bytes until the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; closed when more than `MAX_HEAD` bytes come that complete no head and belong to no body."""

    _pending = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[explicit-override,override] # see below
        """Begin, and join what is written."""
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type] # it is one in all that is used

    def shutdown(self) -> None:  # type: ignore[explicit-override] # see below
        """Leave: what is under way is answered first, and what would never end is told to."""
        super().shutdown()
        state: dict[str, Any] = dict(getattr(self.cycle, "scope", {}))
        if LEAVING in state:
            state[LEAVING]()

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Take what the network brings."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD:
            self.transport.close()

    def on_headers_complete(self) -> None:  # type: ignore[explicit-override] # see above
        """Begin to count anew behind a head."""
        self._pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:  # type: ignore[explicit-override] # see above
        """Leave a body to the application's limit."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:  # type: ignore[explicit-override] # see above
        """Begin to count anew behind a request."""
        self._pending = 0
        super().on_message_complete()
