"""Many connections to a service from one thread, each with one request at a time; requests are made before."""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Self

GOOD = b"HTTP/1.1 20"


class _Line:
    """One connection: what it sent last is answered before it sends again."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._content = b""

    def send(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def answered(self) -> bool:
        """Read what came; tell whether the answer is whole. Any answer but a good one ends the measurement."""
        piece = self.socket.recv(1 << 16)
        self._content += piece
        head, found, body = self._content.partition(b"\r\n\r\n")
        if not piece or (found and not self._content.startswith(GOOD)):
            raise RuntimeError(f"answered {self._content[:600]!r}")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return False
        self._content = b""
        return True


class Load:
    """Connections to one or more ports of 127.0.0.1, so many in all."""

    def __init__(self, ports: Sequence[int], connections: int) -> None:
        self._lines = [_Line(ports[number % len(ports)]) for number in range(connections)]
        self._selector = selectors.DefaultSelector()
        for line in self._lines:
            self._selector.register(line.socket, selectors.EVENT_READ, line)

    def run(self, requests: Sequence[bytes]) -> list[float]:
        """Send every request; each one's seconds, in the order of the answers."""
        waiting, times = iter(requests), list[float]()
        for line, request in zip(self._lines, waiting, strict=False):
            line.send(request)
        while len(times) < len(requests):
            for key, _ in self._selector.select():
                times += _next(key.data, waiting)
        return times

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connections."""
        self._selector.close()
        for line in self._lines:
            line.socket.close()


def _next(line: _Line, waiting: Iterator[bytes]) -> list[float]:
    if not line.answered():
        return []
    took = time.perf_counter() - line.began
    if (request := next(waiting, None)) is not None:
        line.send(request)
    return [took]


def form(path: str, fields: str) -> bytes:
    """Write a request whose body is a form, encoded already."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    return f"{head}Content-Length: {len(fields)}\r\n\r\n{fields}".encode()
