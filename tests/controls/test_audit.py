"""The record of the registry: one entry an act, one chain, and nobody changes it."""

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from controls.client import Connection, audit_lines
from service.audit import BEGINNING, Entry, Line, check
from service.engine import open_engine
from tests.conftest import START
from tests.controls.conftest import World, address
from verifier.encoding import canonical
from verifier.refused import Refused


async def record(world: World) -> list[bytes]:
    http = Connection(world.session, world.url, lambda: world.token("auditor"))
    return [line async for line in audit_lines(http)]


def acts(lines: list[bytes]) -> list[tuple[str, str, str]]:
    entries = [msgspec.json.decode(line, type=Line).entry for line in lines]
    return [(each.act, each.actor, each.subject) for each in entries]


async def test_every_act_is_one_entry_and_what_changes_nothing_is_none(world: World) -> None:
    raw = world.policy()
    await world.register()
    await world.approve(world.manifest())
    for _ in range(2):
        await world.publish(raw)
        await world.approve(world.manifest())
        await world.ask("POST", f"/policies/{address(raw)}/withdraw", "author", json={"reason": "too wide"})
    await world.register(status="suspended")
    await world.publish(world.policy(policy_name="other"), at="sha256:" + "0" * 64)
    lines = await record(world)
    assert acts(lines) == [
        ("server-registered", "registrar", "crm-mcp"),
        ("manifest-approved", "registrar", "crm-mcp"),
        ("policy-published", "author", "crm-read"),
        ("policy-withdrawn", "author", "crm-read"),
        ("server-changed", "registrar", "crm-mcp"),
    ]
    published = msgspec.json.decode(lines[2], type=Line).entry
    assert (published.digest, published.time) == (address(raw), world.clock())
    assert msgspec.json.decode(published.details) == {"issuer": "example.author", "serial": 1, "wider": "first"}
    assert check(lines).entries == 5


async def test_the_record_is_for_auditors(world: World) -> None:
    for client in ("author", "registrar", "orchestrator", "scope"):
        assert (await world.ask("GET", "/audit", client)).status == 403
    assert (await world.ask("GET", "/audit")).status == 401


async def test_an_act_of_an_earlier_time_than_the_last_one_is_refused(world: World) -> None:
    await world.register()
    for step, status in ((-3600, 503), (3596, 200), (-2, 503), (7, 200)):
        world.clock.pass_seconds(step)
        answer = await world.register(purpose=f"another one, {step}")
        assert (answer.status, answer.json.get("code")) == (status, "clock-stepped" if status == 503 else None)
    times = [msgspec.json.decode(line, type=Line).entry.time for line in await record(world)]
    assert times == [START, START, START + 1_000_000]


async def test_acts_at_once_make_one_chain(world: World) -> None:
    names = [f"server-{number}" for number in range(12)]
    answers = await asyncio.gather(*(world.register(name) for name in names))
    assert {each.status for each in answers} == {201}
    lines = await record(world)
    assert check(lines).entries == 12
    assert {subject for _, _, subject in acts(lines)} == set(names)


async def test_the_record_comes_in_pages(world: World) -> None:
    for number in range(5):
        await world.register(f"server-{number}")
    seen, path = [], "/audit?limit=2"
    while path:
        page = (await world.ask("GET", path, "auditor")).json
        seen += [each["entry"]["position"] for each in page["items"]]
        path = f"/audit?limit=2&after={page['next']}" if "next" in page else ""
    assert seen == [1, 2, 3, 4, 5]


async def test_no_row_is_changed_deleted_or_emptied_away(world: World, database_url: str) -> None:
    await world.register()
    before = await record(world)
    statements = ["UPDATE audit SET hash = 'x'", "DELETE FROM audit", "UPDATE audit SET position = 7"]
    statements += ["TRUNCATE audit"] if database_url.startswith("postgresql") else []
    engine = open_engine(database_url) if database_url.startswith("postgresql") else sqlite_of(world)
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            async with engine.begin() as db:
                await db.execute(text(statement))
    await engine.dispose()
    assert await record(world) == before


def sqlite_of(world: World) -> Any:
    return open_engine(f"sqlite+aiosqlite:///{world.installation}/controls/controls.db")


def broken(lines: list[bytes], head: str | None = None) -> str:
    with pytest.raises(Refused) as refused:
        check(lines, head=head)
    return f"{refused.value.code}: {refused.value.why}"


async def test_an_export_that_was_tampered_with_is_found_out(world: World) -> None:
    for number in range(4):
        world.clock.pass_seconds(1)
        await world.register(f"server-{number}")
    lines = await record(world)
    head = check(lines).head
    parsed = [msgspec.json.decode(line, type=Line) for line in lines]
    altered = msgspec.structs.replace(parsed[1], entry=msgspec.structs.replace(parsed[1].entry, actor="somebody"))
    rehashed = msgspec.structs.replace(altered, hash=altered.entry.hash())
    assert "entry 2 is not what was hashed" in broken([lines[0], canonical(altered), *lines[2:]])
    assert "entry 3 does not follow" in broken([lines[0], canonical(rehashed), *lines[2:]])
    assert "entry 3 stands at place 2" in broken([lines[0], *lines[2:]])
    assert "stands at place" in broken([lines[1], lines[0], *lines[2:]])
    assert "cut off, or begun again" in broken(lines[:-1], head)
    assert "not-canonical" in broken([lines[0] + b" "])
    assert "line 2" in broken([lines[0], b"{}"])
    assert check(lines[:-1]).entries == 3  # an end that was cut off shows to whoever remembers it, and to nobody else
    assert check([]).head == BEGINNING
    assert check([], head=BEGINNING).entries == 0


def test_time_does_not_run_backwards() -> None:
    one = Entry(position=1, time=5, actor="a", act="policy-published", subject="p", previous=BEGINNING)
    two = Entry(position=2, time=4, actor="a", act="policy-published", subject="p", previous=one.hash())
    assert "older than" in broken([canonical(Line(entry=each, hash=each.hash())) for each in (one, two)])
