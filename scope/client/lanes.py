"""Lanes: what gateways report of them, and what becomes of it."""

from typing import Annotated, Literal

from msgspec import Meta, field

from scope.client.message import Kid, Message, Reason, Request
from verifier.encoding import Count, Id, Time, Url
from verifier.grant import Budget

MAX_HEADS = 500  # closing heads with their proofs stay below the largest body that a service reads

Origin = Annotated[str, Meta(max_length=255)]
Note = Annotated[str, Meta(max_length=1 << 14)]


class LaneRequest(Request, frozen=True, kw_only=True):
    """A lane that a gateway is about to write: `kid` is the key that will sign its heads."""

    lane: Id
    gateway: Url
    kid: Kid
    origin: Origin
    share: Literal["all", "half"] = "all"


class RegisteredLane(Message, frozen=True, kw_only=True):
    """The lane's share of the budget, when its job opened, and whether no other lane of it was registered yet."""

    share: Budget
    opened: Time
    alone: bool


class Head(Request, frozen=True, kw_only=True):
    """One lane's newest head: `consistency` (base64 hashes) leads from the size last accepted; none from size 0.

    `jtis` are the tokens first used since, `running` counts the calls that began and did not end. `closed` comes with
    the closing head, signed by both halves of the key, and with it what the lane spent of its share: the rest goes back
    to the job's purse.
    """

    lane: Id
    note: Note
    consistency: Annotated[list[Annotated[str, Meta(max_length=44)]], Meta(max_length=64)] = field(default_factory=list)
    jtis: Annotated[list[Id], Meta(max_length=4096)] = field(default_factory=list)
    closed: bool = False
    spent: Budget | None = None
    running: Annotated[int, Meta(ge=0, le=1 << 20)] = 0


class HeadsReport(Request, frozen=True, kw_only=True):
    """Lanes of one gateway that moved; what is more than a report holds goes into the next."""

    heads: Annotated[list[Head], Meta(max_length=MAX_HEADS)]


class Closing(Message, frozen=True, kw_only=True):
    """A job whose lanes the gateway is to close now."""

    job: Id
    reason: Reason


class RefusedHead(Message, frozen=True, kw_only=True):
    """A head that was not accepted; `size` is what `scope` knows of the lane (0 when it knows nothing)."""

    lane: Id
    code: str
    why: str
    size: Count


class HeadsAnswer(Message, frozen=True, kw_only=True):
    """What became of a report: heads that were refused, and the jobs that are closing."""

    closing: list[Closing]
    refused: list[RefusedHead]


class Incident(Message, frozen=True, kw_only=True):
    """What a gateway reported and cannot be: `code` of it, and the value in question."""

    position: int
    time: Time
    job: Id
    lane: Id
    code: str
    value: str


class IncidentPage(Message, frozen=True, kw_only=True):
    """Incidents, the oldest first; `next` is the following page's `after`."""

    incidents: list[Incident]
    next: int | None = None
