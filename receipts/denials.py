"""Refusals on record: a `deny` in the job's lane when caller and lane allow it, else the security log alone."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from receipts.call import Known
from receipts.delivery import Receipt
from receipts.lanes import Lane, Lanes
from receipts.request import Request
from receipts.revocations import Revocations
from receipts.sessions import Session
from receipts.tokens import check_time
from service.problems import Log as EventLog
from verifier.commitment import call_key, commit
from verifier.decision import Decision, Denied
from verifier.leaf import Deny, Facts
from verifier.refused import Refused


class PolicyDenied(Refused):
    """The policy's own no: it is recorded as such, with its rule, and the verifier decides it again.

    `again` asks once more at a time and staleness: a minute may end between the decision and its receipt, and the
    receipt is what the verifier will judge.
    """

    def __init__(self, denied: Denied, again: Callable[[int, int], Decision]) -> None:
        """Take the decision."""
        super().__init__(denied.reason, f"the policy denies this call, by its rule {denied.rule}")
        self.denied = denied
        self.again = again


class Denials:
    """Every refusal of one gateway; `counts` says how many there were of each code."""

    def __init__(self, lanes: Lanes, revocations: Revocations, log: EventLog) -> None:
        """Take the parts."""
        self._lanes = lanes
        self._revocations = revocations
        self._log = log
        self.counts: Counter[str] = Counter()

    async def record(self, refused: Refused, session: Session | None, known: Known, request: Request) -> Receipt | None:
        """Record one refusal; return its receipt if a lane took it."""
        self.counts[refused.code] += 1
        receipt = None
        if session is not None:
            with suppress(Refused):
                receipt = await self._in_lane(refused, session, known)
        self._log.warning(
            "refused",
            code=refused.code,
            job=session.scope.job if session else None,
            path=request.path,
            address=request.address,
            receipt=receipt.call if receipt else None,
        )
        return receipt

    async def _in_lane(self, refused: Refused, session: Session, known: Known) -> Receipt | None:
        """Write a `deny`. Raises `Refused` when the lane takes none, or the token's time is over."""
        lane = await self._lanes.of(session.grant, session.chain, session.prices)
        call = known.call or lane.next_call()
        lane.token(session.token)
        appended = lane.deny(
            lambda seq, time: self._leaf(refused, session, known, lane=lane, call=call, seq=seq, time=time)
        )
        if appended is None:
            return None
        await lane.durable(appended)
        return Receipt(call, lane, appended, {"req": call_key(lane.key, call, "req")})

    def _leaf(
        self, refused: Refused, session: Session, known: Known, *, lane: Lane, call: str, seq: int, time: int
    ) -> Deny:
        check_time(session.token, time)
        staleness = self._revocations.staleness(time)
        denied = refused.denied if isinstance(refused, PolicyDenied) else None
        if isinstance(refused, PolicyDenied) and refused.again(time, staleness) != denied:
            denied = None  # true when it was said and not now: the gateway's word, which nobody replays
        return Deny(
            by="gateway" if denied is None else "policy",
            call=call,
            code=refused.code,
            facts=None if known.labels is None else Facts(labels=tuple(known.labels)),
            jti=session.token.jti,
            manifest=known.manifest,
            parent=known.parent,
            req=None if known.raw is None else commit(call_key(lane.key, call, "req"), [known.raw]),
            revocations=self._revocations.sequence,
            rule=None if denied is None else denied.rule,
            seq=seq,
            staleness=staleness,
            target=known.target,
            time=time,
        )
