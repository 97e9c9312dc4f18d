"""Opens jobs at an even pace: `python -m tests.bench.opener INSTALLATION SCOPE-URL POLICY RATE`."""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp

from scope.client import JobRequest, ScopeClient
from service import keystore
from service.app import now
from service.clients import client_token

MOST = 20


async def open_jobs(directory: Path, url: str, policy: str, rate: int) -> None:
    """Open jobs until the process is ended; each second a line says how many a second it were."""
    key = keystore.load(directory / "orchestrator" / "client.key", "client")
    asked = JobRequest(agent="agent-1", policy=policy, job_type="support", environment="bench")
    running = set[asyncio.Task[object]]()
    async with aiohttp.ClientSession() as http:
        scope = ScopeClient(http, url, lambda: client_token(key, "orchestrator", url, now()))
        began, count = time.monotonic(), 0
        while True:
            count += 1
            running.add(asyncio.create_task(scope.open(asked)))
            for each in {each for each in running if each.done()}:
                each.result()
                running.discard(each)
            if len(running) >= MOST:  # scope is slower than the pace, and that shows in what is told
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if count % rate == 0:
                sys.stdout.write(f"{(count - len(running)) / (time.monotonic() - began)}\n")
                sys.stdout.flush()
            await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(open_jobs(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
