"""A token kept fresh: ahead of its end, once for everybody, through failures, and for no longer than it lives."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from scope.client import FreshToken, IssuedToken, ScopeClient, Tools, claims_of
from tests.conftest import Clock
from tests.scope.conftest import SECOND, Town, refusal
from verifier.refused import Refused


class Counted:
    """An orchestrator's client that counts its requests: each takes one credential."""

    def __init__(self, town: Town) -> None:
        self.requests = 0
        self._town = town
        self.scope = ScopeClient(town.session, town.url, self._credential)

    def _credential(self) -> str:
        self.requests += 1
        return self._town.credential("orchestrator")


def seconds(clock: Clock) -> Callable[[], float]:
    """Read a test's clock in seconds."""
    return lambda: clock() / SECOND


def fresh(counted: Counted, clock: Clock, job: str, chance: float = 0.0) -> FreshToken:
    """Keep a job's token fresh by the test's clock, renewed as early as chance has it."""

    async def ask(_: IssuedToken | None) -> IssuedToken:
        return await counted.scope.token(job)

    return FreshToken(ask, clock=seconds(clock), random=lambda: chance)


async def changed(token: FreshToken, old: IssuedToken) -> IssuedToken:
    """Wait for a renewal that runs beside."""
    async with asyncio.timeout(20):
        while (found := await token.get()) == old:  # noqa: ASYNC110 - it is what a caller sees
            await asyncio.sleep(0.01)
    return found


async def failed(token: FreshToken) -> Refused:
    """Wait for a renewal that runs beside to fail."""
    async with asyncio.timeout(20):
        while token.failure is None:  # noqa: ASYNC110 - it is what a caller sees
            await asyncio.sleep(0.01)
    return token.failure


@pytest.mark.parametrize(("chance", "renewed"), [(0.0, 180), (0.5, 210), (1.0, 240)])
async def test_it_is_renewed_ahead_of_its_end_and_not_before(
    town: Town, clock: Clock, chance: float, renewed: int
) -> None:
    counted = Counted(town)
    async with fresh(counted, clock, (await town.open()).job, chance) as token:
        first = await token.get()
        clock.pass_seconds(renewed - 1)
        assert (await token.get(), counted.requests) == (first, 1)
        clock.pass_seconds(1)
        assert await token.get() == first  # it lives: nobody waits for the next one
        second = await changed(token, first)
        assert (await token.get(), counted.requests) == (second, 2)
    assert claims_of(second.access_token).exp == claims_of(first.access_token).exp + renewed


async def test_a_hundred_callers_are_one_request(town: Town, clock: Clock) -> None:
    counted = Counted(town)
    async with fresh(counted, clock, (await town.open()).job) as token:
        first = await asyncio.gather(*(token.get() for _ in range(100)))
        assert (len(set(map(str, first))), counted.requests) == (1, 1)
        clock.pass_seconds(200)
        await asyncio.gather(*(token.get() for _ in range(100)))
        await changed(token, first[0])
        assert counted.requests == 2
        clock.pass_seconds(301)  # all of them find nothing, and wait for the same answer
        third = await asyncio.gather(*(token.get() for _ in range(100)))
        assert (len(set(map(str, third))), counted.requests) == (1, 3)


async def test_a_caller_that_gives_up_does_not_end_what_others_wait_for(town: Town, clock: Clock) -> None:
    counted = Counted(town)
    async with fresh(counted, clock, (await town.open()).job) as token:
        impatient, patient = asyncio.create_task(token.get()), asyncio.create_task(token.get())
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).token_type == "Bearer"
        assert (impatient.cancelled(), counted.requests) == (True, 1)


async def test_scope_may_be_away_while_the_old_token_lives(town: Town, clock: Clock) -> None:
    counted = Counted(town)
    async with fresh(counted, clock, (await town.open()).job) as token:
        old = await token.get()
        await town.stop()
        clock.pass_seconds(200)
        assert await token.get() == old
        assert (await failed(token)).code == "scope-unavailable"
        asked = counted.requests
        clock.pass_seconds(5)
        assert [await token.get() for _ in range(20)] == [old] * 20
        assert counted.requests == asked  # it does not ask at every call
        clock.pass_seconds(89)  # a second before what is left of it is too little to be sent
        assert await token.get() == old
        clock.pass_seconds(1)
        with pytest.raises(Refused) as caught:
            await token.get()
        assert (caught.value.code, "none can be had" in caught.value.why) == ("scope-unavailable", True)
        assert old.access_token not in f"{caught.value}"
        await town.restart()
        new = await token.get()
        assert (new != old, token.failure) == (True, None)


async def test_scope_comes_back_before_the_end_and_nobody_noticed(town: Town, clock: Clock) -> None:
    async with fresh(Counted(town), clock, (await town.open()).job) as token:
        old = await token.get()
        await town.stop()
        clock.pass_seconds(200)
        await token.get()
        await failed(token)
        await town.restart()
        clock.pass_seconds(13)
        assert await changed(token, old) != old
        assert token.failure is None


async def test_the_end_of_a_job_is_said_by_its_own_code(town: Town, clock: Clock) -> None:
    job = (await town.open()).job
    async with fresh(Counted(town), clock, job) as token:
        old = await token.get()
        await town.scope().close(job)
        clock.pass_seconds(200)
        assert await token.get() == old
        assert (await failed(token)).code == "job-not-open"
        clock.pass_seconds(100)
        assert await refusal(token.get()) == "job-not-open"
        assert await refusal(token.get()) == "job-not-open"


async def test_a_token_that_a_gateway_refused_is_dropped_and_another_is_not(town: Town, clock: Clock) -> None:
    counted = Counted(town)
    async with fresh(counted, clock, (await town.open()).job) as token:
        first = await token.get()
        token.drop("another")
        assert await token.get() == first
        token.drop(first.access_token)
        second = await token.get()
        token.drop(first.access_token)  # a late caller means the old one
        assert (await token.get(), second != first, counted.requests) == (second, True, 2)


async def test_what_has_ended_when_it_comes_is_not_given_out(clock: Clock) -> None:
    async def ask(_: IssuedToken | None) -> IssuedToken:
        clock.pass_seconds(400)
        return IssuedToken(access_token="late", token_type="Bearer", expires_in=300)

    assert await refusal(FreshToken(ask, clock=seconds(clock)).get()) == "bad-token"


async def test_what_was_begun_ends_with_its_owner(clock: Clock) -> None:
    ended = asyncio.Event()

    async def ask(_: IssuedToken | None) -> IssuedToken:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with FreshToken(ask, clock=seconds(clock)) as token:
        waiting: asyncio.Task[Any] = asyncio.create_task(token.get())
        await asyncio.sleep(0.01)
    assert ended.is_set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_part_of_a_token_stays_that_part_and_is_exchanged_for_a_younger_one(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, counted = (await town.open()).job, Counted(town)
    monkeypatch.setattr(FreshToken.__init__, "__kwdefaults__", {"clock": seconds(clock), "random": lambda: 0.0})
    async with counted.scope.fresh(job, Tools(server="crm-mcp", tools=["get_case"]), ttl=100) as token:
        first = await token.get()
        clock.pass_seconds(60)
        second = await changed(token, first)
        clock.pass_seconds(100)
        third = await token.get()
    old, young, last = (claims_of(each.access_token) for each in (first, second, third))
    assert young.authorization_details == [{"type": "tally_mcp", "server": "crm-mcp", "tools": ["get_case"]}]
    assert (old.grant == young.grant == last.grant, young.exp - young.iat) == (True, 100)
    assert counted.requests == 2 + 1 + 2  # whole and part; an exchange; what had ended was asked for anew
