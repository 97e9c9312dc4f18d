"""A scope whose database is an older one, and goes on from there: it is not believed for counting as far as before."""

import asyncio
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import scope.app
from receipts.history import Known
from receipts.revocations import LONGEST_TOKEN, SKEW, Revocations
from scope.client import RevocationRequest
from tests.conftest import Serve
from tests.receipts.gatehouse import Gatehouse, gatehouse
from tests.receipts.test_restored import fresh
from tests.receipts.test_revocations import GET_CASE, SECOND, Snapshots
from tests.serving import serve_on
from tests.world import SCOPE, World
from verifier.chain import terms
from verifier.refused import Refused

pytestmark = pytest.mark.anyio


async def polled(scope: Snapshots) -> str:
    """Ask for what is new; name the refusal."""
    try:
        await scope.gateway.poll()
    except Refused as refused:
        return refused.code
    return ""


async def rolled_back(numbers: int) -> Snapshots:
    """Let a gateway see three revocations, and scope forget some of them."""
    scope = Snapshots(World())
    for number in range(2, 5):
        await scope.revoke("agent", f"agent-{number}")
    del scope.world.revocations[3 - numbers :]
    return scope


@pytest.mark.parametrize("more", [0, 1, 5])
async def test_a_scope_that_counts_as_far_with_other_revocations_is_not_believed(more: int) -> None:
    scope = await rolled_back(2)
    scope.world.revoke("agent", "agent-1", scope.now)
    for number in range(1 + more):
        scope.world.revoke("jti", f"token-{number + 7}", scope.now)
    assert await polled(scope) == "scope-restored"
    for _ in range(2):
        assert await polled(scope) == "scope-restored"
        assert fresh(scope).startswith("stale-revocations: scope's revocation 3 is another than")
    assert scope.said() == "agent"  # what the new count holds is known, and what the old one held
    assert ("agent", "agent-4") in scope.gateway._revoked
    assert scope.gateway.seen.number == 3


async def test_it_is_believed_again_once_it_ended_everything_under_a_new_number() -> None:
    scope = await rolled_back(1)
    scope.world.revoke("all", "*", scope.now, scope.now + SECOND)  # takes up the number that was lost
    assert await polled(scope) == "scope-restored"
    assert await polled(scope) == "scope-restored"
    scope.world.revoke("all", "*", scope.now, scope.now + SECOND)
    assert await polled(scope) == ""
    assert fresh(scope) == ""
    assert scope.said() == "all"
    assert scope.gateway.seen.number == 4
    await scope.revoke("agent", "agent-9")
    assert fresh(scope) == ""


async def test_what_an_earlier_run_had_seen_is_told_by_its_digest() -> None:
    scope = await rolled_back(1)
    seen = scope.gateway.seen
    scope.world.revoke("agent", "agent-1", scope.now)
    scope.gateway = Revocations(scope, scope.trust, SCOPE, lambda: scope.now, seen)
    assert scope.gateway.seen == seen
    for _ in range(2):
        assert await polled(scope) == "scope-restored"
        assert fresh(scope) != ""
        assert scope.gateway.seen == seen  # another run will not believe it either
    scope.world.revoke("all", "*", scope.now, scope.now + SECOND)
    assert await polled(scope) == ""
    assert (fresh(scope), scope.gateway.seen.number) == ("", 4)


async def test_a_file_of_an_earlier_version_tells_the_number_alone() -> None:
    scope = await rolled_back(0)
    scope.gateway = Revocations(scope, scope.trust, SCOPE, lambda: scope.now, Known(number=3))
    assert await polled(scope) == ""
    assert scope.gateway.seen.digest.startswith("sha256:")


async def test_a_clock_that_was_ahead_for_a_while_makes_nothing_good_again() -> None:
    scope = Snapshots(World())
    await scope.revoke("jti", "token-1")
    await scope.revoke("tool", "crm-mcp/get_case", scope.now + 60 * SECOND)
    ahead, clock = LONGEST_TOKEN + 2 * SKEW, scope.gateway._clock
    scope.gateway._clock = lambda: scope.now + ahead
    await scope.gateway.poll()
    scope.gateway._clock = clock
    await scope.gateway.poll()
    assert scope.said() == "jti"
    with pytest.raises(Refused):
        scope.gateway.require_target(GET_CASE, scope.now)


async def test_a_clock_that_is_set_back_makes_scopes_word_no_younger() -> None:
    scope = Snapshots(World())
    counted, bound = scope.now, terms(scope.world.chain).token_constraints.max_staleness_seconds * SECOND
    scope.gateway = Revocations(scope, scope.trust, SCOPE, lambda: scope.now, counted=lambda: counted)
    await scope.gateway.poll()
    assert fresh(scope) == ""
    counted += bound + 1  # scope is silent, and the clock is set back by as much
    assert (scope.gateway.staleness(scope.now), fresh(scope)[:17]) == (bound + 1, "stale-revocations")
    scope.now += 1
    await scope.gateway.poll()
    assert fresh(scope) == ""


async def test_what_came_before_a_revocation_that_cannot_be_cuts_calls_all_the_same() -> None:
    scope, heard = Snapshots(World()), list[int]()
    scope.gateway.changed = lambda: heard.append(scope.gateway.sequence)
    scope.world.revoke("agent", "agent-1", scope.now)
    scope.world.revoke("agent", "agent-2", scope.now)
    scope.world.revocations[1] = scope.world.revocations[0]
    assert await polled(scope) == "bad-snapshot"
    assert heard == [1]


async def start_scope(house: Gatehouse) -> None:
    """Start scope at its address."""
    app = scope.app.create(house.directory / "scope/settings.toml", clock=house.clock)
    listener = socket.create_server(("127.0.0.1", int(house.urls.scope.rpartition(":")[2])))
    house.stops["scope"] = await serve_on(app, listener)


async def code(house: Gatehouse) -> str | None:
    """Call the tool, and name the refusal."""
    error: dict[str, Any] = (await house.rpc())[2].get("error", {})
    found: str | None = error.get("data", {}).get("code")
    return found


async def until(house: Gatehouse, wanted: str | None) -> None:
    async with asyncio.timeout(30):
        while await code(house) != wanted:  # noqa: ASYNC110 - as an agent asks
            await asyncio.sleep(0.1)


async def test_a_gateway_misses_nothing_that_an_older_scope_revokes(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as house:
        live = house.directory / "scope/scope.db"
        with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
            source.backup(copy)
        for number in range(2):
            await house.revoke("agent", f"agent-{number + 7}")
        await until(house, None)
        await house.stops["scope"]()
        for each in live.parent.glob("scope.db-*"):
            each.unlink()
        shutil.copy(tmp_path / "backup.db", live)
        (live.parent / "newest.json").unlink()  # nothing tells scope
        await start_scope(house)
        for _ in range(2):
            await house.revoke("job", house.job)
        await house.revoke("agent", "agent-9")
        await until(house, "stale-revocations")
        responder = house.scope("responder")
        await responder.revoke(
            RevocationRequest(kind="all", value="*", reason="incident", until=house.clock() + SECOND)
        )
        await until(house, "revoked")
        await asyncio.sleep(1)
        await house.open()
        await until(house, None)
