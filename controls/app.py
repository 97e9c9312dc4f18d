"""The registry's application: where its clock, keys, engine and settings enter."""

import os
from pathlib import Path

from litestar.di import Provide
from litestar.types import ASGIApp

from controls.publish import Registry
from controls.routes import ROUTES
from controls.serving import in_front_of
from controls.settings import ControlsSettings
from service import keystore
from service.app import build, now
from service.clients import Clients, Clock
from service.engine import open_engine
from service.reach import networks
from service.settings import load
from verifier.keys import Pin, Trust
from verifier.refused import Refused

STATUSES = {
    "unknown-policy": 404,
    "unknown-server": 404,
    "unknown-manifest": 404,
    "unknown-prices": 404,
    "no-manifest": 404,
    "stale-serial": 409,
    "wider-policy": 409,
    "parent-withdrawn": 409,
    "published-meanwhile": 409,
    "wrong-supersedes": 409,
    "server-not-active": 409,
    "scan-failed": 502,
}


def create(settings_path: Path, *, clock: Clock = now) -> ASGIApp:
    """Build the registry from the directory that its settings lie in."""
    settings = load(ControlsSettings, "controls", settings_path, os.environ)
    registry = open_registry(settings, clock)
    site = build(
        settings,
        ROUTES,
        engine=registry.engine,
        clients=Clients.load(settings.directory / "clients.toml", settings.issuer, clock, settings.writes_per_minute),
        dependencies={"registry": Provide(lambda: registry, sync_to_thread=False)},
        statuses=STATUSES,
    )
    return in_front_of(site, registry)


def open_registry(settings: ControlsSettings, clock: Clock) -> Registry:
    """Read the registry's key and key list; a key that the list does not name as its own would sign in vain."""
    key_list = _file(settings, "keys.json")
    trust = Trust.establish(Pin.parse(_file(settings, "pin.json")), key_list)
    key = keystore.load(settings.directory / "registry.key", "registry")
    if key.kid not in trust.by_kid:
        raise Refused("bad-settings", "the key list does not name registry.key")
    trust.signer(frozenset({key.kid}), "registry", settings.issuer, clock())
    networks(settings.upstream_networks)
    engine = open_engine(settings.engine_url)
    return Registry(
        issuer=settings.issuer, key=key, trust=trust, key_list=key_list, engine=engine, clock=clock,
        reachable=tuple(settings.upstream_networks),
    )  # fmt: skip


def _file(settings: ControlsSettings, name: str) -> bytes:
    try:
        return (settings.directory / name).read_bytes()
    except OSError as error:
        raise Refused("bad-settings", f"{name} cannot be read: {error.strerror}") from error
