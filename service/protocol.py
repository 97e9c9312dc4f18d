"""HTTP as uvicorn speaks it, with an end: what belongs to no body is bounded.

A body has its limit in the application. The head of a request and the trailers of a chunked body are kept until they
are complete, and neither uvicorn nor its parser counts them: anybody could fill the memory without a word of who it is.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 1 << 18  # the largest token of a job is half of it


class BoundedProtocol(HttpToolsProtocol):
    """One connection; closed when more than `MAX_HEAD` bytes come that complete no head and belong to no body."""

    _pending = 0

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
