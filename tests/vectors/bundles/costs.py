"""Steps 3 and 9: budgets of cost, and the price table that they are counted by."""

from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import MODEL, dishonest, signed
from tests.vectors.case import PASS, Made, case
from tests.world import NOW, REGISTRY, Lane, World, pair
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Budget
from verifier.leaf import Reservation, Usage
from verifier.policy import DAY
from verifier.prices import Price, Prices

MADE: Made = {}
PROVIDER = "openrouter_via_fal"
# 2 dollars a million tokens read, 8 a million written: a call of 10 and 5 costs 60,000 nano-dollars.
SMALL = Price(provider=PROVIDER, models=["small-*"], operations=["*"], input=2_000_000_000, output=8_000_000_000)
TABLE = Prices(issuer=REGISTRY, name="list-prices", serial=1, issued_at=NOW - DAY, prices=[SMALL])
COST = 60_000


def priced(most: int, table: Prices = TABLE, **policy: Any) -> dict[str, Any]:
    """Limit what a job may cost."""
    egress = {"require_proxy_receipts": True, "provider": PROVIDER, "prices": digest(canonical(table))}
    return {
        "policy": {"budgets": {"cost_nano_usd": most}, "model_egress": egress} | policy,
        "scope": {"limits": Budget(cost_nano_usd=most)},
        "prices": table,
    }


def spend(lane: Lane, call: str = "call-1", reserved: int | None = COST) -> None:
    """Call a model that costs what was reserved."""
    lane.begin(call, MODEL, reservation=Reservation(cost_nano_usd=reserved))
    lane.end(call, model="small-1", usage=Usage(input=10, output=5))


def _spent(*reserved: int | None, most: int = 2 * COST, table: Prices = TABLE) -> bytes:
    def play(_: World, lane: Lane) -> None:
        for number, each in enumerate(reserved):
            spend(lane, f"call-{number}", each)

    return dishonest(play, **priced(most, table))


@case(MADE, PASS, "two calls from a budget of their cost")
def honest_cost() -> bytes:
    return _spent(COST, COST)


@case(MADE, PASS, "a third call was denied: the reservation of its cost was not covered")
def honest_cost_denial() -> bytes:
    def play(_: World, lane: Lane) -> None:
        spend(lane)
        lane.deny("call-2", MODEL, code="budget-cost", rule="model-1")

    return dishonest(play, **priced(COST))


@case(MADE, "FAIL over-budget", "a call more than the budget of cost covers")
def cost_over_budget() -> bytes:
    return _spent(COST, COST, 1)


@case(MADE, "FAIL over-budget", "reserved next to nothing: what it cost is computed from usage and prices")
def cost_reserved_too_low() -> bytes:
    return _spent(1, 1, 1)


@case(MADE, "FAIL over-budget", "a call of a model that sets nothing aside from a limited cost")
def cost_without_reservation() -> bytes:
    return _spent(None)


@case(MADE, "FAIL no-price", "a call of a model that has no price, though the cost is limited")
def cost_without_price() -> bytes:
    return _spent(COST, table=replace(TABLE, prices=[replace(SMALL, models=["large-*"])]))


@case(MADE, "FAIL missing-document", "the price table is left out", also="no-price")
def prices_left_out() -> bytes:
    world = World(**priced(COST))
    spend(lane := world.lane())
    lane.close()
    return signed(world, prices=[])


@case(
    MADE,
    "MALFORMED unnamed-document",
    "a cheaper table in place of the one that the policy names",
    also="missing-document no-price",
)
def prices_cheaper() -> bytes:
    world = World(**priced(COST))
    spend(lane := world.lane())
    lane.close()
    cheap = replace(TABLE, prices=[replace(SMALL, input=1, output=1)])
    return signed(world, prices=[seal_up("prices", canonical(cheap), pair("registry"))])


@case(MADE, "UNTRUSTED wrong-use", "a price table signed by the policy's author", also="missing-document no-price")
def prices_by_author() -> bytes:
    world = World(**priced(COST))
    spend(lane := world.lane())
    lane.close()
    return signed(world, prices=[seal_up("prices", world.prices_payload or b"", pair("author"))])


@case(MADE, "MALFORMED unnamed-document", "a price table that no policy names")
def prices_unnamed() -> bytes:
    return signed(World().story(), prices=[seal_up("prices", canonical(TABLE), pair("registry"))])


@case(
    MADE, "MALFORMED bad-policy", "a policy and its ancestor count costs by different tables", also="missing-document"
)
def prices_of_two_levels() -> bytes:
    other = replace(TABLE, serial=2)
    above = {"model_egress": {"require_proxy_receipts": True, "provider": PROVIDER, "prices": digest(canonical(other))}}
    world = World(**priced(COST), above=[above])
    world.lane().close()
    return world.bundle()
