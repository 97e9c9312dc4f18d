"""An installation: private, complete, and its key list opens with its pin."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import NAMES, keystore
from service.clients import Clients
from service.commands import app
from service.initialise import Plan, initialise
from service.settings import common
from tests.conftest import START, Clock, seeded
from verifier.keys import Pin, Trust
from verifier.refused import Refused


def trust(installation: Path) -> Trust:
    return Trust.establish(
        Pin.parse((installation / "pin.json").read_bytes()), (installation / "keys.json").read_bytes()
    )


def test_every_directory_is_0700_and_every_file_0600(installation: Path) -> None:
    paths = [installation, *installation.rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_file()} == {"0o600"}


def test_the_pin_opens_the_key_list_and_every_listed_key_is_in_one_file(installation: Path) -> None:
    listed = trust(installation).listed
    held = {}
    for path in installation.rglob("*.key"):
        if path.name not in {"client.key", "root.key"}:
            held[keystore.load(path, path.stem).kid] = path.relative_to(installation).as_posix()
    assert {key.kid for key in listed.keys} == set(held)
    owners = {held[key.kid]: key.owner for key in listed.keys}
    assert owners["scope/seal.key"] == "http://127.0.0.1:8702"
    assert owners["receipts/gateway.key"] == "http://127.0.0.1:8703"
    assert owners["author/policy.key"] == "example.author"
    assert listed.version == 1


def test_each_service_gets_the_public_documents_and_no_other_services_key(installation: Path) -> None:
    for name in NAMES:
        for document in ("pin.json", "keys.json"):
            assert (installation / name / document).read_bytes() == (installation / document).read_bytes()
    found = {path.name for name in NAMES for path in (installation / name).glob("*.key")}
    assert found == {
        "client.key",
        "registry.key",
        "grant.key",
        "seal.key",
        "token.key",
        "revocation.key",
        "gateway.key",
    }
    assert [path.name for path in (installation / "receipts").glob("*.key") if path.stem != "client"] == ["gateway.key"]


def test_settings_and_clients_are_what_the_services_read(installation: Path, clock: Clock) -> None:
    for name, port in zip(NAMES, (8701, 8702, 8703), strict=True):
        settings = common(name, installation / name / "settings.toml", {})
        assert (settings.issuer, settings.address) == (f"http://127.0.0.1:{port}", ("127.0.0.1", port))
        Clients.load(settings.directory / "clients.toml", settings.issuer, clock)
    assert 'upstream_networks = ["127.0.0.0/8"]' in (installation / "receipts/settings.toml").read_text()


def test_keys_are_never_replaced(installation: Path) -> None:
    before = {path: path.read_bytes() for path in installation.rglob("*.key")}
    with pytest.raises(Refused) as refused:
        initialise(installation, Plan(), START, seeded("other"))
    assert refused.value.code == "not-empty"
    assert {path: path.read_bytes() for path in installation.rglob("*.key")} == before


def test_a_sealed_root_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    initialise(tmp_path / "new", Plan(), START, seeded("sealed"), b"correct horse")
    root = keystore.load(tmp_path / "new/root/root.key", "root", passphrase=b"correct horse")
    assert root.public == trust(tmp_path / "new").listed.roots[0].pair()
    with pytest.raises(Refused, match="passphrase"):
        keystore.load(tmp_path / "new/root/root.key", "root")


def test_init_prints_what_it_made_and_nothing_secret(tmp_path: Path) -> None:
    for number, arguments in enumerate(([], ["--json"])):
        new = tmp_path / str(number)
        done = CliRunner().invoke(app, ["init", str(new), *arguments])
        assert done.exit_code == 0, done.output
        assert "pin.json" in done.output
        for path in new.rglob("*.key"):
            held = json.loads(path.read_bytes())
            assert held["ed25519_seed"] not in done.output
            assert held.get("ml_dsa_44_seed", held["ed25519_seed"]) not in done.output


def test_init_takes_urls_and_a_name(tmp_path: Path) -> None:
    arguments = ["init", str(tmp_path / "new"), "--receipts-url", "https://gateway.example.org", "--owner", "acme"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    settings = common("receipts", tmp_path / "new/receipts/settings.toml", {})
    assert (settings.issuer, settings.listen) == ("https://gateway.example.org", "127.0.0.1:8703")
    assert {key.owner for key in trust(tmp_path / "new").listed.keys if key.use == "policy"} == {"acme.author"}


@pytest.mark.parametrize("option", ["--receipts-url=ftp://x", "--receipts-url=http://x y", "--owner=a b", "--owner="])
def test_init_refuses_a_name_that_documents_could_not_carry(tmp_path: Path, option: str) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new"), option])
    assert isinstance(done.exception, Refused)
    assert done.exception.code == "bad-settings"
    assert not (tmp_path / "new").exists()
