"""The example that an orchestrator's developer begins with does what it says."""

import asyncio
from collections.abc import Callable

import pytest

from examples.orchestrator import work
from scope.client import claims_of
from tests.scope.conftest import Town
from verifier.documents import open_seal


async def test_the_example_opens_a_job_keeps_its_token_and_gets_its_seal(today: Town) -> None:
    home, jobs = today.installation / "orchestrator", list[str]()

    def agent(token: Callable[[], str]) -> None:
        jobs.append(claims_of(token()).txn)
        assert token() == token()

    raw = await asyncio.to_thread(work, today.url, home, today.job(), agent)
    seal = open_seal(today.trust, raw).value
    assert (seal.job, seal.status, seal.lanes) == (jobs[0], "complete", [])


async def test_the_example_closes_the_job_of_an_agent_that_fails(today: Town) -> None:
    def agent(_: Callable[[], str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(work, today.url, today.installation / "orchestrator", today.job(), agent)
    assert [each.state for each in (await today.scope().jobs()).jobs] != ["open"]
