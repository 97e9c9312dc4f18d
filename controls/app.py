"""The registry's application: where its clock, keys, engine and settings enter."""

import os
from pathlib import Path
from typing import TypeVar

from litestar import Litestar
from litestar.di import Provide

from controls.publish import Registry
from controls.routes import ROUTES
from service import keystore
from service.app import build, now
from service.clients import Clients, Clock
from service.engine import open_engine
from service.settings import Settings, load
from verifier.keys import Pin, Trust
from verifier.refused import Refused

STATUSES = {
    "unknown-policy": 404,
    "unknown-server": 404,
    "unknown-manifest": 404,
    "no-manifest": 404,
    "stale-serial": 409,
    "wrong-supersedes": 409,
    "server-not-active": 409,
}


def create(settings_path: Path, *, clock: Clock = now) -> Litestar:
    """Build the registry from the directory that its settings lie in."""
    settings = load(Settings, "controls", settings_path, os.environ)
    registry = read_registry(settings)
    registry.trust.good_at(registry.trust.by_kid[registry.key.kid], clock())
    return build(
        settings,
        ROUTES,
        engine=open_engine(settings.engine_url),
        clients=Clients.load(settings.directory / "clients.toml", settings.issuer, clock),
        dependencies={"registry": _given(registry), "now": Provide(clock, sync_to_thread=False)},
        statuses=STATUSES,
    )


def read_registry(settings: Settings) -> Registry:
    """Read the registry's key and key list; a key that the list does not name as its own would sign in vain."""
    directory = settings.directory
    key_list = (directory / "keys.json").read_bytes()
    trust = Trust.establish(Pin.parse((directory / "pin.json").read_bytes()), key_list)
    key = keystore.load(directory / "registry.key", "registry")
    listed = trust.by_kid.get(key.kid)
    if listed is None or (listed.use, listed.owner) != ("registry", settings.issuer):
        raise Refused("bad-settings", f"the key list names registry.key as no registry key of {settings.issuer}")
    return Registry(settings.issuer, key, trust, key_list)


V = TypeVar("V")


def _given(value: V) -> Provide:
    """Give every request the same value."""
    return Provide(lambda: value, sync_to_thread=False)
