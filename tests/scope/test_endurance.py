"""Scope is killed at random moments, again and again, while jobs live: nothing that it said is lost or said twice.

Clients do what clients do: repeat what was not answered. What they were told is held against what scope has in the end.
`make nightly` lives a thousand lives on each engine, `make test` a part of them.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tests.conftest import Counted
from tests.scope.lives import Killer, Load
from tests.scope.processes import city
from tests.scope.reckoning import Follower, Reckoning, settle

NIGHTLY = os.environ.get("TALLY_NIGHTLY") == "1"
LIVES, AT_ONCE = (1000, 16) if NIGHTLY else (64, 12)
EVERY = (50, 150) if NIGHTLY else (50, 100)  # answers between kills
LEAST = 90 if NIGHTLY else 8  # kills
SEED = 20_261_127
DEEP = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required",
        "max_delegation_depth": 1}  # fmt: skip


async def test_what_scope_said_outlives_every_moment_at_which_it_is_killed(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    await endure(tmp_path / "city", database_url, 1, monkeypatch, counted)


async def test_two_processes_on_one_database_outlive_each_other(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    await endure(tmp_path / "city", postgres, 2, monkeypatch, counted)


async def endure(
    installation: Path, database_url: str, count: int, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    """Let jobs live while scope's processes are killed, and reckon up."""
    async with city(installation, database_url, monkeypatch, count) as (town, processes):
        town.policy = await town.publish(policy_name="deep", token_constraints=DEEP)
        load = Load(town, processes, SEED)
        follower, killer = Follower(load), Killer(load, processes, *(each // count for each in EVERY))
        await asyncio.gather(*(each.start() for each in processes))
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(each.run()) for each in (load.gateway, follower)]
            killing = group.create_task(killer.run())
            await load.lives(range(LIVES), AT_ONCE)
            killer.done = True
            await killing
            for each in processes:
                await each.kill()
                await each.start()
            lost = await settle(load)
            assert lost == 0, "who repeats an opening under its name hears of its job"
            found = await Reckoning.of(load)
            await follower.reach(len(found.rows["revocations"]))
            for task in beside:
                task.cancel()
        found.tokens_have_rows()
        found.jobs_are_sealed_once()
        found.lanes_are_in_seals()
        found.revocations_have_no_gap(follower.seen)
        assert found.rows["incidents"] == []
        await found.seals_read_the_same(every=10)
        assert await found.auditors_pass(every=10) > LIVES // 40
        assert all('"bug"' not in each.log() for each in processes)
        assert min(killer.kills, killer.cut) >= LEAST
    counted("lives of jobs under a scope that was killed", LIVES)
    counted("kills of scope", killer.kills)
    counted("requests that a kill of scope cut off", killer.cut)
    counted("acts of scope that a kill let nobody know of", lost + found.unheard() + load.gateway.unheard)
