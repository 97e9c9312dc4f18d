"""What `tally doctor` sees without asking anybody: file modes, disk, key list, databases."""

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from controls.commands import app as registry
from receipts.memory import Seen
from service import NAMES, key_list, migrate
from service.doctor import Finding
from service.doctor.databases import database
from service.doctor.files import MOST, disk, modes
from service.doctor.keys import keys
from service.engine import open_engine
from service.initialise import DAY, VALIDITY, Urls
from service.key_list import Installed
from service.newest import Newest
from service.settings import Settings, common
from tests.conftest import START

SERVICES = {Urls().controls, Urls().scope, Urls().receipts}


def short(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(each.level, Path(each.subject).name if "/" in each.subject else each.subject, each.says) for each in found]


def test_a_new_installation_has_nothing_loose_and_no_key_that_ends(installation: Path) -> None:
    assert modes(installation, os.geteuid()) == []
    assert keys(installation, SERVICES, START) == []
    assert keys(installation, SERVICES, START + VALIDITY - 31 * DAY) == []


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("", 0o750, ("failure", "entered", "chmod 700")),
        ("scope", 0o755, ("failure", "entered", "chmod 700")),
        ("scope/seal.key", 0o640, ("failure", "read", "make a new key")),
        ("receipts/client.key", 0o604, ("failure", "read", "make a new key")),
        ("scope/settings.toml", 0o644, ("warning", "read", "chmod 600")),
        ("scope/clients.toml", 0o620, ("failure", "written", "chmod 600")),
        ("keys.json", 0o666, ("failure", "written", "chmod 600")),
        ("pin.json", 0o644, None),
    ],
)
def test_what_others_can_open_is_found(
    installation: Path, path: str, mode: int, expected: tuple[str, str, str] | None
) -> None:
    (installation / path).chmod(mode)
    found = modes(installation, os.geteuid())
    assert [each.subject for each in found] == ([str(installation / path)] if expected else [])
    for each in found:
        assert expected is not None
        assert (each.level, expected[1] in each.says, expected[2] in each.do) == (expected[0], True, True)


def test_links_are_not_followed_and_a_long_list_is_cut(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("open")
    (installation / "scope/link").symlink_to(tmp_path / "elsewhere")
    (installation / "link").symlink_to(tmp_path)
    assert modes(installation, os.geteuid()) == []
    for number in range(MOST + 3):
        (installation / f"loose-{number}").write_text("x")
        (installation / f"loose-{number}").chmod(0o644)
    found = modes(installation, os.geteuid())
    assert (len(found), found[-1].says) == (MOST + 1, "and 3 more")


def test_what_belongs_to_another_user_is_found(installation: Path) -> None:
    ours, theirs = os.geteuid(), os.geteuid() + 1
    says = f"belongs to user {ours}, the installation to {theirs}"
    found = short(modes(installation, theirs))
    assert ("failure", "installation", says) in found
    assert {each[2] for each in found[:MOST]} == {says}


def test_a_disk_with_little_room_is_found_once(installation: Path) -> None:
    there = os.statvfs(installation)
    free = there.f_bavail * there.f_frsize
    places = [installation, installation / "scope"]
    assert disk(places, 1) == []
    for times, level in ((4, "warning"), (16, "failure")):
        (found,) = disk(places, free * times)
        assert (found.level, found.subject) == (level, str(installation))
        assert "MiB are free" in found.says


def test_keys_that_end_soon_are_found_until_the_next_one_is_listed(installation: Path) -> None:
    at = START + VALIDITY - 20 * DAY
    found = keys(installation, SERVICES, at)
    assert {each.level for each in found} == {"warning"}
    assert [each.subject for each in found if "no next" not in each.says] == ["keys.json"]
    ending = {each.subject for each in found} - {"keys.json"}
    assert ending == {
        *(f"{use} of {Urls().scope}" for use in ("grant", "revocation", "seal", "token")),
        f"gateway of {Urls().receipts}", f"registry of {Urls().controls}", "policy of example.author",
        "registry of example.registrar",
    }  # fmt: skip
    (kid,) = [key.kid for key in Installed.read(installation).listed.keys if key.use == "seal"]
    assert any(f"tally keys rotate {kid[:8]}" in each.do for each in found)
    out = installation / "scope/next-seal.key"
    done = CliRunner().invoke(
        registry, ["keys", "rotate", kid, "-o", str(out), "--days", "800", "--dir", str(installation)]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    later = {each.subject for each in keys(installation, SERVICES, at)}
    assert ending - later == {f"seal of {Urls().scope}"}


def test_a_service_without_a_good_key_and_an_expired_list_are_failures(installation: Path) -> None:
    found = keys(installation, SERVICES, START + VALIDITY + DAY)
    assert {each.level for each in found} == {"failure"}
    assert {each.subject.rpartition(" ")[2] for each in found} == {"keys.json", *SERVICES}  # people may have retired
    listed = Installed.read(installation).listed
    (key,) = [key for key in listed.keys if key.use == "revocation"]
    key_list.propose(Installed.read(installation), key_list.revoked(listed, key, START, "compromise"), START + 1)
    assert short(keys(installation, SERVICES, START)) == [
        ("warning", "keys.next.json", "a change of the key list waits for signatures")
    ]
    done = CliRunner().invoke(registry, ["keys", "sign", "--dir", str(installation)])
    assert done.exit_code == 0, (done.output, done.exception)
    (one,) = keys(installation, SERVICES, START)
    assert (one.level, one.subject, one.says) == ("failure", f"revocation of {Urls().scope}", "no key is good now")


def test_another_key_list_in_a_service_and_one_that_cannot_be_read_are_found(installation: Path) -> None:
    (installation / "scope/keys.json").write_bytes(b"{}")
    (installation / "receipts/keys.json").unlink()
    says = "is not the installation's key list"
    assert [(each.level, each.subject, each.says) for each in keys(installation, SERVICES, START)] == [
        ("failure", "scope/keys.json", says), ("failure", "receipts/keys.json", says),
    ]  # fmt: skip
    (installation / "keys.json").write_bytes(b"{}")
    (found,) = keys(installation, SERVICES, START)
    assert (found.level, found.subject) == ("failure", "keys.json")
    (installation / "keys.json").unlink()
    assert "no-keys" in keys(installation, SERVICES, START)[0].says


def settings(installation: Path, url: str) -> Settings:
    """Read scope's settings, with a database on the engine that a URL names."""
    given = {} if url.startswith("sqlite") else {"TALLY_SCOPE_DATABASE": url.replace("+asyncpg", "")}
    return common("scope", installation / "scope/settings.toml", given)


@pytest.mark.anyio
async def test_a_database_is_held_against_the_newest_migration(installation: Path, database_url: str) -> None:
    there = settings(installation, database_url)
    (missing,) = await database(there)
    assert "tally run scope" in missing.do
    for revision, words in (("0003", "at 0003"), ("head", "")):
        await asyncio.to_thread(migrate.upgrade, "scope", there.engine_url, revision)
        assert [(each.level, words in each.says) for each in await database(there)] == [("failure", True)][: len(words)]
    engine = open_engine(there.engine_url)
    async with engine.begin() as db:
        await db.execute(text("UPDATE scope_version SET version_num = '9999'"))
    await engine.dispose()
    (newer,) = await database(there)
    assert (newer.level, "newer than this program" in newer.says) == ("failure", True)


@pytest.mark.anyio
async def test_a_database_that_cannot_be_read_is_found_and_not_changed(installation: Path) -> None:
    path = installation / "scope/scope.db"
    path.write_bytes(b"no database" * 1000)
    (found,) = await database(settings(installation, "sqlite"))
    assert (found.level, "cannot be read" in found.says) == ("failure", True)
    assert path.read_bytes() == b"no database" * 1000
    nobody = common(
        "scope", installation / "scope/settings.toml", {"TALLY_SCOPE_DATABASE": "postgresql://x@127.0.0.1:9/x"}
    )
    (found,) = await database(nobody)
    assert (found.level, "cannot be read" in found.says) == ("failure", True)


def test_looking_at_a_database_leaves_no_trace(installation: Path) -> None:
    there = settings(installation, "sqlite")
    with sqlite3.connect(there.directory / "scope.db") as db:
        db.execute("CREATE TABLE scope_version (version_num TEXT)")
    before = {path: path.stat().st_mtime_ns for path in installation.rglob("*")}
    for name in NAMES:
        asyncio.run(database(common(name, installation / name / "settings.toml", {})))
    assert {path: path.stat().st_mtime_ns for path in installation.rglob("*")} == before


def test_files_that_come_and_go_meanwhile_end_no_check(installation: Path) -> None:
    over = threading.Event()

    def remember() -> None:
        newest = Newest(installation / "scope", Seen)
        while not over.is_set():
            newest.known = None
            newest.remember(Seen(1, 1))

    writing = threading.Thread(target=remember)
    writing.start()
    try:
        assert [modes(installation, os.geteuid()) for _ in range(100)] == [[]] * 100
    finally:
        over.set()
        writing.join()


async def test_an_address_of_a_database_that_is_none_is_found_and_not_told(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_SCOPE_DATABASE", "postgresql://user:secret@127.0.0.1:port/tally")
    [found] = await database(common("scope", installation / "scope/settings.toml", os.environ))
    assert (found.level, "cannot be read" in found.says, "secret" in str(found)) == ("failure", True, False)
