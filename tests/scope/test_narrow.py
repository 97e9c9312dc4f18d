"""A token for a part of the work: narrower than its subject, never wider, with a grant of its own in the seal."""

import asyncio
from typing import Any

import jwt
import msgspec
import pytest

from scope import narrow, store
from scope.client import IssuedToken, Models, Tools
from tests.scope.conftest import Town, refusal
from verifier.documents import open_seal
from verifier.envelope import Envelope
from verifier.grant import Grant, Token

GET = Tools(server="crm-mcp", tools=["get_case"])
SEARCH = Tools(server="crm-mcp", tools=["search_customer"])


def claims(issued: IssuedToken) -> Token:
    said: dict[str, Any] = jwt.decode(issued.access_token, options={"verify_signature": False})
    return msgspec.convert(said, Token)


async def grant(town: Town, wanted: str) -> Grant:
    return Grant.parse(Envelope.parse(await town.scope().grant(wanted), "grant").content())


async def test_a_narrower_token_carries_the_part_that_was_asked_for(town: Town) -> None:
    job = await town.open()
    whole = await town.scope().token(job.job)
    part = claims(await town.scope().narrow(whole.access_token, GET, ttl=60))
    assert part.authorization_details == [{"type": "tally_mcp", "server": "crm-mcp", "tools": ["get_case"]}]
    assert (part.txn, part.exp - part.iat) == (job.job, 60)
    found, first = await grant(town, part.grant), await grant(town, claims(whole).grant)
    assert (found.parent, found.scope.tools, found.scope.models) == (claims(whole).grant, ["mcp:crm-mcp/get_case"], [])
    assert (found.opened, found.expires, found.scope.limits) == (first.opened, first.expires, first.scope.limits)
    assert part.scope_hash == found.scope.hash() != claims(whole).scope_hash
    models = claims(await town.scope().narrow(whole.access_token, Models(models=["openrouter_via_fal/small-*"])))
    assert (await grant(town, models.grant)).scope.models == ["openrouter_via_fal/small-*"]
    assert (await grant(town, models.grant)).scope.manifests == {}


async def test_the_same_scope_is_the_same_grant_and_a_refresh_keeps_it(town: Town) -> None:
    job = await town.open()
    whole = await town.scope().token(job.job)
    parts = await asyncio.gather(*(town.scope().narrow(whole.access_token, GET) for _ in range(5)))
    assert len({claims(each).grant for each in parts}) == 1
    again = await town.scope().refresh(parts[0].access_token)
    assert claims(again).grant == claims(parts[0]).grant
    same = await town.scope().narrow(parts[0].access_token, GET)
    assert claims(same).grant == claims(parts[0]).grant


async def test_nothing_comes_back_that_was_given_up(town: Town) -> None:
    job = await town.open()
    whole = await town.scope().token(job.job)
    part = (await town.scope().narrow(whole.access_token, GET)).access_token
    for wider in (
        SEARCH, Tools(server="other", tools=["get_case"]), Models(models=["openrouter_via_fal/*"]),
        Tools(server="crm-mcp", tools=["get_case", "search_customer"]),
    ):  # fmt: skip
        assert await refusal(town.scope().narrow(part, wider)) == "scope-too-wide"
    assert await refusal(town.scope().narrow(whole.access_token, Models(models=["another/*"]))) == "scope-too-wide"
    asked = {"grant_type": "client_credentials", "job": job.job, "authorization_details": "[]"}
    assert (await town.ask("POST", "/token", "orchestrator", data=asked))[2]["code"] == "unsupported"


@pytest.mark.parametrize(
    "text", ["", "{", "{}", '[{"type":"tally_root"}]', '[{"type":"tally_mcp","server":"x","tools":[]}]']
)
async def test_details_that_cannot_be_read_are_refused(town: Town, text: str) -> None:
    whole = await town.scope().token((await town.open()).job)
    asked = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": whole.access_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "authorization_details": text,
    }  # fmt: skip
    status, _, body = await town.ask("POST", "/token", "orchestrator", data=asked)
    assert (status, body["code"]) == (400, "bad-value")


async def test_the_seal_names_every_grant_in_the_order_of_issue(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "MOST_GRANTS", 3)
    job = await town.open()
    whole = await town.scope().token(job.job)
    issued = [claims(whole).grant]
    for detail in (SEARCH, GET):
        town.pass_seconds(1)
        issued.append(claims(await town.scope().narrow(whole.access_token, detail)).grant)
    both = Tools(server="crm-mcp", tools=["get_case", "search_customer"])
    assert await refusal(town.scope().narrow(whole.access_token, both)) == "too-many-grants"
    await town.scope().close(job.job)
    await town.advance()
    assert open_seal(town.trust, await town.scope().seal(job.job)).value.grants == issued
    assert await refusal(town.scope().narrow(whole.access_token, GET)) == "bad-token"


async def test_a_job_whose_time_passes_meanwhile_is_narrowed_no_more(town: Town) -> None:
    job = await town.open(expires_in=60)
    whole = await town.scope().token(job.job)
    async with town.authority.engine.begin() as db:
        await store.lock_sequence(db)
        asked = asyncio.create_task(refusal(town.scope().narrow(whole.access_token, GET)))
        await asyncio.sleep(0.5)
        town.pass_seconds(60)
    assert await asked == "bad-token"
