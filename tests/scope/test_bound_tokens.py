"""`tally job token --dpop`: a token bound to a key in a private file, by the command that the manual shows."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey
from typer.testing import CliRunner

from scope.client import ScopeClient, Tools, claims_of
from scope.commands import app
from service.app import now
from service.dpop import Proofs, thumbprint
from service.dpop_key import prover
from tests.conftest import seeded
from tests.scope.conftest import Town
from verifier.refused import Refused


async def run(town: Town, *words: object, code: str = "") -> Any:
    """Run `tally job token` as the orchestrator; gives what it printed."""
    line = ["job", "token", *map(str, words), "--url", town.url, "--client", str(town.installation / "orchestrator")]
    result = await asyncio.to_thread(CliRunner().invoke, app, line)
    if code:
        assert isinstance(result.exception, Refused), result.output
        assert result.exception.code == code
        return result.output
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """The agent's directory."""
    (tmp_path / "agent").mkdir(mode=0o700)
    return tmp_path / "agent"


async def test_a_key_is_made_and_the_token_is_bound_to_it(today: Town, agent: Path) -> None:
    job = (await today.open(binding="dpop")).job
    key, out = agent / "key.jwk", agent / "token"
    said = await run(today, job, "--dpop", key, "-o", out)
    jkt = thumbprint(json.loads(key.read_bytes()))
    assert said == f"{out}: good for 300 s, bound to key {jkt}\n"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (key, out)] == [0o600, 0o600]
    bound = claims_of(out.read_text())
    assert bound.cnf is not None
    assert (bound.cnf.jkt, bound.txn) == (jkt, job)
    inspected = await asyncio.to_thread(CliRunner().invoke, app, ["token", "inspect", str(out)])
    assert f"bound to key {jkt}" in inspected.stdout


async def test_the_same_key_gets_the_next_token_and_a_narrower_one(today: Town, agent: Path) -> None:
    job = (await today.open(binding="dpop")).job
    key, whole = agent / "key.jwk", agent / "whole"
    await run(today, job, "--dpop", key, "-o", whole)
    made = key.read_bytes()
    part = ["--from", whole, "--tool", "crm-mcp/get_case"]
    said = json.loads(await run(today, job, *part, "--dpop", key, "-o", agent / "part", "--json"))
    jkt = thumbprint(json.loads(made))
    assert said == {"file": str(agent / "part"), "token_type": "DPoP", "expires_in": 300, "jkt": jkt}
    assert key.read_bytes() == made
    await run(today, job, *part, "-o", agent / "none", code="bad-dpop-proof")
    await run(today, job, *part, "--dpop", agent / "other.jwk", "-o", agent / "none", code="bad-dpop-proof")
    assert not (agent / "none").exists()


async def test_a_key_of_p256_that_the_agent_made_is_used(today: Town, agent: Path) -> None:
    theirs, key = ECKey.generate_key("P-256", private=True), agent / "key.jwk"
    key.write_text(json.dumps(theirs.as_dict(private=True)))
    key.chmod(0o600)
    shown = await run(today, (await today.open()).job, "--dpop", key, "--show")
    bound = claims_of(shown.strip())
    assert bound.cnf is not None
    assert bound.cnf.jkt == theirs.thumbprint()


async def test_no_secret_is_printed_where_it_was_not_before(today: Town, agent: Path) -> None:
    job, key = (await today.open()).job, agent / "key.jwk"
    said = await run(today, job, "--dpop", key, "-o", agent / "token", "--json")
    private = json.loads(key.read_bytes())["d"]
    assert private not in said
    assert (agent / "token").read_text() not in said
    shown = json.loads(await run(today, job, "--dpop", key, "--show", "--json"))
    assert claims_of(shown["access_token"]).cnf is not None
    assert private not in json.dumps(shown)


async def test_a_job_is_opened_for_bound_tokens_by_its_own_will(today: Town, agent: Path) -> None:
    line = ["job", "open", "--policy", today.policy, "--agent", "a-1", "--type", "support", "--environment", "test"]
    line += ["--dpop", "--json", "--url", today.url, "--client", str(today.installation / "orchestrator")]
    opened = json.loads((await asyncio.to_thread(CliRunner().invoke, app, line)).stdout)
    await run(today, opened["job"], "-o", agent / "token", code="dpop-required")
    await run(today, opened["job"], "--dpop", agent / "key.jwk", "-o", agent / "token")
    await run(today, (await today.open()).job, "-o", agent / "free")  # where nobody asked for it


async def test_a_job_of_bound_tokens_gives_none_without_a_key_and_bad_keys_ask_nobody(today: Town, agent: Path) -> None:
    job = (await today.open(binding="dpop")).job
    await run(today, job, "-o", agent / "token", code="dpop-required")
    (agent / "bad.jwk").write_text("{}")
    (agent / "bad.jwk").chmod(0o600)
    await today.stop()
    await run(today, job, "--dpop", agent / "bad.jwk", "-o", agent / "token", code="bad-key")
    await run(today, job, "--dpop", agent / "new.jwk", code="usage")
    assert not (agent / "new.jwk").exists()
    await run(today, job, "--dpop", agent / "new.jwk", "-o", agent / "token", code="scope-unavailable")
    assert not (agent / "token").exists()
    await today.restart()


async def test_the_nonce_is_asked_for_once_and_then_known(today: Town, agent: Path) -> None:
    job, nonces = (await today.open(binding="dpop")).job, list[str]()
    mine = prover(agent / "key.jwk", now, seeded("proofs"))

    def proving(method: str, url: str, nonce: str) -> str:
        nonces.append(nonce)
        return mine.proof(method, url, nonce=nonce)

    scope = ScopeClient(today.session, today.url, lambda: today.credential("orchestrator"))
    for _ in range(2):
        await scope.token(job, proving=proving)
    assert (len(nonces), nonces[0]) == (3, "")
    assert isinstance(today.authority.proofs, Proofs)
    assert set(nonces[1:]) <= {today.authority.proofs.nonce(), nonces[1]}


async def test_a_bound_token_is_kept_fresh_and_stays_bound(today: Town, agent: Path) -> None:
    job, mine = (await today.open(binding="dpop")).job, prover(agent / "key.jwk", now, seeded("fresh"))

    def proving(method: str, url: str, nonce: str) -> str:
        return mine.proof(method, url, nonce=nonce)

    part = Tools(server="crm-mcp", tools=["get_case"])
    async with (
        today.scope().fresh(job, proving=proving) as whole,
        today.scope().fresh(job, part, proving=proving) as less,
    ):
        for token in (whole, less):
            found = [await token.get()]
            token.drop(found[0].access_token)
            found.append(await token.get())
            assert [each.token_type for each in found] == ["DPoP", "DPoP"]
            bound = [claims_of(each.access_token).cnf for each in found]
            assert bound[0] is not None
            assert (bound[0].jkt, bound[1]) == (thumbprint(mine.jwk), bound[0])


async def test_an_empty_file_is_no_token_and_a_long_one_is_read_whole(today: Town, agent: Path) -> None:
    job, tools = (await today.open()).job, [f"tool-{number:0>110}" for number in range(60)]
    (agent / "empty").write_text("\n")
    (agent / "empty").chmod(0o600)
    await run(today, job, "--from", agent / "empty", "--tool", "a/b", "-o", agent / "t", code="bad-token")
    assert not (agent / "t").exists()
    await today.offer("long-mcp", tuple(tools))
    every = {"kind": "mcp", "server": "long-mcp", "tools": ["*"]}
    policy = await today.publish(policy_name="long", allowed_tools=[every])
    long = (await today.open(policy=policy)).job
    await run(today, long, "-o", agent / "long")
    assert len((agent / "long").read_text()) > 1 << 13
    await run(today, long, "--from", agent / "long", "--tool", f"long-mcp/{tools[0]}", "-o", agent / "part")
    assert claims_of((agent / "part").read_text()).txn == long
