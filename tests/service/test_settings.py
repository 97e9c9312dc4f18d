"""A service starts with the settings that somebody chose, or not at all."""

from pathlib import Path

import pytest

from service.settings import Settings, common, load
from verifier.refused import Refused


class Example(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a service with fields of its own."""

    seconds: int
    networks: tuple[str, ...] = ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    urls = "".join(f'{each}_url = "http://127.0.0.1:1"\n' for each in ("controls", "scope", "receipts"))
    file.write_text(f'issuer = "http://127.0.0.1:8701"\nlisten = "127.0.0.1:8701"\nseconds = 5\n{urls}')
    return file


def test_settings_come_from_the_file(path: Path) -> None:
    settings = load(Example, "controls", path, {})
    assert (settings.seconds, settings.address, settings.directory) == (5, ("127.0.0.1", 8701), path.parent)
    assert settings.engine_url == f"sqlite+aiosqlite:///{path.parent}/controls.db"


def test_a_variable_overrides_the_file_and_reaches_one_service_only(path: Path) -> None:
    environment = {
        "TALLY_CONTROLS_SECONDS": "7",
        "TALLY_CONTROLS_NETWORKS": '["10.0.0.0/8"]',
        "TALLY_SCOPE_SECONDS": "9",
    }
    settings = load(Example, "controls", path, environment)
    assert (settings.seconds, settings.networks) == (7, ("10.0.0.0/8",))


def test_a_postgresql_url_becomes_the_asynchronous_engines(path: Path) -> None:
    settings = load(Example, "controls", path, {"TALLY_CONTROLS_DATABASE": "postgresql://me@127.0.0.1/tally"})
    assert settings.engine_url == "postgresql+asyncpg://me@127.0.0.1/tally"


@pytest.mark.parametrize(
    ("variable", "value", "names"),
    [
        ("TALLY_CONTROLS_COLOUR", "green", "colour"),
        ("TALLY_CONTROLS_SECONDS", "soon", "seconds"),
        ("TALLY_CONTROLS_DIRECTORY", "/", "directory"),
        ("TALLY_CONTROLS_NETWORKS", "[1,", "TALLY_CONTROLS_NETWORKS"),
        ("TALLY_CONTROLS_DATABASE", "mysql://x", "database"),
        ("TALLY_CONTROLS_LISTEN", "0.0.0.0:8701", "TLS"),
        ("TALLY_CONTROLS_LISTEN", "example.org:8701", "TLS"),
        ("TALLY_CONTROLS_LISTEN", "127.0.0.1:99999", "port"),
        ("TALLY_CONTROLS_TLS_KEY", "tls.pem", "tls_certificate"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_sentence(path: Path, variable: str, value: str, names: str) -> None:
    with pytest.raises(Refused) as refused:
        load(Example, "controls", path, {variable: value})
    assert refused.value.code == "bad-settings"
    assert names in refused.value.why


def test_a_missing_setting_stops_the_start(path: Path) -> None:
    path.write_text(path.read_text().replace("seconds = 5\n", ""))
    with pytest.raises(Refused, match="seconds"):
        load(Example, "controls", path, {})


def test_a_missing_or_broken_file_stops_the_start(path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        load(Example, "controls", path.with_name("other.toml"), {})
    path.write_text("issuer = ")
    with pytest.raises(Refused, match="not TOML"):
        load(Example, "controls", path, {})


def test_a_bind_beyond_loopback_is_allowed_with_tls(path: Path) -> None:
    environment = {
        f"TALLY_CONTROLS_{key}": value for key, value in (("TLS_CERTIFICATE", "c.pem"), ("TLS_KEY", "k.pem"))
    }
    assert (
        load(Example, "controls", path, {**environment, "TALLY_CONTROLS_LISTEN": "0.0.0.0:443"}).address[0] == "0.0.0.0"
    )


def test_a_starter_reads_the_common_part_of_any_service(path: Path) -> None:
    assert common("controls", path, {}).issuer == "http://127.0.0.1:8701"
