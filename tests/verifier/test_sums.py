"""What the calls of a rule add up to: exact, in order, never given back; what is not disclosed is anything."""

from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors.bundles.make import GET_CASE
from tests.world import World
from verifier.audit import verify
from verifier.conditions import UNDISCLOSED, Partial
from verifier.draft import build
from verifier.fold import Purse, Several
from verifier.grant import Budget
from verifier.leaf import Reservation, Target
from verifier.policy import Chain
from verifier.sums import Sums

NOW = 1_790_000_000_000_000
RULE: dict[str, Any] = {"id": "transfers", "kind": "mcp", "server": "bank", "tools": ["transfer"]}
BANK, NOTHING = Target(server="bank", tool="transfer"), Reservation()


def chain(**sums: str) -> Chain:
    return (build({"policy_name": "p", "allowed_tools": [RULE | {"limits": {"sums": sums}}]}, issuer="me", now=NOW),)


@pytest.mark.parametrize(
    ("arguments", "over"),
    [
        ({"amount": 5000}, False),
        ({"amount": Decimal("5000.00")}, False),
        ({"amount": Decimal("5000.01")}, True),
        ({"amount": 0}, False),
        ({"amount": -1}, True),
        ({"amount": "1"}, True),
        ({"amount": True}, True),
        ({"amount": None}, True),
        ({}, True),
        ({"amount": Decimal("1e40")}, True),
        (UNDISCLOSED, None),
        (Partial({}), None),
        (Partial({"other": 1}), None),
        (Partial({"amount": 5001}), True),
        (Partial({"amount": 1}), False),
    ],
)
def test_an_amount_that_does_not_count_is_over_every_limit(arguments: Any, over: Any) -> None:
    assert Sums(chain(amount="5000")).over("transfers", arguments) is over
    assert Sums(chain(amount="5000")).over("another", arguments) is False


def test_each_sum_counts_and_a_certain_no_is_stronger_than_what_nobody_knows() -> None:
    sums = Sums(chain(amount="5", **{"fee.cents": "1"}))
    assert sums.over("transfers", {"amount": 5, "fee": {"cents": 1}}) is False
    assert sums.over("transfers", {"amount": 5, "fee": {"cents": 2}}) is True
    assert sums.over("transfers", Partial({"amount": 6})) is True
    assert sums.over("transfers", Partial({"amount": 5})) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.decimals(0, 10**30, places=3, allow_nan=False), max_size=40))
def test_sums_are_exact(amounts: list[Decimal]) -> None:
    sums, total = Sums(chain(amount="1e30")), 0
    for amount in amounts:
        thousandths = int(amount.scaleb(3))
        assert sums.over("transfers", {"amount": amount}) is (total + thousandths > 10**33)
        sums.add("transfers", {"amount": amount})
        total += thousandths


def test_the_purse_counts_what_a_job_adds_up_over_all_lanes() -> None:
    lanes, several = [Purse(chain(amount="5"), Budget(), NOW) for _ in range(2)], Several()
    for purse in lanes:
        assert purse.limited
        assert purse.counts_in_job("transfers", BANK) == "limit-sum"
        assert purse.refusal(("transfers",), BANK, NOTHING, NOW, {"amount": 6}).reason == "limit-sum"  # type: ignore[union-attr]
        assert purse.refusal(("transfers",), BANK, NOTHING, NOW) is None
        purse.sums.add("transfers", {"amount": 3})
        several.add(purse)
    said = "all lanes together made 6 amount of rule transfers, at most 5 are allowed in a job"
    assert list(several.over()) == [said]


def world(*, deny: str | None = None) -> World:
    rules = [
        {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "search_customer"], "limits": {"sums": {"n": "10"}}}
    ]
    found = World(policy={"allowed_tools": rules})
    lane = found.lane()
    lane.model("call-1", "get_case", "get_case")
    lane.begin("call-2", GET_CASE)
    lane.end("call-2")
    if deny:
        lane.deny("call-3", GET_CASE, code=deny, rule="allow-1")
    lane.close()
    return found


def judged(found: World) -> set[str]:
    return {each.code for each in verify(BytesIO(found.bundle()), found.pin()).findings}


def test_a_denial_by_a_sum_stands_where_some_amount_could_have_led_to_it() -> None:
    assert judged(world(deny="limit-sum")) == set()
    assert judged(world()) == set()
    assert judged(world(deny="limit-calls")) == {"wrong-decision"}
