"""The lanes of this epoch: one a job, registered with scope at the job's first call.

A lane is a log that also knows its job's purse and which calls are open. Deciding and writing `begin` happen without an
await between them, so no two calls can spend the same budget or answer the same tool call of a model.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from receipts.ledger import LaneRow, Ledger
from receipts.log import Appended, Build, Log
from scope.client import LaneRequest, ScopeClient
from service.app import VERSION
from service.engine import is_full
from service.keystore import Random, make_private_directory, read_private, write_private
from service.problems import full
from verifier.conditions import UNDISCLOSED, Undisclosed
from verifier.encoding import canonical
from verifier.fold import MINUTE, Fold
from verifier.grant import Budget, Grant
from verifier.grant import Token as Claims
from verifier.keys import Trust
from verifier.leaf import End, Leaf, Note, Open, Token
from verifier.policy import Chain
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.seal import origin
from verifier.signing import SUITE, KeyPair

DENIALS_A_MINUTE = 60
LANE_BYTES = 12
KEY_BYTES = 32
GRACE = 2.0  # seconds that open calls get to write their own end; scope waits five in all


class Cut:
    """The word from outside that a call is over: heard at once by who listens, known to who asks later.

    `still` raises `Refused` once the call is no longer allowed: its token, its job or its target was revoked.
    """

    def __init__(self, still: Callable[[], None]) -> None:
        """Nothing is said yet."""
        self.code = ""
        self._still = still
        self._listener: Callable[[], None] | None = None

    def set(self, code: str) -> None:
        """Say it, and why."""
        self.code = self.code or code
        if self._listener is not None:
            self._listener()

    def ask(self) -> None:
        """Say it when the call is no longer allowed."""
        try:
            self._still()
        except Refused as refused:
            self.set(refused.code)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` when it is said; None stops listening."""
        self._listener = listener


class Lane(Log):
    """One job's lane: `key` derives the commitments' salts, `calls` cuts an open call."""

    def __init__(
        self, row: LaneRow, key: bytes, fold: Fold, *, pair: KeyPair, ledger: Ledger, clock: Callable[[], int]
    ) -> None:
        """Start before leaf 0."""
        super().__init__(row.lane, row.job, row.origin, pair=pair, ledger=ledger, clock=clock)
        self.witnessed = 0
        self.key = key
        self.fold = fold
        self.alone = True  # whether no other lane of the purse counts with it
        self.calls: dict[str, Cut] = {}
        self.closing = False
        self._quiet = asyncio.Event()
        self._numbered = 0
        self._denials: deque[int] = deque(maxlen=DENIALS_A_MINUTE)
        self._unwritten = 0

    @property
    def spent(self) -> Budget:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """What the lane's calls came to, by its purse."""
        return structs.replace(super().spent, cost_nano_usd=self.fold.purse.cost)

    def next_call(self) -> str:
        """Name the next call: names grow within a lane, so that the index of calls does too."""
        self._numbered += 1
        return f"{self.lane}-{self._numbered}"

    def append(self, build: Build, arguments: Mapping[str, Any] | Undisclosed = UNDISCLOSED) -> Appended:
        """Write the next leaf, built from its seq and time; of a call with its arguments, which a rule may add up.

        Raises `Refused`: lane-closed, ledger-unavailable, too-large or bad-value of the leaf; then nothing happened.
        """
        appended = self.write(partial(self._admitted, build))
        self.fold.add(appended.leaf, arguments)
        if self.closing and not self.open_calls:
            self._quiet.set()
        return appended

    def token(self, claims: Claims) -> None:
        """Write the `token` leaf when a token is used for the first time in this lane."""
        if claims.jti in self.jtis:
            return
        said = partial(
            Token,
            exp=claims.exp,
            grant=claims.grant,
            iat=claims.iat,
            jti=claims.jti,
        )
        self.append(lambda seq, time: said(scope_hash=claims.scope_hash, seq=seq, time=time))

    def deny(self, build: Build) -> Appended | None:
        """Write a denial; past 60 a minute only count it, and return None."""
        now = max(self._clock(), self.time)
        if len(self._denials) == DENIALS_A_MINUTE and self._denials[0] > now - MINUTE:
            self._unwritten += 1
            return None
        self.note_denials()
        appended = self.append(build)
        self._denials.append(appended.leaf.time)
        return appended

    def note_denials(self) -> None:
        """Let one note stand for the denials that were only counted."""
        count, self._unwritten = self._unwritten, 0
        if count:
            self.append(lambda seq, time: Note(code="denials", count=count, seq=seq, time=time))

    async def end(self, reason: str) -> None:
        """Take no more calls, cut those that are open, and close once they have ended or the grace is over."""
        self.closing = True
        for cut in list(self.calls.values()):
            cut.set("job-closed")
        if self.open_calls:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), GRACE)
        self.end_open_calls("policy_cut")
        self.note_denials()
        await self.close(reason)

    def _admitted(self, build: Build, seq: int, time: int) -> Leaf:
        """While the lane closes, take only the ends of open calls and what closes it."""
        leaf = build(seq, time)
        if self.closing and leaf.kind not in {"end", "note"}:
            raise closed()
        if isinstance(leaf, End) and leaf.call not in self.open_calls:
            raise Refused("lane-closed", "this call was cut, and its end is written")
        return leaf


class Lanes:
    """The open lanes of this process, by job."""

    def __init__(
        self,
        *,
        directory: Path,
        gateway: str,
        pair: KeyPair,
        trust: Trust,
        ledger: Ledger,
        scope: ScopeClient,
        clock: Callable[[], int],
        random: Random,
        revocations: Callable[[], int],
        share: Literal["all", "half"] = "all",
    ) -> None:
        """Take the parts; `revocations` tells the sequence of the last revocation seen.

        `share` is what a lane asks for of what is left of its job's purse.
        """
        self._share = share
        self._directory = directory
        self._gateway = gateway
        self._pair = pair
        self._trust = trust
        self._ledger = ledger
        self._scope = scope
        self._clock = clock
        self._random = random
        self._revocations = revocations
        self._opening: dict[str, asyncio.Task[Lane]] = {}
        self._open: dict[str, Lane] = {}

    async def of(self, grant: Grant, chain: Chain, prices: Prices | None = None) -> Lane:
        """Return the job's lane; the first call of a job registers it, once however many come together.

        Raises `Refused`: what scope says (the job is not open), disk-full, ledger-unavailable, lane-closed.
        """
        job = grant.scope.job
        lane = self._open.get(job)
        if lane is None:
            opening = self._opening.get(job)
            if opening is None:
                opening = self._opening[job] = asyncio.create_task(self._register(grant, chain, prices))
                opening.add_done_callback(lambda _: self._opening.pop(job))
            lane = await asyncio.shield(opening)
        if lane.closing:
            raise closed()
        return lane

    def find(self, job: str) -> Lane | None:
        """Return a job's lane if it is open here."""
        return self._open.get(job)

    def forget(self, lane: str) -> None:
        """Drop a lane that scope has done with; a call that still holds it writes nothing more."""
        for each in self:
            each.closing = each.closing or each.lane == lane
        self._open = {job: each for job, each in self._open.items() if each.lane != lane}

    def ask(self) -> None:
        """Cut every open call that something revoked meanwhile no longer allows."""
        for cut in [cut for lane in self for cut in lane.calls.values()]:
            cut.ask()

    def __iter__(self) -> Iterator[Lane]:
        """Go through the open lanes."""
        return iter(list(self._open.values()))

    async def _register(self, grant: Grant, chain: Chain, prices: Prices | None) -> Lane:
        """Make the lane's key, register it with scope, write `open`."""
        job, lane = grant.scope.job, self._random(LANE_BYTES).hex()
        key = self._random(KEY_BYTES)
        name = origin(self._gateway, job, lane)
        asked = LaneRequest(lane=lane, gateway=self._gateway, kid=self._pair.kid, origin=name, share=self._share)
        try:
            await asyncio.to_thread(save_key, self._directory, lane, key)
            registered = await self._scope.register_lane(job, asked)
        except BaseException as error:
            discard_key(self._directory, lane)  # or whoever calls while scope is away fills the disk
            if is_full(error):
                raise full() from error
            raise
        row = LaneRow(
            lane=lane,
            job=job,
            policy=grant.scope.policy,
            origin=name,
            kid=self._pair.kid,
            opened=registered.opened,
            share=canonical(registered.share),
        )
        return self._begin(row, key, Fold.of(chain, registered.share, row.opened, prices), alone=registered.alone)

    def _begin(self, row: LaneRow, key: bytes, fold: Fold, *, alone: bool) -> Lane:
        lane = Lane(row, key, fold, pair=self._pair, ledger=self._ledger, clock=self._clock)
        lane.alone = alone
        self._ledger.add_lane(row)
        said = partial(
            Open,
            build=f"tallystick/{VERSION}",
            gateway=self._gateway,
            job=row.job,
            keys=self._trust.digest,
            keys_version=self._trust.listed.version,
            lane=row.lane,
            policy=row.policy,
            revocations=self._revocations(),
            suite=SUITE,
        )
        lane.append(lambda seq, time: said(seq=seq, time=time))
        self._open[row.job] = lane
        return lane


def closed() -> Refused:
    """Refuse a call that comes while its job's lane closes."""
    return Refused("lane-closed", "this lane takes no more calls: its job has ended")


def save_key(directory: Path, lane: str, key: bytes) -> None:
    """Write a lane's key where backups of the ledger do not reach it; the directory's entry is durable too."""
    make_private_directory(directory)
    write_private(directory / f"{lane}.key", key)
    _flush(directory)


def discard_key(directory: Path, lane: str) -> None:
    """Delete the key of a lane that never opened."""
    (directory / f"{lane}.key").unlink(missing_ok=True)


def discard_keys(directory: Path, lanes: Iterable[str]) -> None:
    """Delete the keys of lanes whose receipts are deleted, those that are still there; that is durable, too."""
    for lane in lanes:
        (directory / f"{lane}.key").unlink(missing_ok=True)
    if directory.exists():
        _flush(directory)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_key(directory: Path, lane: str) -> bytes | None:
    """Read a lane's key; None once it has been deleted."""
    try:
        return read_private(directory / f"{lane}.key")
    except Refused:
        if (directory / f"{lane}.key").exists():
            raise
        return None
