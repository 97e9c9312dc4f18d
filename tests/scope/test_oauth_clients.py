"""Authlib, which no one here wrote, finds scope, gets tokens, checks, exchanges, asks about and revokes them."""

import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any, get_args

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from scope.client import ACCESS_TOKEN, ASSERTION, TOKEN_EXCHANGE, Detail, claims_of
from service.app import now
from service.dpop_key import prover
from service.keystore import write_private
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


async def test_authlib_finds_no_fault_with_the_metadata_but_that_there_is_no_page(today: Town) -> None:
    described = AuthorizationServerMetadata((await today.ask("GET", "/.well-known/oauth-authorization-server"))[2])
    for key in described.REGISTRY_KEYS:
        if key != "response_types_supported":  # RFC 8414 §2 wants it, §3.2 wants it away when it is empty, as it is
            getattr(described, f"validate_{key}", lambda: None)()
    assert described["response_types_supported"] == []


async def test_every_grant_type_that_is_announced_is_granted_and_no_other(today: Town) -> None:
    announced = (await today.ask("GET", "/.well-known/oauth-authorization-server"))[2]["grant_types_supported"]
    job = (await today.open()).job
    subject = (await fetch(today, grant_type="client_credentials", job=job))["access_token"]
    rest = {"subject_token": subject, "subject_token_type": ACCESS_TOKEN, "job": job}
    for kind in announced:
        assert claims_of((await fetch(today, grant_type=kind, **rest))["access_token"]).txn == job
    for kind in (
        "authorization_code", "refresh_token", "password", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:device_code",
    ):  # fmt: skip
        with pytest.raises(Exception, match="unsupported_grant_type"):
            await fetch(today, grant_type=kind, code="x", refresh_token="x", assertion="x", **rest)
    assert announced == ["client_credentials", TOKEN_EXCHANGE]


@pytest.mark.parametrize("endpoint", ["token", "revocation", "introspection"])
async def test_an_endpoint_takes_the_announced_way_to_authenticate_and_no_secret(today: Town, endpoint: str) -> None:
    described = (await today.ask("GET", "/.well-known/oauth-authorization-server"))[2]
    ways = {name: described[f"{endpoint}_endpoint_auth_{name}_supported"] for name in ("methods", "signing_alg_values")}
    assert ways == {"methods": ["private_key_jwt"], "signing_alg_values": ["EdDSA"]}
    path, job = described[f"{endpoint}_endpoint"].removeprefix(today.urls.scope), (await today.open()).job
    fields = {"grant_type": "client_credentials", "job": job, "token": "nonsense"}

    async def status(key: Any, alg: str) -> int:
        claims = {"iss": "orchestrator", "sub": "orchestrator", "aud": today.urls.scope, "jti": os.urandom(16).hex()}
        times = {"iat": int(time.time()), "exp": int(time.time()) + LIFE}
        proof = jwt.encode({"alg": alg}, {**claims, **times}, key, algorithms=[alg])
        said = {"client_assertion_type": ASSERTION, "client_assertion": proof}
        return (await today.ask("POST", path, data={**fields, **said}))[0]

    assert await status(key_of(today, "orchestrator"), "EdDSA") == 200
    others = {"ES256": ECKey.generate_key("P-256"), "RS256": RSAKey.generate_key(2048), "HS256": OctKey.generate_key()}
    for alg, key in others.items():
        assert await status(key, alg) == 401, alg
    secret = {"client_id": "orchestrator", "client_secret": "secret"}
    basic = {"Authorization": "Basic " + urlsafe_b64encode(b"orchestrator:secret").decode()}
    assert (await today.ask("POST", path, data={**fields, **secret}))[0] == 401
    assert (await today.ask("POST", path, data=fields, headers=basic))[0] == 401
    assert (await today.ask("POST", path, data={**fields, "client_id": "orchestrator"}))[0] == 401


async def test_every_type_of_authorization_details_that_is_announced_is_known_and_no_other(today: Town) -> None:
    described = (await today.ask("GET", "/.well-known/oauth-authorization-server"))[2]
    known = {each.__struct_config__.tag: each for each in get_args(Detail)}
    assert set(described["authorization_details_types_supported"]) == set(known)
    first = (await fetch(today, grant_type="client_credentials", job=(await today.open()).job))["access_token"]
    exchange = {"grant_type": TOKEN_EXCHANGE, "subject_token": first}
    lists = {"tally_model": "models", "tally_resource": "resources", "tally_prompt": "prompts"}
    for kind in known:
        part = {"type": kind, lists.get(kind, "tools"): ["x/y"]} | ({} if kind == "tally_model" else {"server": "x"})
        with pytest.raises(Exception, match="invalid_scope"):  # read, and not carried by the token
            await fetch(today, **exchange, authorization_details=json.dumps([part]))
    with pytest.raises(Exception, match="invalid_request"):
        await fetch(today, **exchange, authorization_details=json.dumps([{"type": "tally_other", "tools": ["x"]}]))


async def test_every_algorithm_of_proofs_that_is_announced_binds_a_token(today: Town, tmp_path: Path) -> None:
    described = (await today.ask("GET", "/.well-known/oauth-authorization-server"))[2]
    keys: dict[str, Any] = {"EdDSA": OKPKey.generate_key("Ed25519"), "ES256": ECKey.generate_key("P-256")}
    assert set(described["dpop_signing_alg_values_supported"]) == set(keys)
    job = (await today.open(binding="dpop")).job
    for alg, key in keys.items():
        file = tmp_path / f"{alg}.jwk"
        write_private(file, json.dumps(key.as_dict(private=True)).encode())
        proving = prover(file, now, os.urandom)
        issued = await today.scope().token(
            job, proving=lambda method, url, nonce, by=proving: by.proof(method, url, nonce=nonce)
        )
        bound = claims_of(issued.access_token).cnf
        assert (issued.token_type, bound and bound.jkt) == ("DPoP", key.thumbprint())
    file = tmp_path / "EdDSA.jwk"
    outside = prover(file, now, os.urandom)
    proof = outside.proof("POST", described["token_endpoint"])
    head, rest = proof.split(".", 1)
    said = json.loads(urlsafe_b64decode(head + "=="))
    changed = urlsafe_b64encode(json.dumps({**said, "alg": "HS256"}).encode()).rstrip(b"=").decode()
    form = {"grant_type": "client_credentials", "job": job}
    answer = await today.ask("POST", "/token", "orchestrator", data=form, headers={"DPoP": f"{changed}.{rest}"})
    assert (answer[0], answer[2]["error"]) == (400, "invalid_dpop_proof")


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
