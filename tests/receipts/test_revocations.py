"""What a gateway keeps of revocations: who signed what, until when, and no more than it needs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from receipts.revocations import LONGEST_TOKEN, SKEW, Revocations
from receipts.sessions import names_of
from scope.client import RevocationRequest, ScopeClient
from tests.conftest import Serve
from tests.receipts.gatehouse import SECOND, Gatehouse, gatehouse
from tests.world import NOW, SCOPE, World, pair
from verifier.chain import terms
from verifier.documents import open_grant
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.grant import Token, authorization_details
from verifier.keys import Trust
from verifier.leaf import Target
from verifier.refused import Refused
from verifier.revocation import Heartbeat, Name

pytestmark = pytest.mark.anyio
GET_CASE = Target(server="crm-mcp", tool="get_case")
FREE: dict[str, Any] = {"model_egress": {"require_proxy_receipts": False}}


class Snapshots(ScopeClient):
    """The revocations of a world, signed; `now` is the clock of both sides."""

    def __init__(self, world: World) -> None:
        self.world, self.now = world, NOW
        trust = Trust.establish(world.pin(), seal_up("keys", world.keys_payload, pair("root")))
        self.gateway = Revocations(self, trust, SCOPE, lambda: self.now)
        self.trust = trust

    async def snapshot(self, after: int) -> tuple[bytes, list[bytes]]:
        """Sign what was revoked after a sequence."""
        every = self.world.revocations
        beat = canonical(Heartbeat(iss=SCOPE, sequence=len(every), time=self.now))
        signed = [seal_up("revocation", canonical(each), pair("revocation")) for each in every[after:]]
        return seal_up("heartbeat", beat, pair("revocation")), signed

    async def revoke(self, kind: str, value: str, until: int | None = None) -> None:
        """Revoke, and let the gateway hear of it."""
        self.world.revoke(kind, value, self.now, until)
        await self.gateway.poll()

    def names(self, **scope: Any) -> dict[Name, int]:
        """Name what ends the token of the world's job."""
        world = World(scope=scope)
        grant = open_grant(self.trust, seal_up("grant", world.grant_payload, pair("grant")))
        scoped = world.grant.scope
        token = Token(
            iss=SCOPE, sub=scoped.agent, aud=scoped.audience, client_id=scoped.client, iat=0, nbf=0, exp=1,
            jti=world.jti, txn=scoped.job, policy_hash=scoped.policy, scope_hash=scoped.hash(),
            grant=world.grant_digest, authorization_details=authorization_details(scoped),
        )  # fmt: skip
        return names_of(token, pair("token").kid, [grant], world.chain)

    def said(self, **scope: Any) -> str:
        """Name what a call is refused for."""
        try:
            self.gateway.require_live(self.names(**scope))
            self.gateway.require_target(GET_CASE, self.now)
        except Refused as refused:
            return refused.field
        return ""


@pytest.mark.parametrize(
    ("kind", "value"),
    [("user", "user-1"), ("key", pair("token").kid), ("key", pair("grant").kid), ("jti", "token-1"), ("all", "*")],
)
async def test_what_ends_a_token_is_known_by_each_of_its_names(kind: str, value: str) -> None:
    scope = Snapshots(World())
    await scope.revoke("user", "user-2")
    await scope.revoke("key", pair("seal").kid)
    assert scope.said(user="user-1") == ""
    await scope.revoke(kind, value)
    assert scope.said(user="user-1") == kind


async def test_what_was_ended_before_the_end_of_a_revocation_stays_ended() -> None:
    scope = Snapshots(World())
    scope.now += 10 * SECOND
    await scope.revoke("agent", "agent-1", scope.now + 60 * SECOND)
    assert scope.said() == "agent"
    scope.now += 3600 * SECOND
    await scope.gateway.poll()
    assert scope.said() == "agent"  # the job was opened before
    later = dict.fromkeys(scope.names(), scope.now)
    scope.gateway.require_live(later)


async def test_a_target_may_be_used_again_from_the_end_of_its_revocation_on() -> None:
    scope = Snapshots(World())
    until = scope.now + 60 * SECOND
    await scope.revoke("tool", "crm-mcp/get_case", until)
    await scope.revoke("tool", "crm-mcp/get_case", until - SECOND)  # the later end counts
    scope.now = until - 1
    assert scope.said() == "tool"
    scope.now = until
    assert scope.said() == ""
    await scope.revoke("tool", "crm-mcp/get_case")
    scope.now += 3600 * SECOND
    await scope.revoke("tool", "crm-mcp/get_case", scope.now + 1)
    scope.now += SECOND
    await scope.gateway.poll()
    assert scope.said() == "tool"  # for ever


async def test_tokens_that_have_expired_are_forgotten_and_nothing_else_is() -> None:
    scope = Snapshots(World())
    for number in range(50):
        await scope.revoke("jti", f"token-{number}")
    await scope.revoke("agent", "agent-2", scope.now + SECOND)
    await scope.revoke("server", "other")
    assert scope.said() == "jti"
    assert (len(scope.gateway._revoked), len(scope.gateway._targets)) == (51, 1)
    scope.now += LONGEST_TOKEN + SKEW - 1
    await scope.gateway.poll()
    assert scope.said() == "jti"
    scope.now += 1
    await scope.gateway.poll()
    assert set(scope.gateway._revoked) == {("agent", "agent-2")}
    assert scope.gateway._passing == [(scope.gateway._targets["server", "other"], ("server", "other"))]
    assert (scope.gateway.sequence, scope.said()) == (52, "")


async def test_a_clock_that_went_back_tells_nothing_of_how_fresh_scope_is() -> None:
    world = World()
    scope = Snapshots(world)
    await scope.gateway.poll()
    for step, code in (
        (0, ""),
        (-5, ""),
        (-6, "stale-revocations"),
        (-3600, "stale-revocations"),
        (60, "stale-revocations"),
    ):
        try:
            scope.gateway.require_fresh(terms((world.policy,)), NOW + step * SECOND)
            said = ""
        except Refused as refused:
            said = refused.code
        assert said == code, step


async def told(house: Gatehouse) -> str | None:
    """Call the tool, and name the refusal."""
    error: dict[str, Any] = (await house.rpc())[2].get("error", {})
    return error.get("data", {}).get("code")


async def test_a_tool_revoked_for_a_while_works_again_and_the_bundle_proves_both(tmp_path: Path, serve: Serve) -> None:
    async with gatehouse(tmp_path, serve, **FREE) as house:
        await house.open()
        assert await told(house) is None
        wanted = RevocationRequest(
            kind="tool", value="crm-mcp/get_case", reason="maintenance", until=house.clock() + 3 * SECOND
        )
        await house.scope("responder").revoke(wanted)
        while (said := await told(house)) is None:
            pass
        assert said == "revoked"
        for _ in range(60):
            await asyncio.sleep(0.1)
            if (said := await told(house)) is None:
                break
        assert said is None
        _, report = await house.audited()
        assert report.findings == []


Said = tuple[bytes, list[bytes]]
AGENTS = ("agent-a", "agent-b", "agent-c")


def beat(count: int, *, iss: str = SCOPE, time: int = NOW, by: str = "revocation") -> bytes:
    """Sign a heartbeat that counts so many."""
    return seal_up("heartbeat", canonical(Heartbeat(iss=iss, sequence=count, time=time)), pair(by))


def lies(honest: list[bytes], other: bytes, forged: bytes) -> dict[str, tuple[Said, str]]:
    """What scope, or who stands before it, may send in the place of three revocations; and the gateway's word on it."""
    first, second, third = honest
    return {
        "one left out": ((beat(3), [first, third]), "bad-snapshot"),
        "the first left out": ((beat(3), [second, third]), "bad-snapshot"),
        "another order": ((beat(3), [second, first, third]), "bad-snapshot"),
        "one twice": ((beat(3), [first, first, second]), "bad-snapshot"),
        "all left out": ((beat(3), []), "bad-snapshot"),
        "more than were counted": ((beat(2), honest), "bad-snapshot"),
        "of another issuer": ((beat(3), [first, other, third]), "wrong-owner"),
        "signed with another key": ((beat(3), [first, forged, third]), "wrong-use"),
        "the heartbeat of another issuer": ((beat(3, iss="https://other.example"), honest), "wrong-owner"),
        "the heartbeat signed with another key": ((beat(3, by="gateway"), honest), "wrong-use"),
        "the heartbeat of a time to come": ((beat(3, time=NOW + 6 * SECOND), honest), "bad-snapshot"),
    }


@pytest.mark.parametrize("lie", list(lies([b"", b"", b""], b"", b"")))
async def test_a_feed_that_is_not_whole_in_order_and_signed_is_not_believed(lie: str) -> None:
    world = World()
    told = Snapshots(world)
    made = [world.revoke("agent", agent, NOW) for agent in AGENTS]
    honest = [seal_up("revocation", canonical(each), pair("revocation")) for each in made]
    other = canonical(structs.replace(made[1], iss="https://other.example"))
    said, code = lies(
        honest,
        seal_up("revocation", other, pair("revocation")),
        seal_up("revocation", canonical(made[1]), pair("gateway")),
    )[lie]

    async def snapshot(_after: int) -> Said:
        return said

    told.snapshot = snapshot  # type: ignore[method-assign]
    with pytest.raises(Refused) as caught:
        await told.gateway.poll()
    assert caught.value.code == code
    assert told.gateway.heard == 0
    with pytest.raises(Refused, match="stale-revocations"):
        told.gateway.require_heard()


async def test_a_whole_feed_in_pages_is_believed_to_its_end() -> None:
    world = World()
    told = Snapshots(world)
    for agent in AGENTS:
        world.revoke("agent", agent, NOW)
    whole = told.snapshot

    async def paged(after: int) -> Said:
        heartbeat, found = await whole(after)
        return heartbeat, found[:2]  # the first of them is known already

    told.snapshot = paged  # type: ignore[method-assign]
    await told.gateway.poll()
    assert (told.gateway.sequence, told.gateway.heard) == (3, NOW)
    assert told.said(agent="agent-c") == "agent"
