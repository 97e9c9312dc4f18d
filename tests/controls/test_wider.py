"""Publishing what lets more through: refused by what it lets through, unless it is meant and enough authors signed."""

import asyncio
from pathlib import Path

from service import key_list, keystore
from service.initialise import VALIDITY
from service.key_list import Installed
from tests.conftest import START, seeded
from tests.controls.conftest import AUTHOR, World, WorldOf, address
from verifier.keys import Key

TOOLS = [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}]
MORE = [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "delete_case"]}]


async def test_a_wider_policy_is_refused_with_what_it_lets_through(world: World) -> None:
    await world.publish(world.policy(allowed_tools=TOOLS))
    wide = world.policy(allowed_tools=MORE, serial=2)
    answer = await world.publish(wide)
    assert (answer.status, answer.code) == (409, "wider-policy")
    assert "crm-mcp/delete_case" in answer.json["detail"]
    assert (await world.ask("GET", f"/policies/{address(wide)}")).status == 404
    allowed = await world.ask("PUT", f"/policies/{address(wide)}?allow_wider=true", "author", data=wide)
    assert allowed.status == 201
    again = await world.publish(wide)
    assert (again.status, again.body) == (200, allowed.body)


async def test_a_narrower_policy_needs_nobodys_leave_and_going_back_does(world: World) -> None:
    await world.publish(world.policy(allowed_tools=MORE))
    assert (await world.publish(world.policy(allowed_tools=TOOLS, serial=2))).status == 201
    back = world.policy(allowed_tools=MORE, serial=3)
    assert (await world.publish(back)).code == "wider-policy"
    assert (await world.ask("PUT", f"/policies/{address(back)}?allow_wider=true", "author", data=back)).status == 201
    entries = (await world.ask("GET", "/audit", "auditor")).json["items"]
    assert [each["entry"]["details"] for each in entries] == [
        '{"issuer":"example.author","serial":1,"wider":"first"}',
        '{"issuer":"example.author","serial":2,"wider":"narrower"}',
        '{"issuer":"example.author","serial":3,"wider":"allowed"}',
    ]


async def test_of_authors_who_publish_at_once_one_wins_and_the_others_are_told(world: World) -> None:
    policies = [world.policy(serial=number, regulated=number % 2 == 0) for number in (7, 7, 8, 9)]
    answers = await asyncio.gather(*(world.publish(raw) for raw in policies))
    statuses = [each.status for each in answers]
    assert statuses.count(201) >= 1
    refused = {each.code for each in answers if each.status not in {200, 201}}
    assert refused <= {"stale-serial", "published-meanwhile", "wider-policy"}
    history = (await world.ask("GET", "/policies?name=crm-read", "auditor")).json["items"]
    serials = [each["serial"] for each in history]
    assert serials == sorted(set(serials), reverse=True)
    assert len(history) == statuses.count(201)


async def test_a_quorum_of_authors_is_asked_for(installation: Path, world_of: WorldOf) -> None:
    second = keystore.generate("policy", AUTHOR, seeded("second author")).pair()
    public = second.public
    key = Key(
        kid=second.kid, use="policy", owner=AUTHOR, ed25519=public.ed25519, ml_dsa_44=public.ml_dsa_44,
        not_before=START, not_after=START + VALIDITY,
    )  # fmt: skip
    before = Installed.read(installation)
    listed = key_list.with_quorum(key_list.added(before.listed, key), AUTHOR, 2)
    key_list.propose(before, listed, START)
    assert key_list.countersign(before, [keystore.load(installation / "root/root.key", "root")]) == []
    world = await world_of(installation)
    alone = await world.publish(world.policy())
    assert (alone.status, alone.code) == (400, "below-quorum")
    assert (await world.publish(world.policy(world.author, second))).status == 201
