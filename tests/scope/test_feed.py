"""The feed: every revocation once, in order, signed, at once to all who follow; a heartbeat proves that this is all."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from sqlalchemy import text

from scope import feed, store
from scope.client import RevocationRequest
from scope.feed import Feed
from tests.scope.conftest import Town, refusal
from verifier.documents import open_heartbeat, open_revocation


def wanted(value: str) -> RevocationRequest:
    return RevocationRequest(kind="agent", value=value, reason="incident")


async def until(town: Town, last: int, after: int = 0) -> list[int]:
    """Follow the feed until a heartbeat counts so many; give the sequences in the order in which they came."""
    seen = list[int]()
    async with aclosing(town.scope("receipts").follow(after)) as lines:
        async for heartbeat, revocations in lines:
            seen += [open_revocation(town.trust, each).value.sequence for each in revocations]
            if open_heartbeat(town.trust, heartbeat).value.sequence >= last == (seen[-1] if seen else after):
                return seen
    raise AssertionError("the feed ended")


async def test_who_follows_gets_what_was_revoked_before_and_what_is_revoked_now(town: Town) -> None:
    responder = town.scope("responder")
    for n in range(3):
        await responder.revoke(wanted(f"earlier-{n}"))
    followers = [asyncio.create_task(until(town, 8, after)) for after in (0, 0, 2, 3)]
    await asyncio.sleep(0.3)
    await asyncio.gather(*(responder.revoke(wanted(f"now-{n}")) for n in range(5)))
    found = await asyncio.wait_for(asyncio.gather(*followers), 10)
    assert found == [list(range(1, 9)), list(range(1, 9)), list(range(3, 9)), list(range(4, 9))]


async def test_a_revocation_reaches_a_follower_long_before_the_next_heartbeat(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EVERY", 30.0)
    town.authority.feed.wake()  # the wait for the next heartbeat begins anew, with thirty seconds
    await asyncio.sleep(0.1)
    follower = asyncio.create_task(until(town, 1))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await town.scope("responder").revoke(wanted("agent-1"))
    assert await follower == [1]
    assert time.monotonic() - began < 5


async def test_a_heartbeat_comes_without_anything_new(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "EVERY", 0.05)
    town.authority.feed.wake()
    beats = []
    async with aclosing(town.scope("auditor").follow(0)) as lines:
        async for heartbeat, revocations in lines:
            beats.append((open_heartbeat(town.trust, heartbeat).value.sequence, revocations))
            if len(beats) == 5:
                break
    assert beats == [(0, [])] * 5


async def test_heartbeats_go_on_while_more_requests_than_there_are_connections_queue_for_a_lock(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EVERY", 0.05)
    town.authority.feed.wake()
    async with aclosing(town.scope("receipts").follow(0)) as lines:
        await anext(lines)
        async with town.authority.engine.begin() as db:
            await store.lock_sequence(db)
            queue = [asyncio.create_task(town.scope("responder").revoke(wanted(f"agent-{n}"))) for n in range(40)]
            await asyncio.sleep(0.5)  # they have every connection by now
            for _ in range(20):
                await anext(lines)
        await asyncio.gather(*queue)
    assert await until(town, 40) == list(range(1, 41))


async def test_a_backlog_longer_than_a_line_comes_whole(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "A_LINE", 3)
    responder = town.scope("responder")
    for n in range(10):
        await responder.revoke(wanted(f"agent-{n}"))
    assert await until(town, 10) == list(range(1, 11))
    follower = asyncio.create_task(until(town, 20, 10))
    await asyncio.sleep(0.2)
    await asyncio.gather(*(responder.revoke(wanted(f"later-{n}")) for n in range(10)))
    assert await asyncio.wait_for(follower, 10) == list(range(11, 21))


async def test_a_slow_reader_is_left_and_the_others_are_not(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_WAITING", 2)
    monkeypatch.setattr(feed, "EVERY", 0.02)
    town.authority.feed.wake()
    slow = town.authority.feed.follow(0)
    await anext(slow)
    assert await until(town, 0) == []
    for n in range(4):
        await town.scope("responder").revoke(wanted(f"agent-{n}"))
    assert await until(town, 4) == [1, 2, 3, 4]
    await asyncio.sleep(0.3)
    assert len([each async for each in slow]) <= 4  # what it was given, and the end


async def test_a_process_has_only_so_many_followers(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_FOLLOWERS", 0)
    assert await refusal(until(town, 0)) == "too-many-requests"


async def test_an_old_stream_ends_and_its_client_comes_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LIFETIME", 0.1)
    monkeypatch.setattr(feed, "EVERY", 0.05)
    town.authority.feed.wake()
    async with aclosing(town.scope("receipts").follow(0)) as lines:
        assert {open_heartbeat(town.trust, each).value.sequence async for each, _ in lines} == {0}


async def other_process(town: Town) -> AsyncIterator[list[int]]:
    """Follow as a second process on the same database does; gives the sequences of each line."""
    authority = town.authority
    other = Feed(authority.engine, authority.issuer, authority.keys.revocation, town.clock, authority.log)
    running = asyncio.create_task(other.run())
    try:
        last = 0
        async for _ in other.follow(0):
            page = await other.page(last, 1000)
            yield list(range(last + 1, page.last + 1))
            last = page.last
    finally:
        running.cancel()


async def test_a_second_process_on_the_database_gives_the_same_sequence(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EVERY", 0.3)
    found = list[int]()
    async with aclosing(other_process(town)) as lines:
        assert await anext(lines) == []
        for n in range(3):
            await town.scope("responder").revoke(wanted(f"agent-{n}"))
        while found != [1, 2, 3]:
            found += await asyncio.wait_for(anext(lines), 5)


async def test_on_postgresql_another_process_is_woken_by_the_commit(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EVERY", 30.0 if town.authority.engine.dialect.name == "postgresql" else 0.1)
    async with aclosing(other_process(town)) as lines:
        assert await anext(lines) == []
        await asyncio.sleep(0.5)  # it listens by now
        await town.scope("responder").revoke(wanted("agent-1"))
        found = list[int]()
        while not found:
            found = await asyncio.wait_for(anext(lines), 5)
        assert found == [1]


async def test_what_is_rolled_back_wakes_nobody_and_leaves_no_gap(town: Town) -> None:
    assert (
        await refusal(
            town.scope("responder").revoke(RevocationRequest(kind="job", value="job-none", reason="incident"))
        )
        == "unknown-job"
    )
    await town.scope("responder").revoke(wanted("agent-1"))
    assert await until(town, 1) == [1]
    async with town.authority.engine.connect() as db:
        assert (await db.execute(text("SELECT value FROM counters"))).scalar_one() == 1
