"""A policy under another one: every level must allow, at the gateway and in the bundle, and the lower bound counts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from controls.client import Publisher
from tests.conftest import Serve
from tests.receipts.gatehouse import SECOND, Gatehouse, gatehouse
from verifier.audit import verify
from verifier.draft import build
from verifier.encoding import canonical, digest
from verifier.envelope import Envelope, seal_up
from verifier.keys import Pin
from verifier.refused import Refused

RULES = {"kind": "mcp", "server": "crm-mcp"}
ALL = {"id": "all", **RULES, "tools": ["*"]}
PARENT: dict[str, Any] = {
    "policy_name": "house-rules",
    "allowed_tools": [{"id": "reads", **RULES, "tools": ["get_*", "search_*"]}],
    "denied_tools": [{"id": "no-export", **RULES, "tools": ["export_*"]}],
    "budgets": {"calls": 2},
}


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncIterator[Gatehouse]:
    async with gatehouse(tmp_path, serve) as found:
        yield found


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect a service's refusal with this code."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code == code


async def publish(house: Gatehouse, draft: dict[str, Any], **fields: Any) -> str:
    """Publish a policy, perhaps under another one; gives its digest."""
    author = Publisher(house.session, house.urls.controls, house._credential("author", house.urls.controls))
    built = canonical(build({**draft, **fields}, issuer="example.author", now=house.clock() - SECOND))
    return (await author.publish(seal_up("policy", built, house.key("author", "policy")))).digest


async def under(house: Gatehouse, parent: dict[str, Any] = PARENT, **child: Any) -> str:
    """Publish a parent, and a child that allows every tool; open a job of the child."""
    above = await publish(house, parent)
    house.policy = await publish(house, {"policy_name": "child", "allowed_tools": [ALL], **child}, parent=above)
    await house.open()
    return above


async def test_every_level_must_allow_and_the_bundle_proves_it(house: Gatehouse) -> None:
    above = await under(house)
    assert [(await house.rpc())[2].get("result", {}).get("resultType") for _ in range(2)] == ["complete"] * 2
    begin = (await house.leaves("begin"))[-1]
    assert (begin.rule, begin.inherited) == ("all", ("1/reads",))
    denied = (await house.rpc(name="export_customers", arguments={}))[2]["error"]["data"]["code"]
    spent = (await house.rpc())[2]["error"]["data"]["code"]
    assert (denied, spent) == ("denied-tool", "budget-calls")
    assert [(each.by, each.rule) for each in await house.leaves("deny")] == [
        ("policy", "1/no-export"),
        ("policy", "all"),
    ]
    raw, report = await house.audited()
    assert (report.verdict, report.findings) == ("PASS", [])
    without = b"".join(line for line in raw.splitlines(keepends=True) if not _is_policy(line, above))
    assert verify(BytesIO(without), Pin.parse((house.directory / "pin.json").read_bytes())).verdict != "PASS"


def _is_policy(line: bytes, wanted: str) -> bool:
    if not line.startswith(b'{"policy":'):
        return False
    return digest(Envelope.parse(line[len(b'{"policy":') : -2], "policy").content()) == wanted


async def test_the_grant_names_no_tool_that_an_ancestor_never_allows(house: Gatehouse) -> None:
    await under(house)
    listed = (await house.rpc(method="tools/list"))[2]["result"]["tools"]
    assert [each["name"] for each in listed] == ["get_case", "search_customer"]


async def test_no_job_opens_under_an_ancestor_that_was_withdrawn(house: Gatehouse) -> None:
    above = await under(house)
    author = Publisher(house.session, house.urls.controls, house._credential("author", house.urls.controls))
    await author.withdraw(above, "too wide")
    with refused("policy-withdrawn"):
        await house.open()
    with refused("parent-withdrawn"):
        await publish(house, {"policy_name": "another", "allowed_tools": [ALL]}, parent=above)


async def test_a_revoked_ancestor_ends_the_calls_of_its_children_and_opens_no_job(house: Gatehouse) -> None:
    above = await under(house)
    assert (await house.rpc())[0] == 200
    await house.revoke("policy", above)
    for _ in range(100):
        status, _, body = await house.rpc()
        if status == 401:
            break
    assert (status, body["error"]["data"]["code"]) == (401, "revoked")
    with refused("revoked"):
        await house.open()


async def test_an_ancestor_that_nobody_published_and_a_chain_of_five_are_refused(house: Gatehouse) -> None:
    with refused("unknown-parent"):
        await publish(house, {"policy_name": "orphan"}, parent="sha256:" + "0" * 64)
    above = None
    for level in range(4):
        above = await publish(house, {"policy_name": f"level-{level}"}, **({"parent": above} if above else {}))
    with refused("bad-policy"):
        await publish(house, {"policy_name": "level-4"}, parent=above)


async def test_the_tests_of_a_policy_run_under_its_ancestors(house: Gatehouse) -> None:
    above = await publish(house, PARENT)
    call = {"server": "crm-mcp", "tool": "export_customers"}
    child = {"policy_name": "child", "allowed_tools": [ALL]}
    with refused("policy-test-failed"):
        await publish(house, {**child, "tests": [{"name": "t", "call": call, "expect": "allow"}]}, parent=above)
    expected = {"name": "t", "call": call, "expect": "deny", "rule": "1/no-export"}
    assert await publish(house, {**child, "tests": [expected]}, parent=above)


async def test_a_call_that_waits_for_a_person_is_refused_and_receipted(house: Gatehouse) -> None:
    asks = {"id": "asks", **RULES, "tools": ["*"], "approval": "human"}
    approvals = {"quorum": 1, "approvers": ["ann"]}
    house.policy = await publish(house, {"policy_name": "held", "allowed_tools": [asks], "approvals": approvals})
    await house.open()
    assert (await house.rpc())[2]["error"]["data"]["code"] == "approval-needed"
    denied = await house.last()
    assert (denied.kind, denied.by, denied.code) == ("deny", "gateway", "approval-needed")
    _, report = await house.audited()
    assert (report.verdict, report.findings) == ("PASS", [])


async def test_at_most_a_thousand_each_and_five_thousand_a_job(house: Gatehouse) -> None:
    amount = [{"attr": "args.format", "op": "le", "value": 1000}]
    rule = {
        "id": "transfers",
        **RULES,
        "tools": ["search_customer"],
        "when": amount,
        "limits": {"sums": {"format": "5000"}},
    }
    house.policy = await publish(house, {"policy_name": "transfers", "allowed_tools": [rule]})
    await house.open()

    async def transfer(amount: Any) -> str:
        body = (await house.rpc(name="search_customer", arguments={"format": amount}))[2]
        return str(body.get("error", {}).get("data", {}).get("code", "done"))

    assert await transfer(1000.01) == "not-allowed"
    assert [await transfer(999.5) for _ in range(5)] == ["done"] * 5
    assert await transfer(3) == "limit-sum"
    assert await transfer(-3) == "limit-sum"
    assert await transfer(2.5) == "done"
    assert await transfer(0.01) == "limit-sum"
    denied = await house.last()
    assert (denied.by, denied.code, denied.rule) == ("policy", "limit-sum", "transfers")
    _, report = await house.audited()
    assert (report.verdict, report.findings) == ("PASS", [])
