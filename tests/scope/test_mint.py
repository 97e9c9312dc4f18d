"""Tokens: what they say, who gets one, how long they live, and when they no longer do."""

import asyncio
from typing import Any

import jwt
import msgspec
import pytest

from scope import mint, tokens
from scope.client import ASSERTION, TOKEN_EXCHANGE, RevocationRequest
from service.clients import Caller
from tests.conftest import START
from tests.scope.conftest import SECOND, Town, granted, refusal
from verifier.documents import open_revocation
from verifier.grant import Token, authorization_details

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def ask(town: Town, path: str, client: str | None = "orchestrator", **fields: str) -> tuple[int, Any]:
    """Send a form with the client's assertion; gives status and answer."""
    proof = {"client_assertion_type": ASSERTION, "client_assertion": town.credential(client)} if client else {}
    status, headers, body = await town.ask("POST", path, data={**proof, **fields})
    assert headers["Cache-Control"] == "no-store"
    return status, body


def claims(raw: str) -> Token:
    """Read a token's claims, believed by nobody yet."""
    return msgspec.convert(jwt.decode(raw, options={"verify_signature": False}), Token)


async def test_a_token_says_what_its_grant_says(town: Town) -> None:
    job = await town.open()
    grant = granted(job, town.trust).value
    issued = await town.scope().token(job.job)
    token = claims(issued.access_token)
    token.fits(grant)
    assert (token.iss, token.aud, token.sub, token.txn) == (town.urls.scope, town.urls.receipts, "agent-1", job.job)
    assert (token.grant, token.scope_hash) == (job.grant_digest, grant.scope.hash())
    assert token.authorization_details == authorization_details(grant.scope)
    assert (issued.token_type, issued.expires_in, token.exp - token.iat) == ("Bearer", 300, 300)


async def test_an_oauth_library_reads_a_token_with_the_published_keys(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job)).access_token
    _, _, published = await town.ask("GET", "/jwks.json")
    header = jwt.get_unverified_header(raw)
    assert header == {"alg": "EdDSA", "kid": town.key("scope", "token").kid, "typ": "at+jwt"}
    found = next(each for each in jwt.PyJWKSet.from_dict(published).keys if each.key_id == header["kid"])
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    read = jwt.decode(raw, found, algorithms=["EdDSA"], audience=town.urls.receipts, options=options)
    assert read["iss"] == town.urls.scope


async def test_the_metadata_names_every_endpoint(town: Town) -> None:
    _, _, described = await town.ask("GET", "/.well-known/oauth-authorization-server")
    assert described["issuer"] == town.urls.scope
    for name in ("token", "revocation", "introspection"):
        address = described[f"{name}_endpoint"].removeprefix(town.urls.scope)
        assert (await town.ask("POST", address, data={"a": "b"}))[0] == 401
        # RFC 8414 §2: what is left out would mean client_secret_basic.
        assert described[f"{name}_endpoint_auth_methods_supported"] == ["private_key_jwt"]
        assert described[f"{name}_endpoint_auth_signing_alg_values_supported"] == ["EdDSA"]


async def test_a_token_lives_as_long_as_asked_within_policy_and_grant(town: Town) -> None:
    job = await town.open(expires_in=1000)
    scope = town.scope()
    assert (await scope.token(job.job, 1)).expires_in == 1
    assert (await scope.token(job.job, 900)).expires_in == 900
    assert await refusal(scope.token(job.job, 901)) == "ttl-too-long"
    town.pass_seconds(800)
    last = claims((await scope.token(job.job, 900)).access_token)
    assert last.exp == job.expires // SECOND
    last.fits(granted(job, town.trust).value)
    town.pass_seconds(200)
    assert await refusal(scope.token(job.job)) == "job-not-open"


async def test_a_policys_maximum_below_the_default_caps_it(town: Town) -> None:
    strict = {"cst_max_ttl_seconds": 60, "require_scope_hash": True, "policy_hash_pinning": "required"}
    town.policy = await town.publish(policy_name="strict", token_constraints=strict)
    assert (await town.scope().token((await town.open()).job)).expires_in == 60


async def test_only_the_client_that_opened_a_job_gets_its_tokens(town: Town) -> None:
    job = (await town.open()).job
    assert (await ask(town, "/token", grant_type="client_credentials", job="job-unknown"))[1]["code"] == "unknown-job"
    for client in ("receipts", "responder", "auditor"):
        status, body = await ask(town, "/token", client, grant_type="client_credentials", job=job)
        assert (status, body["error"], body["code"]) == (400, "unauthorized_client", "forbidden")


async def test_an_assertion_is_taken_once_and_only_by_its_audience(town: Town) -> None:
    job = (await town.open()).job
    fields = {"grant_type": "client_credentials", "job": job, "client_assertion_type": ASSERTION}
    assertion = town.credential("orchestrator")
    assert (await ask(town, "/token", None, **fields, client_assertion=assertion))[0] == 200
    elsewhere = town.credential("orchestrator", town.urls.controls)
    stranger = town.credential("author")
    for bad in (assertion, elsewhere, stranger, "nonsense", assertion[:-4] + "AAAA"):
        status, body = await ask(town, "/token", None, **fields, client_assertion=bad)
        assert (status, body["error"], body["code"]) == (401, "invalid_client", "unauthenticated")


async def test_a_bearer_token_of_the_client_serves_as_well_but_not_both(town: Town) -> None:
    job = (await town.open()).job
    form = {"grant_type": "client_credentials", "job": job}
    assert (await town.ask("POST", "/token", "orchestrator", data=form))[0] == 200
    both = {**form, "client_assertion_type": ASSERTION, "client_assertion": town.credential("orchestrator")}
    assert (await town.ask("POST", "/token", "orchestrator", data=both))[0] == 400


async def test_a_form_that_is_none_is_refused(town: Town) -> None:
    job = (await town.open()).job
    good = f"grant_type=client_credentials&job={job}"
    for body, error in {
        f"{good}&job={job}": "invalid_request",
        f"{good}&ttl=0": "invalid_request",
        f"{good}&ttl=-1": "invalid_request",
        f"{good}&ttl=901": "invalid_scope",
        f"{good}&resource=https://another.example": "invalid_target",
        f"{good}&client_id=responder": "invalid_request",
        f"{good}&scope=all": "invalid_scope",
        "grant_type=client_credentials": "invalid_request",
        f"grant_type=password&job={job}": "unsupported_grant_type",
        "nonsense": "invalid_request",
        "&".join(f"a{n}=1" for n in range(20)): "invalid_request",
    }.items():
        status, _, answer = await town.ask("POST", "/token", "orchestrator", data=body.encode(), headers=FORM)
        assert (status, answer["error"]) == (400, error), body
    status, _, _ = await town.ask("POST", "/token", "orchestrator", json={"grant_type": "client_credentials"})
    assert status == 400


async def test_a_refresh_is_a_younger_token_of_the_same_scope(town: Town) -> None:
    job = await town.open()
    first = await town.scope().token(job.job)
    town.pass_seconds(200)
    second = await town.scope().refresh(first.access_token)
    old, young = claims(first.access_token), claims(second.access_token)
    assert (young.grant, young.scope_hash, young.txn) == (old.grant, old.scope_hash, old.txn)
    assert young.jti != old.jti
    assert young.exp == old.exp + 200
    assert second.issued_token_type == "urn:ietf:params:oauth:token-type:access_token"


async def test_what_is_no_living_token_is_not_refreshed(town: Town) -> None:
    job = await town.open()
    raw = (await town.scope().token(job.job, 10)).access_token
    forged = tokens.encode(claims(raw), town.key("orchestrator", "client"))
    never = tokens.encode(msgspec.structs.replace(claims(raw), jti="neverissued"), town.key("scope", "token"))
    for bad in (forged, never, raw[:-3], raw + ".x", "nonsense"):
        assert await refusal(town.scope().refresh(bad)) == "bad-token"
    status, body = await ask(town, "/token", grant_type=TOKEN_EXCHANGE, subject_token=raw, subject_token_type="jwt")
    assert (status, body["code"]) == (400, "bad-request")
    town.pass_seconds(10)
    assert await refusal(town.scope().refresh(raw)) == "bad-token"


async def test_a_token_revoked_by_its_client_is_dead_and_in_the_feed(town: Town) -> None:
    job = await town.open()
    raw = (await town.scope().token(job.job)).access_token
    assert (await town.scope("receipts").introspect(raw))["active"] is True
    await town.scope().revoke_token(raw)
    await town.scope().revoke_token(raw)
    await town.scope().revoke_token("nonsense")
    assert await town.scope("receipts").introspect(raw) == {"active": False}
    assert await refusal(town.scope().refresh(raw)) == "bad-token"
    _, entries = await town.scope("receipts").snapshot(0)
    (entry,) = (open_revocation(town.trust, each).value for each in entries)
    assert (entry.target.kind, entry.target.value) == ("jti", claims(raw).jti)
    assert (entry.actor, entry.reason) == ("orchestrator", "revoked-by-client")


async def test_introspection_tells_the_claims_of_a_living_token(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job, 30)).access_token
    told = await town.scope().introspect(raw)
    assert told.pop("active") is True
    assert told.pop("token_type") == "Bearer"
    assert told == msgspec.to_builtins(claims(raw))
    town.pass_seconds(30)
    assert await town.scope().introspect(raw) == {"active": False}


async def test_another_role_beside_orchestrator_is_no_key_to_others_tokens(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job)).access_token
    for roles, active in (({"orchestrator", "author"}, False), ({"orchestrator", "auditor"}, True)):
        stranger = Caller("stranger", frozenset(roles))
        assert (await mint.introspect(town.authority, stranger, raw))["active"] is active


async def test_who_may_ask_about_a_token_and_who_may_revoke_it(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job)).access_token
    asked = {name: (await ask(town, "/introspect", name, token=raw)) for name in ("auditor", "receipts", "responder")}
    assert [(status, body["active"]) for status, body in asked.values()] == [(200, True)] * 3
    assert (await ask(town, "/introspect", None, token=raw))[0] == 401
    stranger = Caller("stranger", frozenset({"orchestrator"}))
    assert await mint.introspect(town.authority, stranger, raw) == {"active": False}
    assert await refusal(mint.withdraw(town.authority, stranger, raw)) == "forbidden"
    for name in ("auditor", "receipts", "responder"):  # a responder revokes by jti, on record with a reason
        status, body = await ask(town, "/revoke", name, token=raw)
        assert (status, body["error"], body["code"]) == (400, "unauthorized_client", "forbidden")
    assert (await ask(town, "/revoke", None, token=raw))[0] == 401
    assert (await town.scope().introspect(raw))["active"] is True
    assert (await ask(town, "/revoke", token=raw, token_type_hint="refresh_token"))[0] == 200
    assert (await ask(town, "/introspect", token=raw, token_type_hint="nonsense"))[1] == {"active": False}


async def test_a_token_of_a_revoked_key_is_none_of_ours(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job)).access_token
    assert tokens.read(town.authority.token_keys(), raw) is not None
    trust = town.authority.trust
    ended = [
        msgspec.structs.replace(key, revoked_at=START, reason="compromise") if key.use == "token" else key
        for key in trust.listed.keys
    ]
    later = msgspec.structs.replace(trust, listed=msgspec.structs.replace(trust.listed, keys=ended))
    assert tokens.read(msgspec.structs.replace(town.authority, trust=later).token_keys(), raw) is None


@pytest.mark.parametrize("end", ["close", "revoke"])
async def test_a_job_that_ends_has_no_more_tokens(town: Town, end: str) -> None:
    job = (await town.open()).job
    raw = (await town.scope().token(job)).access_token
    if end == "close":
        await town.scope().close(job)
    else:
        await town.scope("responder").revoke(RevocationRequest(kind="job", value=job, reason="incident"))
    assert await refusal(town.scope().token(job)) == "job-not-open"
    assert await refusal(town.scope().refresh(raw)) == "bad-token"
    assert await town.scope().introspect(raw) == {"active": False}


async def test_a_job_has_no_more_tokens_than_its_seal_can_name(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint, "MOST_TOKENS", 2)
    job, other = (await town.open()).job, (await town.open()).job
    for _ in range(2):
        raw = (await town.scope().token(job)).access_token
    assert await refusal(town.scope().token(job)) == "too-many-tokens"
    assert await refusal(town.scope().refresh(raw)) == "too-many-tokens"
    assert await refusal(town.scope().token(other)) == "accepted"


async def test_nor_has_it_when_they_are_asked_for_at_once(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint, "MOST_TOKENS", 3)
    job = (await town.open()).job
    answers = await asyncio.gather(*(refusal(town.scope().token(job)) for _ in range(12)))
    assert sorted(answers) == ["accepted"] * 3 + ["too-many-tokens"] * 9


@pytest.mark.parametrize("name", ["a\0b", "x" * 65, "\u00e9", "\ud800"])
async def test_what_is_no_jobs_name_is_asked_of_no_database(town: Town, name: str) -> None:
    caller = Caller("orchestrator", frozenset({"orchestrator"}))
    assert await refusal(mint.mint(town.authority, caller, name, None)) == "unknown-job"


async def test_a_token_withdrawn_twice_at_once_is_revoked_once(town: Town) -> None:
    raw = (await town.scope().token((await town.open()).job)).access_token
    await asyncio.gather(*(town.scope().revoke_token(raw) for _ in range(8)))
    _, entries = await town.scope("receipts").snapshot(0)
    assert len(entries) == 1


async def test_a_client_withdraws_no_more_tokens_of_a_job_than_its_seal_can_name(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mint, "MOST_WITHDRAWN", 2)
    job, other = (await town.open()).job, (await town.open()).job
    raw = [(await town.scope().token(job)).access_token for _ in range(3)]
    for each in (*raw[:2], raw[0]):
        assert await refusal(town.scope().revoke_token(each)) == "accepted"
    assert await refusal(town.scope().revoke_token(raw[2])) == "too-many-tokens"
    assert await refusal(town.scope().revoke_token((await town.scope().token(other)).access_token)) == "accepted"


async def test_many_tokens_at_once_are_all_different(town: Town) -> None:
    job = (await town.open()).job
    issued = await asyncio.gather(*(town.scope().token(job) for _ in range(20)))
    assert len({claims(each.access_token).jti for each in issued}) == 20


async def test_an_exchange_says_what_it_does_not_do(town: Town) -> None:
    job, other = (await town.open()).job, (await town.open()).job
    token = (await town.scope().token(job)).access_token
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token}
    good = ({}, {"job": job}, {"audience": town.urls.receipts}, {"audience": f"{town.urls.receipts}/mcp/crm-mcp"})
    for more in good:
        assert (await ask(town, "/token", **form, **more))[0] == 200
    for more, error, code in (
        ({"job": other}, "invalid_request", "bad-request"),
        ({"audience": "https://another.example"}, "invalid_target", "wrong-audience"),
        ({"actor_token": token}, "invalid_scope", "unsupported"),
    ):
        status, body = await ask(town, "/token", **form, **more)
        assert (status, body["error"], body["code"], body["field"]) == (400, error, code, next(iter(more)))


async def test_who_asks_too_often_is_told_when_to_ask_again(town: Town) -> None:
    form = {"grant_type": "client_credentials", "job": "job-1"}
    bad = {"Authorization": "Bearer nonsense"}
    for _ in range(30):
        assert (await town.ask("POST", "/token", data=form, headers=bad))[0] == 401
    status, headers, body = await town.ask("POST", "/token", data=form, headers=bad)
    assert (status, body["code"], headers["Retry-After"]) == (429, "too-many-failures", "60")
