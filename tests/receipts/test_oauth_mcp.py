"""The MCP SDK's own OAuth client, as it comes: from the gateway's 401 to scope, with a signed assertion, to a call.

What it is told is what its public interface takes: the issuer, and an assertion of the SDK's own making with one claim
more, the job (specs/token.md §5).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mcp import Client
from mcp.client.auth import OAuthFlowError, OAuthTokenError
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from service.keystore import KeyFile
from tests.conftest import Serve
from tests.receipts.gatehouse import REVISION, Gatehouse, gatehouse
from verifier.encoding import parse, unb64

pytestmark = pytest.mark.anyio
FREE = {"model_egress": {"require_proxy_receipts": False}}


class Storage:
    """What the SDK asks for: a place for one token."""

    def __init__(self, token: str | None = None) -> None:
        self.tokens = None if token is None else OAuthToken(access_token=token)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError(f"nobody registers: {client_info}")


def pem(house: Gatehouse, client: str) -> str:
    """Write a client's key as other libraries read it."""
    raw = parse((house.directory / client / "client.key").read_bytes(), KeyFile, limit=4096)
    key = Ed25519PrivateKey.from_private_bytes(unb64(raw.ed25519_seed))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def provider(house: Gatehouse, storage: Storage, *, issuer: str = "", **changes: Any) -> PrivateKeyJWTOAuthProvider:
    """Make the SDK's provider, with nothing changed in it."""
    signed: dict[str, Any] = {
        "issuer": "orchestrator", "subject": "orchestrator", "signing_key": pem(house, "orchestrator"),
        "signing_algorithm": "EdDSA", "lifetime_seconds": 60, "additional_claims": {"job": house.job},
    }  # fmt: skip
    return PrivateKeyJWTOAuthProvider(
        server_url=f"{house.gateway}/mcp/crm-mcp",
        storage=storage,
        client_id="orchestrator",
        assertion_provider=SignedJWTParameters(**{**signed, **changes}).create_assertion_provider(),
        issuer=issuer or house.urls.scope,
    )


@asynccontextmanager
async def connected(
    house: Gatehouse, auth: PrivateKeyJWTOAuthProvider, mode: Any = REVISION
) -> AsyncIterator[tuple[Client, list[tuple[str, str, int]]]]:
    """Connect the official client; gives it, and the requests that it makes with their statuses."""
    seen: list[tuple[str, str, int]] = []

    async def note(answer: httpx2.Response) -> None:
        seen.append((answer.request.method, str(answer.request.url), answer.status_code))

    async with httpx2.AsyncClient(auth=auth, timeout=60, event_hooks={"response": [note]}) as http:
        transport = streamable_http_client(f"{house.gateway}/mcp/crm-mcp", http_client=http)
        async with Client(transport, mode=mode, cache=None) as client:
            yield client, seen


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncIterator[Gatehouse]:
    async with gatehouse(tmp_path, serve, **FREE) as made:
        yield made


@pytest.mark.parametrize("mode", [REVISION, "auto"])
async def test_the_sdks_client_finds_scope_gets_a_token_and_calls_a_tool(house: Gatehouse, mode: str) -> None:
    storage = Storage()
    async with connected(house, provider(house, storage), mode) as (mcp, seen):
        result = await mcp.call_tool("get_case", {"case_id": "CASE-1"})
        assert result.content[0].text == "done"
        again = await mcp.call_tool("get_case", {"case_id": "CASE-1"})
        assert again.content[0].text == "done"
    gateway, scope = house.gateway, house.urls.scope
    assert seen[:5] == [
        ("POST", f"{gateway}/mcp/crm-mcp", 401),
        ("GET", f"{gateway}/.well-known/oauth-protected-resource/mcp/crm-mcp", 200),
        ("GET", f"{scope}/.well-known/oauth-authorization-server", 200),
        ("POST", f"{scope}/token", 200),
        ("POST", f"{gateway}/mcp/crm-mcp", 200),
    ]
    assert {each[1:] for each in seen[5:]} <= {(f"{gateway}/mcp/crm-mcp", 200)}
    assert storage.tokens is not None
    said = jwt.decode(storage.tokens.access_token, options={"verify_signature": False})
    assert (said["txn"], said["aud"], said["client_id"]) == (house.job, gateway, "orchestrator")
    assert storage.tokens.access_token.encode() not in b"".join(body for _, body in house.upstream.requests)
    _, report = await house.audited()
    assert (report.verdict, report.totals.calls) == ("PASS", 2)


async def test_a_token_that_the_gateway_refuses_is_replaced(house: Gatehouse) -> None:
    storage = Storage(house.token + "x")
    async with connected(house, provider(house, storage)) as (mcp, seen):
        assert (await mcp.call_tool("get_case", {"case_id": "CASE-1"})).content[0].text == "done"
    assert [status for _, url, status in seen if "/mcp/crm-mcp" in url and "well-known" not in url][:2] == [401, 200]
    assert storage.tokens is not None
    assert storage.tokens.access_token != house.token + "x"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lifetime_seconds": 300}, "invalid_client"),
        ({"additional_claims": None}, "job is missing"),
        ({"additional_claims": {"job": 7}}, "job is missing"),
        ({"additional_claims": {"job": "job-none"}}, "unknown-job"),
        ({"additional_claims": {"aud": "https://another.example"}}, "invalid_client"),
        ({"subject": "auditor"}, "invalid_client"),
    ],
    ids=["long", "no job", "a number", "no such job", "for another", "for another client"],
)
async def test_an_assertion_that_scope_does_not_take_gets_no_token_and_no_call(
    house: Gatehouse, changes: dict[str, Any], said: str
) -> None:
    storage = Storage()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the SDK's task groups wrap it
        async with connected(house, provider(house, storage, **changes)) as (mcp, _):
            await mcp.call_tool("get_case", {"case_id": "CASE-1"})
    assert said in str(unwrapped(caught.value, OAuthTokenError))
    assert storage.tokens is None
    assert house.upstream.requests == []


async def test_a_client_of_another_issuer_sends_scope_no_assertion(house: Gatehouse) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the SDK's task groups wrap it
        async with connected(house, provider(house, Storage(), issuer="https://another.example")) as (mcp, _):
            await mcp.call_tool("get_case", {"case_id": "CASE-1"})
    assert "issuer mismatch" in str(unwrapped(caught.value, OAuthFlowError))


def unwrapped(error: BaseException, kind: type[BaseException]) -> BaseException:
    """Find the error of a kind inside groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, kind), error
    return error
