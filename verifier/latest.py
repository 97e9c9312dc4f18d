"""Which policy of a name is the newest, said by the registry at one moment (specs/policy.md).

A mirror that serves yesterday's policy cannot make this document: its time shows that the mirror is stale.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verifier.encoding import Digest, Name, SafeText, Time, read

MAX_LATEST = 1 << 12


class Latest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest policy of one issuer and name at `time`; `issuer` is the registry that says so."""

    issuer: SafeText
    time: Time
    policy_issuer: SafeText
    policy_name: Name
    policy: Digest
    serial: Annotated[int, Meta(ge=1, le=2**31)]
    withdrawn: bool

    @classmethod
    def parse(cls, payload: bytes) -> "Latest":
        """Read it from canonical bytes. Raises `Refused` with the reading codes."""
        return read(payload, cls, limit=MAX_LATEST)
