"""The settings of `scope`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from service.settings import DAY, FileName, RetentionDays, Settings
from verifier.encoding import Name

HttpsUrl = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,100}(/[A-Za-z0-9._~/-]{0,128})?\Z")]
Text256 = Annotated[str, Meta(min_length=1, max_length=256)]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


class IdentityProvider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider whose word about users is believed; its keys come from a file here, or from its address.

    `claims` are those that enter a grant: the name that policies use, and the provider's. No symmetric algorithm.
    """

    issuer: Text256
    audience: Text256
    algorithms: Annotated[list[Algorithm], Meta(min_length=1, max_length=9)]
    jwks_url: HttpsUrl | None = None
    jwks_file: FileName | None = None
    claims: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=64)] = field(
        default_factory=dict
    )
    max_age_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 600


class ScopeSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tick_milliseconds`: how often expiry, due marks and seals are looked after; a seal waits at most that long.

    `identity_networks` are CIDRs in which an identity provider may lie besides public addresses. `retention_days` is
    how long sealed jobs are kept after they ended; None is for ever. `accept_restored` is the word of a
    `database-restored`: the older database is all there is, and what was open is to end.
    """

    writes_per_minute: Annotated[int, Meta(ge=1, le=10_000_000)] = 600_000
    tick_milliseconds: Annotated[int, Meta(ge=10, le=1000)] = 200
    identity_providers: dict[Name, IdentityProvider] = field(default_factory=dict)
    accept_restored: Annotated[str, Meta(max_length=80)] = ""
    identity_networks: Annotated[list[str], Meta(max_length=64)] = field(default_factory=list)
    retention_days: RetentionDays = None

    @property
    def retention(self) -> int | None:
        """How long jobs are kept, in microseconds."""
        return None if self.retention_days is None else self.retention_days * DAY
