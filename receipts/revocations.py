"""What has been revoked, as far as scope said it moments ago (specs/revocation.md).

Scope's feed is followed: signed revocations as they are committed, and each second a heartbeat that says how many there
are. Where the feed brings nothing, a proxy in between perhaps, the snapshot is asked for each second. Sequences have no
gaps: a heartbeat without its revocations freshens nothing. Whoever cannot hear scope for longer than a policy's bound
refuses that policy's calls.
"""

import asyncio
from collections.abc import Callable, Mapping
from heapq import heappop, heappush

import structlog

from receipts.history import History, Known
from receipts.tokens import BadToken
from scope.client import ScopeClient
from verifier.chain import Terms
from verifier.documents import Opened, open_heartbeat, open_revocation
from verifier.keys import Trust
from verifier.leaf import Target
from verifier.refused import Refused
from verifier.revocation import OF_CALL, Name, Revocation

SECOND = 1_000_000
SKEW = 5 * SECOND
FOREVER = 2**62
LONGEST_SILENCE = 60 * SECOND  # no policy lets a gateway go on for longer
LONGEST_TOKEN = 3600 * SECOND  # no policy lets a token live longer, and none that does is accepted
MAX_PAGES = 1000
AGAIN = 0.25  # seconds until scope is asked again after it did not answer
WITHOUT_FEED = 30  # polls, one a second, until a feed that brought nothing is tried again

log = structlog.get_logger(service="receipts")


class Revocations:
    """The feed of one gateway: `sequence` is the last revocation read, `heard` the time of the last good heartbeat."""

    def __init__(
        self,
        scope: ScopeClient,
        trust: Trust,
        issuer: str,
        clock: Callable[[], int],
        seen: Known = Known(),  # noqa: B008 - it is frozen
        *,
        counted: Callable[[], int] | None = None,
    ) -> None:
        """Start having heard nothing; `issuer` is scope's, and whose revocations count.

        `seen` is what an earlier run of this gateway had seen: scope must have it still. `counted` is the machine's own
        count of time, which nobody sets.
        """
        self._scope = scope
        self._trust = trust
        self._issuer = issuer
        self._clock = clock
        self._counted = counted or clock
        self._heard_at: int | None = None  # as counted
        # Until when, in microseconds: what ends tokens, and what calls may not be to.
        self._revoked: dict[Name, int] = {}
        self._targets: dict[Name, int] = {}
        self._passing: list[tuple[int, Name]] = []  # a heap of what will be forgotten
        self._said = ""
        self._restored: Refused | None = None
        self._history = History(seen)
        self.heard = 0
        self.changed: Callable[[], None] = lambda: None  # what to do when something was revoked

    @property
    def sequence(self) -> int:
        """Name the last revocation read."""
        return self._history.sequence

    @property
    def seen(self) -> Known:
        """Name the last revocation that scope must have still, now and when this gateway is started again."""
        return self._history.seen

    async def follow(self) -> None:
        """Hear scope for ever. Where it cannot be heard it is asked again: the staleness bound is what protects."""
        polls = 0
        while True:
            try:
                await self.poll()
                if polls:
                    polls -= 1
                elif not await self._hear():
                    polls = WITHOUT_FEED
            except Refused as refused:
                self._warn(refused)
            except Exception:
                log.exception("bug", task="revocations")
            await asyncio.sleep(1.0 if polls else AGAIN)

    async def _hear(self) -> bool:
        """Follow the feed to its end; return whether it brought anything. Raises `Refused` for what cannot be."""
        heard = self.heard
        try:
            async for heartbeat, revocations in self._scope.follow(self._history.after):
                self._take(heartbeat, revocations)
        except Refused as refused:
            if refused.code in {"bad-snapshot", "scope-restored"}:
                raise
            self._warn(refused)
        return self.heard > heard

    def _warn(self, refused: Refused) -> None:
        """Log what is wrong, once until it is well again or something else."""
        if refused.code != self._said:
            log.warning("revocations", code=refused.code, why=refused.why)
        self._said = refused.code

    async def poll(self) -> None:
        """Take in what is new. Raises `Refused` for a snapshot not signed, not gapless or older than what is known."""
        for _ in range(MAX_PAGES):
            heartbeat, revocations = await self._scope.snapshot(self._history.after)
            if self._take(heartbeat, revocations):
                return
        raise Refused("bad-snapshot", "the snapshot has no end")

    def _take(self, raw: bytes, revocations: list[bytes]) -> bool:
        """Take in one page; return whether all that the heartbeat counts has been seen."""
        heartbeat = open_heartbeat(self._trust, raw).value
        if heartbeat.iss != self._issuer or heartbeat.time > self._clock() + SKEW:
            raise Refused("bad-snapshot", "a heartbeat of another issuer or of a time to come")
        known = self.sequence
        try:
            self._history.require_onward(heartbeat.sequence)
            for each in revocations:
                self._next(open_revocation(self._trust, each))
            if heartbeat.sequence == self.sequence:
                self._history.require_same()
        except Refused as refused:
            self._disbelieve(refused)
            raise
        finally:
            if self.sequence > known:
                self.changed()
                log.info("revoked", sequence=self.sequence)
        if heartbeat.sequence < self.sequence:
            raise Refused("bad-snapshot", "scope counts fewer revocations than it sends")
        if heartbeat.sequence > self.sequence == known:
            raise Refused("bad-snapshot", "revocations that the heartbeat counts are missing")
        complete = heartbeat.sequence == self.sequence
        if complete:
            self._believe(heartbeat.time)
        return complete

    def _believe(self, time: int) -> None:
        """Take scope's word that this was all at a time."""
        if time > self.heard:
            self.heard, self._heard_at = time, self._counted()
        self._restored = None
        self._forget(min(time, self._clock()))
        if self._said:
            log.info("heard-again", sequence=self.sequence)
        self._said = ""

    def _disbelieve(self, refused: Refused) -> None:
        """Believe scope no more when it went back: what it ended and forgot would be good again."""
        if refused.code == "scope-restored":
            self.heard, self._restored = 0, refused

    def _next(self, opened: Opened[Revocation]) -> None:
        if opened.value.iss != self._issuer:
            raise Refused("bad-snapshot", "a revocation of another issuer")
        if self._history.add(opened):
            self._add(opened.value)

    def _add(self, revocation: Revocation) -> None:
        name, until = revocation.name, FOREVER if revocation.until is None else revocation.until
        if name[0] == "jti":
            until = revocation.time + LONGEST_TOKEN + SKEW  # it has expired by then
        known = self._of(name)
        until = known[name] = max(until, known.get(name, 0))
        if name[0] == "jti" or name[0] in OF_CALL:
            heappush(self._passing, (until, name))

    def _forget(self, now: int) -> None:
        """Drop what no call can be about any more: tokens that have expired, targets that may be used again.

        By the earlier of two clocks, scope's and ours: one that was ahead for a while makes nothing good again.
        """
        while self._passing and self._passing[0][0] <= now:
            until, name = heappop(self._passing)
            if self._of(name).get(name) == until:
                del self._of(name)[name]

    def _of(self, name: Name) -> dict[Name, int]:
        return self._targets if name[0] in OF_CALL else self._revoked

    def require_heard(self) -> None:
        """Raise `Refused` stale-revocations when every call would be refused, whatever its policy."""
        if self._restored is not None:
            raise _stale(self._restored)
        if not self.heard:
            raise Refused("stale-revocations", "scope has not been heard yet", hint="Look at scope.")
        now = self._clock()
        if self.heard > now + SKEW:
            raise Refused(
                "stale-revocations", "the clock is behind scope's last heartbeat", hint="Set the clock right."
            )
        if (silent := self.staleness(now)) > LONGEST_SILENCE:
            why = f"scope has not been heard for {silent // SECOND} s"
            raise Refused("stale-revocations", why, hint="Look at scope, and at the way there.")

    def staleness(self, now: int) -> int:
        """Return how long ago scope last said that this was all, in microseconds: the longer by clock and by count.

        A clock that is set back would make scope's word young again.
        """
        counted = 0 if self._heard_at is None else self._counted() - self._heard_at
        return max(0, now - self.heard, counted)

    def require_fresh(self, terms: Terms, now: int) -> None:
        """Raise `Refused` stale-revocations beyond the policy's bound, the lowest of its ancestors'.

        So it does when the clock has gone back: then nothing tells how long ago scope was heard.
        """
        if self._restored is not None:
            raise _stale(self._restored)
        if self.heard > now + SKEW or self.staleness(now) > terms.token_constraints.max_staleness_seconds * SECOND:
            raise Refused(
                "stale-revocations",
                "scope has not been heard for longer than the policy allows",
                hint="Try again shortly.",
            )

    def require_live(self, names: Mapping[Name, int]) -> None:
        """Raise `BadToken` revoked when one of the names of a session is, and was in use before that ended."""
        if self._revoked.keys().isdisjoint(names.keys()):
            return
        for name, since in names.items():
            if since < self._revoked.get(name, 0):
                raise BadToken("revoked", f"revoked by {name[0]}", field=name[0])

    def require_target(self, target: Target, at: int) -> None:
        """Raise `Refused` revoked when the server, tool or model is at a time."""
        if not self._targets:
            return
        if target.server is None:
            names: tuple[Name, ...] = (("model", f"{target.provider}/{target.model}"),)
        else:
            names = ("server", target.server), ("tool", target.place)
        for name in names:
            if at < self._targets.get(name, 0):
                raise Refused("revoked", f"this {name[0]} is revoked", field=name[0])


def _stale(refused: Refused) -> Refused:
    return Refused("stale-revocations", refused.why, hint=refused.hint)
