"""An approval: one person's signed yes or no to one held call (specs/approvals.md)."""

from typing import Literal

from msgspec import Struct

from verifier.encoding import Digest, Id, SafeText, Time, read
from verifier.leaf import Commitment
from verifier.refused import Refused

MAX_APPROVAL = 1 << 14


class Approval(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an approver saw and said. Signed by an `approver` key whose owner is `approver`.

    `hold` is the leaf hash of the hold, `commitment` its `sent`: the approver's client recomputes it from the arguments
    and salts that it shows. `policy` and `manifest` are those of the call.
    """

    approver: SafeText
    commitment: Commitment
    expires: Time
    hold: Digest
    job: Id
    manifest: Digest | None = None
    policy: Digest
    time: Time
    verdict: Literal["approve", "refuse"]

    @classmethod
    def parse(cls, payload: bytes) -> "Approval":
        """Read an approval from canonical bytes. Raises `Refused`: the reading codes, bad-approval."""
        approval = read(payload, cls, limit=MAX_APPROVAL)
        if approval.time >= approval.expires:
            raise Refused("bad-approval", "an approval expires after it is given", field="expires")
        return approval
