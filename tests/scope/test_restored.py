"""A database that was restored from an older backup is noticed, nothing goes on by itself, and accepting it is safe."""

import asyncio
import errno
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import scope.app
from scope.client import RevocationRequest
from scope.restored import Seen
from service.newest import Newest
from tests import postgres
from tests.scope.conftest import Town, refusal
from verifier.documents import open_heartbeat, open_revocation
from verifier.refused import Refused

AGENT = RevocationRequest(kind="agent", value="agent-2", reason="incident")


async def back_up(town: Town) -> None:
    """Stop scope, copy its database, and start it again."""
    await town.stop()
    if town.database_url.startswith("postgresql"):
        await postgres.back_up(town.database_url.replace("postgresql+asyncpg://", "postgresql://"))
    else:
        live = town.installation / "scope/scope.db"
        shutil.copy(live, live.with_suffix(".backup"))
    await town.restart()


async def put_back(town: Town) -> None:
    """Stop scope, and put the copy in its database's place."""
    await town.stop()
    if town.database_url.startswith("postgresql"):
        await postgres.put_back(town.database_url.replace("postgresql+asyncpg://", "postgresql://"))
    else:
        live = town.installation / "scope/scope.db"
        for each in live.parent.glob("scope.db-*"):
            each.unlink()
        shutil.copy(live.with_suffix(".backup"), live)


async def look(town: Town) -> None:
    """Do what a turn of the timer does first."""
    await town.memory.look(town.authority)


async def start(town: Town) -> None:
    """Start scope as far as it goes; raises what stopped it."""
    app = scope.app.create(town.installation / "scope/settings.toml", clock=town.clock, random=town.random)
    try:
        async with app.lifespan():
            pass
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


async def lost(town: Town) -> str:
    """Give the word that the refusal of a start names."""
    with pytest.raises(Refused) as refused:
        await start(town)
    assert refused.value.code == "database-restored"
    known = Newest(town.installation / "scope", Seen).known
    assert known is not None
    assert known.hash in refused.value.hint
    return known.hash


async def test_an_older_database_serves_nothing(town: Town) -> None:
    await town.open()
    await look(town)
    await back_up(town)
    await town.open()
    await look(town)
    await put_back(town)
    await lost(town)
    await lost(town)  # and it stays so
    assert (town.installation / "scope/newest.json").stat().st_mode & 0o777 == 0o600


async def test_accepting_it_ends_what_was_open_and_takes_no_number_twice(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await town.open()
    await look(town)
    await back_up(town)
    after = await town.open()
    for number in range(3):
        await town.scope("responder").revoke(msgspec.structs.replace(AGENT, value=f"agent-{number + 2}"))
    await look(town)
    await put_back(town)
    word = await lost(town)
    monkeypatch.setenv("TALLY_SCOPE_ACCEPT_RESTORED", "sha256:" + "0" * 64)
    assert await lost(town) == word  # the word is that of another loss
    monkeypatch.setenv("TALLY_SCOPE_ACCEPT_RESTORED", word)
    await town.restart()
    heartbeat, revocations = await town.scope("receipts").snapshot(3)
    assert open_heartbeat(town.trust, heartbeat).value.sequence == 4
    assert [open_revocation(town.trust, each).value.name for each in revocations] == [("all", "*")]
    assert len((await town.scope("receipts").snapshot(0))[1]) == 4
    assert await refusal(town.scope().token(before.job)) == "job-not-open"
    assert await refusal(town.scope().status(after.job)) == "unknown-job"
    assert await refusal(town.open()) == "revoked"  # for a second
    town.pass_seconds(2)
    await town.open()
    await town.advance(6)
    assert (await town.sealed(before.job)).value.status in {"revoked", "interrupted"}
    _, _, record = await town.ask("GET", "/audit?limit=100", "auditor")
    [entry] = [each["entry"] for each in record["items"] if each["entry"]["act"] == "database-restored"]
    assert entry["digest"] == word
    await look(town)


async def test_one_that_is_put_in_place_under_a_running_scope_stops_it(town: Town) -> None:
    job = await town.open()
    stream = town.scope("receipts").follow(0)
    await anext(stream)
    await look(town)
    known = Newest(town.installation / "scope", Seen).known
    assert known is not None
    town.memory._newest.known = msgspec.structs.replace(known, position=known.position + 1)
    assert await refusal(look(town)) == "database-restored"
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(drain(stream), 5)
    for path in ("/jwks.json", "/keys", f"/jobs/{job.job}"):
        status, _, body = await town.ask("GET", path, "orchestrator")
        assert (status, body["code"]) == (503, "database-restored")
    assert await refusal(town.scope().token(job.job)) == "database-restored"
    status, _, body = await town.ask("GET", "/readyz")
    assert (status, body["code"]) == (503, "not-ready")
    assert "older than this service remembers" in body["detail"]
    assert "newest backup" in body["hint"]
    assert (await town.ask("GET", "/livez"))[0] == 200


async def test_a_file_that_is_put_in_place_of_an_open_one_stops_it_too(town: Town) -> None:
    live = town.installation / "scope/scope.db"
    await town.open()
    await look(town)
    if town.database_url.startswith("postgresql"):
        return
    shutil.copy(live, live.with_suffix(".backup"))
    live.with_suffix(".backup").replace(live)  # the process goes on in a file that nobody finds again
    assert await refusal(look(town)) == "database-restored"
    assert await refusal(town.open()) == "database-restored"


async def drain(stream: Any) -> None:
    """Read a feed to its end."""
    while True:
        await anext(stream)


async def test_a_file_that_cannot_be_written_lags_behind_and_stops_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await look(town)
    before = Newest(town.installation / "scope", Seen).known
    await town.open()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        await look(town)
        await look(town)
    assert Newest(town.installation / "scope", Seen).known == before
    await look(town)
    assert Newest(town.installation / "scope", Seen).known != before


@pytest.mark.parametrize("raw", [b"", b"{", b'{"position":1,"hash":"\xff","sequence":1}'])
async def test_a_file_that_cannot_be_read_stops_the_start(town: Town, raw: bytes) -> None:
    (town.installation / "scope/newest.json").write_bytes(raw)
    with pytest.raises(Refused) as refused:
        await start(town)
    assert refused.value.code == "bad-newest"
