"""What every message between scope and its callers keeps to."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

ToolPart = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}\Z")]
ResourcePart = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/*-]{1,128}\Z")]
State = Literal["open", "closing", "sealed"]
Reason = Literal["complete", "expired", "revoked"]
Code = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]  # why somebody did something
Kid = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer: a newer service may add fields."""


class Request(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request: what a service does not know it must not ignore."""
