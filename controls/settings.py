"""What the registry is told beyond what every service is told."""

from typing import Annotated

from msgspec import Meta, field

from service.settings import Settings


class ControlsSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The registry's settings.

    `upstream_networks` are CIDRs in which servers may be scanned besides public addresses.
    """

    upstream_networks: Annotated[list[str], Meta(max_length=64)] = field(default_factory=list)
