"""Tokens issued many at a time: who asks while a transaction is under way shares the next one, and its flush.

A transaction for each token would wait for the disk, and for SQLite's one writer, as often as there are tokens.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from scope.tokens import Shown
from verifier.grant import Token
from verifier.refused import Refused

MOST = 64  # in one transaction: nobody waits for more than two of them


class Order(Struct, frozen=True):
    """A token that a client asks for: `ttl` in seconds, `jkt` of the key that binds it, a token `shown` for it."""

    client: str
    job: str
    ttl: int | None
    jkt: str | None
    shown: Shown | None


Answer = Token | Refused
Issue = Callable[[Sequence[Order]], Awaitable[list[Answer]]]
Asked = tuple[Order, asyncio.Future[Answer]]


class Desk:
    """Where the requests of one process queue."""

    def __init__(self) -> None:
        """Begin with an empty queue."""
        self._queue: list[Asked] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, order: Order, issue: Issue) -> Token:
        """Wait for a token that is durable. Raises what it was refused for, or what `issue` raised for it alone."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((order, answer))
        if self._work is None:
            self._work = asyncio.create_task(self._serve(issue))
        issued = await answer
        if isinstance(issued, Refused):
            raise issued
        return issued

    async def _serve(self, issue: Issue) -> None:
        try:
            while self._queue:
                asked, self._queue = self._queue[:MOST], self._queue[MOST:]
                await _answer(asked, issue)
        finally:
            self._work = None


async def _answer(asked: Sequence[Asked], issue: Issue) -> None:
    """Answer some orders; where all fail together each gets a transaction of its own, and waits for no other's."""
    try:
        for (_, answer), issued in zip(asked, await issue([order for order, _ in asked]), strict=True):
            if not answer.done():  # nobody waits any more for one that is
                answer.set_result(issued)
    except Exception as error:  # noqa: BLE001 - whoever asked gets it
        if len(asked) > 1:
            await asyncio.gather(*(_answer([each], issue) for each in asked))
        elif not asked[0][1].done():
            asked[0][1].set_exception(error)
