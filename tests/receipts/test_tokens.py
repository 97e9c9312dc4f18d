"""The token at the door: every way in which it can be wrong, revocation, and a scope that has fallen silent."""

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.receipts.gatehouse import PROVIDER, Gatehouse, completion, gatehouse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncGenerator[Gatehouse, None]:
    async with gatehouse(tmp_path, serve) as made:
        made.upstream.say(completion())
        yield made


def read(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def write(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def forged(house: Gatehouse, signer: str = "scope/token", header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Sign a token as scope would, with something changed."""
    head, payload, _ = house.token.split(".")
    key = house.key(*signer.split("/"))
    named = {**read(head), "kid": key.kid, **(header or {})}
    signed = ".".join(write(json.dumps(each).encode()) for each in (named, {**read(payload), **claims}))
    return f"{signed}.{write(key.ed25519(signed.encode()))}"


async def refused(house: Gatehouse, token: str) -> str:
    """Come with a token; name the refusal, which both paths must give as 401."""
    house.token = token
    status, headers, body = await house.chat()
    other, challenge, answer = await house.rpc()
    if status != 401:
        return "accepted"
    assert (other, body["error"]["code"]) == (401, answer["error"]["data"]["code"])
    assert headers["www-authenticate"].startswith("Bearer")
    assert "resource_metadata" in challenge["www-authenticate"]
    said: str = body["error"]["code"]
    return said


async def test_a_token_that_scope_signed_is_accepted_and_one_that_says_more_is_not(house: Gatehouse) -> None:
    genuine = house.token
    other = "sha256:" + "0" * 64
    for token, said in (
        (forged(house), "accepted"),
        ("", "no-token"),
        ("nothing", "bad-token"),
        (genuine[:-4] + "AAAA", "bad-signature"),
        (genuine + "=", "bad-token"),
        (genuine.split(".")[0] + "." + write(b'{"x":' + b"[" * 6000) + ".AA", "bad-token"),
        (forged(house, header={"alg": "none"}), "bad-token"),
        (forged(house, header={"alg": "HS256"}), "bad-token"),
        (forged(house, header={"typ": "JWT"}), "bad-token"),
        (forged(house, header={"crit": ["x"]}), "bad-token"),
        (forged(house, header={"kid": "0" * 32}), "unknown-signer"),
        (forged(house, "scope/grant"), "wrong-use"),
        (forged(house, "receipts/gateway"), "wrong-use"),
        (forged(house, iss="http://other.example"), "wrong-issuer"),
        (forged(house, aud="http://other.example"), "wrong-audience"),
        (forged(house, policy_hash=other), "wrong-policy"),
        (forged(house, scope_hash=other), "wrong-scope"),
        (forged(house, sub="agent-2"), "wrong-grant"),
        (forged(house, txn="job-2"), "wrong-grant"),
        (forged(house, exp=read(genuine.split(".")[1])["exp"] + 86_400), "wrong-grant"),
        (forged(house, iat=read(genuine.split(".")[1])["iat"] + 60), "token-not-valid-yet"),
    ):
        house.token = genuine
        assert (said, await refused(house, token)) == (said, said)


async def test_a_refused_token_leaves_no_receipt_and_reaches_nothing(house: Gatehouse) -> None:
    assert await refused(house, forged(house, policy_hash="sha256:" + "0" * 64)) == "wrong-policy"
    assert await house.leaves() == []
    assert house.upstream.requests == []


async def test_a_token_that_was_good_is_refused_once_it_has_expired(house: Gatehouse) -> None:
    house.token = (await house.scope().token(house.job, 60)).access_token
    assert (await house.chat())[0] == 200
    house.clock.pass_seconds(60)
    assert await refused(house, house.token) == "token-expired"
    assert [each.kind for each in await house.leaves()] == ["open", "token", "begin", "end"]


@pytest.mark.parametrize("kind", ["job", "agent", "client", "policy", "jti", "all", "key/grant", "key/token"])
async def test_a_revoked_token_is_refused(house: Gatehouse, kind: str) -> None:
    assert (await house.chat())[0] == 200
    jti = read(house.token.split(".")[1])["jti"]
    named = {"job": house.job, "agent": "agent-1", "client": "orchestrator", "policy": house.policy, "jti": jti}
    kind, _, use = kind.partition("/")
    await house.revoke(kind, house.key("scope", use).kid if use else named.get(kind, "*"))
    sent = await until_refused(house)
    assert await refused(house, house.token) == "revoked"
    assert len(house.upstream.requests) == sent


@pytest.mark.parametrize(
    ("kind", "value"), [("model", f"{PROVIDER}/small-1"), ("server", "crm-mcp"), ("tool", "crm-mcp/get_case")]
)
async def test_a_revoked_target_is_refused_and_the_token_is_not(house: Gatehouse, kind: str, value: str) -> None:
    await house.asked_for("get_case")
    await house.revoke(kind, value)
    if kind == "model":
        house.upstream.say(completion())
        await until_refused(house, 403)
        assert (await house.chat())[2]["error"]["code"] == "revoked"
        assert (await house.chat(model="small-2"))[0] == 200
        return
    while "result" in (answer := (await house.rpc())[2]):
        await house.asked_for("get_case")
    assert answer["error"]["data"]["code"] == "revoked"  # refused, or cut off under way
    assert (await house.rpc())[2]["error"]["data"]["code"] == "revoked"
    assert ((await house.last()).code, (await house.last()).revocations) == ("revoked", 1)


async def test_calls_are_refused_when_scope_has_not_been_heard_for_too_long(house: Gatehouse) -> None:
    assert (await house.chat())[0] == 200
    await house.stop("scope")
    house.clock.pass_seconds(6)
    status, headers, body = await house.chat()
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "stale-revocations", "1")
    status, headers, body = await house.rpc()
    assert (status, body["error"]["data"]["code"], headers["Retry-After"]) == (200, "stale-revocations", "1")
    denied = await house.last()
    assert (denied.code, denied.by, denied.staleness > 5_000_000) == ("stale-revocations", "gateway", True)


async def until_refused(house: Gatehouse, status: int = 401) -> int:
    """Call until the gateway has heard of a revocation; return how many requests had gone through.

    That its job closes it may hear before, which is another refusal.
    """
    while (await house.chat())[0] != status:
        pass
    return len(house.upstream.requests)
