"""Waiting for a seal, and a client for programs without an event loop: the same methods, the same protocol."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from scope.client import BlockingScopeClient, Models, RevocationRequest, ScopeClient, Tools, claims_of
from tests.conftest import Clock
from tests.scope.conftest import Town, refusal
from verifier.documents import open_seal
from verifier.refused import Refused

T = TypeVar("T")
NOT_METHODS = {"fresh", "follow"}  # they give an object, not an answer; tested on their own


async def test_a_seal_is_waited_for_through_a_restart_of_scope(town: Town) -> None:
    job = (await town.open()).job
    await town.scope().close(job)
    await town.stop()
    waiting = asyncio.create_task(town.scope().wait_for_seal(job, seconds=60))
    await asyncio.sleep(0.3)  # it has asked, and nobody answered
    assert not waiting.done()
    await town.restart()
    await town.advance()
    assert open_seal(town.trust, await waiting).value.job == job


async def test_a_wait_ends_with_its_time_and_says_what_it_heard_last(town: Town) -> None:
    job = (await town.open()).job
    with pytest.raises(Refused) as caught:
        await town.scope().wait_for_seal(job, seconds=0.3)
    assert (caught.value.code, "0.3 seconds" in caught.value.why, "tally job" in caught.value.hint) == (
        "not-sealed", True, True
    )  # fmt: skip
    await town.stop()
    assert await refusal(town.scope().wait_for_seal(job, seconds=0.3)) == "scope-unavailable"
    await town.restart()
    assert await refusal(town.scope().wait_for_seal("job-unknown", seconds=60)) == "unknown-job"


async def blocking(town: Town, act: Callable[[BlockingScopeClient], T], client: str = "orchestrator") -> T:
    """Do something with the blocking client, in a thread without a loop."""

    def run() -> T:
        with BlockingScopeClient(town.url, lambda: town.credential(client)) as scope:
            return act(scope)

    before = set(threading.enumerate())
    done = await asyncio.to_thread(run)
    assert not {each for each in set(threading.enumerate()) - before if each.name == "scope-client"}
    return done


def test_the_blocking_client_has_every_method_with_the_same_parameters() -> None:
    methods = {name: each for name, each in inspect.getmembers(ScopeClient, inspect.isfunction) if name[0] != "_"}
    assert {"open", "token", "close", "wait_for_seal", "revoke"} <= methods.keys()
    for name, method in methods.items():
        ours = getattr(BlockingScopeClient, name)
        assert [*inspect.signature(ours).parameters] == [*inspect.signature(method).parameters], name
        assert ours.__doc__, name
        assert not inspect.iscoroutinefunction(ours), name
        assert (name in NOT_METHODS) != hasattr(ours, "__wrapped__"), name


async def test_a_job_from_open_to_seal_without_a_loop(today: Town) -> None:
    def work(scope: BlockingScopeClient) -> tuple[str, bytes]:
        job = scope.open(today.job()).job
        whole = scope.token(job, ttl=120).access_token
        part = scope.narrow(whole, Tools(server="crm-mcp", tools=["get_case"]))
        assert claims_of(part.access_token).authorization_details[0]["tools"] == ["get_case"]
        assert scope.introspect(whole)["active"] is True
        scope.revoke_token(whole)
        assert scope.introspect(whole) == {"active": False}
        assert [each.job for each in scope.jobs().jobs] == [job]
        assert scope.close(job).state == "closing"
        return job, scope.wait_for_seal(job, seconds=30)

    job, seal = await blocking(today, work)
    assert open_seal(today.trust, seal).value.job == job


async def test_a_refusal_is_the_services_own(today: Town) -> None:
    def work(scope: BlockingScopeClient) -> str:
        with pytest.raises(Refused) as caught:
            scope.status("job-unknown")
        return caught.value.code

    assert await blocking(today, work) == "unknown-job"
    await today.stop()
    assert await blocking(today, work) == "scope-unavailable"
    await today.restart()


async def test_many_threads_share_one_client_and_one_renewal(today: Town) -> None:
    job, asked = (await today.open()).job, []

    def credential() -> str:
        asked.append(1)
        return today.credential("orchestrator")

    def work() -> set[str]:
        with BlockingScopeClient(today.url, credential) as scope, ThreadPoolExecutor(20) as threads:
            token = scope.fresh(job)
            found = {each.access_token for each in threads.map(lambda _: token.get(), range(100))}
            assert (len(asked), token.failure) == (1, None)
            token.drop(*found)
            return found | {token.get().access_token}

    assert (len(await asyncio.to_thread(work)), len(asked)) == (2, 2)


async def test_the_feed_is_followed_and_left(today: Town) -> None:
    await today.scope("responder").revoke(RevocationRequest(kind="agent", value="a-9", reason="incident"))

    def work(scope: BlockingScopeClient) -> int:
        for _, revocations in scope.follow(0):
            return len(revocations)
        raise AssertionError

    assert await blocking(today, work, "auditor") == 1


async def test_what_is_stopped_says_so_and_leaves_nothing_running(today: Town) -> None:
    def work() -> None:
        scope = BlockingScopeClient(today.url, lambda: today.credential("orchestrator"))
        scope.open(today.job(authorization_details=[Models(models=["openrouter_via_fal/small-1"])]))
        scope.stop()
        scope.stop()
        with pytest.raises(RuntimeError, match="was stopped"):
            scope.jobs()

    await asyncio.to_thread(work)


async def test_a_wait_that_is_interrupted_ends_what_it_waited_for(today: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Interrupted:
        """A future whose wait is broken off, as by Ctrl-C."""

        def __init__(self, future: Any) -> None:
            self.cancel = future.cancel

        def result(self) -> None:
            assert begun.wait(10)
            raise KeyboardInterrupt

    def work(scope: BlockingScopeClient) -> None:
        real = asyncio.run_coroutine_threadsafe
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "run_coroutine_threadsafe", lambda c, loop: Interrupted(real(c, loop)))
            with pytest.raises(KeyboardInterrupt):
                scope.wait(forever())
        assert ended.wait(10)

    await blocking(today, work)


async def test_a_fixed_clock_is_as_good(town: Town, clock: Clock) -> None:
    job = (await town.open()).job
    first = await blocking(town, lambda scope: scope.token(job))
    clock.pass_seconds(100)
    young = await blocking(town, lambda scope: scope.refresh(first.access_token))
    assert claims_of(young.access_token).exp == claims_of(first.access_token).exp + 100
