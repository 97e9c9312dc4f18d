"""Authlib, which no one here wrote, finds scope, gets tokens, checks, exchanges, asks about and revokes them."""

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from scope.client import ACCESS_TOKEN, TOKEN_EXCHANGE, claims_of
from tests.scope.conftest import Town
from verifier.encoding import unb64

LIFE = 60
# RFC 9864 names the algorithm Ed25519; libraries in use say EdDSA, as we do.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authlib speaks to nobody without TLS unless told that this is a test."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


def key_of(town: Town, name: str) -> OKPKey:
    """Read a client's key file as a JWK."""
    seed = unb64(json.loads((town.installation / name / "client.key").read_bytes())["ed25519_seed"], field="seed")
    public = town.key(name, "client").raw[0]
    x, d = (urlsafe_b64encode(each).rstrip(b"=").decode() for each in (public, seed))
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x, "d": d})


def signer(town: Town, **claims: Any) -> PrivateKeyJWT:
    """Sign one assertion: for scope's issuer, as RFC 7523bis asks, for a minute."""
    wanted = {"aud": town.urls.scope, "exp": int(time.time()) + LIFE, **claims}
    return PrivateKeyJWT(f"{town.urls.scope}/token", claims=wanted, alg="EdDSA")


def client(town: Town, name: str = "orchestrator", **claims: Any) -> AsyncOAuth2Client:
    """Make a client for one request."""
    method = "private_key_jwt"
    made = AsyncOAuth2Client(
        name, key_of(town, name), token_endpoint_auth_method=method, revocation_endpoint_auth_method=method
    )
    made.register_client_auth_method(signer(town, **claims))
    return made


async def fetch(town: Town, **fields: Any) -> dict[str, Any]:
    async with client(town) as oauth:
        found: dict[str, Any] = await oauth.fetch_token(f"{town.urls.scope}/token", **fields)
        return found


async def test_authlib_gets_a_token_and_checks_it_by_our_documents(today: Town) -> None:
    job = await today.open()
    status, _, metadata = await today.ask("GET", "/.well-known/oauth-authorization-server")
    assert status == 200
    described = AuthorizationServerMetadata(metadata)
    described.validate_token_endpoint_auth_methods_supported()
    described.validate_revocation_endpoint_auth_signing_alg_values_supported()
    assert described["issuer"] == today.urls.scope
    token = await fetch(today, grant_type="client_credentials", job=job.job, resource=today.urls.receipts)
    keys = KeySet.import_key_set((await today.ask("GET", described["jwks_uri"].removeprefix(today.urls.scope)))[2])
    checked = jwt.decode(token["access_token"], keys, algorithms=["EdDSA"])
    assert checked.header["typ"] == "at+jwt"
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": today.urls.scope}, aud={"essential": True, "value": today.urls.receipts},
        client_id={"essential": True, "value": "orchestrator"}, exp={"essential": True}, iat={"essential": True},
        jti={"essential": True}, sub={"essential": True, "value": "agent-1"},
    ).validate(checked.claims)  # fmt: skip
    assert token["expires_in"] == 300


async def test_authlib_exchanges_introspects_and_revokes(today: Town) -> None:
    job = await today.open()
    first = (await fetch(today, grant_type="client_credentials", job=job.job))["access_token"]
    exchange = {"grant_type": TOKEN_EXCHANGE, "subject_token": first, "subject_token_type": ACCESS_TOKEN}
    part = [{"type": "tally_mcp", "server": "crm-mcp", "tools": ["get_case"]}]
    narrow = await fetch(today, **exchange, authorization_details=json.dumps(part))
    assert narrow["issued_token_type"] == ACCESS_TOKEN
    async with client(today) as oauth:
        answer = await oauth.introspect_token(f"{today.urls.scope}/introspect", token=narrow["access_token"])
    assert (answer.json()["active"], answer.json()["authorization_details"]) == (True, part)
    async with client(today) as oauth:
        assert (await oauth.revoke_token(f"{today.urls.scope}/revoke", token=narrow["access_token"])).status_code == 200
    async with client(today, "auditor") as oauth:
        answer = await oauth.introspect_token(f"{today.urls.scope}/introspect", token=narrow["access_token"])
    assert answer.json() == {"active": False}


async def test_a_resource_is_the_gateway_or_a_server_behind_it_and_the_token_is_the_gateways(today: Town) -> None:
    job, gateway = await today.open(), today.urls.receipts
    for resource in (gateway, f"{gateway}/mcp/crm-mcp"):
        token = await fetch(today, grant_type="client_credentials", job=job.job, resource=resource)
        assert claims_of(token["access_token"]).aud == gateway
    for resource in (
        f"{gateway}/mcp/", f"{gateway}/mcp/a/b", f"{gateway}/mcp/..", f"{gateway}/mcp/a?b", f"{gateway}/mcp/a\n",
        f"{gateway}/other", f"{gateway}.evil.example/mcp/a", f"{gateway}@evil.example/mcp/a", "https://evil.example",
    ):  # fmt: skip
        with pytest.raises(Exception, match="invalid_target"):
            await fetch(today, grant_type="client_credentials", job=job.job, resource=resource)


async def test_the_job_may_stand_in_the_assertion_but_not_another_beside_it(today: Town) -> None:
    job, other = (await today.open()).job, (await today.open()).job
    url, asked = f"{today.urls.scope}/token", {"grant_type": "client_credentials"}
    for fields in ({}, {"job": job}):
        async with client(today, job=job) as oauth:
            token = await oauth.fetch_token(url, **asked, **fields)
        assert claims_of(token["access_token"]).txn == job
    async with client(today, job=job) as oauth:
        with pytest.raises(Exception, match="different jobs"):
            await oauth.fetch_token(url, **asked, job=other)


async def test_there_is_no_page_to_sign_in_and_nobody_is_sent_anywhere(today: Town) -> None:
    metadata = (await today.ask("GET", "/.well-known/oauth-authorization-server"))[2]
    assert metadata["authorization_endpoint"] == f"{today.urls.scope}/authorize"
    assert metadata["response_types_supported"] == []
    query = "?response_type=code&client_id=orchestrator&redirect_uri=https://evil.example&state=x"
    status, headers, body = await today.ask("GET", f"/authorize{query}", allow_redirects=False)
    assert (status, body["error"], body["code"]) == (400, "unsupported_response_type", "unsupported-response-type")
    assert "Location" not in headers


@pytest.mark.parametrize(
    "claims", [{"aud": "https://another.example"}, {"exp": 2**31}, {"exp": 1}], ids=["foreign", "long", "over"]
)
async def test_an_assertion_that_is_not_for_us_or_lives_too_long_gets_nothing(
    today: Town, claims: dict[str, Any]
) -> None:
    job = await today.open()
    async with client(today, **claims) as oauth:
        with pytest.raises(Exception, match="invalid_client"):
            await oauth.fetch_token(f"{today.urls.scope}/token", grant_type="client_credentials", job=job.job)
