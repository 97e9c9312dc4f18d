"""The running services: does each answer, and does its clock agree with this machine's?"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
from msgspec import Struct

from service.doctor import Finding, Level
from service.settings import Settings

SECOND = 1_000_000
PATIENCE = aiohttp.ClientTimeout(total=5)
MAX_PROBLEM = 1 << 16
OK = 200
APART, TOO_FAR = 3 * SECOND, 5 * SECOND  # `Date` tells whole seconds, and they may be a second old
NTP = "Let both machines keep time (NTP): beyond 5 s heartbeats, callers and receipts are refused."


class _Problem(Struct):
    detail: str = ""
    hint: str = ""


async def running(session: aiohttp.ClientSession, settings: Settings, clock: Callable[[], int]) -> list[Finding]:
    """Ask a service's `/readyz` at its own URL, and compare the answer's `Date` with this machine's clock."""
    name, url = settings.name, f"{settings.issuer.rstrip('/')}/readyz"
    before = clock()
    try:
        async with session.get(url, allow_redirects=False, timeout=PATIENCE) as answer:
            said, date = await answer.content.read(MAX_PROBLEM), answer.headers.get("Date", "")
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        do = f"Start it (tally run {name}), or look at what stands in between."
        return [_finding("ready", "failure", name, f"does not answer at {url}: {type(error).__name__}", do)]
    found = [] if status == OK else [_not_ready(name, status, said)]
    if told := _read(date):
        found += apart(name, told - (before + clock()) // 2, f"it says `Date: {date}`")
    return found


def apart(name: str, ahead: int, says: str) -> list[Finding]:
    """Judge how far a clock is from this machine's, in microseconds."""
    if abs(ahead) <= APART:
        return []
    level: Level = "failure" if abs(ahead) > TOO_FAR else "warning"
    where = "ahead of" if ahead > 0 else "behind"
    return [
        _finding("clock", level, name, f"its clock is {abs(ahead) // SECOND} s {where} this machine's: {says}", NTP)
    ]


def _not_ready(name: str, status: int, said: bytes) -> Finding:
    try:
        problem = msgspec.json.decode(said, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    do = problem.hint or "Look into its log."
    return _finding("ready", "failure", name, f"is not ready ({status}): {problem.detail or 'it says no more'}", do)


def _read(date: str) -> int:
    """Read a `Date` header as the middle of its second; 0 for one that is missing or none."""
    try:
        return int(parsedate_to_datetime(date).timestamp()) * SECOND + SECOND // 2
    except (TypeError, ValueError):
        return 0


def _finding(check: str, level: Level, subject: str, says: str, do: str) -> Finding:
    return Finding(check=check, level=level, subject=subject, says=says, do=do)
