"""No connection makes a service keep more than a head, whoever holds it."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator

import pytest
import uvicorn
from litestar import Litestar, Request, post

from service.protocol import MAX_HEAD, BoundedProtocol, Joined

PIECE = b"x" * 60_000
HEAD = b"POST /echo HTTP/1.1\r\nhost: here\r\n"
CHUNKED = HEAD + b"content-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n"


@post("/echo")
async def echo(request: Request[None, None, None]) -> int:
    return len(await request.body())


@pytest.fixture
async def port() -> AsyncGenerator[int, None]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Litestar([echo]), log_config=None, http=BoundedProtocol, ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


async def kept(port: int, begin: bytes, pieces: Iterator[bytes], end: bytes = b"") -> tuple[int, bytes]:
    """Send until the service hangs up or all is said; give what it took, and its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    try:
        writer.write(begin)
        for piece in pieces:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
        writer.write(end)
        return sent, await reader.readuntil(b"\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        return sent, b""
    finally:
        writer.close()


@pytest.mark.parametrize("begin", [HEAD + b"long: ", b"POST /", CHUNKED, CHUNKED + b"long: "])
async def test_a_head_or_trailer_without_end_is_cut_off(port: int, begin: bytes) -> None:
    headers = (b"a: " + PIECE + b"\r\n" for _ in range(1000)) if begin == CHUNKED else (PIECE for _ in range(1000))
    sent, _ = await kept(port, begin, headers)
    assert sent < 20_000_000, "sockets hold some megabytes; sixty were offered"


async def test_bodies_are_not_counted_and_one_connection_serves_many_requests(port: int) -> None:
    large = 4 * MAX_HEAD
    request = HEAD + b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n" % large
    for _ in range(2):
        _, answer = await kept(port, request, iter([b"x" * large]))
        assert answer.startswith(b"HTTP/1.1 201")
    chunks = iter([b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"] * 20)
    chunked = CHUNKED.removesuffix(b"4\r\nbody\r\n0\r\n")
    assert (await kept(port, chunked, chunks, b"0\r\n\r\n"))[1].startswith(b"HTTP/1.1 201")


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: object) -> None:
        self.pieces.append(bytes(data))  # type: ignore[call-overload]

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_head_and_body_leave_in_one_piece() -> None:
    recorder = Recorder()
    joined = Joined(recorder, asyncio.get_running_loop())
    joined.write(b"head ")
    joined.write(b"body")
    assert recorder.pieces == []
    await asyncio.sleep(0)
    assert recorder.pieces == [b"head body"]
    joined.write(b"next")
    await asyncio.sleep(0)
    assert recorder.pieces == [b"head body", b"next"]


async def test_what_waits_is_sent_before_the_connection_closes_and_nothing_after() -> None:
    recorder = Recorder()
    joined = Joined(recorder, asyncio.get_running_loop())
    joined.write(b"last words")
    joined.close()
    joined.write(b"too late")
    await asyncio.sleep(0)
    assert (recorder.pieces, recorder.closed) == ([b"last words"], True)
