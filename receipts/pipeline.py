"""The way of one call, the same for models and tools.

Authenticate, revocation and freshness, read, tie, decide, purse, `begin`, forward, `end`, deliver: in this order.
Nothing is sent before `begin` is durable, nothing delivered before `end`. From the first look at the lane's state to
`begin` there is no await, so what was decided is what is recorded.
"""

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from receipts.call import Asked, Exchange, Known, Path
from receipts.delivery import Begun, finish, with_receipt
from receipts.denials import Denials, PolicyDenied
from receipts.lanes import Cut, Lane, Lanes
from receipts.request import Answer, Request
from receipts.revocations import Revocations
from receipts.sessions import Session, Sessions
from receipts.tokens import check_time
from verifier.admission import grants
from verifier.commitment import commit
from verifier.conditions import UNDISCLOSED, any_glob
from verifier.decision import Allowed, Decision, Denied, ModelTarget, ToolTarget
from verifier.grant import Scope
from verifier.leaf import Begin, Commitment, Facts, Parent, Target
from verifier.refused import Refused

# Each is hashed under its own salt while everybody else waits: four thousand messages, texts or arguments are 20 ms.
MAX_SLICES = 1 << 13


class Ready(Struct, frozen=True):
    """A call that was read, with the commitments to what came and to what would be sent."""

    lane: Lane
    session: Session
    asked: Asked
    known: Known
    req: Commitment
    sent: Commitment


class Pipeline:
    """All calls of one gateway."""

    def __init__(
        self,
        sessions: Sessions,
        revocations: Revocations,
        lanes: Lanes,
        *,
        denials: Denials,
        clock: Callable[[], int],
        max_body: int,
    ) -> None:
        """Take the parts; `max_body` in bytes."""
        self._sessions = sessions
        self._revocations = revocations
        self._lanes = lanes
        self._denials = denials
        self._clock = clock
        self._max_body = max_body

    async def admit(self, request: Request) -> Session:
        """Authenticate: who calls, and may the token still be used? Raises `BadToken`, `Refused`."""
        session = await self._sessions.open(request.credential())
        self._revocations.require_live(session.names)
        return session

    def require_fresh(self, session: Session) -> None:
        """Raise `Refused` stale-revocations when scope has not been heard for too long."""
        self._revocations.require_fresh(session.terms, self._clock())

    async def run(self, request: Request, path: Path) -> None:
        """Take one call from its first byte to its last."""
        begun = await self.begin(request, path)
        if begun is None:
            return
        try:
            await finish(request, path, begun)
        finally:
            begun.lane.calls.pop(begun.exchange.call, None)

    async def begin(self, request: Request, path: Path) -> Begun | None:
        """Judge a call and record its `begin`; None when it was refused, or answered at once."""
        known, session = Known(), None
        try:
            session = await self._sessions.open(request.credential())
            begun = await self._begin(request, path, session, known)
        except Refused as refused:
            receipt = await self._denials.record(refused, session, known, request)
            answer = path.refusal(refused, receipt.call if receipt else None)
            await request.answer(with_receipt(answer, receipt) if receipt else answer)
            return None
        if isinstance(begun, Answer):
            await request.answer(begun)
            return None
        return begun

    async def _begin(self, request: Request, path: Path, session: Session, known: Known) -> Begun | Answer:
        """Read, judge and record a call. Raises `Refused` when it may not be sent."""
        self._revocations.require_live(session.names)
        self.require_fresh(session)
        known.raw = await request.body(self._max_body)
        asked = await path.read(known.raw, session, known)
        if (job := request.header("tally-job")) is not None and job != session.scope.job:
            raise Refused("wrong-job", "the header Tally-Job names another job than the token's", field="tally-job")
        if isinstance(asked, Answer):
            return asked
        if len(asked.slices) > MAX_SLICES:
            raise Refused("too-large", f"more than {MAX_SLICES // 2} messages, texts or arguments in one call")
        lane = await self._lanes.of(session.grant, session.chain, session.prices)
        known.call = lane.next_call()
        exchange = Exchange(lane.key, known.call)
        exchange.redactions = asked.redactions
        sides = commit(exchange.keys["req"], [known.raw]), commit(exchange.keys["sent"], asked.slices)
        ready = Ready(lane, session, asked, known, *sides)
        lane.token(session.token)
        appended = lane.append(partial(self._judge, ready), asked.arguments)
        if isinstance(appended.leaf, Begin):
            exchange.rules = (appended.leaf.rule, *(appended.leaf.inherited or ()))
        cut = lane.calls[exchange.call] = Cut(partial(self._require_allowed, session, asked.target))
        try:
            await lane.durable(appended)
        except Refused:
            del lane.calls[exchange.call]
            raise
        return Begun(lane, asked, exchange, cut)

    def _judge(self, ready: Ready, seq: int, time: int) -> Begin:
        """Judge a call at the time of its receipt, and write it. Raises `Refused`, `PolicyDenied`."""
        session, asked, known = ready.session, ready.asked, ready.known
        self._require_current(session, asked.target, time)
        known.parent = _tie(ready, seq)
        staleness = self._revocations.staleness(time)
        decision = _decide(ready, time, staleness)
        return Begin(
            call=known.call or "",
            facts=Facts(labels=asked.decided.labels),
            inherited=decision.inherited or None,
            jti=session.token.jti,
            manifest=known.manifest,
            observed="runtime" if isinstance(asked.decided, ToolTarget) and asked.decided.kind == "local" else None,
            parent=known.parent,
            req=ready.req,
            reservation=asked.reservation,
            revocations=self._revocations.sequence,
            rule=decision.rule,
            sent=ready.sent,
            seq=seq,
            staleness=staleness,
            target=asked.target,
            time=time,
        )

    def _require_current(self, session: Session, target: Target, time: int) -> None:
        """Look at what may have changed while the call was read: time passes at every await."""
        check_time(session.token, time)
        self._revocations.require_fresh(session.terms, time)
        self._require_allowed(session, target, time)

    def _require_allowed(self, session: Session, target: Target, time: int | None = None) -> None:
        """Raise `Refused` revoked when the token, its job or the target is at a time, or now."""
        self._revocations.require_live(session.names)
        self._revocations.require_target(target, self._clock() if time is None else time)


def _tie(ready: Ready, seq: int) -> Parent | None:
    """Find the model's tool call that this answers: the one named, else the oldest. Raises `Refused` no-model-call."""
    tool, named, calls = ready.asked.target.tool, ready.known.parent, ready.lane.fold.model_calls
    if tool is None:
        return None
    if named is not None:
        found = named if calls.answers(named, tool, seq) else None
    elif not ready.session.terms.tied:
        return None
    else:
        found = calls.find(tool, seq)
    if found is None:
        raise Refused(
            "no-model-call",
            "no unused tool call of a model in this job asked for this",
            hint="Let the model ask for it first.",
        )
    return found


def _decide(ready: Ready, time: int, staleness: int) -> Allowed:
    """Ask policy, grant and purse; return by which rules they allow. Raises `PolicyDenied`, `Refused`."""
    decision = _ask(ready, time, staleness)
    if isinstance(decision, Denied):
        raise PolicyDenied(decision, partial(_ask, ready))
    if not isinstance(decision, Allowed):
        raise Refused(
            "approval-needed",
            f"rule {decision.rule} holds this call for a person (tier {decision.tier}), whom this gateway cannot ask",
        )
    if not _granted(ready.asked.target, ready.asked.decided, ready.session.scope):
        raise Refused(
            "not-granted", "the policy allows this, the grant does not name it", hint="Open a job whose scope names it."
        )
    purse, rules = ready.lane.fold.purse, (decision.rule, *decision.inherited)
    if not ready.lane.alone and any(purse.counts_in_job(rule, ready.asked.target) for rule in rules):
        raise Refused(
            "limit-unknown",
            "another lane or job of this purse may have used up what its policy limits",
            hint="Open a new job.",
        )
    return decision


def _ask(ready: Ready, time: int, staleness: int) -> Decision:
    """Ask policy and purse at a time, as the verifier will; what the grant does not name is not the purse's."""
    session, asked, fold = ready.session, ready.asked, ready.lane.fold
    recent = UNDISCLOSED if fold.recent is None else fold.recent.at(time, asked.target)
    decision = session.decide(asked.to_decide(session, time, recent, staleness))
    if not isinstance(decision, Allowed) or not _granted(asked.target, asked.decided, session.scope):
        return decision
    rules = (decision.rule, *decision.inherited)
    return fold.purse.refusal(rules, asked.target, asked.reservation, time, asked.arguments) or decision


def _granted(target: Target, decided: ToolTarget | ModelTarget, scope: Scope) -> bool:
    if isinstance(decided, ToolTarget):
        return grants(scope, decided)
    return any_glob(scope.models, f"{target.provider}/{target.model}")
