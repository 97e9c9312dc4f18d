"""Jobs: asked for, opened, and where they stand."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, field

from scope.client.details import Detail
from scope.client.message import Message, Reason, Request, State
from verifier.encoding import Count, Digest, Id, SafeText, Time, Url
from verifier.grant import Budget

# Ten years: what a grant may not outlive is its policy.
ExpiresIn = Annotated[int, Meta(ge=1, le=10 * 366 * 86_400)]


class JobRequest(Request, frozen=True, kw_only=True):
    """Who wants to do what, under which policy. No `authorization_details`: all that the policy allows.

    `expires_in` in seconds; without it the job ends after an hour, or with its policy. `user_token` is an identity
    provider's token about the user that the job works for. `parent_token`, a living token of another job of the same
    client, makes it a child of that job: with a part of what that token carries, and of the purse. `binding` dpop asks
    for tokens that are bound to a key, where the policy does not. `request_id`, the client's own name of this request,
    makes it safe to repeat: the answer is the same, and no second job is opened.
    """

    agent: SafeText
    policy: Digest
    job_type: SafeText
    environment: SafeText
    authorization_details: Annotated[list[Detail], Meta(max_length=256)] | None = None
    limits: Budget = Budget()
    expires_in: ExpiresIn | None = None
    user_token: Annotated[str, Meta(max_length=1 << 14)] | None = None
    parent_token: Annotated[str, Meta(max_length=1 << 17)] | None = None
    binding: Literal["none", "dpop"] = "none"
    request_id: Id | None = None


class OpenedJob(Message, frozen=True, kw_only=True):
    """A job and its signed grant; `unavailable` is what the policy allows and is revoked or in no approved manifest."""

    job: Id
    grant: Raw
    grant_digest: Digest
    policy: Digest
    opened: Time
    expires: Time
    unavailable: list[str]


class JobLane(Message, frozen=True, kw_only=True):
    """One lane as `scope` knows it."""

    lane: Id
    gateway: Url
    size: Count
    closed: bool


class JobStatus(Message, frozen=True, kw_only=True):
    """Where a job stands; `status` and `seal` are there once it is sealed. `grants` are in the order of their issue.

    `children` are those that were not deleted; a seal names all.
    """

    job: Id
    agent: SafeText
    policy: Digest
    grant: Digest
    grants: list[Digest] = field(default_factory=list)
    state: State
    opened: Time
    expires: Time
    client: SafeText | None = None
    closing_at: Time | None = None
    reason: Reason | None = None
    status: str | None = None
    seal: Digest | None = None
    parent: Id | None = None
    children: list[Id] = field(default_factory=list)
    lanes: list[JobLane] = field(default_factory=list)


class JobPage(Message, frozen=True, kw_only=True):
    """Jobs, newest first; `next` asks for the following page as `before`."""

    jobs: list[JobStatus]
    next: int | None = None


class DeletedJob(Message, frozen=True, kw_only=True):
    """A job that was deleted at a `time`: what the record of acts keeps of its seal."""

    job: Id
    seal: Digest
    status: str
    time: Time
