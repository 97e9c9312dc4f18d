"""Steps 6 to 10 and 12: one lane's receipts, read once, judged one by one (specs/verification.md).

Facts are rebuilt, never believed: who from the grant, what from the manifest, when from the receipt, how much by folding.
"""

from bisect import bisect_right
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from msgspec import Struct

from verifier import leaf as leaves
from verifier.admission import subject_of, tool_target
from verifier.bundle import Head
from verifier.checkpoint import Checkpoint
from verifier.conditions import UNDISCLOSED, any_glob
from verifier.decision import Allowed, Call, Decision, Denied, ModelTarget, ToolTarget, outcomes, reads_time
from verifier.evidence import Evidence
from verifier.fold import Fold, Purse
from verifier.grant import Budget, Grant
from verifier.keys import Key
from verifier.leaf import Begin, Close, Deny, End, Hold, Note, Open, Target, Token
from verifier.merkle import Tree
from verifier.refused import Refused
from verifier.report import Report
from verifier.revocation import OF_GRANT, Revocation
from verifier.seal import SealedLane, origin

SECOND = 1_000_000
FOREVER = 2**62
MARK_GRACE = 60 * SECOND


class TokenUse(Struct, frozen=True):
    """A token as this lane may use it: times in microseconds; `memo` keeps decisions that do not depend on the time."""

    grant: Grant
    iat: int
    exp: int
    memo: dict[tuple[Any, ...], "Judged"]


class Judged(Struct, frozen=True):
    """What the policy can decide for one target: the rules that may allow it; `full` when nothing was undisclosed."""

    allowed: frozenset[str]
    denied: frozenset[tuple[str, str]]
    full: bool
    tool: str | None


class LaneCheck:
    """The judge of one lane. Feed it every receipt in order, then `finish`."""

    def __init__(self, head: Head, evidence: Evidence, report: Report, line: int) -> None:
        """Begin a lane at its head line."""
        self.head = head
        self.evidence = evidence
        self.report = report
        self.line = line
        self.sealed: SealedLane | None = None
        if evidence.seal is not None:
            self.sealed = next((lane for lane in evidence.seal.lanes if lane.lane == head.lane), None)
            if self.sealed is None:
                self.add("unsealed-lane", 6, "the seal does not name this lane")
        self.tree = Tree()
        self._append = self.tree.append
        self.count = 0  # lines read
        self.expected = 0  # the number that the next receipt must bear
        self.time = 0
        self.closed = False
        self.opening: Open | None = None
        self.kinds: dict[str, int] = dict.fromkeys(leaves.NAMES, 0)
        self.tokens: dict[str, TokenUse] = {}
        self.sealed_tokens = {token.jti: token for token in self.sealed.tokens} if self.sealed else {}
        self._reads_time = reads_time(evidence.policy)
        first = next(iter(evidence.grants.values()))
        share = self.sealed.share if self.sealed else first.scope.limits
        self.fold = Fold(Purse(evidence.policy, share, first.opened))
        self._limited = self.fold.purse.limited
        self._tied = evidence.policy.model_egress.require_proxy_receipts
        self._most_stale = evidence.policy.token_constraints.max_staleness_seconds * SECOND
        self._skew = evidence.trust.pin.max_skew_seconds * SECOND
        self._sizes = [mark.size for mark in self.sealed.marks] if self.sealed else []
        self._cutoffs = self._find_cutoffs()
        self._check_share(share, first.scope.limits)
        self._between_marks(0)
        self._judges: dict[str, Callable[[Any], None]] = {
            "open": self._open, "token": self._token, "begin": self._begin, "end": self._end,
            "deny": self._deny, "hold": self._hold, "note": self._note, "close": self._close,
        }  # fmt: skip

    def add(self, code: str, step: int, why: str, seq: int | None = None, place: str = "") -> None:
        """Record a finding at this lane."""
        line = self.line if seq is None else self.line + 1 + seq
        self.report.add(code, step, why, line=line, lane=self.head.lane, seq=seq, place=place)

    def feed(self, raw: bytes) -> None:
        """Judge the next receipt."""
        seq = self.count
        self.count = seq + 1
        self._append(sha256(b"\0" + raw).digest())
        try:
            leaf = leaves.decode(raw)
        except Refused as refused:
            self.report.refuse(refused, 7, line=self.line + 1 + seq, lane=self.head.lane, seq=seq)
            return
        kind, time = leaf.kind, leaf.time
        if leaf.seq != self.expected:
            self.add("wrong-seq", 7, f"receipt {leaf.seq} stands where {self.expected} belongs", seq, "seq")
        if time < self.time:
            self.add("wrong-time", 7, "earlier than the receipt before it", seq, "time")
        self.expected, self.time = leaf.seq + 1, time
        if seq == self._next:
            self._between_marks(seq)
        if not self._earliest <= time <= self._latest:
            self.add("outside-marks", 10, "its time lies outside the marks that scope set around it", seq, "time")
        if self.closed or (seq == 0) != (kind == "open"):
            self.add("wrong-order", 7, f"a receipt of kind {kind} cannot stand at place {seq}", seq, "kind")
        self.kinds[kind] += 1
        self._judges[kind](leaf)

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
                self.add("no-answer", 12, f"call {call} had begun and nothing says how it ended", opened.seq, "call")
        if not self.closed:
            self._unclosed()

    def _unclosed(self) -> None:
        seal = self.evidence.seal
        if seal is not None and seal.status != "interrupted":
            self.add("no-close", 6, f"sealed as {seal.status}, and the lane has no close receipt")
        else:
            self.add("interrupted", 12, "the lane has no close receipt: its gateway was cut off")

    # Step 6 ---------------------------------------------------------------------------------------------------------

    def _check_head(self) -> None:
        root = self.tree.root()
        if self.sealed is not None:
            if self.count != self.sealed.size:
                self.add("wrong-size", 6, f"{self.count} receipts, the seal says {self.sealed.size}", place="size")
            if "sha256:" + root.hex() != self.sealed.root:
                self.add("wrong-root", 6, "the receipts do not add up to the sealed root", place="root")
        try:
            note = Checkpoint.parse(self.head.note)
            self._check_note(note, root)
        except Refused as refused:
            self.report.refuse(refused, 6, line=self.line, lane=self.head.lane)

    def _check_note(self, note: Checkpoint, root: bytes) -> None:
        gateway = next(iter(self.evidence.grants.values())).scope.audience
        if note.origin != origin(gateway, self.evidence.job, self.head.lane):
            raise Refused("wrong-head", "the head is of another lane, job or gateway", field="origin")
        if self.sealed is not None:
            if self.sealed.gateway != gateway:
                raise Refused(
                    "wrong-gateway", "the seal names another gateway than the grant's audience", field="gateway"
                )
            if (note.size, "sha256:" + note.root.hex()) != (self.sealed.size, self.sealed.root):
                raise Refused("wrong-head", "the head is not the one that was sealed", field="note")
        elif note.size != self.count:
            raise Refused("wrong-size", f"{self.count} receipts, the head says {note.size}", field="size")
        elif note.root != root:
            raise Refused("wrong-root", "the receipts do not add up to the head's root", field="root")
        self._check_signatures(note, gateway)

    def _check_signatures(self, note: Checkpoint, gateway: str) -> None:
        trust = self.evidence.trust
        candidates = [key for key in trust.listed.keys if key.use == "gateway" and key.owner == gateway]
        if self.sealed is not None:
            candidates = [key for key in candidates if key.kid == self.sealed.kid]
        last: Refused = Refused("unknown-signer", "no gateway key of this owner in the key list", field="kid")
        for key in candidates:
            try:
                self._check_one(note, key)
            except Refused as refused:
                last = refused
            else:
                return
        raise last

    def _check_one(self, note: Checkpoint, key: Key) -> None:
        seconds = note.check(key.pair(), closing=self.closed)
        seal = self.evidence.seal
        at = self.time if seal is None else seal.closed
        self.evidence.trust.good_at(key, at)
        late = seal is not None and seconds is not None and seconds * SECOND > seal.closed + self._skew
        if late or (seconds is not None and (seconds + 1) * SECOND < self.time - self._skew):
            raise Refused("wrong-head", "the closing head was signed at another time than the lane's end", field="note")

    # Step 7 ---------------------------------------------------------------------------------------------------------

    def _open(self, leaf: Open) -> None:
        self.opening = leaf
        evidence = self.evidence
        gateway = next(iter(evidence.grants.values())).scope.audience
        listed = evidence.trust.listed
        for code, wrong, name in (
            ("wrong-job", leaf.job != evidence.job, "job"),
            ("wrong-order", leaf.lane != self.head.lane, "lane"),
            ("wrong-policy", leaf.policy != evidence.policy_digest, "policy"),
            ("wrong-gateway", leaf.gateway != gateway, "gateway"),
            ("wrong-suite", leaf.suite not in evidence.trust.pin.suites, "suite"),
            (
                "wrong-keys",
                leaf.keys_version > listed.version
                or (leaf.keys_version == listed.version and leaf.keys != evidence.trust.digest),
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
        if grant is None:
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
            self.tokens[leaf.jti] = TokenUse(grant, leaf.iat * SECOND, leaf.exp * SECOND, {})

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
        self.fold.begin(leaf)

    def _check_begin(self, leaf: Begin) -> None:
        seq = leaf.seq
        token = self._use(leaf)
        if leaf.echo is not None or leaf.counter is not None or leaf.hold is not None:
            self.add("unsupported", 14, "echoes, counters and holds are not judged by this version", seq)
        if leaf.call in self.fold.open_calls:
            self.add("wrong-order", 7, f"call {leaf.call} begins twice", seq, "call")
        if leaf.staleness > self._most_stale:
            self.add(
                "stale-revocations", 10, "decided on an older revocation feed than the policy allows", seq, "staleness"
            )
        if token is None:
            return
        judged = self._judge(leaf, token, leaf.facts.labels)
        if judged is None:
            return
        self.report.totals.replayed += 1
        self.report.totals.replayed_fully += judged.full
        if leaf.rule not in judged.allowed:
            self.add(
                "wrong-decision", 9, f"recorded as allowed by {leaf.rule}; the policy cannot decide so", seq, "rule"
            )
        if self._limited:
            self._check_purse(leaf)
        if self._cutoffs:
            self._check_cutoffs(leaf, token)
        if judged.tool is not None and (self._tied or leaf.parent is not None):
            self._check_tie(leaf, judged.tool)

    def _judge(self, leaf: Begin | Deny, token: TokenUse, labels: list[str]) -> Judged | None:
        """Decide again what the policy can say of this target; remembered while it cannot depend on the time."""
        target = leaf.target or Target()
        key = (target.server, target.tool, target.provider, target.model, target.operation, leaf.manifest, *labels)
        judged = token.memo.get(key)
        if judged is None:
            try:
                judged = self._replay(leaf, target, token, labels)
            except Refused as refused:
                self.report.refuse(
                    refused,
                    8 if refused.code != "wrong-facts" else 9,
                    line=self.line + 1 + leaf.seq,
                    lane=self.head.lane,
                    seq=leaf.seq,
                )
                return None
            if not self._reads_time and len(token.memo) < 4096:  # noqa: PLR2004 - bounded memory
                token.memo[key] = judged
        return judged

    def _replay(self, leaf: Begin | Deny, target: Target, token: TokenUse, labels: list[str]) -> Judged:
        rebuilt = self._rebuild(leaf, target, token.grant, labels)
        ttl = (token.exp - token.iat) // SECOND
        call = Call(
            subject=subject_of(token.grant.scope), target=rebuilt, token_ttl=ttl, time=leaf.time, arguments=UNDISCLOSED
        )
        possible: tuple[Decision, ...] = outcomes(self.evidence.policy, call)
        return Judged(
            frozenset(each.rule for each in possible if isinstance(each, Allowed)),
            frozenset((each.rule, each.reason) for each in possible if isinstance(each, Denied)),
            len(possible) == 1,
            rebuilt.tool if isinstance(rebuilt, ToolTarget) else None,
        )

    def _rebuild(self, leaf: Begin | Deny, target: Target, grant: Grant, labels: list[str]) -> ToolTarget | ModelTarget:
        """Rebuild a call's target from grant and manifest. Raises `Refused` wrong-target, wrong-manifest, wrong-facts."""
        allowed = isinstance(leaf, Begin)
        if labels != sorted(set(labels)):
            raise Refused("wrong-facts", "labels are sorted, none twice", field="facts")
        if (
            target.provider is not None
            and target.model is not None
            and target.operation is not None
            and target.server is None
            and target.tool is None
        ):
            named = f"{target.provider}/{target.model}"
            if allowed and not any_glob(grant.scope.models, named):
                raise Refused("wrong-target", "the grant does not name this model", field="target")
            return ModelTarget(target.provider, target.model, target.operation, tuple(labels))
        if target.server is None or target.tool is None or target.provider or target.model or target.operation:
            raise Refused(
                "wrong-target", "a target is server and tool, or provider, model and operation", field="target"
            )
        pinned = grant.scope.manifests.get(target.server)
        manifest = self.evidence.manifests.get(pinned or "")
        if pinned is None or pinned != leaf.manifest or manifest is None:
            raise Refused("wrong-manifest", "not the manifest that the grant pins for this server", field="manifest")
        tool = manifest.tool(target.tool)
        if tool is None or (allowed and f"mcp:{target.server}/{target.tool}" not in grant.scope.tools):
            raise Refused("wrong-target", "manifest or grant does not name this tool", field="target")
        if not set(tool.data_classes) <= set(labels):
            raise Refused("wrong-facts", "the labels lack what the manifest says of the tool", field="facts")
        return tool_target(manifest, tool, labels)

    def _deny(self, leaf: Deny) -> None:
        token = self._use(leaf)
        if leaf.by == "gateway" or token is None:
            return
        judged = self._judge(leaf, token, leaf.facts.labels if leaf.facts else [])
        if judged is None:
            return
        self.report.totals.replayed += 1
        self.report.totals.replayed_fully += judged.full
        if (leaf.rule, leaf.code) not in judged.denied and not self._over(leaf, judged):
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
        if rule not in judged.allowed:
            return False
        target = leaf.target or Target()
        return leaf.code in {
            self.fold.purse.refusal(rule, target, reservation, leaf.time) for reservation in (0, FOREVER)
        }

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
        code = self.fold.purse.refusal(leaf.rule, leaf.target, reserved or 0, leaf.time)
        if code is not None:
            self.add("over-budget", 9, f"allowed although {code}", leaf.seq, "reservation")

    def _check_share(self, share: Budget, granted: Budget) -> None:
        """A lane's share is never more than the grant's purse."""
        for name in ("calls", "tokens", "wall_seconds"):
            most, got = getattr(granted, name), getattr(share, name)
            if most is not None and (got is None or got > most):
                self.add("over-budget", 9, f"the lane's share of {name} is more than the grant's", place="share")

    # Step 10 --------------------------------------------------------------------------------------------------------

    def _between_marks(self, seq: int) -> None:
        """Find the marks around a receipt; `_next` is the first place where they are others.

        Scope did not know the receipt at the mark before it, so it is not much older than that mark: by the pin's skew, or
        by how long a gateway may work without scope. Scope knew it at the mark after it, so it is no younger.
        """
        passed = bisect_right(self._sizes, seq)
        marks = self.sealed.marks if self.sealed else []
        seal = self.evidence.seal
        end = FOREVER if seal is None else seal.closed
        self._earliest = marks[passed - 1].time - max(self._skew, self._most_stale + SECOND) if passed else 0
        self._latest = (marks[passed].time if passed < len(marks) else end) + self._skew
        self._next = self._sizes[passed] if passed < len(marks) else -1

    def _find_cutoffs(self) -> list[tuple[int, Revocation]]:
        """Find, for each revocation, the size from which on no call that it touches may have begun."""
        found = []
        margin = self._most_stale + SECOND
        for revocation in self.evidence.revocations:
            due = revocation.time + margin
            mark = next((each for each in (self.sealed.marks if self.sealed else ()) if each.time >= due), None)
            if mark is not None:
                found.append((mark.size, revocation))
                if mark.time > due + MARK_GRACE:
                    self.add(
                        "missing-mark",
                        10,
                        f"no mark within a minute of when revocation {revocation.sequence} had to be known",
                        place="marks",
                    )
        return found

    def _check_cutoffs(self, leaf: Begin, token: TokenUse) -> None:
        for size, revocation in self._cutoffs:
            if leaf.seq >= size and _concerns(revocation, leaf, token):
                self.add(
                    "after-revocation", 10, f"allowed after revocation {revocation.sequence} had to be known", leaf.seq
                )

    # Step 12 --------------------------------------------------------------------------------------------------------

    def _check_tie(self, leaf: Begin, tool: str) -> None:
        if leaf.parent is None or not self.fold.model_calls.answers(leaf.parent, tool, leaf.seq):
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
            leaf.tool_calls and opened.target.provider is None
        ):
            self.add("bad-end", 7, "the end says more than its call can have had", leaf.seq)


def _concerns(revocation: Revocation, leaf: Begin, token: TokenUse) -> bool:
    kind, value = revocation.target.kind, revocation.target.value
    if kind in OF_GRANT:
        return revocation.ends(token.grant.scope)
    target = leaf.target
    return value == {
        "jti": leaf.jti, "server": target.server, "tool": f"{target.server}/{target.tool}", "model": f"{target.provider}/{target.model}",
    }[kind]  # fmt: skip


def _words(target: Target) -> str:
    return f"{target.server}/{target.tool}" if target.server else f"{target.provider}/{target.model}"
