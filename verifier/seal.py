"""The seal: what a finished job amounts to, signed by `scope`, which holds no gateway key (specs/seal.md)."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import Count, Digest, Id, Time, Url, read
from verifier.grant import Budget
from verifier.refused import Refused

MAX_SEAL = 1 << 20
Status = Literal["complete", "expired", "revoked", "interrupted"]
Seconds = Annotated[int, Meta(ge=0, le=2**40)]


class SealedToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token that scope issued for this job and a lane used; times in seconds, as in the token."""

    jti: Id
    grant: Digest
    iat: Seconds
    exp: Seconds


class Mark(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At `time`, by scope's clock, scope knew `size` leaves of the lane."""

    time: Time
    size: Count


class SealedLane(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lane's final head, tokens and marks."""

    lane: Id
    origin: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/~\[\]-]{1,255}\Z")]
    gateway: Url
    kid: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    size: Count
    root: Digest
    share: Budget
    tokens: Annotated[list[SealedToken], Meta(max_length=100_000)]
    marks: Annotated[list[Mark], Meta(min_length=1, max_length=10_000)]


class Child(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A child job, named by its seal."""

    job: Id
    grant: Digest
    seal: Digest
    share: Budget


class Seal(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The whole job: no seal, no PASS. `keys` is the key list at the time of sealing."""

    iss: Url
    job: Id
    policy: Digest
    keys: Digest
    grants: Annotated[list[Digest], Meta(max_length=1000)]
    status: Status
    opened: Time
    closed: Time
    lanes: Annotated[list[SealedLane], Meta(max_length=1000)]
    children: list[Child]
    revocations: Annotated[list[Digest], Meta(max_length=1000)]
    supersedes: Digest | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "Seal":
        """Read a seal from canonical bytes. Raises `Refused`: the reading codes, bad-seal, unsupported."""
        seal = read(payload, cls, limit=MAX_SEAL)
        lanes = [lane.lane for lane in seal.lanes]
        if lanes != sorted(set(lanes)) or seal.opened > seal.closed:
            raise Refused("bad-seal", "lanes are sorted, none twice; a job opens before it closes", field="lanes")
        for lane in seal.lanes:
            _check_lane(lane, seal)
        if seal.children or seal.supersedes is not None:
            raise Refused(
                "unsupported", "child jobs and superseded seals are not judged by this version", field="children"
            )
        return seal


def origin(gateway: str, job: str, lane: str) -> str:
    """Name a lane's log: the gateway's address without scheme, then job and lane (specs/checkpoint.md §1)."""
    return f"{gateway.split('://', 1)[1].rstrip('/')}/tally/{job}/{lane}"


def _check_lane(lane: SealedLane, seal: Seal) -> None:
    if lane.origin != origin(lane.gateway, seal.job, lane.lane):
        raise Refused("bad-seal", f"lane {lane.lane} has another lane's origin", field="lanes.origin")
    jtis = [token.jti for token in lane.tokens]
    if jtis != sorted(set(jtis)):
        raise Refused("bad-seal", f"tokens of lane {lane.lane} are sorted by jti, none twice", field="lanes.tokens")
    marks = [(mark.time, mark.size) for mark in lane.marks]
    sizes = [size for _, size in marks]
    if marks != sorted(marks) or sizes != sorted(sizes) or sizes[-1] > lane.size or marks[-1][0] > seal.closed:
        raise Refused("bad-seal", f"marks of lane {lane.lane} only grow, up to the seal", field="lanes.marks")
