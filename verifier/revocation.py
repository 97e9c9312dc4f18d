"""Revocations and the heartbeat that says how many there are (specs/revocation.md). Both carry Ed25519 alone."""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import Count, SafeText, Text, Time, Url, read
from verifier.grant import Scope
from verifier.refused import Refused

TargetKind = Literal["jti", "job", "agent", "client", "user", "policy", "server", "tool", "model", "key", "all"]
TargetValue = Annotated[str, Meta(pattern=r"^([A-Za-z0-9_.:/-]{1,128}|\*)\Z")]
Name = tuple[str, str]  # kind and value
# A revocation of these ends whole grants, of OF_CALL calls to what it names; a jti is one token.
OF_GRANT = frozenset({"job", "agent", "client", "user", "policy", "key", "all"})
OF_CALL = frozenset({"server", "tool", "model"})
# What is revoked until a time may be used again afterwards; a job, a token, a key never.
FOR_EVER = frozenset({"job", "jti", "key"})
_kid = re.compile(r"[0-9a-f]{32}").fullmatch


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """What is revoked: a tool is `server/name`, a model `provider/name`, everything is `all` with value `*`.

    A user is the pseudonym of the grant, a key its `kid`.
    """

    kind: TargetKind
    value: TargetValue

    def check(self) -> None:
        """Refuse a value that no target of this kind has. Raises `Refused` bad-value."""
        if (self.kind == "all") != (self.value == "*"):
            raise Refused("bad-value", "everything is kind all, value *", field="target")
        if self.kind == "user" and not self.value.startswith("user-"):
            raise Refused("bad-value", "a user is named by the pseudonym of its grants", field="target.kind")
        if self.kind == "key" and not _kid(self.value):
            raise Refused("bad-value", "a key is named by its kid", field="target.kind")


class Revocation(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One revocation. Sequences have no gaps, so a reader knows whether it has seen all.

    With `until` what is revoked may be used again from that time on; grants that it ended stay ended.
    """

    iss: Url
    sequence: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    time: Time
    target: Target
    reason: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
    actor: SafeText
    ticket: SafeText | None = None
    note: Text | None = None
    until: Time | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "Revocation":
        """Read a revocation from canonical bytes."""
        revocation = read(payload, cls, limit=1 << 12)
        revocation.target.check()
        if revocation.until is not None:
            if revocation.target.kind in FOR_EVER:
                raise Refused("bad-value", f"a {revocation.target.kind} is revoked for ever", field="until")
            if revocation.until <= revocation.time:
                raise Refused("bad-value", "a revocation ends after it was made", field="until")
        return revocation

    @property
    def name(self) -> Name:
        """What is revoked, as `named` says it."""
        return self.target.kind, self.target.value

    def touches(self, names: AbstractSet[Name]) -> bool:
        """Tell whether it can concern a call: `names` are those of its grants, tokens and keys."""
        return self.target.kind in OF_CALL or self.name in names


def named(scope: Scope, kids: Iterable[str] = (), ancestors: Iterable[str] = ()) -> set[Name]:
    """Name what ends a grant with this scope (`OF_GRANT`): `kids` signed it, `ancestors` stand above its policy."""
    found = {
        ("job", scope.job),
        ("agent", scope.agent),
        ("client", scope.client),
        ("policy", scope.policy),
        ("all", "*"),
    }
    if scope.user is not None:
        found.add(("user", scope.user))
    return found | {("key", kid) for kid in kids} | {("policy", policy) for policy in ancestors}


class Heartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proof of freshness: at `time`, `sequence` was the last revocation."""

    iss: Url
    sequence: Count
    time: Time

    @classmethod
    def parse(cls, payload: bytes) -> "Heartbeat":
        """Read a heartbeat from canonical bytes."""
        return read(payload, cls, limit=1 << 12)
