"""A clock that never goes back and is not believed when it jumps: what is signed later never says an earlier time.

A step back of up to five seconds is waited out, time stands still meanwhile. A greater one, or one ahead, stops whoever
asks (`clock-stepped`): one back until the clock is past the latest time that was told, one ahead for a minute, in which
it may be set right before anything is signed or ended by it (specs/operating.md §7).
"""

from collections.abc import Callable
from datetime import UTC, datetime

from verifier.refused import Refused

SECOND = 1_000_000
SKEW = 5 * SECOND  # as far as the clocks of one installation may differ; a pin's default
DOUBT = 60 * SECOND  # how long a jump ahead is not believed
TRUSTED = 3600 * SECOND  # how long it has gone on without a jump before anything is deleted for being old

Clock = Callable[[], int]


class Steady:
    """The time of one process, in microseconds. `uptime` counts the machine's own, from anywhere on."""

    def __init__(self, clock: Clock, uptime: Clock) -> None:
        """Start with what the clock says now."""
        self._clock = clock
        self.uptime = uptime
        self._offset = clock() - uptime()
        self._doubted: int | None = None
        self._latest = 0
        self._since = uptime()

    def __call__(self) -> int:
        """Read the clock. Raises `Refused` clock-stepped."""
        now, up = self._clock(), self.uptime()
        ahead = now - up - self._offset
        if ahead > SKEW:
            self._doubted = up if self._doubted is None else self._doubted
            if (left := self._doubted + DOUBT - up) > 0:
                raise _ahead(ahead, left)
            self._since = up
        self._doubted = None
        require_onward(now, self._latest)
        self._offset, self._latest = now - up, max(now, self._latest)
        return self._latest

    @property
    def trusted(self) -> bool:
        """Tell whether it has gone on for long enough, since the start or a jump, to delete what it makes old."""
        return self.uptime() - self._since >= TRUSTED

    def learn(self, time: int) -> None:
        """Take note of a time that was recorded before, by whatever process."""
        self._latest = max(self._latest, time)

    async def check(self) -> None:
        """Raise while the clock is not believed (`/readyz`)."""
        self()


def require_onward(now: int, latest: int) -> None:
    """Refuse a time that is behind one that was recorded by more than clocks differ. Raises `Refused` clock-stepped."""
    if now < latest - SKEW:
        hint = f"Set the clock right (NTP); if it had been ahead, work goes on at {_shown(latest)}."
        why = f"the clock is {(latest - now) // SECOND} s behind what was recorded before"
        raise Refused("clock-stepped", why, hint=hint)


def _ahead(ahead: int, left: int) -> Refused:
    why = f"the clock jumped ahead by {ahead // SECOND} s, and is not believed yet"
    return Refused("clock-stepped", why, hint=f"Set the clock right (NTP), or wait {-(-left // SECOND)} s.")


def _shown(time: int) -> str:
    return datetime.fromtimestamp(time / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
