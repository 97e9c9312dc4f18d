"""What `tally doctor` asks of scope: is its feed fresh, what is not sealed, does it work with the newest key list?"""

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import aiohttp
from msgspec import Struct

from scope.client import ScopeClient
from scope.commands.shared import SECOND
from service import keystore
from service.clients import client_token
from service.doctor import Finding, Level
from service.doctor.running import apart
from service.key_list import Installed
from verifier.documents import open_heartbeat
from verifier.encoding import MAX_INT
from verifier.keys import Trust
from verifier.refused import Refused

ASKING = ("auditor", "responder")  # whose keys `tally init` leaves here, and who may ask scope
STALE = 5 * SECOND
SILENT = 60 * SECOND

Clock = Callable[[], int]


class Asked(Struct, frozen=True):
    """Scope, asked by a client, about the installation in a directory."""

    scope: ScopeClient
    directory: Path
    clock: Clock


async def ask_scope(
    session: aiohttp.ClientSession, directory: Path, client: Path | None, url: str, clock: Clock
) -> list[Finding]:
    """Ask scope as an auditor or responder; without the key of one, that is what is found."""
    named = [client] if client is not None else [directory / name for name in ASKING]
    held = next((each for each in named if (each / "client.key").exists()), None)
    if held is None:
        says = "was not asked about its feed and its seals: no client's key is here"
        do = "Name an auditor's or a responder's directory: --client DIR."
        return [_finding("feed", "warning", "scope", says, do)]
    found = list[Finding]()
    for check, ask in (("keys", _keys), ("feed", _feed), ("unsealed", _unsealed)):
        try:
            found += await ask(Asked(_client(session, held, url, clock), directory, clock))
        except Refused as refused:
            do = refused.hint or f"tally explain {refused.code}"
            found.append(_finding(check, "failure", "scope", f"cannot be asked ({refused.code}): {refused.why}", do))
            if check == "keys" and refused.code == "scope-unavailable":
                break  # it is not there at all
    return found


def _client(session: aiohttp.ClientSession, held: Path, url: str, clock: Clock) -> ScopeClient:
    key, name = keystore.load(held / "client.key", "client"), held.resolve().name
    return ScopeClient(session, url, lambda: client_token(key, name, url.rstrip("/"), clock()))


async def _feed(asked: Asked) -> list[Finding]:
    """Hold a fresh heartbeat against this machine's clock, and wait for the next one on the stream."""
    trust, before = Installed.read(asked.directory).trust, asked.clock()
    heartbeat = open_heartbeat(trust, (await asked.scope.snapshot(MAX_INT))[0]).value
    after = asked.clock()
    found = apart("scope", heartbeat.time - (before + after) // 2, "a heartbeat was signed just now")
    if (age := after - heartbeat.time) > STALE:
        do = "Gateways refuse calls (stale-revocations): set scope's clock right, or look at who answers in its place."
        found.append(_finding("feed", "failure", "scope", f"gives a heartbeat that is {age // SECOND} s old", do))
    beats = 0
    async with aclosing(asked.scope.follow(heartbeat.sequence)) as lines:
        async for _ in lines:
            beats += 1
            if beats > 1:  # the first answers, the second is the feed's own
                return found
    do = "Look into scope's log, and at proxies that keep lines back; gateways ask for snapshots meanwhile."
    return [*found, _finding("feed", "failure", "scope", "ends its feed without a heartbeat", do)]


async def _unsealed(asked: Asked) -> list[Finding]:
    """Judge what waits for its seal, by scope's own clock."""
    there, found = await asked.scope.unsealed(), list[Finding]()
    for job in there.late:
        says = f"has been closing for {(there.time - job.closing_at) // SECOND} s ({job.reason}), without a seal"
        do = "Look for `not done` in scope's log: a key that ended or a full disk keeps it from sealing."
        found.append(_finding("unsealed", "failure", job.job, says, do))
    for each in there.gateways:
        silent = there.time - max(each.reported or 0, there.since)
        if silent > SILENT:
            since = "" if each.reported else ", not since scope started"
            says = f"has {each.lanes} open lanes and has not reported for {silent // SECOND} s{since}"
            do = "Start it again in its own directory: it closes what it left; else its jobs are sealed as interrupted."
            found.append(_finding("unsealed", "failure", each.gateway, says, do))
    return found


async def _keys(asked: Asked) -> list[Finding]:
    """Compare the key list that scope works with with the installation's."""
    ours, theirs = Installed.read(asked.directory), await asked.scope.keys()
    if theirs == ours.raw:
        return []
    version = Trust.establish(ours.trust.pin, theirs).listed.version
    says = f"works with key list version {version}, the installation has {ours.listed.version}"
    do = "Restart scope first, then controls and receipts: a service reads its key list when it starts."
    return [_finding("keys", "warning", "scope", says, do)]


def _finding(check: str, level: Level, subject: str, says: str, do: str) -> Finding:
    return Finding(check=check, level=level, subject=subject, says=says, do=do)
