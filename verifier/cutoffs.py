"""Step 10: which calls may not have begun, because a revocation was known or had to be (specs/verification.md §10).

A job may have very many revocations, calls and grants: what ends a call is looked up, never searched for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

from msgspec import Struct

from verifier.findings import LaneFindings
from verifier.grant import Grant
from verifier.leaf import Begin
from verifier.marks import FOREVER, Marks
from verifier.revocation import Name, Revocation, named
from verifier.tokens import TokenUse


class Cutoff(Struct, frozen=True):
    """From where on something revoked may not be used: from a size of the lane, or once a sequence was known.

    Of several revocations the lowest of both count; `first` is the sequence of the one that the size is of.
    """

    size: int = FOREVER
    first: int = FOREVER
    sequence: int = FOREVER

    def lowest(self, other: "Cutoff") -> "Cutoff":
        """Put two together."""
        size, first = min((self.size, self.first), (other.size, other.first))
        return Cutoff(size, first, min(self.sequence, other.sequence))

    def ended(self, leaf: Begin) -> int | None:
        """Name the revocation after which a call began; None when it began before all of them."""
        if leaf.revocations >= self.sequence:
            return self.sequence
        return self.first if leaf.seq >= self.size else None


NEVER = Cutoff()


class Ends:
    """What the revocations of one target come to; one with an `until` counts for the receipts before that time."""

    def __init__(self, each: list[tuple[int, Cutoff]]) -> None:
        """Put revocations together, each with its `until`: the lowest of those that last longest comes last."""
        lasting = sorted(each, key=lambda one: one[0], reverse=True)
        self._untils = [until for until, _ in reversed(lasting)]
        self._lowest = list(accumulate((cutoff for _, cutoff in lasting), Cutoff.lowest))[::-1]
        self.ever = self._lowest[0]

    def at(self, time: int) -> Cutoff:
        """Find what a receipt of this time is held against."""
        passed = bisect_right(self._untils, time)
        return self._lowest[passed] if passed < len(self._lowest) else NEVER


class Cutoffs:
    """What the revocations of a job end in one lane, by what each is about."""

    def __init__(
        self, grants: Mapping[str, Grant], kids: Mapping[str, frozenset[str]], policies: Iterable[str]
    ) -> None:
        """Start with no revocation.

        `grants` are all those of the bundle by digest, ancestors of the job's own too, `kids` who signed them;
        `policies` is the chain.
        """
        self._grants = grants
        self._kids = kids
        self._policies = list(policies)
        self._by_target: dict[Name, Ends] = {}
        self._by_grant: dict[str, Cutoff] = {}

    def __bool__(self) -> bool:
        return bool(self._by_target)

    def learn(self, marks: Marks, revocations: Iterable[Revocation], size: int | None, found: LaneFindings) -> None:
        """Find, for each revocation, the size from which on no call that it concerns may have begun."""
        by_target: dict[Name, list[tuple[int, Cutoff]]] = {}
        for revocation in revocations:
            mark, sequence = marks.cutoff(revocation), revocation.sequence
            cutoff = Cutoff(FOREVER if mark is None else mark.size, sequence, sequence)
            until = FOREVER if revocation.until is None else revocation.until
            by_target.setdefault(revocation.name, []).append((until, cutoff))
            if size is not None and marks.late(mark, revocation, size):
                why = f"no mark within a minute of when revocation {sequence} had to be known"
                found.add("missing-mark", 10, why, place="marks")
        self._by_target = {name: Ends(each) for name, each in by_target.items()}

    def ended(self, leaf: Begin, token: TokenUse) -> int | None:
        """Name the lowest revocation after which a call was allowed that it concerns."""
        if not self._by_target:
            return None
        target = leaf.target
        cutoff = self._of_grant(token.grant_digest)
        for name in (
            ("jti", leaf.jti),
            ("server", target.server or ""),
            ("tool", target.place),
            ("model", f"{target.provider}/{target.model}"),
            ("key", token.kid or ""),
        ):
            if name in self._by_target:
                cutoff = cutoff.lowest(self._by_target[name].at(leaf.time))
        return cutoff.ended(leaf)

    def _of_grant(self, digest: str) -> Cutoff:
        """Find what ends a grant or one of those that it was delegated from: each is looked at once.

        A grant that was ended stays ended: no `until` counts here.
        """
        below: list[str] = []
        above: str | None = digest
        while above is not None and above in self._grants and above not in self._by_grant:
            below.append(above)
            above = self._grants[above].parent
        cutoff = self._by_grant.get(above or "", NEVER)
        for each in reversed(below):
            for name in named(self._grants[each].scope, self._kids.get(each, ()), self._policies):
                if name in self._by_target:
                    cutoff = cutoff.lowest(self._by_target[name].ever)
            self._by_grant[each] = cutoff
        return cutoff
