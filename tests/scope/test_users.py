"""Whom a job works for is an identity provider's word: verified when the job opens, by keys from its own address."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from scope.settings import IdentityProvider
from scope.users import User, Users
from service.reach import networks
from tests.conftest import Serve, seeded
from verifier.refused import Refused

# The library warns of what providers still do, and of the confusion of keys that a test is about.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")]
NOW = 1_795_000_000
ISSUER, AUDIENCE = "https://login.example", "tallystick"
LOOPBACK = networks(["127.0.0.0/8"])
CLAIMS = {"mfa_at": "auth_time", "team": "department", "staff": "is_staff", "groups": "groups"}


class Issuer:
    """A local OpenID Connect provider: its keys on a socket, its tokens signed by a library of others."""

    def __init__(self) -> None:
        self.keys = [self.key("RSA", 2048, "k1"), self.key("EC", "P-256", "k2"), self.key("OKP", "Ed25519", "k3")]
        self.fetched = 0
        self.status, self.extra = 200, b""

    @staticmethod
    def key(kind: str, size: Any, kid: str) -> Any:
        """Make a key pair."""
        return {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}[kind].generate_key(size, {"kid": kid} if kid else None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the public keys."""
        if scope["type"] != "http":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.fetched += 1
        body = json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode() + self.extra
        headers = [(b"content-type", b"application/json"), (b"location", b"http://127.0.0.1:1/")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def token(self, alg: str = "RS256", key: Any = None, head: dict[str, Any] | None = None, **changes: Any) -> str:
        """Sign a token about Ann; a change to None leaves a claim out."""
        held = key or self.keys[{"RS256": 0, "ES256": 1, "EdDSA": 2}[alg]]
        times = {"iat": NOW - 5, "exp": NOW + 60, "auth_time": NOW - 60}
        said = {"iss": ISSUER, "sub": "ann", "aud": AUDIENCE, **times, **changes}
        header = {"alg": alg, "kid": held.as_dict().get("kid"), **(head or {})}
        claims = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({name: value for name, value in header.items() if value}, claims, held, algorithms=[alg])


def b64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def believing(issuer: Issuer, serve: Serve, tmp_path: Path) -> Callable[..., Users]:
    """A scope that believes the provider."""
    url = f"{await serve(issuer)}/keys"
    await asyncio.to_thread(tmp_path.chmod, 0o700)

    def make(**changes: Any) -> Users:
        settings: dict[str, Any] = {
            "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["RS256", "ES256", "EdDSA"], "jwks_url": url,
            "claims": CLAIMS,
        }  # fmt: skip
        return Users({"login": IdentityProvider(**{**settings, **changes})}, tmp_path, LOOPBACK, seeded("users"))

    return make


async def verified(users: Users, token: str, now: int = NOW) -> User:
    return await users.verify(token, now * 1_000_000)


async def refused(users: Users, token: str, now: int = NOW) -> str:
    with pytest.raises(Refused) as found:
        await verified(users, token, now)
    return found.value.code


async def test_listed_claims_enter_by_the_names_of_policies_and_the_user_by_a_pseudonym(
    issuer: Issuer, believing: Callable[..., Users]
) -> None:
    users = believing()
    token = issuer.token(department="finance", is_staff=True, email="ann@example.com", groups=["a"])
    user = await verified(users, token)
    assert user.claims == {"mfa_at": NOW - 60, "team": "finance", "staff": True}
    assert user.name.startswith("user-")
    assert "ann" not in user.name
    assert (await verified(believing(), issuer.token())).name == user.name
    assert (await verified(users, issuer.token(sub="bob"))).name != user.name


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_each_kind_of_key_is_read(issuer: Issuer, believing: Callable[..., Users], alg: str) -> None:
    assert (await verified(believing(), issuer.token(alg))).claims["mfa_at"] == NOW - 60


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"}, {"aud": None}, {"sub": None}, {"sub": ""}, {"iat": None}, {"exp": None}, {"exp": NOW},
        {"iat": NOW + 61}, {"iat": NOW - 601}, {"nbf": NOW + 61}, {"iat": float(NOW)}, {"exp": str(NOW + 9)},
        {"key": "k1"}, {"key": "other"}, {"key": ""}, {"pad": 1 << 14},
    ],
    ids=str,
)  # fmt: skip
async def test_a_token_that_is_not_as_it_must_be_is_not_believed(
    issuer: Issuer, believing: Callable[..., Users], changes: dict[str, Any]
) -> None:
    if "key" in changes:  # of somebody else, under a name that the provider has, or has not, or under none
        changes = {"key": Issuer.key("RSA", 2048, changes["key"])}
    if "pad" in changes:
        changes = {"pad": "x" * changes["pad"]}
    assert await refused(believing(), issuer.token(**changes)) == "bad-user-token"


async def test_no_algorithm_but_those_of_the_settings_counts(issuer: Issuer, believing: Callable[..., Users]) -> None:
    assert await refused(believing(algorithms=["ES256"]), issuer.token()) == "bad-user-token"
    public = issuer.keys[0].as_pem(private=False)
    said = b".".join(map(b64url, (b'{"alg":"HS256","kid":"k1"}', json.dumps({"iss": ISSUER}).encode())))
    mixed = said + b"." + b64url(hmac.digest(public, said, "sha256"))
    assert await refused(believing(), mixed.decode()) == "bad-user-token"
    header, payload, _ = issuer.token().split(".")
    assert await refused(believing(), f"{header}.{payload}.") == "bad-user-token"
    for junk in ("", "a.b.c", "é", header):
        assert await refused(believing(), junk) == "bad-user-token"


@pytest.mark.parametrize("claim", ["sub", "department"])
async def test_a_token_with_half_a_character_is_not_believed(
    issuer: Issuer, believing: Callable[..., Users], claim: str
) -> None:
    said = {"iss": ISSUER, "sub": "ann", "aud": AUDIENCE, "iat": NOW - 5, "exp": NOW + 60, claim: "\ud800"}
    token = pyjwt.encode(said, issuer.keys[0].private_key, "RS256", headers={"kid": "k1"})
    assert await refused(believing(), token) == "bad-user-token"


async def test_a_provider_that_does_not_answer_keeps_no_user_of_another_waiting(
    issuer: Issuer, serve: Serve, tmp_path: Path
) -> None:
    hung = asyncio.Event()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await hung.wait()
        await issuer(scope, receive, send)

    given = {"audience": AUDIENCE, "algorithms": ["RS256"], "claims": CLAIMS}
    other = "https://silent.example"
    providers = {
        "login": IdentityProvider(issuer=ISSUER, jwks_url=f"{await serve(issuer)}/keys", **given),
        "silent": IdentityProvider(issuer=other, jwks_url=f"{await serve(silent)}/keys", **given),
    }
    await asyncio.to_thread(tmp_path.chmod, 0o700)
    users = Users(providers, tmp_path, LOOPBACK, seeded("users"))
    waits = asyncio.create_task(verified(users, issuer.token(iss=other)))
    try:
        await asyncio.sleep(0.1)
        assert (await asyncio.wait_for(verified(users, issuer.token()), 3)).claims
    finally:
        hung.set()
        await waits


async def test_another_issuer_is_unknown(issuer: Issuer, believing: Callable[..., Users]) -> None:
    for claimed in ("https://evil.example", None, 5, [ISSUER]):
        assert await refused(believing(), issuer.token(iss=claimed)) in {"unknown-issuer", "bad-user-token"}
    assert issuer.fetched == 0


async def test_keys_are_fetched_once_and_again_when_a_new_one_is_named(
    issuer: Issuer, believing: Callable[..., Users], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = believing()
    for _ in range(3):
        await verified(users, issuer.token())
    assert issuer.fetched == 1
    issuer.keys[0] = Issuer.key("RSA", 2048, "rotated")
    assert await refused(users, issuer.token()) == "bad-user-token"
    assert issuer.fetched == 1  # a flood of unknown keys asks nobody
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 31)
    await verified(users, issuer.token())
    assert issuer.fetched == 2


@pytest.mark.parametrize(("status", "extra"), [(500, b""), (302, b""), (200, b" " * (1 << 18)), (200, b"}")])
async def test_a_provider_that_answers_something_else_is_unavailable(
    issuer: Issuer, believing: Callable[..., Users], status: int, extra: bytes
) -> None:
    issuer.status, issuer.extra = status, extra
    assert await refused(believing(), issuer.token()) == "identity-unavailable"


async def test_keys_come_from_a_file_too_and_from_nowhere_that_is_not_allowed(
    issuer: Issuer, believing: Callable[..., Users], tmp_path: Path
) -> None:
    (tmp_path / "login.jwks").write_text(json.dumps({"keys": [key.as_dict(private=False) for key in issuer.keys]}))
    assert (await verified(believing(jwks_url=None, jwks_file="login.jwks"), issuer.token())).claims
    for url in ("http://169.254.169.254/latest", "http://10.0.0.1/keys"):
        assert await refused(believing(jwks_url=url), issuer.token()) == "identity-unavailable"
    assert await refused(believing(jwks_url=None, jwks_file="missing"), issuer.token()) == "identity-unavailable"
    assert issuer.fetched == 0
