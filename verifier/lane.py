"""Steps 6 to 10 and 12: one lane's receipts, read once, judged one by one (specs/verification.md)."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from verifier import leaf as leaves
from verifier.bundle import Head
from verifier.chain import terms
from verifier.decision import Allowed, Denied
from verifier.evidence import Evidence
from verifier.fold import Fold
from verifier.grant import Budget
from verifier.heads import Rebuilt, check_head
from verifier.leaf import Begin, Close, Deny, End, Hold, Note, Open, Target, Token
from verifier.marks import FOREVER, SECOND, Marks, concerns
from verifier.merkle import Tree
from verifier.refused import Refused
from verifier.replay import Judged, Replay, TokenUse
from verifier.report import Report
from verifier.revocation import Revocation
from verifier.seal import SealedLane

# What one lane may make the verifier remember; honest lanes stay far below.
MAX_OPEN = 1 << 16
MAX_TOKENS = 100_000


class LaneCheck:
    """The judge of one lane. Feed it every receipt in order, then `finish`."""

    def __init__(self, head: Head, evidence: Evidence, report: Report, line: int) -> None:
        """Begin a lane at its head line."""
        self.head = head
        self.evidence = evidence
        self.report = report
        self.line = line
        self.count = 0  # lines read
        self.expected = 0  # the number that the next receipt must bear
        self.time = 0
        self.closed = False
        self.kinds: dict[str, int] = dict.fromkeys(leaves.NAMES, 0)
        self.tokens: dict[str, TokenUse] = {}
        self.sealed = self._find_sealed()
        self.sealed_tokens = {token.jti: token for token in self.sealed.tokens} if self.sealed else {}
        self._tree = Tree()
        self._append = self._tree.append
        agreed, granted = terms(evidence.policies), evidence.first.scope.limits
        share = self.sealed.share if self.sealed else granted
        self.fold = Fold.of(evidence.policies, share, evidence.first.opened)
        self._replay = Replay(evidence.policies, evidence.manifests, self.fold)
        self._limited = self.fold.purse.limited
        self._tied = agreed.tied
        self._stale = agreed.token_constraints.max_staleness_seconds * SECOND
        self._skew = evidence.trust.pin.max_skew_seconds * SECOND
        closed = evidence.seal.closed if evidence.seal else None
        self._marks = Marks(self.sealed.marks if self.sealed else [], closed, skew=self._skew, stale=self._stale)
        self._cutoffs = list(self._find_cutoffs())
        self._check_share(share, granted)
        self._judges: dict[str, Callable[[Any], None]] = {
            "open": self._open, "token": self._token, "begin": self._begin, "end": self._end,
            "deny": self._deny, "hold": self._hold, "note": self._note, "close": self._close,
        }  # fmt: skip

    def add(self, code: str, step: int, why: str, seq: int | None = None, place: str = "") -> None:
        """Record a finding at this lane."""
        line = self.line if seq is None else self.line + 1 + seq
        self.report.add(code, step, why, line=line, lane=self.head.lane, seq=seq, place=place)

    def refuse(self, refused: Refused, step: int, seq: int | None = None) -> None:
        """Record a refusal at this lane."""
        line = self.line if seq is None else self.line + 1 + seq
        self.report.refuse(refused, step, line=line, lane=self.head.lane, seq=seq)

    def feed(self, raw: bytes) -> None:
        """Judge the next receipt."""
        seq = self.count
        self.count = seq + 1
        self._append(sha256(b"\0" + raw).digest())
        try:
            leaf = leaves.decode(raw)
        except Refused as refused:
            self.refuse(refused, 7, seq)
            return
        kind, time = leaf.kind, leaf.time
        if leaf.seq != self.expected:
            self.add("wrong-seq", 7, f"receipt {leaf.seq} stands where {self.expected} belongs", seq, "seq")
        if time < self.time:
            self.add("wrong-time", 7, "earlier than the receipt before it", seq, "time")
        self.expected, self.time = leaf.seq + 1, time
        marks = self._marks
        if seq == marks.next:
            marks.advance(seq)
        if not marks.earliest <= time <= marks.latest:
            self.add("outside-marks", 10, "its time lies outside the marks that scope set around it", seq, "time")
        if self.closed or (seq == 0) != (kind == "open"):
            self.add("wrong-order", 7, f"a receipt of kind {kind} cannot stand at place {seq}", seq, "kind")
        self.kinds[kind] += 1
        self._judges[kind](leaf)
        if self.fold.recent is not None:
            self.fold.recent.add(leaf)

    def finish(self) -> None:
        """Judge the lane as a whole: size, root, head, what stayed open."""
        totals = self.report.totals
        totals.lanes += 1
        totals.receipts += self.count
        totals.calls += self.kinds["begin"]
        totals.denials += self.kinds["deny"]
        self._check_head()
        for call, opened in self.fold.open_calls.items():
            if self.closed:
                self.add("no-end", 7, f"call {call} has no end in a closed lane", opened.seq, "call")
            else:
                why = f"call {call} to {_words(opened.target)} had begun and nothing says how it ended"
                self.add("no-answer", 12, why, opened.seq, "call")
        if not self.closed:
            self._unclosed()

    def _unclosed(self) -> None:
        seal = self.evidence.seal
        if seal is not None and seal.status != "interrupted":
            self.add("no-close", 6, f"sealed as {seal.status}, and the lane has no close receipt")
        else:
            self.add("interrupted", 12, "the lane has no close receipt: its gateway was cut off")

    # Step 6 ---------------------------------------------------------------------------------------------------------

    def _find_sealed(self) -> SealedLane | None:
        seal = self.evidence.seal
        if seal is None:
            return None
        sealed = next((lane for lane in seal.lanes if lane.lane == self.head.lane), None)
        if sealed is None:
            self.add("unsealed-lane", 6, "the seal does not name this lane")
        return sealed

    def _check_head(self) -> None:
        root, sealed = self._tree.root(), self.sealed
        if sealed is not None and self.count != sealed.size:
            self.add("wrong-size", 6, f"{self.count} receipts, the seal says {sealed.size}", place="size")
        if sealed is not None and "sha256:" + root.hex() != sealed.root:
            self.add("wrong-root", 6, "the receipts do not add up to the sealed root", place="root")
        rebuilt = Rebuilt(self.count, root, self.time, closed=self.closed)
        try:
            check_head(self.head.note, self.head.lane, self.evidence, sealed, rebuilt)
        except Refused as refused:
            self.refuse(refused, 6)

    # Step 7 ---------------------------------------------------------------------------------------------------------

    def _open(self, leaf: Open) -> None:
        evidence = self.evidence
        listed, listed_as = evidence.trust.listed, evidence.trust.digests
        for code, wrong, name in (
            ("wrong-job", leaf.job != evidence.job, "job"),
            ("wrong-order", leaf.lane != self.head.lane, "lane"),
            ("wrong-policy", leaf.policy != evidence.policy_digest, "policy"),
            ("wrong-gateway", leaf.gateway != evidence.gateway, "gateway"),
            ("wrong-suite", leaf.suite not in evidence.trust.pin.suites, "suite"),
            (
                "wrong-keys",
                leaf.keys_version > listed.version
                or listed_as.get(leaf.keys_version, leaf.keys) != leaf.keys
                or (leaf.keys_version not in listed_as and leaf.keys in listed_as.values()),
                "keys",
            ),
        ):
            if wrong:
                self.add(code, 7, f"the lane's first receipt says another {name}", leaf.seq, name)

    def _close(self, leaf: Close) -> None:
        self.closed = True
        counted = {name: self.kinds[name] for name in ("begin", "deny", "end", "note", "token")}
        said = {name: getattr(leaf.counts, name) for name in counted}
        if said != counted:
            self.add("wrong-counts", 7, "the close receipt counts other receipts than there are", leaf.seq, "counts")

    def _note(self, leaf: Note) -> None:
        """An incident mark is counted; it claims nothing that can be judged."""

    def _hold(self, leaf: Hold) -> None:
        self.add("unsupported", 11, "held calls are not judged by this version", leaf.seq, "kind")

    # Step 8 ---------------------------------------------------------------------------------------------------------

    def _token(self, leaf: Token) -> None:
        grant = self.evidence.grants.get(leaf.grant)
        sealed = self.sealed_tokens.get(leaf.jti)
        if len(self.tokens) >= MAX_TOKENS:
            self.add("too-large", 8, f"more than {MAX_TOKENS} tokens in one lane", leaf.seq, "jti")
        elif grant is None:
            self.add("missing-document", 8, "the token names a grant that is not in the bundle", leaf.seq, "grant")
        elif self.sealed is not None and (
            sealed is None or (sealed.grant, sealed.iat, sealed.exp) != (leaf.grant, leaf.iat, leaf.exp)
        ):
            self.add(
                "unknown-token",
                8,
                "scope's seal does not name this token with this grant and these times",
                leaf.seq,
                "jti",
            )
        elif leaf.scope_hash != grant.scope.hash():
            self.add("wrong-scope", 8, "the token's scope hash is not its grant's", leaf.seq, "scope_hash")
        elif (
            leaf.exp * SECOND > grant.expires or leaf.iat * SECOND + SECOND < grant.issued_at or leaf.jti in self.tokens
        ):
            self.add(
                "wrong-grant", 8, "the token begins before or outlives its grant, or stands twice", leaf.seq, "exp"
            )
        else:
            self.tokens[leaf.jti] = TokenUse(grant, leaf.grant, leaf.iat * SECOND, leaf.exp * SECOND)

    def _use(self, leaf: Begin | Deny) -> TokenUse | None:
        """Find the token of a call and hold the call against its time."""
        token = self.tokens.get(leaf.jti)
        if token is None:
            self.add("unknown-token", 8, "a call by a token that this lane has not recorded", leaf.seq, "jti")
        elif not token.iat - self._skew <= leaf.time <= token.exp:
            self.add("outside-token", 8, "the call lies outside its token's time", leaf.seq, "time")
        return token

    # Step 9 ---------------------------------------------------------------------------------------------------------

    def _begin(self, leaf: Begin) -> None:
        self._check_begin(leaf)
        if len(self.fold.open_calls) < MAX_OPEN:
            self.fold.begin(leaf)
        else:
            self.add("too-large", 7, f"more than {MAX_OPEN} calls open at once", leaf.seq, "call")

    def _check_begin(self, leaf: Begin) -> None:
        seq = leaf.seq
        token = self._use(leaf)
        if leaf.echo is not None or leaf.counter is not None or leaf.hold is not None:
            self.add("unsupported", 14, "echoes, counters and holds are not judged by this version", seq)
        if leaf.call in self.fold.open_calls:
            self.add("wrong-order", 7, f"call {leaf.call} begins twice", seq, "call")
        if leaf.staleness > self._stale:
            self.add(
                "stale-revocations", 10, "decided on an older revocation feed than the policy allows", seq, "staleness"
            )
        if token is None:
            return
        judged = self._judge(leaf, token)
        if judged is None:
            return
        rules = (leaf.rule, *(leaf.inherited or ()))
        if Allowed(leaf.rule, rules[1:]) not in judged.possible:
            self.add(
                "wrong-decision", 9, f"recorded as allowed by {leaf.rule}; the policy cannot decide so", seq, "rule"
            )
        if self._limited:
            self._check_purse(leaf)
        if self._cutoffs:
            self._check_cutoffs(leaf, token)
        if leaf.parent is not None or (self._tied and judged.tool is not None):
            self._check_tie(leaf, judged.tool)

    def _judge(self, leaf: Begin | Deny, token: TokenUse) -> Judged | None:
        """Ask the policy again; None when the target itself is refused."""
        try:
            judged = self._replay.judge(leaf, token)
        except Refused as refused:
            self.refuse(refused, 9 if refused.code == "wrong-facts" else 8, leaf.seq)
            return None
        self.report.totals.replayed += 1
        self.report.totals.replayed_fully += judged.full
        return judged

    def _deny(self, leaf: Deny) -> None:
        token = self._use(leaf)
        if leaf.by == "gateway" or token is None:
            return
        judged = self._judge(leaf, token)
        if judged is None:
            return
        if Denied(leaf.rule or "", leaf.code) not in judged.possible and not self._over(leaf, judged):
            self.add(
                "wrong-decision",
                9,
                f"recorded as denied ({leaf.code}) by {leaf.rule}; the policy cannot decide so",
                leaf.seq,
                "code",
            )

    def _over(self, leaf: Deny, judged: Judged) -> bool:
        """Tell whether the purse refuses the call as recorded; what it would have reserved is not disclosed."""
        rule = leaf.rule or ""
        if not judged.possible.allows(rule):
            return False
        target = leaf.target or Target()
        spent = [self.fold.purse.refusal((rule,), target, reservation, leaf.time) for reservation in (0, FOREVER)]
        return any(each is not None and each.reason == leaf.code for each in spent)

    def _check_purse(self, leaf: Begin) -> None:
        reserved = leaf.reservation.tokens
        if reserved is None and self.fold.purse.share.tokens is not None and leaf.target.provider is not None:
            self.add(
                "over-budget",
                9,
                "a call of a model that reserves no tokens from a limited share",
                leaf.seq,
                "reservation",
            )
        over = self.fold.purse.refusal((leaf.rule, *(leaf.inherited or ())), leaf.target, reserved or 0, leaf.time)
        if over is not None:
            self.add("over-budget", 9, f"allowed although {over.reason}", leaf.seq, "reservation")

    def _check_share(self, share: Budget, granted: Budget) -> None:
        """A lane's share is never more than the grant's purse."""
        for name in ("calls", "tokens", "wall_seconds"):
            most, got = getattr(granted, name), getattr(share, name)
            if most is not None and (got is None or got > most):
                self.add("over-budget", 9, f"the lane's share of {name} is more than the grant's", place="share")

    # Step 10 --------------------------------------------------------------------------------------------------------

    def _find_cutoffs(self) -> Iterator[tuple[int, Revocation]]:
        """Find, for each revocation, the size from which on no call that it concerns may have begun."""
        for revocation in self.evidence.revocations:
            mark = self._marks.cutoff(revocation)
            yield FOREVER if mark is None else mark.size, revocation
            if self.sealed is not None and self._marks.late(mark, revocation, self.sealed.size):
                why = f"no mark within a minute of when revocation {revocation.sequence} had to be known"
                self.add("missing-mark", 10, why, place="marks")

    def _check_cutoffs(self, leaf: Begin, token: TokenUse) -> None:
        """Hold a call against each revocation: what scope knows of it, and what the gateway says that it had seen."""
        for size, revocation in self._cutoffs:
            known = leaf.seq >= size or leaf.revocations >= revocation.sequence
            if known and concerns(revocation, leaf, token):
                why = f"allowed after revocation {revocation.sequence} was known, or had to be"
                self.add("after-revocation", 10, why, leaf.seq)

    # Step 12 --------------------------------------------------------------------------------------------------------

    def _check_tie(self, leaf: Begin, tool: str | None) -> None:
        if leaf.parent is None or tool is None or not self.fold.model_calls.answers(leaf.parent, tool, leaf.seq):
            self.add(
                "no-model-call", 12, "no unused tool call of a model in this lane asked for this", leaf.seq, "parent"
            )

    def _end(self, leaf: End) -> None:
        opened = self.fold.open_calls.get(leaf.call)
        if opened is None:
            self.add("no-begin", 7, f"call {leaf.call} ends without having begun", leaf.seq, "call")
            return
        self.fold.end(leaf)
        if leaf.status == "lost":
            self.report.totals.lost += 1
            self.add(
                "lost-call",
                12,
                f"call {leaf.call} to {_words(opened.target)} began at receipt {opened.seq} and its answer was lost",
                leaf.seq,
                "call",
            )
        if leaf.status == "ok" and (leaf.recv is None or leaf.dlv is None):
            self.add("bad-end", 7, "a call that went well has no commitment of its answer", leaf.seq, "recv")
        if (leaf.status == "lost" and (leaf.recv or leaf.dlv or leaf.usage)) or (
            leaf.tool_calls and (opened.target.provider is None or leaf.status != "ok")
        ):
            self.add("bad-end", 7, "the end says more than its call can have had", leaf.seq)


def _words(target: Target) -> str:
    return f"{target.server}/{target.tool}" if target.server else f"{target.provider}/{target.model}"
