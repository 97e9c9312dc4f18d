"""What the gateway decides: asked of the compiled policy, recorded so that the verifier comes to the same."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receipts.call import Known
from receipts.denials import PolicyDenied
from receipts.request import Request
from receipts.sessions import Sessions
from receipts.tokens import Credential
from service.dpop import Proofs
from tests.bench.counter import Counter, Shelf, _token, clock
from tests.conftest import Serve
from tests.receipts.gatehouse import completion, gatehouse
from tests.refusal import refused
from tests.world import GATEWAY, SCOPE, World, pair
from verifier.decision import Allowed, Decision, Denied
from verifier.envelope import seal_up
from verifier.keys import Trust

pytestmark = pytest.mark.anyio

WHEN: list[dict[str, Any]] = [
    {"attr": "recent.calls", "op": "lt", "value": 2},
    {"attr": "time.hour", "op": "exists", "value": True, "offset": "+01:00"},
    {"attr": "gateway.staleness", "op": "le", "value": 60_000_000},
    {"attr": "gateway.url", "op": "prefix", "value": "http"},
]


async def test_what_a_rule_reads_of_lane_clock_and_gateway_is_what_the_verifier_rebuilds(
    tmp_path: Path, serve: Serve
) -> None:
    async with gatehouse(tmp_path, serve, model_egress={"models": [{"when": WHEN}]}) as house:
        house.upstream.say(completion())
        answers = [await house.chat() for _ in range(3)]
        assert [status for status, *_ in answers] == [200, 200, 403]
        denied = await house.last()
        assert (denied.by, denied.code, denied.rule) == ("policy", "not-allowed", "default")
        _, report = await house.audited()
        assert (report.verdict, report.findings) == ("PASS", [])


@pytest.mark.parametrize(("later", "by", "rule"), [(None, "policy", "deny-1"), (Allowed("allow-1"), "gateway", None)])
async def test_a_denial_is_the_policys_only_while_the_policy_still_says_so(
    later: Decision | None, by: str, rule: str | None
) -> None:
    """A minute may end between a decision and its receipt; the receipt is what the verifier judges."""
    denied = Denied("deny-1", "limit-rate")
    async with aiohttp.ClientSession() as http:
        counter = Counter(http)
        session = await counter.sessions.open(counter.credential)
        scope: Any = {"method": "POST", "path": "/", "headers": [], "client": None}
        request = Request(scope, None, None)  # type: ignore[arg-type]
        refusal = PolicyDenied(denied, lambda *_: later or denied)
        receipt = await counter._pipeline._denials.record(refusal, session, Known(), request)
        await counter.upstream.close()
    assert receipt is not None
    leaf: Any = receipt.appended.leaf
    assert (leaf.by, leaf.rule, leaf.code) == (by, rule, "limit-rate")


async def test_the_gateway_takes_no_policy_that_it_cannot_enforce() -> None:
    world = World(policy={"receipts": {"privacy": "sealed", "auditors": ["auditor"]}})
    trust = Trust.establish(world.pin(), seal_up("keys", world.keys_payload, pair("root")))
    sessions = Sessions(Shelf(world, trust), trust, SCOPE, GATEWAY, clock, proofs=Proofs(GATEWAY, bytes(32), clock))
    with refused("unsupported"):
        await sessions.open(Credential(f"Bearer {_token(world)}", (), "POST", "/"))
