"""An application on a socket that is bound already, inside the test's own process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from service.protocol import BoundedProtocol


async def serve_on(app: Any, listener: socket.socket) -> Callable[[], Awaitable[None]]:
    """Serve until the function that is returned is awaited."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none", http=BoundedProtocol))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the application did not start")
        await asyncio.sleep(0.01)

    async def stop() -> None:
        server.should_exit = True
        await task

    return stop
