"""Revocations: asked for, looked at before, and read as they were signed."""

from typing import Annotated

from msgspec import Meta, Raw, field

from scope.client.message import Code, Message, Request
from verifier.encoding import Digest, Id, SafeText, Time, Url
from verifier.revocation import TargetKind, TargetValue


class Snapshot(Message, frozen=True, kw_only=True):
    """A signed heartbeat, and the signed revocations after the sequence asked for: at most a thousand, in order.

    All has been seen when the last one's sequence is the heartbeat's; else ask again after it.
    """

    heartbeat: Raw
    revocations: list[Raw]


class RevocationRequest(Request, frozen=True, kw_only=True):
    """What to revoke: a tool is `server/name`, a model `provider/name`, everything kind `all`, value `*`.

    For ever, or with `until` for new jobs and calls from that time on no more; what it ended stays ended.
    """

    kind: TargetKind
    value: TargetValue
    reason: Code
    ticket: SafeText | None = None
    note: Annotated[str, Meta(max_length=512)] | None = None
    until: Time | None = None


class Revoked(Message, frozen=True, kw_only=True):
    """A durable revocation: its place in the sequence, its time, its digest, and how many jobs it ended."""

    sequence: int
    time: Time
    digest: Digest
    jobs: int


class Preview(Message, frozen=True, kw_only=True):
    """What a revocation would touch now: open jobs and the first of their names, living tokens, open lanes, gateways.

    `ends` tells whether these jobs would end; else calls, or tokens, are what it is about. `running` counts the calls
    under way in those lanes, as gateways said within the last second; what each of them calls, they alone know.
    `again`: the same is revoked already. `complete` is false where more jobs are open than were looked at.
    """

    ends: bool
    jobs: int
    names: list[Id]
    tokens: int
    lanes: int
    running: int = 0
    gateways: list[Url] = field(default_factory=list)
    again: bool = False
    complete: bool = True


class Documents(Message, frozen=True, kw_only=True):
    """Signed documents, whole."""

    documents: list[Raw]
