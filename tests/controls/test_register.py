"""Servers are registered, their manifests approved: by the registrar, at the registered address, serials growing."""

import asyncio
from typing import Any

import msgspec

from tests.controls.conftest import AUTHOR, CRM, RECORD, TOOL, World, address
from verifier.documents import open_manifest


async def test_a_server_is_registered_and_its_record_replaced(world: World) -> None:
    first = await world.register()
    assert first.status == 201
    world.clock.pass_seconds(5)
    second = await world.register(purpose="Customers")
    assert second.status == 200
    assert second.json["record"] == {**RECORD, "purpose": "Customers"}
    assert second.json["registered_at"] == first.json["updated_at"] == world.clock() - 5_000_000
    assert second.json["updated_by"] == "registrar"
    assert (await world.ask("GET", "/servers/crm-mcp", "scope")).json == second.json


BAD_RECORDS: list[tuple[str, object, str]] = [
    ("url", "file:///etc/passwd", "bad-value"),
    ("url", "http://user:secret@127.0.0.1/", "bad-value"),
    ("url", "http://127.0.0.1/mcp\n", "bad-value"),
    ("transport", "stdio", "bad-value"),
    ("status", "fine", "bad-value"),
    ("purpose", "", "bad-value"),
    ("purpose", "\x1b[2J", "bad-value"),
    ("owner", "the team", "bad-value"),
    ("data_classes", ["b", "a"], "bad-server"),
    ("data_classes", ["a", "a"], "bad-server"),
    ("next_review", RECORD["last_review"], "bad-server"),
    ("last_review", "today", "wrong-type"),
    ("unknown", 1, "unknown-field"),
]


async def test_a_record_of_the_wrong_form_is_refused(world: World) -> None:
    for field, value, code in BAD_RECORDS:
        fields: dict[str, Any] = {field: value}
        answer = await world.register(**fields)
        assert (answer.status, answer.code) == (400, code), field
    assert (await world.ask("GET", "/servers", "auditor")).json == {"items": []}


async def test_a_name_of_the_wrong_form_is_refused(world: World) -> None:
    assert (await world.register("crm%00mcp")).code == "bad-request"


async def test_servers_come_in_pages_by_name(world: World) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await world.register(name)
    seen, path = [], "/servers?limit=2"
    while path:
        page = (await world.ask("GET", path, "auditor")).json
        seen += [each["name"] for each in page["items"]]
        path = f"/servers?limit=2&after={page['next']}" if "next" in page else ""
    assert seen == ["a", "b", "c", "d", "e"]


async def test_an_approved_manifest_comes_back_byte_for_byte(world: World) -> None:
    await world.register()
    raw = world.manifest()
    approved = await world.approve(raw)
    assert (approved.status, approved.body) == (201, raw)
    by_digest = await world.ask("GET", f"/manifests/{address(raw)}")
    by_server = await world.ask("GET", "/servers/crm-mcp/manifest", "scope")
    assert by_digest.body == by_server.body == raw
    assert open_manifest(world.trust, raw, world.clock()).value.tools == [TOOL]
    assert by_digest.headers["Cache-Control"].endswith("immutable")
    assert by_server.headers["Cache-Control"] == "no-cache"
    same = await world.ask("GET", "/servers/crm-mcp/manifest", "scope", headers={"If-None-Match": f'"{address(raw)}"'})
    assert same.status == 304


async def test_approving_again_answers_with_the_first_bytes(world: World) -> None:
    await world.register()
    first = await world.approve(world.manifest())
    again = await world.approve(world.manifest())
    assert (again.status, again.body) == (200, first.body)


async def test_a_manifest_that_does_not_hold_is_refused_and_nothing_stored(world: World) -> None:
    await world.register()
    elsewhere, secret = CRM + "2", msgspec.structs.replace(TOOL, data_classes=["secrets"])
    raw = world.manifest()
    cut = msgspec.json.encode({**msgspec.json.decode(raw), "signatures": msgspec.json.decode(raw)["signatures"][:1]})
    for sent, code, at in (
        (world.manifest(world.author), "wrong-use", None),
        (world.manifest(issuer=AUTHOR), "wrong-owner", None),
        (world.manifest(server="other"), "wrong-server", None),
        (world.manifest(url=elsewhere), "wrong-url", None),
        (world.manifest(tools=[secret]), "unregistered-data-class", None),
        (raw, "wrong-digest", "sha256:" + "0" * 64),
        (cut, "missing-signature", None),
        (world.policy(), "wrong-kind", None),
    ):
        answer = await world.approve(sent, at=at)
        assert (answer.status, answer.code) == (400, code)
    assert (await world.ask("GET", "/servers/crm-mcp/manifest", "scope")).code == "no-manifest"
    assert (await world.approve(raw)).status == 201


async def test_a_manifest_of_a_server_that_nobody_registered_is_refused(world: World) -> None:
    answer = await world.approve(world.manifest())
    assert (answer.status, answer.code) == (404, "unknown-server")


async def test_a_manifest_approved_for_one_server_is_no_other_servers(world: World) -> None:
    await world.register()
    await world.register("other")
    raw = world.manifest()
    await world.approve(raw)
    answer = await world.approve(raw, "other")
    assert (answer.status, answer.code) == (400, "wrong-server")


async def test_an_older_manifest_is_refused(world: World) -> None:
    await world.register()
    assert (await world.approve(world.manifest(serial=3))).status == 201
    for serial in (3, 2):
        answer = await world.approve(world.manifest(serial=serial, tools=[]))
        assert (answer.status, answer.code) == (409, "stale-serial")
    newest = world.manifest(serial=4)
    assert (await world.approve(newest)).status == 201
    assert (await world.ask("GET", "/servers/crm-mcp/manifest", "scope")).body == newest
    assert (await world.ask("GET", "/servers/crm-mcp", "scope")).json["manifest_serial"] == 4


async def test_of_two_manifests_of_one_serial_at_once_one_wins(world: World) -> None:
    await world.register()
    raws = [world.manifest(issued_at=number) for number in range(6)]
    answers = await asyncio.gather(*(world.approve(raw) for raw in raws))
    assert sorted(each.status for each in answers) == [201] + [409] * 5


async def test_a_server_out_of_service_has_no_manifest_for_new_jobs(world: World) -> None:
    await world.register()
    raw = world.manifest()
    await world.approve(raw)
    for status in ("suspended", "retired"):
        await world.register(status=status)
        answer = await world.ask("GET", "/servers/crm-mcp/manifest", "scope")
        assert (answer.status, answer.code) == (409, "server-not-active")
    assert (await world.ask("GET", f"/manifests/{address(raw)}")).body == raw
    await world.register()
    assert (await world.ask("GET", "/servers/crm-mcp/manifest", "scope")).body == raw


async def test_a_server_that_moved_needs_a_new_manifest(world: World) -> None:
    await world.register()
    await world.approve(world.manifest())
    await world.register(url=CRM + "2")
    answer = await world.ask("GET", "/servers/crm-mcp/manifest", "scope")
    assert (answer.status, answer.code) == (404, "no-manifest")
    moved = world.manifest(serial=2, url=CRM + "2")
    assert (await world.approve(moved)).status == 201
    assert (await world.ask("GET", "/servers/crm-mcp/manifest", "scope")).body == moved
    await world.register()
    assert (await world.ask("GET", "/servers/crm-mcp/manifest", "scope")).code == "no-manifest"


async def test_a_policys_status_names_the_manifests_that_a_new_job_gets(world: World) -> None:
    async def offered(digest: str) -> dict[str, str]:
        found: dict[str, str] = (await world.ask("GET", f"/policies/{digest}/status", "scope")).json.get(
            "manifests", {}
        )
        return found

    rule = {"kind": "mcp", "server": "crm-*", "tools": ["*"]}
    some, one = world.policy(allowed_tools=[rule]), world.policy(policy_name="one", tests=[])
    for raw in (some, one):
        assert (await world.publish(raw)).status == 201
    for name in ("crm-mcp", "crm-new", "crm-none", "tickets-mcp"):
        await world.register(name)
    manifests = {name: world.manifest(server=name) for name in ("crm-mcp", "crm-new", "tickets-mcp")}
    for name, raw in manifests.items():
        await world.approve(raw, name)
    both = {name: address(manifests[name]) for name in ("crm-mcp", "crm-new")}
    assert await offered(address(some)) == both
    assert await offered(address(one)) == {"crm-mcp": both["crm-mcp"]}
    newer = world.manifest(serial=2)
    await world.approve(newer)
    await world.register("crm-new", status="suspended")
    assert await offered(address(some)) == {"crm-mcp": address(newer)}
    await world.register("crm-mcp", url=CRM + "2")
    await world.register("crm-new")
    assert await offered(address(some)) == {"crm-new": both["crm-new"]}
    await world.ask("POST", f"/policies/{address(some)}/withdraw", "author", json={"reason": "too wide"})
    assert await offered(address(some)) == {}
