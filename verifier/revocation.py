"""Revocations and the heartbeat that says how many there are (specs/revocation.md). Both carry Ed25519 alone."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import Count, SafeText, Text, Time, Url, read
from verifier.grant import Scope
from verifier.refused import Refused

TargetKind = Literal["jti", "job", "agent", "client", "policy", "server", "tool", "model", "all"]
TargetValue = Annotated[str, Meta(pattern=r"^([A-Za-z0-9_.:/-]{1,128}|\*)\Z")]
# A revocation of these ends whole grants; of the others, single tokens or targets.
OF_GRANT = frozenset({"job", "agent", "client", "policy", "all"})


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """What is revoked: a tool is `server/name`, a model `provider/name`, everything is `all` with value `*`."""

    kind: TargetKind
    value: TargetValue


class Revocation(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One revocation. Sequences have no gaps, so a reader knows whether it has seen all."""

    iss: Url
    sequence: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    time: Time
    target: Target
    reason: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
    actor: SafeText
    ticket: SafeText | None = None
    note: Text | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "Revocation":
        """Read a revocation from canonical bytes."""
        revocation = read(payload, cls, limit=1 << 12)
        if (revocation.target.kind == "all") != (revocation.target.value == "*"):
            raise Refused("bad-value", "everything is kind all, value *", field="target")
        return revocation

    def ends(self, scope: Scope) -> bool:
        """Tell whether the whole grant with this scope is revoked."""
        return named(scope).get(self.target.kind) == self.target.value

    def touches(self, scope: Scope, jtis: frozenset[str]) -> bool:
        """Tell whether it can concern a call under this scope with one of these tokens."""
        return (
            self.ends(scope)
            or self.target.kind in {"server", "tool", "model"}
            or (self.target.kind == "jti" and self.target.value in jtis)
        )


def named(scope: Scope) -> dict[str, str]:
    """Name what ends all grants with this scope, by kind (`OF_GRANT`)."""
    return {"job": scope.job, "agent": scope.agent, "client": scope.client, "policy": scope.policy, "all": "*"}


class Heartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proof of freshness: at `time`, `sequence` was the last revocation."""

    iss: Url
    sequence: Count
    time: Time

    @classmethod
    def parse(cls, payload: bytes) -> "Heartbeat":
        """Read a heartbeat from canonical bytes."""
        return read(payload, cls, limit=1 << 12)
