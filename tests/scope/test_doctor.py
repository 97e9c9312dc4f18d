"""`tally doctor` asks what runs: is it ready, do clocks agree, does the feed beat, what is not sealed?"""

import asyncio
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from controls.commands import app as registry
from scope import feed
from scope.commands import app
from scope.commands.checks import ask_scope
from scope.commands.doctor import FAILED, WARNED, examine
from service.doctor import Finding
from tests.conftest import START
from tests.scope.conftest import SECOND, Town
from tests.scope.test_unsealed import stuck

# What no test here runs: the gateway. Nor does a `Date` header know of a clock that stands.
GATEWAY = {("ready", "receipts"), ("database", "receipts")}


@pytest.fixture(autouse=True)
def private() -> Generator[None, None, None]:
    """Make databases that nobody else can read, as `tally run` does."""
    before = os.umask(0o077)
    yield
    os.umask(before)


async def examined(town: Town, ahead: int = 0, client: Path | None = None) -> list[Finding]:
    """Examine the town by a clock that is so many seconds ahead of its own; gives what is no matter of the town."""
    found = await examine(town.installation, client, 1, lambda: town.clock() + ahead * SECOND)
    return [each for each in found if (each.check, each.subject) not in GATEWAY and "`Date:" not in each.says]


async def test_where_all_is_well_nothing_is_found(town: Town) -> None:
    await town.lane(await town.open())
    assert await examined(town) == []


@pytest.mark.parametrize(
    ("ahead", "levels", "words"),
    [(3, [], ""), (4, ["warning"], "4 s behind"), (-4, ["warning"], "4 s ahead"), (-30, ["failure"], "30 s ahead")],
)
async def test_a_clock_that_is_apart_is_found_by_the_heartbeat(
    town: Town, ahead: int, levels: list[str], words: str
) -> None:
    town.pass_seconds(60)  # keys are good by every clock
    found = await examined(town, ahead)
    assert [(each.level, each.check, words in each.says) for each in found] == [
        (each, "clock", True) for each in levels
    ]


async def test_a_service_says_itself_why_it_is_not_ready(town: Town) -> None:
    await town.open()
    town.pass_seconds(-3600)
    found = await examined(town, 3600)
    assert {each.check for each in found} == {"ready", "feed", "unsealed"}
    for each in found:
        assert (each.level, each.subject, "3600 s behind" in each.says) == ("failure", "scope", True)
        assert "Set the clock right" in each.do


async def test_a_feed_without_a_heartbeat_is_found(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "EVERY", 60.0)
    town.authority.feed.wake()
    await asyncio.sleep(0.2)
    (found,) = await examined(town)
    assert (found.check, found.level) == ("feed", "failure")
    assert "feed ends" in found.says


async def test_a_heartbeat_that_somebody_kept_is_found(town: Town) -> None:
    own = {"Authorization": f"Bearer {town.credential('auditor')}"}
    async with town.session.get(f"{town.url}/revocations/snapshot", headers=own) as answer:
        kept = await answer.read()
    town.pass_seconds(60)

    async def replay(request: web.Request) -> web.Response:
        if request.path == "/revocations/snapshot":
            return web.Response(body=kept)
        if request.path == "/revocations/stream":
            return web.Response(body=b"")
        return web.json_response({"code": "not-found"}, status=404)

    proxy = web.AppRunner(web.Application())
    proxy.app.router.add_get("/{path:.*}", replay)
    await proxy.setup()
    site = web.TCPSite(proxy, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{proxy.addresses[0][1]}"
    try:
        found = await ask_scope(town.session, town.installation, None, url, town.clock)
    finally:
        await proxy.cleanup()
    said = [(each.check, each.says) for each in found]
    assert ("feed", "gives a heartbeat that is 60 s old") in said
    assert ("feed", "ends its feed without a heartbeat") in said


async def test_what_is_not_sealed_in_time_is_found(town: Town) -> None:
    jobs = [(await town.open()).job for _ in range(2)]
    await stuck(town, jobs[0], jobs[1], START)
    lane = await town.lane(await town.open())
    await town.scope("receipts").report_heads([])
    town.pass_seconds(61)
    late, silent = await examined(town)
    assert (late.check, late.level, late.subject) == ("unsealed", "failure", jobs[0])
    assert late.says == "has been closing for 61 s (complete), without a seal"
    assert (silent.check, silent.level, silent.subject) == ("unsealed", "failure", town.urls.receipts)
    assert silent.says == "has 1 open lanes and has not reported for 61 s"
    lane.open()
    await lane.report()
    assert await examined(town) == [late]


async def test_an_older_key_list_than_the_installations_is_found(town: Town) -> None:
    (kid,) = [key.kid for key in town.trust.listed.keys if key.use == "policy"]
    line = ["keys", "revoke", kid, "--reason", "retired", "--yes", "--dir", str(town.installation)]
    done = await asyncio.to_thread(CliRunner().invoke, registry, line)
    assert done.exit_code == 0, (done.output, done.exception)
    (found,) = await examined(town)
    assert (found.check, found.level, found.subject) == ("keys", "warning", "scope")
    assert found.says == "works with key list version 1, the installation has 2"


async def test_without_a_clients_key_or_the_right_to_ask_that_is_said(town: Town, tmp_path: Path) -> None:
    (found,) = await examined(town, client=tmp_path)
    assert (found.check, found.level, "--client" in found.do) == ("feed", "warning", True)
    found, *more = await examined(town, client=town.installation / "orchestrator")
    assert [(each.check, "forbidden" in each.says) for each in (found, *more)] == [("feed", True), ("unsealed", True)]
    assert await examined(town, client=town.installation / "responder") == []
    (town.installation / "auditor/client.key").chmod(0o644)
    found = next(each for each in await examined(town) if each.check == "feed")
    assert "loose-mode" in found.says


async def tally(*words: object) -> Any:
    """Run the command; gives its result."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["doctor", *map(str, words)])


async def test_the_command_prints_a_line_a_finding_and_its_status_tells_warnings_from_failures(
    today: Town, tmp_path: Path
) -> None:
    failed = await tally(today.installation, "--free", 1)
    assert failed.exit_code == FAILED
    first, *_, last = failed.stdout.splitlines()
    assert first.startswith(f"FAIL  ready     receipts does not answer at {today.urls.receipts}/readyz")
    assert "Start it (tally run receipts)" in first
    assert last == "9 checks: 1 failures, 1 warnings"
    assert "\x1b" not in failed.stdout
    said = json.loads((await tally(today.installation, "--free", 1, "--json")).stdout)
    assert (said["failures"], said["warnings"], len(said["findings"])) == (1, 1, 2)
    for name in ("receipts", "controls"):
        (today.installation / name).rename(tmp_path / name)  # they run elsewhere
    assert (await tally(today.installation, "--free", 1)).stdout == "9 checks: all well\n"
    (today.installation / "scope/settings.toml").chmod(0o640)
    warned = await tally(today.installation, "--free", 1)
    assert (warned.exit_code, warned.stdout[:11]) == (WARNED, "WARN  modes")
    (today.installation / "scope/settings.toml").write_text("colour = 'green'")
    assert "FAIL  settings  scope bad-settings: " in (await tally(today.installation)).stdout


async def test_what_is_no_installation_is_said(tmp_path: Path) -> None:
    assert (await tally(tmp_path / "none")).exception.code == "usage"
    empty = await tally(tmp_path, "--free", 1)
    assert (empty.exit_code, "has no service in it" in empty.stdout) == (FAILED, True)
