"""A gateway killed at every point of a call: what was sent was recorded before, what was delivered is on record."""

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from receipts.client import ReceiptsClient
from service import keystore
from service.app import now
from service.clients import client_token
from tests.receipts.conftest import Job, Town, serve_on
from verifier.audit import verify
from verifier.bundle import kind_of
from verifier.leaf import Begin, End, decode
from verifier.report import Report

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"small-1","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)


class Model:
    """A model that counts who asks it; it answers once `go` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        self.asked += 1
        self.reached.set()
        await self.go.wait()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


class Gateway:
    """A gateway's process, and a client that asks it."""

    def __init__(self, town: Town, model: Model) -> None:
        self.town, self.model = town, model
        self.process: asyncio.subprocess.Process | None = None
        self.delivered = 0
        self.codes: list[str] = []

    async def start(self, point: str = "run", kind: str = "") -> None:
        """Start a process and wait until it is ready."""
        url, directory = self.town.urls.receipts, self.town.settings.directory
        command = [sys.executable, "-m", "tests.receipts.launcher", str(directory), url.rpartition(":")[2], point, kind]
        self.process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        for _ in range(600):
            assert self.process.returncode is None
            with contextlib.suppress(aiohttp.ClientError):
                async with self.town.session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
        raise AssertionError("the gateway did not get ready")

    async def kill(self) -> None:
        """End the process as a power cut does."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def call(self, job: Job) -> None:
        """Ask the model once."""
        body = {"model": "openrouter_via_fal/small-1", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"Authorization": f"Bearer {job.token}"}
        url = f"{self.town.urls.receipts}/v1/chat/completions"
        with contextlib.suppress(aiohttp.ClientError):
            async with self.town.session.post(url, json=body, headers=headers) as answer:
                told = await answer.json()
                if answer.status == 200:
                    assert told["choices"][0]["message"]["content"] == "hello"
                    self.delivered += 1
                else:
                    self.codes.append(told["error"]["code"])

    async def stopped(self) -> None:
        """Wait until the ledger says that it stopped."""
        assert self.process is not None
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"stopped\n"

    async def bundle(self, job: Job) -> tuple[Report, list[Begin], list[End]]:
        """Close the job and fetch its bundle: the report, and the calls in it."""
        await self.town.scope("orchestrator").close(job.name)
        await self.town.scope("orchestrator").wait_for_seal(job.name)
        client, url = keystore.load(self.town.directory / "auditor/client.key", "client"), self.town.urls.receipts
        asks = ReceiptsClient(self.town.session, url, lambda: client_token(client, "auditor", url, now()))
        with tempfile.TemporaryFile() as file:
            verdict = await asks.bundle(job.name, file)
            file.seek(0)
            report = verify(file, self.town.pin)
            file.seek(0)
            leaves = [decode(line) for line in file.read().splitlines() if kind_of(line) is None]
        assert report.verdict == verdict
        begins, ends = ([leaf for leaf in leaves if isinstance(leaf, kind)] for kind in (Begin, End))
        return report, begins, ends  # type: ignore[return-value] # sorted by kind above


def offer(town: Town, url: str) -> None:
    """Tell the gateway where the model is."""
    keystore.write_private(town.settings.directory / "model.secret", b"upstream-key")
    lines = ["[models.openrouter_via_fal]", f'base_url = "{url}"', 'api_key_file = "model.secret"']
    with (town.settings.directory / "settings.toml").open("a") as settings:
        settings.write("\n".join([*lines, 'operations = ["chat.completions"]', ""]))


@pytest.fixture
async def model() -> Model:
    return Model()


@pytest.fixture
async def gateway(town: Town, model: Model) -> AsyncGenerator[Gateway, None]:
    listener = socket.create_server(("127.0.0.1", 0))
    offer(town, f"http://127.0.0.1:{listener.getsockname()[1]}")
    server, task = await serve_on(model, listener)
    made = Gateway(town, model)
    yield made
    await made.kill()
    model.go.set()
    server.should_exit = True
    await task


async def crash(gateway: Gateway, job: Job, point: str, kind: str) -> None:
    """Start a gateway that stops at a point, ask it, kill it there, start another."""
    await gateway.start(point, kind)
    calling = asyncio.create_task(gateway.call(job))
    stopped = asyncio.create_task(gateway.stopped())
    await asyncio.wait({calling, stopped}, return_when=asyncio.FIRST_COMPLETED)
    assert stopped.done() or not calling.done(), f"the call went through, or was refused: {gateway.codes}"
    await stopped
    await gateway.kill()
    await calling
    await gateway.start()


async def test_a_gateway_killed_before_begin_commits_has_sent_nothing(gateway: Gateway, town: Town) -> None:
    job = await town.job()
    await crash(gateway, job, "before", "begin")
    report, begins, ends = await gateway.bundle(job)
    assert (gateway.model.asked, gateway.delivered, begins, ends) == (0, 0, [], [])
    # Whether the lane's first receipt shared that commit or came before it, nothing is claimed that was not.
    assert {each.code for each in report.findings} <= {"interrupted"}


@pytest.mark.parametrize(
    ("point", "asked", "status"),
    [("after begin", 0, "lost"), ("before end", 1, "lost"), ("after end", 1, "ok")],
)
async def test_a_gateway_killed_after_begin_commits_says_what_it_knows(
    gateway: Gateway, town: Town, point: str, asked: int, status: str
) -> None:
    job = await town.job()
    await crash(gateway, job, *point.split())
    report, begins, ends = await gateway.bundle(job)
    assert (gateway.model.asked, gateway.delivered) == (asked, 0)
    assert (len(begins), [end.status for end in ends]) == (1, [status])
    assert [each.code for each in report.findings] == (["lost-call"] if status == "lost" else [])
    assert report.verdict == ("INCOMPLETE" if status == "lost" else "PASS")


async def test_a_gateway_killed_during_the_upstream_s_work_names_the_lost_call(gateway: Gateway, town: Town) -> None:
    await gateway.start()
    job = await town.job()
    await gateway.call(job)
    gateway.model.go.clear()
    gateway.model.reached.clear()
    calling = asyncio.create_task(gateway.call(job))
    await gateway.model.reached.wait()
    await gateway.kill()
    await calling
    await gateway.start()
    report, begins, ends = await gateway.bundle(job)
    assert (gateway.model.asked, gateway.delivered) == (2, 1)
    assert [end.status for end in ends] == ["ok", "lost"]
    assert report.verdict == "INCOMPLETE"
    assert [each.code for each in report.findings] == ["lost-call"]
    assert begins[1].call in report.findings[0].why


async def test_a_job_goes_on_in_a_new_lane_after_a_crash(gateway: Gateway, town: Town) -> None:
    await gateway.start()
    job = await town.job()
    await gateway.call(job)
    await gateway.kill()
    await gateway.start()
    await gateway.call(job)
    report, begins, _ = await gateway.bundle(job)
    assert (gateway.delivered, len(begins), report.totals.lanes, report.verdict) == (2, 2, 2, "PASS")


async def test_a_full_disk_refuses_and_sends_nothing(gateway: Gateway, town: Town) -> None:
    await gateway.start("full")
    job = await town.job()
    while not gateway.codes:
        await gateway.call(job)
        assert gateway.delivered < 1000
    sent = gateway.model.asked
    for _ in range(3):
        await gateway.call(job)
    assert set(gateway.codes) == {"ledger-unavailable"}
    assert gateway.model.asked == sent
    assert 0 < gateway.delivered <= sent
    async with town.session.get(f"{town.urls.receipts}/readyz") as answer:
        assert answer.status == 503
    await gateway.kill()
    await gateway.start()
    _, begins, ends = await gateway.bundle(job)
    assert sent <= len(begins)
    assert gateway.delivered <= len([end for end in ends if end.status == "ok"])
