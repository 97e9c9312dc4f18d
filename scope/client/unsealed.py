"""What waits for its seal: what `tally doctor` asks."""

from scope.client.message import Message
from verifier.encoding import Id, SafeText, Time, Url


class LateJob(Message, frozen=True, kw_only=True):
    """A job that has been closing for longer than any job takes, and why it ends."""

    job: Id
    reason: str
    closing_at: Time


class Writing(Message, frozen=True, kw_only=True):
    """A gateway with open lanes, the client that it is, and when it last reported; None where it has not been heard."""

    gateway: Url
    client: SafeText
    lanes: int
    reported: Time | None = None


class Unsealed(Message, frozen=True, kw_only=True):
    """What waits for its seal at a `time`: how many jobs are open and closing, which are late, which gateways write.

    What gateways reported is known since `since` alone, and to the process that answers: at most a hundred of each.
    """

    time: Time
    since: Time
    open: int
    closing: int
    late: list[LateJob]
    gateways: list[Writing]
