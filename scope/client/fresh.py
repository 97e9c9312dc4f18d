"""A token that is renewed before it ends, for as long as somebody asks for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from secrets import SystemRandom
from typing import Self

from msgspec import Struct

from scope.client.tokens import IssuedToken
from verifier.refused import Refused

RENEW, SPREAD = 0.6, 0.2  # of a token's life: when it is renewed, and how much later at the most
AGAIN = 0.02  # of a token's life: how long after a renewal that failed the next one may come, up to twice that
MARGIN = 5.0  # seconds, at most a tenth of a token's life: what ends within them is not sent any more

_chance = SystemRandom().random
Ask = Callable[[IssuedToken | None], Awaitable[IssuedToken]]


class _Held(Struct, frozen=True):
    """A token, and the times that it lives by, in seconds of our clock."""

    token: IssuedToken
    life: float
    ends: float


class FreshToken:
    """A token kept fresh: `get` gives one that is good, renewed ahead of its end.

    It is renewed after 60 to 80 % of its life, at random, so that a thousand agents that began together do not ask
    together; once for all who wait, and nobody waits whose token lives. A renewal that fails is repeated while the old
    token lives; only then `get` raises. Belongs to one event loop; `async with` ends what it has begun.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _chance,
    ) -> None:
        """Nothing is asked yet. `ask` gets the token that is held, if it lives, and gives the next one.

        `clock` counts seconds from anywhere: what a token says of its end is never compared with it.
        """
        self._ask = ask
        self._clock = clock
        self._random = random
        self._held: _Held | None = None
        self._due = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self.failure: Refused | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    async def get(self) -> IssuedToken:
        """Give a token with time left. Raises `Refused` with the code of the last renewal, when there is none.

        `failure` is that refusal while the old token still serves, None when all is well.
        """
        if (held := self._living()) is not None:
            if self._clock() >= self._due:
                self._begin()
            return held.token
        await asyncio.shield(self._begin())
        if (held := self._living()) is not None:
            return held.token
        failure = self.failure or Refused("bad-token", "scope gives tokens that have ended already")
        why = f"there is no token, and none can be had: {failure.why}"
        raise Refused(failure.code, why, hint=failure.hint, field=failure.field) from failure

    def drop(self, token: str) -> None:
        """Forget a token that a gateway refused (HTTP 401), so that the next `get` asks for another."""
        if self._held is not None and self._held.token.access_token == token:
            self._held = None

    def _living(self) -> _Held | None:
        return self._held if self._held is not None and self._clock() < self._held.ends else None

    def _begin(self) -> asyncio.Task[None]:
        """Renew the token, or join the renewal that runs."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        return self._renewal

    async def _renew(self) -> None:
        held, asked = self._living(), self._clock()
        try:
            token = await self._ask(None if held is None else held.token)
        except Refused as refused:
            self.failure = refused
            self._due = self._clock() + (0 if held is None else held.life * AGAIN * (1 + self._random()))
        else:
            life = float(token.expires_in)
            self._held, self.failure = _Held(token, life, asked + life - min(MARGIN, life / 10)), None
            self._due = asked + life * (RENEW + SPREAD * self._random())
        finally:
            self._renewal = None
