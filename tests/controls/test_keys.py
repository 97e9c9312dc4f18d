"""The road of who holds the roots: keys are added, rotated, revoked, and what they touched is found."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controls.client import ControlsClient
from controls.commands import app
from service import keystore
from service.app import now
from service.initialise import DAY, Plan, initialise
from service.key_list import Installed
from tests.conftest import seeded
from tests.controls.conftest import World
from verifier.draft import build
from verifier.encoding import canonical
from verifier.envelope import Envelope
from verifier.refused import Refused


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation of today."""
    initialise(tmp_path / "home", Plan(), now(), seeded("keys"))
    return tmp_path / "home"


def keys(home: Path, *words: object, code: str = "") -> dict[str, object]:
    """Run `tally keys`; gives the JSON that it prints."""
    where = [] if words[0] == "touched" else ["--dir", str(home)]
    result = CliRunner().invoke(app, ["keys", *map(str, words), *where, "--json"])
    if code:
        assert isinstance(result.exception, Refused), result.output
        assert result.exception.code == code
        return {}
    assert result.exit_code == 0, (result.output, result.exception)
    said: dict[str, object] = json.loads(result.stdout)
    return said


def of(home: Path, use: str) -> str:
    return next(key.kid for key in Installed.read(home).listed.keys if key.use == use)


def test_a_key_is_added_and_signs_what_its_owner_issues(home: Path) -> None:
    said = keys(home, "add", "policy", "--owner", "example.author", "-o", home / "second/policy.key")
    assert said == {"kid": said["kid"], "version": 2, "installed": True, "missing": []}
    assert keystore.load(home / "second/policy.key", "policy").kid == said["kid"]
    assert Installed.read(home).key(str(said["kid"])).owner == "example.author"


def test_the_public_half_of_a_key_made_elsewhere_is_added(home: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["keys", "list", "--dir", str(home)])
    assert made.exit_code == 0
    assert "good until" in made.stdout
    public = keystore.generate("approver", "people.ann", seeded("ann")).pair().public
    said = {"use": "approver", "owner": "people.ann", "kid": public.kid(), "ed25519": public.ed25519}
    (tmp_path / "ann.json").write_text(json.dumps({**said, "ml_dsa_44": public.ml_dsa_44}))
    keys(home, "add", "policy", "--public", tmp_path / "ann.json", code="wrong-use")
    keys(home, "add", "approver", "--owner", "people.bob", "--public", tmp_path / "ann.json", code="wrong-use")
    assert keys(home, "add", "approver", "--public", tmp_path / "ann.json")["kid"] == public.kid()
    keys(home, "add", "approver", "--public", tmp_path / "ann.json", code="key-exists")


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "--owner", "me"),
        ("auditor", "--owner", "me", "-o", "key"),
        ("policy", "-o", "key"),
        ("nothing", "--owner", "me", "-o", "key"),
    ],
)
def test_a_key_without_use_owner_or_place_is_refused_and_nothing_is_made(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys(home, "add", *words, code="usage")
    assert not (tmp_path / "key").exists()
    assert not (home / "keys.next.json").exists()


def test_an_existing_key_is_never_overwritten(home: Path) -> None:
    path = home / "author/policy.key"
    before = path.read_bytes()
    keys(home, "add", "policy", "--owner", "example.author", "-o", path, code="file-exists")
    assert path.read_bytes() == before
    assert Installed.read(home).listed.version == 1


def test_a_rotated_key_has_a_successor_and_an_overlap(home: Path) -> None:
    old = of(home, "token")
    said = keys(home, "rotate", old[:8], "-o", home / "scope/token.key.new", "--overlap-days", 2)
    installed = Installed.read(home)
    assert (said["old"], installed.key(str(said["kid"])).use) == (old, "token")
    assert installed.key(old).not_after == said["ends"] < now() + 3 * DAY
    listed = keys(home, "list")
    statuses = {each["kid"]: each["status"] for each in listed["keys"]}  # type: ignore[attr-defined]
    assert statuses[old].startswith("ends ")
    assert statuses[said["kid"]].startswith("good until ")


def test_a_key_is_revoked_only_when_somebody_says_yes(home: Path) -> None:
    kid = of(home, "gateway")
    keys(home, "revoke", kid, "--reason", "compromise", code="usage")
    keys(home, "revoke", kid, "--reason", "because", "--yes", code="usage")
    keys(home, "revoke", "0" * 32, "--reason", "compromise", "--yes", code="unknown-key")
    assert Installed.read(home).listed.version == 1
    keys(home, "revoke", kid, "--reason", "compromise", "--yes")
    assert Installed.read(home).key(kid).reason == "compromise"
    shown = CliRunner().invoke(app, ["keys", "list", "--dir", str(home)]).stdout
    assert "compromise" in shown


def test_a_root_that_is_elsewhere_signs_later(home: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    (home / "root").rename(away)
    said = keys(home, "quorum", "example.author", 1)
    assert (said["installed"], said["missing"]) == (False, ["example"])
    keys(home, "quorum", "example.author", 1, code="change-under-way")
    assert keys(home, "sign", "--root", away / "root.key")["installed"] is True
    assert Installed.read(home).listed.author_quorum == {"example.author": 1}
    keys(home, "quorum", "example.author", 1)
    assert keys(home, "drop") == {"dropped": True}
    keys(home, "drop", code="no-change")


def test_two_authors_sign_one_policy_and_are_told_what_is_missing(home: Path, tmp_path: Path) -> None:
    second = home / "second/policy.key"
    keys(home, "add", "policy", "--owner", "example.author", "-o", second)
    keys(home, "quorum", "example.author", 2)
    built, signed = tmp_path / "built.json", tmp_path / "signed.json"
    built.write_bytes(canonical(build({"policy_name": "p"}, issuer="example.author", now=now())))
    for number, (source, key) in enumerate(((built, home / "author/policy.key"), (signed, second)), start=1):
        words = ["policy", "sign", str(source), "--key", str(key), "-o", str(signed), "--dir", str(home), "--json"]
        said = json.loads(CliRunner().invoke(app, words).stdout)
        assert (said["signatures"], said["needed"]) == (number, 2)
    installed = Installed.read(home)
    assert len(installed.trust.open(signed.read_bytes(), "policy").kids) == 2
    assert Envelope.parse(signed.read_bytes(), "policy").content() == built.read_bytes()


async def test_what_a_key_touched_is_found_by_author_and_by_registry(world: World) -> None:
    await world.publish(world.policy())
    await world.publish(world.policy(policy_name="other"))
    registry = world.trust
    client = ControlsClient(world.session, world.url, registry, lambda: world.token("auditor"))
    registry_key = keystore.load(world.installation / "controls/registry.key", "registry")
    for kid in (world.author.kid, registry_key.kid):
        assert [each.name async for each in client.history(kid=kid)] == ["other", "crm-read"]
    by_author = [each.name async for each in client.history(kid=world.author.kid, name="other")]
    assert by_author == ["other"]
    assert [each async for each in client.history(kid=world.registrar.kid)] == []
    assert (await world.ask("GET", "/policies?kid=xyz", "auditor")).status == 400
