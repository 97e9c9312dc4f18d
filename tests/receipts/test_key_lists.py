"""A key list that changes while a job runs: scope seals under the new one, the gateway began under the old one."""

import asyncio
import json
import socket
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import scope.app
from service import key_list
from service.key_list import Installed
from tests.conftest import Serve
from tests.receipts.gatehouse import gatehouse
from tests.serving import serve_on
from verifier.audit import verify
from verifier.keys import Trust


async def test_a_job_that_outlives_a_key_list_is_sealed_under_the_next_and_passes(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as house:
        status, _, _ = await house.rpc()
        assert status == 200
        before = Installed.read(house.directory)
        key_list.propose(before, key_list.with_quorum(before.listed, "example.author", 1), house.clock())
        assert key_list.countersign(before, [house.key("root", "root")]) == []
        await house.stop("scope")
        port = urlsplit(house.urls.scope).port or 0
        app = scope.app.create(house.directory / "scope/settings.toml", clock=house.clock)
        house.stops["scope"] = await serve_on(app, socket.create_server(("127.0.0.1", port)))
        await house.scope().close(house.job)
        for _ in range(200):
            if (await house.scope().status(house.job)).state == "sealed":
                break
            await asyncio.sleep(0.05)
        raw = await house.bundle()
        report = verify(BytesIO(raw), before.trust.pin)
        assert (report.verdict, report.findings) == ("PASS", [])
        after = Trust.establish(before.trust.pin, (house.directory / "keys.json").read_bytes())
        assert after.digest != before.trust.digest
        sealed = next(json.loads(line)["seal"] for line in raw.splitlines() if line.startswith(b'{"seal":'))
        assert json.loads(b64decode(sealed["payload"]))["keys"] == after.digest != before.trust.digest
