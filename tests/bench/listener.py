"""A gateway's ear alone: follows scope's feed as the gateway does, and prints when it heard what.

`python -m tests.bench.listener INSTALLATION SCOPE-URL`: a line `revoked SEQUENCE TIME` for each revocation, a line
`heard 0 TIME` for each heartbeat; times are of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp

from receipts.revocations import Revocations
from scope.client import ScopeClient
from service import keystore
from service.app import now
from service.clients import client_token
from verifier.keys import Pin, Trust

EVERY = 0.005


class Ear(Revocations):
    """What a gateway hears, told at once."""

    def _take(  # type: ignore[explicit-override] # typing has no `override` before 3.12
        self, raw: bytes, revocations: list[bytes]
    ) -> bool:
        before, complete = self.sequence, super()._take(raw, revocations)
        for sequence in range(before + 1, self.sequence + 1):
            tell("revoked", sequence)
        tell("heard", 0)
        return complete


def tell(what: str, sequence: int) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{what} {sequence} {time.monotonic()}\n")
    sys.stdout.flush()


async def listen(directory: Path, url: str) -> None:
    """Follow for ever."""
    home = directory / "receipts"
    trust = Trust.establish(Pin.parse((home / "pin.json").read_bytes()), (home / "keys.json").read_bytes())
    key = keystore.load(home / "client.key", "client")
    async with aiohttp.ClientSession() as http:
        scope = ScopeClient(http, url, lambda: client_token(key, "receipts", url, now()))
        await Ear(scope, trust, url, now).follow()


if __name__ == "__main__":
    asyncio.run(listen(Path(sys.argv[1]), sys.argv[2]))
