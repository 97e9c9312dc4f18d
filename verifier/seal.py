"""The seal: what a finished job amounts to, signed by `scope`, which holds no gateway key (specs/seal.md)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import Count, Digest, Id, Time, Url, read
from verifier.grant import Budget
from verifier.refused import Refused

MAX_SEAL, MOST_INCIDENTS = 1 << 20, 100
Status = Literal["complete", "expired", "revoked", "interrupted"]
Seconds = Annotated[int, Meta(ge=0, le=2**40)]


class SealedToken(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A token that scope issued for this job and a lane used; times in seconds, as in the token.

    `kid` is the key that signed it, where a revocation of that key is among the seal's.
    """

    jti: Id
    grant: Digest
    iat: Seconds
    exp: Seconds
    kid: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None


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
    """A child job, named by its first grant and its seal, with the share of the purse that it got."""

    job: Id
    grant: Digest
    seal: Digest
    share: Budget


class Incident(Struct, frozen=True, kw_only=True, order=True, forbid_unknown_fields=True):
    """What a gateway reported of a lane and scope refused: a fork, a rollback, a token that nobody issued."""

    time: Time
    lane: Id
    code: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]


class Seal(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The whole job: no seal, no PASS. `keys` is the key list at the time of sealing.

    `supersedes` is the one `interrupted` seal that this one completes: a job has one final seal, for ever. `incidents`
    are the first hundred, where there was any.
    """

    iss: Url
    job: Id
    policy: Digest
    keys: Digest
    grants: Annotated[list[Digest], Meta(max_length=1000)]
    status: Status
    opened: Time
    closed: Time
    lanes: Annotated[list[SealedLane], Meta(max_length=1000)]
    children: Annotated[list[Child], Meta(max_length=1000)]
    revocations: Annotated[list[Digest], Meta(max_length=1000)]
    incidents: Annotated[list[Incident], Meta(min_length=1, max_length=MOST_INCIDENTS)] | None = None
    supersedes: Digest | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "Seal":
        """Read a seal from canonical bytes. Raises `Refused`: the reading codes, bad-seal."""
        seal = read(payload, cls, limit=MAX_SEAL)
        lanes = [lane.lane for lane in seal.lanes]
        if lanes != sorted(set(lanes)) or seal.opened > seal.closed:
            raise Refused("bad-seal", "lanes are sorted, none twice; a job opens before it closes", field="lanes")
        for lane in seal.lanes:
            _check_lane(lane, seal)
        incidents = seal.incidents or []
        if incidents != sorted(set(incidents)) or not {each.lane for each in incidents} <= set(lanes):
            raise Refused("bad-seal", "incidents are sorted, none twice, each of a lane", field="incidents")
        children = [child.job for child in seal.children]
        if children != sorted(set(children)) or seal.job in children:
            raise Refused("bad-seal", "child jobs are sorted, none twice, none the job itself", field="children")
        if seal.supersedes is not None and seal.status == "interrupted":
            raise Refused("bad-seal", "an interrupted seal supersedes no other one", field="supersedes")
        return seal

    def lane(self, name: str) -> SealedLane | None:
        """Find a sealed lane by name."""
        return next((lane for lane in self.lanes if lane.lane == name), None)


def origin(gateway: str, job: str, lane: str) -> str:
    """Name a lane's log: the gateway's address without scheme, then job and lane (specs/checkpoint.md §1)."""
    return f"{gateway.split('://', 1)[1].rstrip('/')}/tally/{job}/{lane}"


def unextended(final: Seal, earlier: Seal) -> Iterator[tuple[str, str]]:
    """Give every field in which a seal does not extend the one that it supersedes, with the reason in words."""
    for field, holds, why in (
        ("status", earlier.status == "interrupted", "the earlier seal is final: a job has one, for ever"),
        ("job", final.job == earlier.job, "the earlier seal is of another job"),
        ("policy", final.policy == earlier.policy, "the earlier seal names another policy"),
        ("iss", final.iss == earlier.iss, "the earlier seal is by another issuer"),
        ("opened", final.opened == earlier.opened, "the seals say different openings"),
        ("closed", final.closed >= earlier.closed, "the earlier seal closed later"),
        ("grants", set(earlier.grants) <= set(final.grants), "a grant of the earlier seal was dropped"),
        ("revocations", set(earlier.revocations) <= set(final.revocations), "a revocation was dropped"),
        ("incidents", set(earlier.incidents or ()) <= set(final.incidents or ()), "an incident was dropped"),
        ("children", _children(earlier) <= _children(final), "a child job of the earlier seal was dropped or changed"),
    ):
        if not holds:
            yield field, why
    lanes = {lane.lane: lane for lane in final.lanes}
    for lane in earlier.lanes:
        for field in _shrunk(lanes.get(lane.lane), lane):
            yield f"lanes.{field}", f"lane {lane.lane} of the earlier seal is not extended"


def _children(seal: Seal) -> set[tuple[str, str]]:
    """A child may have been sealed again since; its job and grant are what stays."""
    return {(child.job, child.grant) for child in seal.children}


def _shrunk(lane: SealedLane | None, earlier: SealedLane) -> Iterator[str]:
    if lane is None:
        yield "lane"
        return
    marks = {(mark.time, mark.size) for mark in lane.marks}
    tokens = {(token.jti, token.grant, token.iat, token.exp) for token in lane.tokens}
    for field, kept in (
        ("gateway", lane.gateway == earlier.gateway),
        ("kid", lane.kid == earlier.kid),
        ("size", lane.size >= earlier.size),
        ("root", lane.size != earlier.size or lane.root == earlier.root),
        ("marks", marks.issuperset((mark.time, mark.size) for mark in earlier.marks)),
        ("tokens", tokens.issuperset((token.jti, token.grant, token.iat, token.exp) for token in earlier.tokens)),
    ):
        if not kept:
            yield field


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
