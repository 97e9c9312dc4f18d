"""Step 11: calls that waited for people, and who released them (specs/approvals.md)."""

from msgspec import Struct

from verifier.approval import Approval
from verifier.evidence import Evidence
from verifier.findings import LaneFindings
from verifier.grant import Scope
from verifier.leaf import Begin, Deny, Hold
from verifier.policy import Approvals

SECOND = 1_000_000
MAX_HELD = 1 << 16


class Held(Struct, frozen=True):
    """A hold that no later receipt has taken up: its place, what it was for, and the grant that it was asked under."""

    leaf: Hold
    grant: str


class Releases:
    """The holds of one lane, and the approvals that release them."""

    def __init__(self, evidence: Evidence, terms: Approvals, found: LaneFindings) -> None:
        """Start with no hold; `terms` are those of the policy and its ancestors together."""
        self._evidence = evidence
        self._found = found
        self._terms = terms
        self._skew = evidence.trust.pin.max_skew_seconds * SECOND
        self._held: dict[str, Held] = {}
        self._of_hold: dict[str, list[Approval]] = {}
        for approval in evidence.approvals.values():
            self._of_hold.setdefault(approval.hold, []).append(approval)
        self.named: set[str] = set()  # the approvals that this lane's receipts name

    def hold(self, leaf: Hold, digest: str, grant: str) -> None:
        """Take in a hold."""
        if len(self._held) >= MAX_HELD:
            self._add("too-large", leaf, f"more than {MAX_HELD} calls held at once", "call")
        else:
            self._held[digest] = Held(leaf, grant)

    def deny(self, leaf: Deny) -> None:
        """Judge the end of a hold that was refused, or not released in time."""
        self._names(leaf)
        if leaf.hold is None:
            return
        held = self._held.pop(leaf.hold, None)
        if held is None:
            self._add("no-hold", leaf, "the denial names a hold that the lane does not have, or had before", "hold")
        elif (held.leaf.call, held.leaf.target) != (leaf.call, leaf.target):
            self._add("wrong-approval", leaf, "the call that was denied is not the one that was held", "hold")
        for name in leaf.approvals or ():
            approval = self._evidence.approvals.get(name)
            if approval is not None and approval.hold != leaf.hold:
                self._add("wrong-approval", leaf, f"the approval {name} is of another hold", "approvals")

    def begin(self, leaf: Begin, grant: str, scope: Scope) -> None:
        """Judge a released call: one hold, once, the same call, and the approvals that its tier asks for."""
        self._names(leaf)
        held = self._held.pop(leaf.hold or "", None)
        if held is None:
            self._add("no-hold", leaf, "the call names a hold that the lane does not have, or had before", "hold")
            return
        hold = held.leaf
        asked = (hold.call, hold.target, hold.manifest, hold.rule, hold.inherited, hold.sent, held.grant)
        if asked != (leaf.call, leaf.target, leaf.manifest, leaf.rule, leaf.inherited, leaf.sent, grant):
            self._add("wrong-approval", leaf, "the call that began is not the one that was held", "hold")
        said = [each for name in leaf.approvals or () if (each := self._evidence.approvals.get(name)) is not None]
        good = {each.approver for each in said if self._counts(each, leaf, hold, scope)}
        needed = 1 if hold.tier == "confirm" else max(1, self._terms.quorum)
        if len(good) < needed:
            why = f"tier {hold.tier} asks for {needed} approvals by distinct approvers, {len(good)} count"
            self._add("not-approved", leaf, why, "approvals")
        for each in self._of_hold.get(leaf.hold or "", ()):
            if each.verdict == "refuse" and each.time <= leaf.time and self._may(each.approver, hold, scope):
                self._add("not-approved", leaf, f"{each.approver} had refused the call", "approvals")

    def _names(self, leaf: Begin | Deny) -> None:
        names: tuple[str, ...] = leaf.approvals or ()
        self.named.update(name for name in names if name in self._evidence.approvals)
        if names and (leaf.hold is None or list(names) != sorted(set(names))):
            self._add("wrong-approval", leaf, "approvals are sorted, none twice, and of one hold", "approvals")
        for name in names:
            if name not in self._evidence.approvals:
                self._add("missing-document", leaf, f"the approval {name} is not in the bundle", "approvals")

    def _counts(self, approval: Approval, leaf: Begin, hold: Hold, scope: Scope) -> bool:
        """Tell whether an approval counts for a call, and say what is wrong with one that does not."""
        for wrong, why in (
            (approval.verdict != "approve", "a refusal cannot release a call"),
            (approval.hold != leaf.hold, "the approval is of another hold"),
            (approval.commitment != hold.sent, "the approver saw another call than the one that was held"),
            (approval.manifest != hold.manifest, "the approver saw another manifest"),
            (not hold.time - self._skew <= approval.time <= leaf.time + self._skew, "given before or after its call"),
            (leaf.time > approval.expires, "the approval had expired when the call began"),
            (approval.expires > hold.time + self._terms.ttl_seconds * SECOND, "it outlives what the policy allows"),
            (not self._may(approval.approver, hold, scope), f"{approval.approver} may not release this call"),
        ):
            if wrong:
                self._add("wrong-approval", leaf, why, "approvals")
                return False
        return True

    def _may(self, approver: str, hold: Hold, scope: Scope) -> bool:
        """Tell who may release: the job's own user or an approver; for tier `human` an approver who is nobody of it."""
        if approver == scope.agent:
            return False
        listed = approver in self._terms.approvers
        if hold.tier == "confirm":
            return listed or approver == scope.user
        return listed and approver not in (scope.user, scope.client)

    def _add(self, code: str, leaf: Begin | Deny | Hold, why: str, place: str) -> None:
        self._found.add(code, 11, why, leaf.seq, place)
