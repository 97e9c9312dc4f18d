"""Steps 8 to 13 for a lane's calls: token, target, decision, revocation, release, tie (specs/verification.md)."""

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from verifier.attached import Attached, check_boxes, unsealed
from verifier.chain import Terms
from verifier.clients import Clients, Hashes
from verifier.conditions import UNDISCLOSED
from verifier.cutoffs import Cutoffs
from verifier.decision import Allowed, Denied, Held, may_ask
from verifier.evidence import Evidence
from verifier.findings import LaneFindings
from verifier.fold import Fold, Opened
from verifier.leaf import Begin, Deny, End, Hold, Reservation, Target
from verifier.marks import FOREVER, SECOND
from verifier.narrowed import Narrowed
from verifier.refused import Refused
from verifier.releases import Releases
from verifier.replay import Arguments, Judged, Replay
from verifier.tokens import Tokens, TokenUse

# What one lane may make the verifier remember; honest lanes stay far below.
MAX_OPEN = 1 << 16
MAX_USUAL = 4096


class Usual(Struct):
    """Calls of one token to one target by one rule: judged once, and then known as long as nothing else decides."""

    target: Target
    token: TokenUse
    judged: Judged
    times: int = 0


class Calls:
    """The judge of a lane's calls.

    Most calls of a lane are like one before: the same token, target, manifest, rule and labels, and nothing beside.
    `Usual` holds what was found good of those, so that only their own time, staleness and tie are looked at again.
    """

    def __init__(
        self, evidence: Evidence, found: LaneFindings, *, terms: Terms, tokens: Tokens, fold: Fold, hashes: Hashes,
        narrowed: Narrowed,
    ) -> None:  # fmt: skip
        """Take the parts; `terms` are those of the policy and its ancestors together, `narrowed` what asks them."""
        self.releases = Releases(evidence, terms.approvals, found)
        self.clients = Clients(hashes, found)
        self.cutoffs = Cutoffs({**evidence.ancestors, **evidence.grants}, evidence.kids, evidence.chain)
        self._found = found
        self._hashes = hashes
        self._tokens = tokens
        self.fold = fold
        self._narrowed = narrowed
        self._chain = evidence.policies
        self._replay = Replay(evidence.policies, evidence.manifests, fold, narrowed)
        self._usual: dict[tuple[Any, ...], Usual] = {}
        self._blocks = terms.injection == "block"  # what a tool returns with hidden text in it
        self._simple = not (fold.purse.limited or terms.sealed or self._blocks)
        self._limited = fold.purse.limited
        self.tied = terms.tied
        self.stale = SECOND * terms.token_constraints.max_staleness_seconds
        self.wanting = terms.auditors if terms.sealed else ()  # for whom each payload has to be sealed

    def begin(self, leaf: Begin, attached: Attached | None = None) -> Usual | None:
        """Judge a call that was let through, and count it; return what was already known of it, if that was all."""
        fold, call = self.fold, leaf.call
        usual = self._usual.get(_alike(leaf))
        if (
            usual is not None
            and usual.token.earliest <= leaf.time <= usual.token.exp
            and leaf.staleness <= self.stale
            and attached is None
            and leaf.hold is None
            and leaf.echo is None
            and leaf.counter is None
            and leaf.inherited is None
            and leaf.approvals is None
            and leaf.boxes is None
            and leaf.observed is None
            and call not in fold.open_calls
        ):
            usual.times += 1
            if leaf.parent is not None or (self.tied and usual.judged.tool is not None):
                self._check_tie(leaf, usual.judged.tool)
        else:
            usual = None
            self._check_begin(leaf, attached)
        if len(fold.open_calls) < MAX_OPEN:
            fold.begin(leaf, _shown(attached))
        else:
            self._found.add("too-large", 7, f"more than {MAX_OPEN} calls open at once", leaf.seq, "call")
        return usual

    def finish(self) -> None:
        """Report gaps in what clients counted, and count what was replayed without being looked at again."""
        self.clients.finish()
        totals = self._found.report.totals
        for usual in self._usual.values():
            totals.replayed += usual.times
            totals.replayed_fully += usual.times * usual.judged.full

    def _check_begin(self, leaf: Begin, attached: Attached | None) -> None:
        """Look at all of a call (steps 7 to 13)."""
        if leaf.call in self.fold.open_calls:
            self._found.add("wrong-order", 7, f"call {leaf.call} begins twice", leaf.seq, "call")
        if leaf.staleness > self.stale:
            why = "decided on an older revocation feed than the policy allows"
            self._found.add("stale-revocations", 10, why, leaf.seq, "staleness")
        if leaf.observed is not None:
            self._check_observed(leaf)
        self._check_boxes(leaf, attached, self.wanting)
        token = self._tokens.use(leaf)
        if token is None:
            return
        self.clients.check(leaf, required=token.counted)
        if leaf.hold is not None or leaf.approvals is not None:
            self.releases.begin(leaf, token.grant_digest, token.grant.scope)
        self._check_purse(leaf, attached)
        self._check_cutoffs(leaf, token)
        judged = self._judge(leaf, token, attached)
        if judged is None:
            return
        good = self._check_allowed(leaf, judged)
        if leaf.parent is not None or (self.tied and judged.tool is not None):
            self._check_tie(leaf, judged.tool)
        if good and judged.lasting and self._simple and not self.cutoffs and not token.counted:
            self._remember(leaf, Usual(leaf.target, token, judged))

    def _check_observed(self, leaf: Begin) -> None:
        """A call that only the runtime saw is counted, and is no evidence for a regulated job."""
        report = self._found.report
        report.totals.observed += 1
        if report.regulated:
            why = f"call {leaf.call} to {words(leaf.target)} was run and observed by the runtime alone"
            self._found.add("observed-by-runtime", 12, why, leaf.seq, "observed")

    def _remember(self, leaf: Begin, usual: Usual) -> None:
        if leaf.hold is None and leaf.inherited is None and leaf.observed is None and len(self._usual) < MAX_USUAL:
            self._usual.setdefault(_alike(leaf), usual)

    def _check_allowed(self, leaf: Begin, judged: Judged) -> bool:
        """Hold the decision of a call against what the policy can say; tell whether it can say so."""
        decided = judged.by((leaf.rule, *(leaf.inherited or ())))
        if isinstance(decided, Allowed if leaf.hold is None else Held):
            return True
        if isinstance(decided, Held):
            why = f"the policy holds this call by {leaf.rule} for people to release, and it names no hold"
            self._found.add("not-approved", 11, why, leaf.seq, "hold")
        else:
            why = f"recorded as allowed by {leaf.rule}; the policy cannot decide so"
            self._found.add("wrong-decision", 9, why, leaf.seq, "rule")
        return False

    def end(self, leaf: End, attached: Attached | None = None) -> bool:
        """Judge how a call ended, and settle it; tell whether it just went well."""
        wanted = self.wanting if leaf.status == "ok" else ()
        if wanted or attached is not None or leaf.boxes is not None:
            self._check_boxes(leaf, attached, wanted)
        opened = self.fold.open_calls.get(leaf.call)
        if opened is None:
            self._found.add("no-begin", 7, f"call {leaf.call} ends without having begun", leaf.seq, "call")
            return False
        self.fold.end(leaf)
        clean = not leaf.labels or leaf.status != "ok" or self._check_labels(leaf)
        if leaf.server_requests is not None:
            clean = False
            self._check_requests(leaf, opened)
        whole = leaf.recv is not None and leaf.dlv is not None
        if leaf.status == "ok":
            if not whole:
                why = "a call that went well has no commitment of its answer"
                self._found.add("bad-end", 7, why, leaf.seq, "recv")
            extra = bool(leaf.tool_calls) and opened.target.provider is None
            if self._blocks and leaf.flags and opened.target.named is not None:
                why = f"the policy withholds such an answer, and it was handed out: {', '.join(leaf.flags)}"
                self._found.add("wrong-decision", 9, why, leaf.seq, "flags")
        else:
            extra = bool(leaf.tool_calls) or (leaf.status == "lost" and bool(leaf.recv or leaf.dlv or leaf.usage))
        if extra:
            self._found.add("bad-end", 7, "the end says more than its call can have had", leaf.seq)
        if leaf.status == "lost":
            self._found.report.totals.lost += 1
            why = f"call {leaf.call} to {words(opened.target)} began at receipt {opened.seq} and its answer was lost"
            self._found.add("lost-call", 12, why, leaf.seq, "call")
        return clean and self._simple and whole and leaf.boxes is None and leaf.status == "ok" and not leaf.tool_error

    def _check_labels(self, leaf: End) -> bool:
        """Hold what an answer was found to hold, and still held, against what the policies let through."""
        try:
            denied = self._narrowed.denies(leaf.labels)
        except Refused as refused:
            self._found.refuse(refused, 9, leaf.seq)
            return False
        if denied:
            why = f"the policy denies such an answer, and it was handed out: {', '.join(leaf.labels)}"
            self._found.add("wrong-decision", 9, why, leaf.seq, "labels")
        return not denied

    def _check_requests(self, leaf: End, opened: Opened) -> None:
        """What a server asks the client for is named by every rule that allowed its call."""
        server = opened.target.server or ""
        refused = [each for each in leaf.server_requests or () if not may_ask(self._chain, opened.rules, server, each)]
        if refused:
            why = f"no rule of this call lets the server ask for {', '.join(refused)}"
            self._found.add("wrong-decision", 9, why, leaf.seq, "server_requests")

    def deny(self, leaf: Deny, attached: Attached | None = None) -> None:
        """Judge a refusal: what the policy is said to have refused is replayed."""
        self._check_boxes(leaf, attached)
        token = self._tokens.use(leaf)
        if leaf.hold is not None or leaf.approvals is not None:
            self.releases.deny(leaf)
        if token is None:
            return
        self.clients.check(leaf, required=token.counted)
        if leaf.by == "gateway":
            return
        judged = self._judge(leaf, token, attached)
        if judged is None:
            return
        if Denied(leaf.rule or "", leaf.code) not in judged.possible and not self._over(leaf, judged, attached):
            why = f"recorded as denied ({leaf.code}) by {leaf.rule}; the policy cannot decide so"
            self._found.add("wrong-decision", 9, why, leaf.seq, "code")

    def hold(self, leaf: Hold, attached: Attached | None = None) -> None:
        """Judge a call that was made to wait."""
        self._check_boxes(leaf, attached)
        token = self._tokens.use(leaf)
        if token is None:
            return
        self.clients.check(leaf, required=token.counted)
        self.releases.hold(leaf, self._hashes.digest(leaf.seq), token.grant_digest)
        judged = self._judge(leaf, token, attached)
        if judged is None:
            return
        if Held(leaf.rule, leaf.tier, tuple(leaf.inherited or ())) not in judged.possible:
            why = f"recorded as held by {leaf.rule} for tier {leaf.tier}; the policy cannot decide so"
            self._found.add("wrong-decision", 9, why, leaf.seq, "tier")

    def _check_boxes(
        self, leaf: Begin | Deny | End | Hold, attached: Attached | None, wanted: Collection[str] = ()
    ) -> None:
        """Step 13: the sealed payloads are those that the receipt commits to; each auditor has what is wanted."""
        try:
            check_boxes(leaf, attached)
        except Refused as refused:
            self._found.refuse(refused, 13, leaf.seq)
        for owner in unsealed(leaf, attached, wanted):
            self._found.add("missing-box", 13, f"no payload sealed to the auditor {owner}", leaf.seq, "box")

    def _judge(self, leaf: Begin | Deny | Hold, token: TokenUse, attached: Attached | None) -> Judged | None:
        """Ask the policy again; None when the target itself is refused, or too much was asked."""
        try:
            judged = self._replay.judge(leaf, token, _shown(attached))
        except Refused as refused:
            self._found.refuse(refused, 8 if refused.code in {"wrong-target", "wrong-manifest"} else 9, leaf.seq)
            return None
        if judged is None:
            return None
        totals = self._found.report.totals
        totals.replayed += 1
        totals.replayed_fully += judged.full
        return judged

    def _over(self, leaf: Deny, judged: Judged, attached: Attached | None) -> bool:
        """Tell whether the purse refuses the call as recorded; what it would have reserved is not disclosed."""
        rule = leaf.rule or ""
        if not judged.possible.allows(rule):
            return False
        if leaf.code == "limit-sum":
            sums = self.fold.purse.sums
            return rule in sums and sums.over(rule, _shown(attached)) is not False
        target = leaf.target or Target()
        most = Reservation(tokens=FOREVER, cost_nano_usd=FOREVER)
        spent = [self.fold.purse.refusal((rule,), target, asked, leaf.time) for asked in (Reservation(), most)]
        return any(each is not None and each.reason == leaf.code for each in spent)

    def _check_purse(self, leaf: Begin, attached: Attached | None) -> None:
        purse = self.fold.purse
        if leaf.target.provider is not None:
            self._check_reserved(leaf)
        rules = (leaf.rule, *(leaf.inherited or ()))
        over = purse.refusal(rules, leaf.target, leaf.reservation, leaf.time, _shown(attached))
        if over is not None:
            self._found.add("over-budget", 9, f"allowed although {over.reason}", leaf.seq, "reservation")

    def _check_reserved(self, leaf: Begin) -> None:
        """A call of a model reserves of all that is limited; what it may cost has a price."""
        purse, reserved = self.fold.purse, leaf.reservation
        for name, asked, share in (
            ("cost", reserved.cost_nano_usd, purse.share.cost_nano_usd),
            ("tokens", reserved.tokens, purse.share.tokens),
        ):
            if asked is None and share is not None:
                why = f"a call of a model that reserves no {name} from a limited share"
                self._found.add("over-budget", 9, why, leaf.seq, "reservation")
        priced = purse.prices is not None and purse.prices.of(leaf.target) is not None
        if purse.share.cost_nano_usd is not None and not priced:
            why = f"what calls may cost is limited, and no price is known of {words(leaf.target)}"
            self._found.add("no-price", 9, why, leaf.seq, "target")

    def _check_cutoffs(self, leaf: Begin, token: TokenUse) -> None:
        """Hold a call against the revocations: what scope knows of it, and what the gateway says that it had seen."""
        ended = self.cutoffs.ended(leaf, token)
        if ended is not None:
            why = f"allowed after revocation {ended} was known, or had to be"
            self._found.add("after-revocation", 10, why, leaf.seq)

    def _check_tie(self, leaf: Begin, tool: str | None) -> None:
        if leaf.parent is None or tool is None or not self.fold.model_calls.answers(leaf.parent, tool, leaf.seq):
            why = "no unused tool call of a model in this lane asked for this"
            self._found.add("no-model-call", 12, why, leaf.seq, "parent")


def _shown(attached: Attached | None) -> Arguments:
    """Return what stands behind a receipt of its call's arguments."""
    return UNDISCLOSED if attached is None else attached.arguments()


def _alike(leaf: Begin) -> tuple[Any, ...]:
    """Tell what calls must have in common that are judged once."""
    return leaf.jti, leaf.target, leaf.manifest, leaf.rule, leaf.facts.labels


def words(target: Target) -> str:
    """Name a target for people."""
    return target.place or f"{target.provider}/{target.model}"
