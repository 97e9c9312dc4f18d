"""What a policy says of users holds from the identity provider's token to the auditor's verdict."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from scope.client import claims_of
from tests.conftest import Serve
from tests.receipts.gatehouse import SECOND, Gatehouse, gatehouse
from tests.scope.test_users import AUDIENCE, ISSUER, Issuer
from verifier.bundle import content
from verifier.envelope import Envelope
from verifier.grant import Grant
from verifier.refused import Refused

FINANCE: dict[str, Any] = {
    "model_egress": {"require_proxy_receipts": False},
    "allowed_tools": [
        {
            "kind": "mcp", "server": "crm-mcp", "tools": ["get_case"],
            "when": [
                {"attr": "user.team", "op": "eq", "value": "finance"},
                {"attr": "age.mfa_at", "op": "lt", "value": 3600},
                {"attr": "time.hour", "op": "between", "value": [0, 23], "offset": "+01:00"},
            ],
        }
    ],
}  # fmt: skip


def code(answer: tuple[int, Any, Any]) -> str | None:
    error: dict[str, Any] = answer[2].get("error", {})
    return error.get("data", {}).get("code")


def signed(issuer: Issuer, house: Gatehouse, **changes: Any) -> str:
    """Let the provider say that Ann logged in a moment ago."""
    at = house.clock() // SECOND
    return issuer.token(**{"iat": at, "exp": at + 60, "auth_time": at, "department": "finance", **changes})


async def test_finance_works_within_an_hour_of_its_second_factor_and_the_bundle_proves_it(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer()
    provider = {
        "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["RS256"], "jwks_url": f"{await serve(issuer)}/keys",
        "claims": {"team": "department", "mfa_at": "auth_time"},
    }  # fmt: skip
    monkeypatch.setenv("TALLY_SCOPE_IDENTITY_PROVIDERS", json.dumps({"login": provider}))
    monkeypatch.setenv("TALLY_SCOPE_IDENTITY_NETWORKS", '["127.0.0.0/8"]')
    async with gatehouse(tmp_path, serve, **FINANCE) as house:
        assert code(await house.rpc()) == "unknown-server"  # a job of nobody's was granted no tool of it
        for user, said in (
            ({"department": "sales"}, "unknown-server"), ({"department": None}, "unknown-server"),
            ({"auth_time": house.clock() // SECOND - 3600}, "not-allowed"), ({}, None),
        ):  # fmt: skip
            await house.open(user_token=signed(issuer, house, **user))
            assert code(await house.rpc()) == said, user
        assert issuer.fetched == 1
        raw, report = await house.audited()
        assert report.findings == []
        granted = [content(line, "grant") for line in raw.splitlines() if line.startswith(b'{"grant":')]
        said = [Envelope.parse(each, "grant").content() for each in granted]
        assert [(b"user-" in each, b'"ann"' in each) for each in said] == [(True, False)]
        with pytest.raises(Refused) as refused:
            await house.open(user_token=signed(issuer, house, aud="another"))
        assert refused.value.code == "bad-user-token"
        await house.open(user_token=signed(issuer, house))
        granted = Envelope.parse(await house.scope().grant(claims_of(house.token).grant), "grant").content()
        user = Grant.parse(granted).scope.user
        assert user is not None
        await house.revoke("user", user)
        while (said := code(await house.rpc())) is None:
            pass
        assert said in {"revoked", "lane-closed"}
        with pytest.raises(Refused) as refused:
            await house.open(user_token=signed(issuer, house))
        assert refused.value.code == "revoked"


async def test_the_second_factor_ages_while_the_job_runs(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer()
    keys = [key.as_dict(private=False) for key in issuer.keys]
    provider = {
        "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["RS256"], "jwks_file": "login.jwks",
        "claims": {"team": "department", "mfa_at": "auth_time"},
    }  # fmt: skip
    monkeypatch.setenv("TALLY_SCOPE_IDENTITY_PROVIDERS", json.dumps({"login": provider}))
    async with gatehouse(tmp_path, serve, **FINANCE) as house:
        (house.directory / "scope/login.jwks").write_text(json.dumps({"keys": keys}))
        earlier = house.clock() // SECOND - 3595
        await house.open(user_token=signed(issuer, house, auth_time=earlier))
        assert code(await house.rpc()) is None
        house.clock.pass_seconds(6)
        answer = await house.rpc()
        while code(answer) == "stale-revocations":  # until the feed is heard at the new time
            await asyncio.sleep(0.05)
            answer = await house.rpc()
        assert code(answer) == "not-allowed"
        assert ((await house.last()).by, (await house.last()).rule) == ("policy", "default")
