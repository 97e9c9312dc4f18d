"""What a token stands for: a grant that this gateway would not enforce, and a tool that it cannot hold, are refused."""

import base64
import json
from typing import Any

import pytest

from receipts.sessions import Sessions
from receipts.tokens import BadToken, Credential
from service.dpop import Proofs
from tests.refusal import refused
from tests.world import GATEWAY, SCOPE, SECOND, World, pair
from verifier.documents import Opened
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.grant import Token, authorization_details
from verifier.keys import Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices

pytestmark = pytest.mark.anyio


class Shelf:
    """The documents of one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def grant(self, _: str) -> bytes:
        return seal_up("grant", self.world.grant_payload, pair("grant"))

    async def policy(self, digest: str, _: int) -> Opened[Policy]:
        return Opened(self.world.policy, digest, self.world.policy_payload)

    async def manifest(self, digest: str, _: int) -> Opened[Manifest]:
        return Opened(self.world.manifest, digest, self.world.manifest_payload)

    async def prices(self, digest: str, _: int) -> Opened[Prices]:
        raise AssertionError(f"nobody asked for {digest}")


def sessions(world: World) -> tuple[Sessions, Credential]:
    """Open a gateway's door, and come with the token of the world's grant."""
    scope = world.grant.scope
    token = Token(
        iss=scope.iss, sub=scope.agent, aud=scope.audience, client_id=scope.client, iat=world.iat, nbf=world.iat,
        exp=world.exp, jti=world.jti, txn=scope.job, policy_hash=scope.policy, scope_hash=scope.hash(),
        grant=world.grant_digest, authorization_details=authorization_details(scope),
    )  # fmt: skip
    head = json.dumps({"alg": "EdDSA", "typ": "at+jwt", "kid": pair("token").kid}).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, canonical(token)))
    signature = base64.urlsafe_b64encode(pair("token").ed25519(signed)).rstrip(b"=")
    trust = Trust.establish(world.pin(), seal_up("keys", world.keys_payload, pair("root")))

    def clock() -> int:
        return world.iat * SECOND + 1

    door = Sessions(Shelf(world), trust, SCOPE, GATEWAY, clock, proofs=Proofs(GATEWAY, bytes(32), clock))
    return door, Credential(f"Bearer {signed.decode()}.{signature.decode()}", (), "POST", "/")


async def test_an_honest_token_opens_its_session() -> None:
    world = World()
    door, token = sessions(world)
    session = await door.open(token)
    assert session.grant == world.grant
    assert (await door.server(session, "crm-mcp")).manifest == world.manifest


@pytest.mark.parametrize(
    ("scope", "field"),
    [
        ({"binding": "mtls"}, "binding"),
        ({"client_counter": "required"}, "client_counter"),
    ],
)
async def test_a_grant_that_this_gateway_would_not_enforce_is_refused(scope: dict[str, Any], field: str) -> None:
    door, token = sessions(World(scope=scope))
    with refused("unsupported", field):
        await door.open(token)


async def test_a_token_that_lives_longer_than_its_policy_allows_is_refused() -> None:
    door, token = sessions(World(policy={"token_constraints": {"cst_max_ttl_seconds": 299}}))
    with pytest.raises(BadToken) as found:
        await door.open(token)
    assert (found.value.code, found.value.field) == ("bad-token", "exp")
