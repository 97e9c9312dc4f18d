"""Receipts and bundles over HTTP: who may read them, and that they prove what they say."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typer.testing import CliRunner

import receipts.app
from receipts import commands
from receipts.client import ReceiptsClient
from scope.client import RevocationRequest
from service import keystore
from service.app import now
from service.clients import client_token
from tests.conftest import free_port
from tests.receipts.conftest import Calls, Epoch, Job, Town, serve_on
from verifier.audit import verify
from verifier.checkpoint import Proof
from verifier.commitment import commit
from verifier.encoding import unb64
from verifier.leaf import End, decode
from verifier.refused import Refused


class Archive:
    """A gateway that serves what an earlier epoch wrote: one finished job with a model's call, one that is open."""

    def __init__(self, town: Town, job: Job, call: str, other: Job) -> None:
        self.town, self.job, self.call, self.other = town, job, call, other

    def ask(self, client: str) -> ReceiptsClient:
        """Ask as a client of the gateway."""
        key, url = keystore.load(self.town.directory / client / "client.key", "client"), self.town.urls.receipts
        return ReceiptsClient(self.town.session, url, lambda: client_token(key, client, url, now()))

    def ask_with(self, token: str) -> ReceiptsClient:
        """Ask with a job's token."""
        return ReceiptsClient(self.town.session, self.town.urls.receipts, lambda: token)


@pytest.fixture
async def archive(town: Town, epoch: Epoch) -> AsyncGenerator[Archive, None]:
    job, other = await town.job(), await town.job()
    lane = await epoch.lanes.of(job.grant, (job.policy,))
    lane.token(job.claims)
    calls = Calls(lane, job)
    call = calls.model("get_case")
    calls.tool()
    await epoch.finish(job)
    port = int(town.urls.receipts.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", port))
    server, task = await serve_on(receipts.app.create(town.settings.directory / "settings.toml"), listener)
    yield Archive(town, job, call, other)
    server.should_exit = True
    await task


async def test_a_call_s_receipt_proves_its_end_and_opens_its_commitments(archive: Archive) -> None:
    for asks in (archive.ask("auditor"), archive.ask_with(archive.job.token)):
        receipt = await asks.receipt(archive.call)
        proof = Proof.parse(receipt.proof)
        proof.check(archive.town.identity.pair.public)
        end = decode(proof.extra)
        assert isinstance(end, End)
        assert (end.call, end.seq, receipt.job) == (archive.call, receipt.seq, archive.job.name)
        key = unb64(receipt.keys["recv"])
        assert commit(key, [f"{archive.call} recv".encode()]) == end.recv


async def test_without_the_lane_s_key_nobody_opens_a_commitment(archive: Archive) -> None:
    (archive.town.settings.directory / "lanes" / f"{archive.call.rpartition('-')[0]}.key").unlink()
    assert (await archive.ask("auditor").receipt(archive.call)).keys == {}


async def test_a_job_s_receipts_come_page_by_page_byte_for_byte(archive: Archive) -> None:
    asks, after, raws = archive.ask("auditor"), "", list[bytes]()
    while True:
        page = await asks.receipts(archive.job.name, after, limit=3)
        raws += [bytes(each.leaf) for each in page.items]
        if page.next is None:
            break
        after = page.next
    assert [decode(raw).seq for raw in raws] == list(range(7))


async def test_a_token_reads_its_own_job_s_receipts_only(archive: Archive) -> None:
    asks = archive.ask_with(archive.other.token)
    with pytest.raises(Refused, match="forbidden"):
        await asks.receipt(archive.call)
    with pytest.raises(Refused, match="forbidden"):
        await asks.receipts(archive.job.name)
    assert (await asks.receipts(archive.other.name)).items == []


async def test_a_revoked_token_reads_nothing(archive: Archive) -> None:
    town = archive.town
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=archive.other.name, reason="incident"))
    for _ in range(200):  # until the gateway hears of it
        if not await reads(archive.ask_with(archive.other.token), archive.other):
            break
        await asyncio.sleep(0.05)
    with pytest.raises(Refused, match="revoked"):
        await archive.ask_with(archive.other.token).receipts(archive.other.name)


async def reads(asks: ReceiptsClient, job: Job) -> bool:
    try:
        await asks.receipts(job.name)
    except Refused:
        return False
    return True


async def test_who_is_refused_holds_no_connection_to_the_database(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[AsyncEngine] = []
    connect = AsyncEngine.connect

    def counted(engine: AsyncEngine) -> AsyncConnection:
        if "receipts" in str(engine.url):  # scope runs in this process too
            taken.append(engine)
        return connect(engine)

    monkeypatch.setattr(AsyncEngine, "connect", counted)
    url = archive.town.urls.receipts
    for path in (f"/receipts/{archive.call}", f"/jobs/{archive.job.name}/receipts"):
        async with archive.town.session.get(url + path) as answer:
            assert answer.status == 401
    assert taken == []


@pytest.mark.parametrize("token", ["", "x.y.z", "a" * 3000])
async def test_who_proves_nothing_reads_nothing(archive: Archive, token: str) -> None:
    with pytest.raises(Refused, match="unauthenticated"):
        await archive.ask_with(token).receipt(archive.call)
    with pytest.raises(Refused, match="unauthenticated"):
        await archive.ask_with(token).bundle(archive.job.name, BytesIO())


async def test_a_job_s_token_is_no_key_to_the_bundle(archive: Archive) -> None:
    with pytest.raises(Refused, match="unauthenticated"):
        await archive.ask_with(archive.job.token).bundle(archive.job.name, BytesIO())


async def test_responders_read_neither_receipts_nor_bundles(archive: Archive) -> None:
    with pytest.raises(Refused, match="forbidden"):
        await archive.ask("responder").receipt(archive.call)
    with pytest.raises(Refused, match="forbidden"):
        await archive.ask("responder").bundle(archive.job.name, BytesIO())


async def test_unknown_calls_and_unsealed_jobs_are_named(archive: Archive) -> None:
    with pytest.raises(Refused, match="unknown-call"):
        await archive.ask("auditor").receipt("no-such-call")
    with pytest.raises(Refused, match="not-sealed"):
        await archive.ask("auditor").bundle(archive.other.name, BytesIO())
    with pytest.raises(Refused, match="unknown-job"):
        await archive.ask("auditor").bundle("no-such-job", BytesIO())


async def test_auditor_and_orchestrator_get_the_same_bundle_with_its_verdict(archive: Archive) -> None:
    files = [BytesIO(), BytesIO()]
    verdicts = [
        await archive.ask(who).bundle(archive.job.name, file)
        for who, file in zip(("auditor", "orchestrator"), files, strict=True)
    ]
    assert verdicts == ["PASS", "PASS"]
    assert files[0].getvalue() == files[1].getvalue()
    files[0].seek(0)
    assert verify(files[0], archive.town.pin).verdict == "PASS"


async def test_a_bundle_is_handed_out_whatever_the_verdict(archive: Archive) -> None:
    changed = """UPDATE leaves SET raw = CAST(replace(raw, '"screens":["size"]', '"screens":[]') AS BLOB)"""
    with sqlite3.connect(archive.town.settings.directory / "receipts.db") as connection:
        connection.execute(changed)
    file = BytesIO()
    assert await archive.ask("auditor").bundle(archive.job.name, file) == "FAIL"
    file.seek(0)
    assert verify(file, archive.town.pin).verdict == "FAIL"


async def test_the_command_fetches_a_bundle_into_a_new_file(archive: Archive, tmp_path: Path) -> None:
    out, client = tmp_path / "job.tally", archive.town.directory / "auditor"
    command = ["bundle", "fetch", archive.job.name, "-o", str(out), "--client", str(client)]
    command += ["--url", archive.town.urls.receipts, "--json"]
    done = await asyncio.to_thread(CliRunner().invoke, commands.app, command)
    assert msgspec.json.decode(done.stdout) == {"job": archive.job.name, "file": str(out), "verdict": "PASS"}
    assert verify(out, archive.town.pin).verdict == "PASS"
    again = await asyncio.to_thread(CliRunner().invoke, commands.app, command)
    assert isinstance(again.exception, Refused)
    assert again.exception.code == "not-empty"


async def test_a_bundle_that_is_refused_leaves_no_file(archive: Archive, tmp_path: Path) -> None:
    out, client = tmp_path / "job.tally", archive.town.directory / "auditor"
    command = [
        "bundle",
        "fetch",
        archive.other.name,
        "-o",
        str(out),
        "--client",
        str(client),
        "--url",
        archive.town.urls.receipts,
    ]
    done = await asyncio.to_thread(CliRunner().invoke, commands.app, command)
    assert isinstance(done.exception, Refused)
    assert done.exception.code == "not-sealed"
    assert not out.exists()


async def test_a_gateway_that_is_not_there_is_a_refusal(town: Town) -> None:
    asks = ReceiptsClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: "token")
    with pytest.raises(Refused, match="receipts-unavailable"):
        await asks.receipt("call")


@pytest.mark.parametrize("answer", [b"", b"[]", b"not json"])
@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_that_is_none_is_a_refusal(town: Town, answer: bytes, status: int) -> None:
    async def strange(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": answer})

    listener = socket.create_server(("127.0.0.1", 0))
    server, task = await serve_on(strange, listener)
    asks = ReceiptsClient(town.session, f"http://127.0.0.1:{listener.getsockname()[1]}", lambda: "token")
    with pytest.raises(Refused, match="receipts-unavailable"):
        await asks.receipt("call")
    server.should_exit = True
    await task
