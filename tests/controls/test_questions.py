"""What the registry answers about policies: how two differ, what one says of a call; which servers are due."""

import json

from tests.controls.conftest import World, address

DAY = 86_400_000_000
MORE = [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "delete_case"]}]
NOBODYS = "sha256:" + "0" * 64


async def test_two_policies_are_told_apart_in_fields_and_in_what_they_let_through(world: World) -> None:
    one, other = world.policy(), world.policy(policy_name="other", allowed_tools=MORE)
    await world.publish(one)
    await world.publish(other)
    found = (await world.ask("GET", f"/policies/{address(one)}/diff/{address(other)}", "auditor")).json
    assert [each["place"] for each in found["changes"]] == ["policy_name", "allowed_tools[allow-1].tools"]
    assert found["comparison"]["relation"] == "wider"
    assert "crm-mcp/delete_case" in found["comparison"]["widening"][0]
    back = (await world.ask("GET", f"/policies/{address(other)}/diff/{address(one)}", "author")).json
    assert back["comparison"]["relation"] == "narrower"
    missing = await world.ask("GET", f"/policies/{address(one)}/diff/{NOBODYS}", "author")
    assert (missing.status, missing.code) == (404, "unknown-policy")


async def test_a_call_is_asked_about_and_nothing_is_stored(world: World) -> None:
    await world.publish(raw := world.policy())
    path = f"/policies/{address(raw)}/simulate"
    asked = {"call": {"server": "crm-mcp", "tool": "get_case"}}
    answer = (await world.ask("POST", path, "author", json=asked)).json
    assert (answer["decision"], answer["rule"]) == ("allow", "allow-1")
    denied = (await world.ask("POST", path, "author", json={"call": {"server": "x", "tool": "y"}})).json
    assert (denied["decision"], denied["reason"]) == ("deny", "not-allowed")
    assert denied["considered"][0]["because"] == "it is about server crm-mcp"
    assert len((await world.ask("GET", "/audit", "auditor")).json["items"]) == 1
    for wrong in ({}, {"call": {}}, {"call": {"server": "x", "tool": "y", "arguments": "[1]"}}, {"calls": 1}):
        assert (await world.ask("POST", path, "author", json=wrong)).status == 400


async def test_anybody_gets_a_published_policy_as_a_runtime_s_configuration(world: World) -> None:
    parent = world.policy(
        policy_name="parent", allowed_tools=[{"kind": "mcp", "server": "crm-mcp", "tools": ["get_*"]}]
    )
    child = world.policy(allowed_tools=MORE, parent=address(parent))
    for raw in (parent, child):
        assert (await world.publish(raw)).status == 201
    path = f"/export/{address(child)}"
    answer = await world.ask("GET", f"{path}?for=claude-code")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
    assert (answer.json["runtime"], answer.json["policy"]) == ("claude-code", address(child))
    settings = json.loads(answer.json["files"]["settings.json"])
    assert settings["permissions"]["allow"] == ["mcp__crm-mcp__get_case"]
    assert {"place": "responses", "why": "answers are screened by the gateway", "effect": "gateway"} in answer.json[
        "unexpressed"
    ]
    files = (await world.ask("GET", f"{path}?for=cedar")).json["files"]
    assert f"// crm-read, serial 1, {address(child)}" in files["policy.cedar"]
    assert '@id("1/default")' in files["policy.cedar"]
    assert list((await world.ask("GET", f"{path}?for=openclaw")).json["files"]) == ["openclaw.json"]
    missing = await world.ask("GET", f"/export/{NOBODYS}?for=cedar")
    assert (missing.status, missing.code) == (404, "unknown-policy")
    for wrong in (path, f"{path}?for=rego"):
        refused = await world.ask("GET", wrong)
        assert (refused.status, refused.code) == (400, "bad-request")


async def test_a_policy_that_is_too_large_to_be_written_is_refused_by_name(world: World) -> None:
    many = [{"kind": "mcp", "server": f"s{n}", "tools": [f"t{m}" for m in range(250)]} for n in range(20)]
    await world.publish(raw := world.policy(allowed_tools=many, tests=[]))
    refused = await world.ask("GET", f"/export/{address(raw)}?for=openclaw")
    assert (refused.status, refused.code) == (400, "export-too-large")


async def test_reviews_that_are_due_are_listed_in_pages(world: World) -> None:
    for name, days, status in (("a", 1, "active"), ("b", 9, "active"), ("c", 1, "retired"), ("d", 2, "suspended")):
        await world.register(name, next_review=world.clock() + days * DAY, status=status)
    world.clock.pass_seconds(3 * 86_400)
    page = (await world.ask("GET", "/servers/due?limit=1", "registrar")).json
    assert ([each["name"] for each in page["items"]], page["next"]) == (["a"], "a")
    rest = (await world.ask("GET", "/servers/due?after=a", "registrar")).json
    assert [each["name"] for each in rest["items"]] == ["d"]
    assert "next" not in rest
