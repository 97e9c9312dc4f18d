"""`tally job delete` and a running installation: scope and gateway forget, and say so; nobody deletes by mistake."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from scope.commands import app
from service.clients import client_token
from tests.conftest import Serve, free_port
from tests.receipts.gatehouse import Gatehouse, gatehouse
from verifier.refused import Refused


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncGenerator[Gatehouse, None]:
    """An installation with one job that made a call and was sealed."""
    async with gatehouse(tmp_path, serve, model_egress={"require_proxy_receipts": False}) as made:
        assert (await made.rpc())[0] == 200
        await made.scope().close(made.job)
        await made.scope().wait_for_seal(made.job)
        yield made


async def tally(house: Gatehouse, *words: object, client: str = "responder", said: str = "") -> Result:
    """Run a command as a client, who may be asked something."""
    line = [*map(str, words), "--url", house.urls.scope, "--client", str(house.directory / client)]
    return await asyncio.to_thread(CliRunner().invoke, app, line, input=said)


def delete(house: Gatehouse, *more: object) -> list[object]:
    return ["job", "delete", house.job, "--reason", "erasure-request", *more]


def code(result: Result) -> str:
    assert isinstance(result.exception, Refused), (result.output, result.exception)
    return result.exception.code


def bearer(house: Gatehouse) -> dict[str, str]:
    token = client_token(house.key("auditor", "client"), "auditor", house.gateway, house.clock())
    return {"Authorization": f"Bearer {token}"}


async def receipts_of(house: Gatehouse, job: str) -> tuple[int, Any]:
    """Ask the gateway for a job's receipts as an auditor."""
    async with house.session.get(f"{house.gateway}/jobs/{job}/receipts", headers=bearer(house)) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_a_job_is_deleted_at_scope_and_at_the_gateways_of_its_lanes(house: Gatehouse) -> None:
    seal = (await house.scope("auditor").status(house.job)).seal
    result = await tally(house, *delete(house, "--ticket", "CASE-9", "--yes", "--json"))
    said = json.loads(result.stdout.splitlines()[-1])
    assert (said["job"], said["seal"], said["status"]) == (house.job, seal, "complete")
    assert said["gateways"] == [{"url": house.gateway, "lanes": 1, "receipts": 5}]
    assert (await receipts_of(house, house.job))[1]["code"] == "receipts-deleted"
    assert code(await tally(house, *delete(house, "--yes"))) == "unknown-job"
    again = await tally(house, *delete(house, "--yes", "--receipts-url", house.gateway))
    assert again.exit_code == 0
    assert "scope had deleted it before" in again.stdout


async def test_nobody_deletes_without_being_asked_or_saying_yes(
    house: Gatehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code(await tally(house, *delete(house))) == "usage"
    monkeypatch.setattr("scope.commands.deletion.terminal", lambda: True)
    asked = await tally(house, *delete(house), said="n\n")
    assert (asked.exit_code, "nothing was deleted" in asked.stderr) == (1, True)
    assert f"{house.job}: sealed, complete, ended 20" in asked.stderr
    assert "of orchestrator, 1 lanes with 5 receipts" in asked.stderr
    assert f"receipts at {house.gateway}" in asked.stderr
    assert (await receipts_of(house, house.job))[0] == 200
    done = await tally(house, *delete(house), said="y\n")
    assert (done.exit_code, f"deleted {house.job} at 20" in done.stdout) == (0, True)
    assert "1 lanes with 5 receipts" in done.stdout


@pytest.mark.parametrize("client", ["orchestrator", "auditor"])
async def test_only_a_responder_deletes_and_nothing_goes_half(house: Gatehouse, client: str) -> None:
    assert code(await tally(house, *delete(house, "--yes"), client=client)) == "forbidden"
    assert (await house.scope().status(house.job)).state == "sealed"
    assert (await receipts_of(house, house.job))[0] == 200


async def test_a_gateway_that_is_away_is_told_of_and_the_command_goes_on_from_there(house: Gatehouse) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    gateways = ["--receipts-url", nobody, "--receipts-url", house.gateway]
    result = await tally(house, *delete(house, "--yes", *gateways))
    assert code(result) == "receipts-unavailable"
    assert (await receipts_of(house, house.job))[1]["code"] == "receipts-deleted"
    result = await tally(house, *delete(house, "--yes", *gateways, "--json"))
    assert code(result) == "receipts-unavailable"
    first, second = json.loads(result.stdout.splitlines()[-1])["gateways"]
    assert (first["url"], first["code"]) == (nobody, "receipts-unavailable")
    assert second == {"url": house.gateway, "lanes": 0, "receipts": 0}


async def test_a_job_without_a_seal_stays_at_scope_and_at_the_gateway(house: Gatehouse) -> None:
    await house.open()
    assert (await house.rpc())[0] == 200
    assert code(await tally(house, *delete(house, "--yes"))) == "job-not-sealed"
    assert (await receipts_of(house, house.job))[0] == 200


async def test_overseers_list_everybodys_jobs_and_the_bundle_kept_outlives_them(house: Gatehouse) -> None:
    raw = await house.bundle()
    assert house.judge(raw).verdict == "PASS"
    for words, there in (
        (("--all", "--state", "sealed"), True), (("--all", "--state", "open"), False),
        (("--all", "--sealed-before", "2001-01-01"), False), (("--all", "--sealed-before", "2200-01-01"), True),
    ):  # fmt: skip
        result = await tally(house, "job", "list", *words, "--json", client="auditor")
        assert result.exit_code == 0, (words, result.exception)
        assert [each["job"] for each in json.loads(result.stdout.splitlines()[-1])["jobs"]] == [house.job] * there, (
            words
        )
    listed = await tally(house, "job", "list", "--all")
    assert listed.stdout.startswith(f"{house.job} complete, agent-1 of orchestrator, until 20")
    assert code(await tally(house, "job", "list", "--all", client="orchestrator")) == "forbidden"
    assert code(await tally(house, "job", "list", "--all", "--sealed-before", "soon")) == "usage"
    assert (await tally(house, *delete(house, "--yes"))).exit_code == 0
    assert (await tally(house, "job", "list", "--all")).stdout == "no jobs\n"
    async with house.session.get(f"{house.gateway}/bundles/{house.job}", headers=bearer(house)) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (410, "receipts-deleted")
    assert house.judge(raw).verdict == "PASS"
