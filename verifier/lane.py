"""Steps 6 to 14 for one lane: its receipts, read once, judged one by one (specs/verification.md)."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from verifier import leaf as leaves
from verifier.again import Place, follow
from verifier.attached import Attached
from verifier.bundle import Head
from verifier.calls import Calls, words
from verifier.chain import terms
from verifier.clients import Hashes
from verifier.evidence import Evidence
from verifier.findings import LaneFindings
from verifier.fold import Fold
from verifier.forms import Forms, Known
from verifier.grant import LIMITS, Budget
from verifier.heads import Rebuilt, check_head
from verifier.kept import Kept
from verifier.leaf import Begin, Close, Deny, End, Hold, Leaf, Note, Open, Token
from verifier.marks import Marks
from verifier.merkle import Tree
from verifier.narrowed import Narrowed
from verifier.refused import Refused
from verifier.report import Report
from verifier.seal import SealedLane
from verifier.tokens import SECOND, Tokens

# Receipts judged together: so many that what is done once for all of them costs little, and so few that a form learned
# from one of them is soon of use.
BATCH = 128
_CALLS = frozenset({Begin, End, Deny, Hold})
ATTACHED = (b'{"disclosure":', b'{"box":')
BEHIND = {each[:4] for each in ATTACHED}  # no receipt begins so


class LaneCheck:
    """The judge of one lane. Feed it every line in order, then `finish`."""

    def __init__(
        self, head: Head, evidence: Evidence, report: Report, line: int, *, narrowed: Narrowed, kept: Sequence[Kept]
    ) -> None:
        """Begin a lane at its head line; all lanes ask `narrowed`, `kept` are the proofs that clients hold of it."""
        self.head = head
        self.evidence = evidence
        self.report = report
        self.found = LaneFindings(report, head.lane, line)
        self.count = 0  # receipts read
        self.expected = 0  # the number that the next receipt must bear
        self.time = 0
        self.closed = False
        self.kinds: dict[type[Leaf], int] = dict.fromkeys(leaves.KINDS.values(), 0)
        self.sealed = self._find_sealed()
        self._terms = terms(evidence.policies)
        granted = evidence.first.scope.limits
        share = self.sealed.share if self.sealed else granted
        self.fold = Fold.of(evidence.policies, share, evidence.first.opened, evidence.prices)
        self._hashes = Hashes()
        self._tokens = Tokens(evidence, self.sealed, self.found)
        self.calls = Calls(
            evidence,
            self.found,
            terms=self._terms,
            tokens=self._tokens,
            fold=self.fold,
            hashes=self._hashes,
            narrowed=narrowed,
        )
        self._marks = self._make_marks()
        size = self.sealed.size if self.sealed else None
        self.calls.cutoffs.learn(self._marks, evidence.revocations, size, self.found)
        self._check_share(share, granted)
        self._tree = Tree()
        self._kept = sorted(kept, key=lambda each: each.index, reverse=True)  # those not reached yet, the next one last
        self._heads = list(kept)
        self._roots: dict[int, bytes] = {}  # of the tree at the sizes that somebody else has signed
        self._sizes = sorted({*(each.head.size for each in kept), *self._superseded_size()}, reverse=True)
        self._held: bytes | None = None  # the last receipt, until it is known what stands behind it
        self._attached: Attached | None = None
        self._behind = 0
        self._forms = Forms()
        self._judges: dict[type[Leaf], Callable[..., Any]] = {
            Open: self._open, Token: self._tokens.record, Begin: self.calls.begin, End: self.calls.end,
            Deny: self.calls.deny, Hold: self.calls.hold, Note: self._note, Close: self._close,
        }  # fmt: skip

    @property
    def reached(self) -> int:
        """The place of the next receipt, the one that is held back counted."""
        return self.count + (self._held is not None)

    # Reading --------------------------------------------------------------------------------------------------------

    def feed(self, lines: list[bytes]) -> None:
        """Take in the next lines: receipts, each perhaps followed by disclosures and sealed payloads."""
        if self._behind or self.calls.wanting or not BEHIND.isdisjoint({line[:4] for line in lines}):
            for line in lines:
                self._step(line)
            return
        run = lines if self._held is None else [self._held, *lines]
        self._held = run.pop()
        self._judge(run)

    def _step(self, line: bytes) -> None:
        """Take in one line, where receipts are judged together with what stands behind them."""
        if not line.startswith(ATTACHED):
            self._flush()
            self._held = line
            return
        self._behind += 1
        try:
            self._attach().add(line)
        except Refused as refused:
            self.found.refuse(refused, 13, self.count, behind=self._behind)

    def _attach(self) -> Attached:
        """Find, or begin, what stands behind the receipt that is held back."""
        if self._attached is None:
            leaf = None if self._held is None else leaves.decode_many([self._held])[0]
            if leaf is None or isinstance(leaf, Refused):
                raise Refused("bad-line", "a disclosure or sealed payload that stands behind no receipt")
            self._attached = Attached(leaf, self.evidence.trust.by_kid, self._terms.auditors)
        return self._attached

    def _flush(self) -> None:
        """Judge the receipt that was held back."""
        if self._held is not None:
            self._judge([self._held], self._attached)
        self.found.passed(self.count - 1, self._behind)
        if self._attached is not None:
            self.report.totals.disclosed += self._attached.disclosed
            self.report.totals.sealed += self._attached.sealed
        self._held, self._attached, self._behind = None, None, 0

    def _judge(self, raws: list[bytes], attached: Attached | None = None) -> None:
        """Judge receipts; with `attached`, one that something stands behind."""
        seq = self.count
        self._grow([sha256(b"\0" + raw).digest() for raw in raws])
        if attached is not None:
            self._judge_leaf(seq, raws[0], leaves.decode_many(raws)[0], attached)
            return
        for at in range(0, len(raws), BATCH):
            self._judge_batch(seq + at, raws[at : at + BATCH])

    def _judge_batch(self, seq: int, raws: list[bytes]) -> None:
        """Judge receipts in order: by what is known of their form as far as that goes, else each as a whole."""
        known = self._forms.read(raws)
        others = [raw for raw, line in zip(raws, known.lines, strict=True) if line is None]
        decoded = iter(leaves.decode_many(others) if others else ())
        at = 0
        while at < len(raws):
            at += self._follow(seq, known, at)
            if at < len(raws):
                leaf = next(decoded) if known.lines[at] is None else leaves.decode(raws[at])
                self._judge_leaf(seq + at, raws[at], leaf)
                at += 1

    def _follow(self, seq: int, known: Known, at: int) -> int:
        """Judge what is known of the next receipts; return how many that was enough for."""
        marks = self._marks
        stop = len(known.lines) if marks.next < seq else min(len(known.lines), marks.next - seq)
        if self.closed or at >= stop or known.lines[at] is None:
            return 0
        place = Place(self.expected, max(self.time, marks.earliest), marks.latest)
        count, begins = follow(self.calls, known, at, stop, place)
        if count:
            self.expected, self.time = place.expected, place.earliest
            self.kinds[Begin] += begins
            self.kinds[End] += count - begins
        return count

    def _judge_leaf(self, seq: int, raw: bytes, leaf: Leaf | Refused, attached: Attached | None = None) -> None:
        """Judge a receipt as a whole."""
        marks = self._marks
        if seq == marks.next:
            marks.advance(seq)
        if isinstance(leaf, Refused):
            self.found.refuse(leaf, 7, seq)
            return
        kind = leaf.__class__
        good = (
            leaf.seq == self.expected
            and leaf.time >= self.time
            and marks.earliest <= leaf.time <= marks.latest
            and not self.closed
            and (seq == 0) == (kind is Open)
        )
        if not good:
            self._check_place(leaf, seq, self.expected, self.time)
        self.expected, self.time = leaf.seq + 1, leaf.time
        self.kinds[kind] += 1
        if attached is not None and kind in _CALLS:
            self._judges[kind](leaf, attached)
        else:
            plain = self._judges[kind](leaf)
            if plain and isinstance(leaf, Begin | End):
                self._forms.learn(raw, leaf, plain if isinstance(leaf, Begin) else None)
        if self.fold.recent is not None:
            self.fold.recent.add(leaf)

    def _grow(self, hashes: list[bytes]) -> None:
        """Add leaf hashes to the tree; take its root at each size that somebody else has signed."""
        start, self.count = self.count, self.count + len(hashes)
        self._hashes.extend(hashes)
        while self._kept and self._kept[-1].index < self.count:
            kept = self._kept.pop()
            if hashes[kept.index - start] != kept.leaf_hash:
                self.found.add("omitted", 14, f"{kept.name}: another receipt stands where this one was", kept.index)
        at = 0
        while self._sizes and self._sizes[-1] <= self.count:
            size = self._sizes.pop()
            self._tree.extend(hashes[at : size - start])
            at = size - start
            self._roots[size] = self._tree.root()
        self._tree.extend(hashes[at:] if at else hashes)

    def _check_place(self, leaf: Leaf, seq: int, expected: int, before: int) -> None:
        """Say what is wrong with a receipt's place and time (steps 7 and 10)."""
        if leaf.seq != expected:
            self.found.add("wrong-seq", 7, f"receipt {leaf.seq} stands where {expected} belongs", seq, "seq")
        if leaf.time < before:
            self.found.add("wrong-time", 7, "earlier than the receipt before it", seq, "time")
        if not self._marks.earliest <= leaf.time <= self._marks.latest:
            why = "its time lies outside the marks that scope set around it"
            self.found.add("outside-marks", 10, why, seq, "time")
        if self.closed or (seq == 0) != (leaf.kind == "open"):
            why = f"a receipt of kind {leaf.kind} cannot stand at place {seq}"
            self.found.add("wrong-order", 7, why, seq, "kind")

    def finish(self) -> None:
        """Judge the lane as a whole: size, root, head, what stayed open, what clients hold."""
        self._flush()
        self._tokens.finish()
        totals = self.report.totals
        totals.lanes += 1
        totals.receipts += self.count
        totals.calls += self.kinds[Begin]
        totals.denials += self.kinds[Deny]
        totals.holds += self.kinds[Hold]
        self._check_head()
        self._check_superseded()
        self._check_kept()
        self.calls.finish()
        for call, opened in self.fold.open_calls.items():
            if self.closed:
                self.found.add("no-end", 7, f"call {call} has no end in a closed lane", opened.seq, "call")
            else:
                why = f"call {call} to {words(opened.target)} had begun and nothing says how it ended"
                self.found.add("no-answer", 12, why, opened.seq, "call")
        if not self.closed:
            self._unclosed()

    # Step 6 ---------------------------------------------------------------------------------------------------------

    def _find_sealed(self) -> SealedLane | None:
        if self.evidence.seal is None:
            return None
        sealed = self.evidence.seal.lane(self.head.lane)
        if sealed is None:
            self.found.add("unsealed-lane", 6, "the seal does not name this lane")
        return sealed

    def _unclosed(self) -> None:
        seal = self.evidence.seal
        if seal is not None and seal.status != "interrupted":
            self.found.add("no-close", 6, f"the lane has no close receipt, though the job was sealed as {seal.status}")
        elif self.count == 0:
            self.found.add("interrupted", 12, "the lane was registered and holds no receipt")
        else:
            self.found.add("interrupted", 12, "the lane ends without a close receipt")

    def _check_head(self) -> None:
        root, sealed = self._tree.root(), self.sealed
        if sealed is not None and self.count != sealed.size:
            self.found.add("wrong-size", 6, f"{self.count} receipts, the seal says {sealed.size}", place="size")
        if sealed is not None and "sha256:" + root.hex() != sealed.root:
            self.found.add("wrong-root", 6, "the receipts do not add up to the sealed root", place="root")
        rebuilt = Rebuilt(self.count, root, self.time, closed=self.closed)
        for refused in check_head(self.head.note, self.head.lane, self.evidence, sealed, rebuilt):
            self.found.refuse(refused, 6)

    def _superseded(self) -> SealedLane | None:
        earlier = self.evidence.superseded
        return None if earlier is None else earlier.lane(self.head.lane)

    def _superseded_size(self) -> list[int]:
        earlier = self._superseded()
        return [earlier.size] if earlier is not None and earlier.size else []

    def _check_superseded(self) -> None:
        """Hold the lane against the seal that was superseded: every lane of it is extended, none rewritten."""
        earlier = self._superseded()
        if earlier is None or not earlier.size:
            return
        root = self._roots.get(earlier.size)
        if root is None or "sha256:" + root.hex() != earlier.root:
            why = f"its first {earlier.size} receipts are not those that the superseded seal covers"
            self.found.add("wrong-supersedes", 6, why, place="root")

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
                self.found.add(code, 7, f"the lane's first receipt says another {name}", leaf.seq, name)

    def _close(self, leaf: Close) -> None:
        self.closed = True
        counted = {name: self.kinds[leaves.KINDS[name]] for name in ("begin", "deny", "end", "note", "token")}
        said = {name: getattr(leaf.counts, name) for name in counted}
        if said != counted:
            why = "the close receipt counts other receipts than there are"
            self.found.add("wrong-counts", 7, why, leaf.seq, "counts")

    def _note(self, leaf: Note) -> None:
        """An incident mark is counted; it claims nothing that can be judged."""

    # Steps 9, 10 and 14 ---------------------------------------------------------------------------------------------

    def _check_share(self, share: Budget, granted: Budget) -> None:
        """A lane's share is never more than the grant's purse."""
        for name in LIMITS:
            most, got = getattr(granted, name), getattr(share, name)
            if most is not None and (got is None or got > most):
                self.found.add("over-budget", 9, f"the lane's share of {name} is more than the grant's", place="share")

    def _make_marks(self) -> Marks:
        evidence = self.evidence
        return Marks(
            self.sealed.marks if self.sealed else [],
            evidence.seal.closed if evidence.seal else None,
            skew=evidence.trust.pin.max_skew_seconds * SECOND,
            stale=self._terms.token_constraints.max_staleness_seconds * SECOND,
        )

    def _check_kept(self) -> None:
        """What clients hold: each proof's leaf was compared when it was read, now the trees that they were shown."""
        for kept in self._kept:
            why = f"{kept.name}: the client holds receipt {kept.index}, and the lane ends before it"
            self.found.add("omitted", 14, why, kept.index)
        for kept in self._heads:
            if kept not in self._kept and self._roots.get(kept.head.size) != kept.head.root:
                why = f"{kept.name}: the client was shown another tree of {kept.head.size} receipts"
                self.found.add("omitted", 14, why, kept.index)
