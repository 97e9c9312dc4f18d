"""The settings of `scope`."""

from typing import Annotated

from msgspec import Meta

from service.settings import Settings


class ScopeSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tick_milliseconds`: how often expiry, due marks and seals are looked after; a seal waits at most that long."""

    writes_per_minute: Annotated[int, Meta(ge=1, le=10_000_000)] = 600_000
    tick_milliseconds: Annotated[int, Meta(ge=10, le=1000)] = 200
