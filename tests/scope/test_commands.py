"""The road of an orchestrator and a responder by the commands that the manual shows."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from typer import Typer
from typer.testing import CliRunner

from controls.commands import app as registry
from scope.client import claims_of
from scope.commands import app
from tests.scope.conftest import Town
from verifier.documents import open_grant
from verifier.refused import Refused


async def tally(
    town: Town, *words: object, client: str = "orchestrator", code: str = "", program: Typer = app, url: str = ""
) -> Any:
    """Run a command as a client; gives what it said, as JSON where that was asked for."""
    line = [*map(str, words), "--url", url or town.urls.scope, "--client", str(town.installation / client)]
    result = await asyncio.to_thread(CliRunner().invoke, program, line)
    if code:
        assert isinstance(result.exception, Refused), result.output
        assert result.exception.code == code
        return result.exception.why
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in words else result.stdout


def opening(town: Town) -> list[str]:
    """Write the command that opens a job."""
    return ["job", "open", "--policy", town.policy, "--agent", "a-1", "--type", "support", "--environment", "test"]


async def test_a_command_that_is_repeated_under_its_name_opens_one_job(today: Town) -> None:
    words = [*opening(today), "--request-id", "mine-1", "--json"]
    first = await tally(today, *words)
    assert await tally(today, *words) == first
    await tally(today, *words, "--calls", 1, code="request-differs")


async def test_a_job_goes_from_open_to_sealed_by_commands(today: Town, tmp_path: Path) -> None:
    grant, secret = tmp_path / "grant.json", tmp_path / "agent.token"
    opened = await tally(today, *opening(today), "--calls", 5, "--grant", grant, "--json")
    assert open_grant(today.trust, grant.read_bytes()).digest == opened["grant_digest"]
    assert opened["unavailable"] == ["tickets-mcp"]
    job = opened["job"]
    said = await tally(today, "job", "token", job, "--ttl", 60, "--out", secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert jwt.decode(secret.read_text(), options={"verify_signature": False})["txn"] == job
    assert secret.read_text() not in said
    assert "open" in await tally(today, "job", "status", job)
    closed = await tally(today, "job", "close", job, "--json")
    assert (closed["state"], closed["status"]) == ("sealed", "complete")
    assert closed["seal"] in await tally(today, "job", "status", job)


async def test_a_token_is_shown_only_when_asked_for_and_never_replaces_a_file(today: Town, tmp_path: Path) -> None:
    job = (await tally(today, *opening(today), "--json"))["job"]
    await tally(today, "job", "token", job, code="usage")
    await tally(today, "job", "token", job, "--show", "--out", tmp_path / "t", code="usage")
    (tmp_path / "t").write_text("mine")
    await tally(today, "job", "token", job, "--out", tmp_path / "t", code="usage")
    assert (tmp_path / "t").read_text() == "mine"
    shown = (await tally(today, "job", "token", job, "--show")).strip()
    assert (await tally(today, "job", "token", job, "--show", "--json"))["token_type"] == "Bearer"
    quiet = await tally(today, "job", "token", job, "--out", tmp_path / "u", "--json")
    assert "access_token" not in quiet
    assert shown.count(".") == 2
    await tally(today, "job", "token", job, "--ttl", 901, "--show", code="ttl-too-long")


async def test_exact_tools_and_models_are_asked_for_by_name(today: Town, tmp_path: Path) -> None:
    grant = tmp_path / "grant.json"
    exact = ["--tool", "crm-mcp/get_case", "--model", "openrouter_via_fal/small-*", "--expires-in", 60]
    await tally(today, *opening(today), *exact, "--grant", grant)
    scope = open_grant(today.trust, grant.read_bytes()).value.scope
    assert (scope.tools, scope.models) == (["mcp:crm-mcp/get_case"], ["openrouter_via_fal/small-*"])
    await tally(today, *opening(today), "--tool", "crm-mcp/http_request", code="scope-too-wide")
    await tally(today, *opening(today), "--tool", "get_case", code="usage")


async def test_a_narrower_token_is_made_of_one_in_a_private_file(today: Town, tmp_path: Path) -> None:
    job = (await tally(today, *opening(today), "--json"))["job"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    await tally(today, "job", "token", job, "--out", whole)
    await tally(today, "job", "token", job, "--tool", "crm-mcp/get_case", "--show", code="usage")
    await tally(today, "job", "token", job, "--from", whole, "--show", code="usage")
    await tally(today, "job", "token", job, "--from", whole, "--tool", "crm-mcp/get_case", "--out", part)
    said = jwt.decode(part.read_text(), options={"verify_signature": False})
    assert said["authorization_details"] == [{"type": "tally_mcp", "server": "crm-mcp", "tools": ["get_case"]}]


async def test_a_child_job_takes_what_it_does_not_name_from_its_parents_token(today: Town, tmp_path: Path) -> None:
    deep = {"cst_max_ttl_seconds": 900, "require_scope_hash": True, "policy_hash_pinning": "required"}
    today.policy = await today.publish(policy_name="deep", token_constraints={**deep, "max_delegation_depth": 1})
    parent = (await tally(today, *opening(today), "--json"))["job"]
    token, grant = tmp_path / "token", tmp_path / "grant.json"
    await tally(today, "job", "token", parent, "--out", token)
    part = ["--agent", "helper-1", "--tool", "crm-mcp/get_case", "--calls", 3, "--expires-in", 60]
    made = await tally(today, "job", "child", "--from", token, *part, "--grant", grant, "--json")
    scope = open_grant(today.trust, grant.read_bytes()).value.scope
    assert (scope.agent, scope.act, scope.depth, scope.limits.calls) == ("helper-1", "a-1", 1, 3)
    assert (scope.policy, scope.job_type, scope.tools) == (today.policy, "support", ["mcp:crm-mcp/get_case"])
    assert f"child {made['job']}" in await tally(today, "job", "status", parent)
    await tally(today, "job", "child", "--from", token, "--tool", "crm-mcp/http_request", code="scope-too-wide")
    (tmp_path / "loose").write_text("nothing")
    (tmp_path / "loose").chmod(0o600)
    await tally(today, "job", "child", "--from", tmp_path / "loose", code="bad-token")


async def test_an_auditor_keeps_scopes_record_and_the_registrys_by_one_command(today: Town, tmp_path: Path) -> None:
    await tally(today, *opening(today))
    file = tmp_path / "audit.jsonl"
    export = ["audit", "export", "--out", file, "--json"]
    for url, entries in ((today.urls.scope, 1), (today.urls.controls, 3)):
        done = await tally(today, *export, client="auditor", program=registry, url=url)
        assert done["entries"] == entries
        checked = await asyncio.to_thread(CliRunner().invoke, registry, ["audit", "verify", str(file), "--json"])
        assert json.loads(checked.stdout) == {"entries": entries, "head": done["head"]}
    nobody = "http://127.0.0.1:9"
    await tally(today, *export, client="auditor", program=registry, url=nobody, code="service-unavailable")


async def test_ones_own_jobs_are_listed_newest_first(today: Town) -> None:
    assert await tally(today, "job", "list") == "no jobs\n"
    jobs = [(await tally(today, *opening(today), "--json"))["job"] for _ in range(3)]
    await tally(today, "job", "close", jobs[0])
    listed = (await tally(today, "job", "list", "--json"))["jobs"]
    assert [each["job"] for each in listed] == jobs[::-1]
    for state, there in (("open", jobs[:0:-1]), ("sealed", jobs[:1])):
        found = (await tally(today, "job", "list", "--state", state, "--json"))["jobs"]
        assert [each["job"] for each in found] == there
    assert (await tally(today, "job", "list", "--limit", 1)).startswith(f"{jobs[2]} open, a-1, until 20")
    await tally(today, "job", "list", "--state", "lost", code="usage")


async def test_a_token_is_shown_without_what_could_be_used(today: Town, tmp_path: Path) -> None:
    job, file = (await tally(today, *opening(today), "--json"))["job"], tmp_path / "token"
    await tally(today, "job", "token", job, "--out", file)
    signature = file.read_text().rpartition(".")[2]
    asked = ["--url", today.urls.scope, "--client", str(today.installation / "orchestrator")]
    for more, live in ((["--json"], None), ([*asked, "--json"], True), (asked, True), ([], None)):
        result = await asyncio.to_thread(CliRunner().invoke, app, ["token", "inspect", str(file), *more])
        assert result.exit_code == 0, (result.output, result.exception)
        assert signature not in result.output
        assert job in result.output
        if "--json" in more:
            said = json.loads(result.stdout)
            assert (said.get("active"), said["header"]["kid"]) == (live, today.key("scope", "token").kid)
        else:
            assert ("live, says scope" in result.stdout) is bool(live)
            assert "tally_mcp: crm-mcp: get_case, search_customer" in result.stdout
    await today.scope().revoke_token(file.read_text())
    assert "not live, says scope" in await tally(today, "token", "inspect", file)
    result = await asyncio.to_thread(CliRunner().invoke, app, ["token", "inspect", str(file), "--url", "x"])
    assert isinstance(result.exception, Refused)
    assert result.exception.code == "usage"


async def test_a_dry_run_shows_what_would_be_hit_and_revokes_nothing(today: Town) -> None:
    jobs = [await today.open(agent=f"a-{n % 2}") for n in range(4)]
    token = await today.scope().token(jobs[0].job)
    await today.lane(jobs[0])
    asked = ["--reason", "incident", "--dry-run"]
    said = (await tally(today, "revoke", "agent", "a-0", *asked, client="responder")).splitlines()
    assert said[0] == "agent a-0: ends 2 open jobs, 1 living tokens, 1 open lanes with 0 running calls"
    assert set(said[1:]) == {f"  {jobs[0].job}", f"  {jobs[2].job}", f"  gateway {today.urls.receipts}"}
    for kind, value, expected in (
        ("all", "*", (True, 4, 1, 1)), ("tool", "crm-mcp/get_case", (False, 4, 1, 1)),
        ("agent", "a-9", (True, 0, 0, 0)),
        ("jti", claims_of(token.access_token).jti, (False, 1, 1, 1)), ("job", jobs[1].job, (True, 1, 0, 0)),
    ):  # fmt: skip
        found = await tally(today, "revoke", kind, value, *asked, "--json", client="responder")
        assert (found["ends"], found["jobs"], found["tokens"], found["lanes"]) == expected, kind
    await tally(today, "revoke", "job", "job-none", *asked, client="responder", code="unknown-job")
    await tally(today, "revoke", "agent", "a-0", *asked, code="forbidden")
    assert await tally(today, "revocations", "--pin", today.installation / "pin.json", client="responder") == (
        "nothing is revoked\n"
    )
    assert {(await today.scope().status(each.job)).state for each in jobs} == {"open"}


@pytest.mark.parametrize(("word", "state"), [("n", "open"), ("y", "closing")])
async def test_on_a_terminal_a_revocation_is_shown_and_asked_for(
    today: Town, monkeypatch: pytest.MonkeyPatch, word: str, state: str
) -> None:
    job = (await today.open()).job
    monkeypatch.setattr("scope.commands.responding.terminal", lambda: True)
    line = ["revoke", "job", job, "--reason", "incident", "--url", today.urls.scope]
    line += ["--client", str(today.installation / "responder")]
    result = await asyncio.to_thread(CliRunner().invoke, app, line, input=f"{word}\n")
    assert f"job {job}: ends 1 open jobs" in result.stderr
    assert ((await today.scope().status(job)).state == "open") == (state == "open")
    assert (result.exit_code, f"revoked job {job}" in result.stdout) == ((0, True) if word == "y" else (1, False))


async def test_where_nobody_can_be_asked_everything_is_revoked_with_yes_alone(today: Town) -> None:
    everything = ["revoke", "all", "*", "--reason", "incident"]
    await tally(today, *everything, client="responder", code="usage")
    await tally(today, *everything, "--json", client="responder", code="usage")
    assert "ends 0 open jobs" in await tally(today, *everything, "--dry-run", client="responder")
    assert "number 1" in await tally(today, *everything, "--yes", client="responder")
    assert "revoked already" in await tally(today, *everything, "--dry-run", client="responder")


async def test_a_revocation_for_a_while_says_until_when(today: Town) -> None:
    pin = today.installation / "pin.json"
    words = ["revoke", "tool", "crm-mcp/get_case", "--reason", "maintenance", "--until"]
    await tally(today, *words, "2099-01-01T00:00:00Z", client="responder")
    said = await tally(today, "revocations", "--pin", pin, client="responder")
    assert said.endswith("tool crm-mcp/get_case: maintenance by responder, until 2099-01-01T00:00:00Z\n")
    await tally(today, *words, "tomorrow", client="responder", code="usage")
    await tally(today, *words, "2001-01-01", client="responder", code="bad-value")
    job = ["revoke", "jti", "x", "--reason", "incident", "--until", "2099-01-01"]
    await tally(today, *job, client="responder", code="bad-value")


async def test_revocations_are_listed_as_they_were_signed(today: Town) -> None:
    pin = today.installation / "pin.json"
    assert await tally(today, "revocations", "--pin", pin, client="responder") == "nothing is revoked\n"
    for n in range(3):
        await tally(
            today, "revoke", "agent", f"a-{n}", "--reason", "incident", "--ticket", f"INC-{n}", client="responder"
        )
    said = (await tally(today, "revocations", "--pin", pin, client="auditor")).splitlines()
    assert [line.split()[0] for line in said] == ["1", "2", "3"]
    assert said[2].endswith("agent a-2: incident by responder (INC-2)")
    later = (await tally(today, "revocations", "--pin", pin, "--after", 2, "--json", client="auditor"))["revocations"]
    assert [(each["sequence"], each["target"]["value"]) for each in later] == [(3, "a-2")]
    await tally(today, "revocations", "--pin", pin, code="forbidden")


async def test_a_responder_revokes_and_learns_how_many_jobs_it_ended(today: Town) -> None:
    job = (await tally(today, *opening(today), "--json"))["job"]
    said = await tally(today, "revoke", "job", job, "--reason", "incident", "--ticket", "INC-7", client="responder")
    assert "number 1, 1 open jobs ended" in said
    assert (await tally(today, "job", "status", job, "--json"))["reason"] == "revoked"
    await tally(today, "revoke", "job", job, "--reason", "incident", code="forbidden")
    await tally(today, "revoke", "job", "nothing", "--reason", "incident", client="responder", code="unknown-job")
    done = await tally(
        today, "revoke", "all", "*", "--reason", "incident", "--note", "a drill", "--yes", "--json", client="responder"
    )
    assert msgspec.convert(done["sequence"], int) == 2


async def test_what_a_command_cannot_write_or_would_ignore_is_refused_before_scope_is_asked(
    today: Town, tmp_path: Path
) -> None:
    nowhere, kept, token = tmp_path / "nowhere" / "file", tmp_path / "kept", tmp_path / "token"
    kept.write_text("mine")
    for path in (nowhere, kept):
        await tally(today, *opening(today), "--grant", path, code="usage")
    assert (await tally(today, "job", "list")).strip() == "no jobs"
    job, other = [(await tally(today, *opening(today), "--json"))["job"] for _ in range(2)]
    await tally(today, "job", "token", job, "--out", nowhere, code="usage")
    await tally(today, "job", "token", job, "--out", token)
    await tally(today, "job", "child", "--from", token, "--grant", kept, code="usage")
    part = ["--from", token, "--tool", "crm-mcp/get_case", "--out", tmp_path / "part"]
    assert job in await tally(today, "job", "token", other, *part, code="usage")
    assert (kept.read_text(), (tmp_path / "part").exists()) == ("mine", False)


async def test_arguments_that_no_request_may_hold_are_wrong_usage_and_are_named(today: Town) -> None:
    for words in (
        ["job", "open", "--policy", "sha256:12", "--agent", "a", "--type", "t", "--environment", "e"],
        ["revoke", "everything", "*", "--reason", "incident"],
        ["revoke", "agent", "a-1", "--reason", "An Incident"],
    ):
        await tally(today, *words, code="usage")
    for name in ("../keys", "", "job/close", "a" * 65):
        await tally(today, "job", "status", name, code="unknown-job")


async def test_a_token_in_a_folder_that_others_may_enter_is_read_and_an_open_file_is_not(
    today: Town, tmp_path: Path
) -> None:
    job, token = (await tally(today, *opening(today), "--json"))["job"], tmp_path / "token"
    await tally(today, "job", "token", job, "--out", token)
    await asyncio.to_thread(tmp_path.chmod, 0o755)
    url = ["--url", today.urls.scope, "--client", str(today.installation / "orchestrator")]
    result = await asyncio.to_thread(CliRunner().invoke, app, ["token", "inspect", str(token), *url])
    assert job in result.stdout
    token.chmod(0o640)
    result = await asyncio.to_thread(CliRunner().invoke, app, ["token", "inspect", str(token), *url])
    assert isinstance(result.exception, Refused)
    assert result.exception.code == "loose-mode"


async def test_a_scope_that_is_not_there_is_named_with_what_to_do(today: Town) -> None:
    client = ["--client", str(today.installation / "orchestrator")]
    line = ["job", "status", "job-1", "--url", "http://127.0.0.1:9", *client]
    result = await asyncio.to_thread(CliRunner().invoke, app, line)
    assert isinstance(result.exception, Refused)
    assert result.exception.code == "scope-unavailable"
    assert "http://127.0.0.1:9" in result.exception.hint


async def test_a_scope_that_counts_fewer_revocations_than_were_kept_is_not_believed(today: Town) -> None:
    pin = today.installation / "pin.json"
    await tally(today, "revoke", "agent", "a-9", "--reason", "incident", client="responder")
    listed = ["revocations", "--pin", pin, "--after"]
    assert "nothing is revoked" in await tally(today, *listed, 1, client="responder")
    await tally(today, *listed, 2, client="responder", code="bad-snapshot")
