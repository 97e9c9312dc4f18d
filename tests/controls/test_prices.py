"""Price tables: drafted in dollars, signed by a registrar, published once, named by policies."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controls.price_drafts import build, read_draft
from tests.controls.conftest import World, address
from tests.controls.test_commands import Installed, installed, tally
from verifier.encoding import canonical
from verifier.prices import Prices
from verifier.refused import Refused

__all__ = ["installed"]


async def put(world: World, raw: bytes, at: str | None = None, client: str = "registrar") -> tuple[int, str]:
    answer = await world.ask("PUT", f"/prices/{at or address(raw)}", client, data=raw)
    return answer.status, answer.code if answer.status >= 400 else ""


async def test_a_table_is_published_once_and_served_byte_for_byte(world: World) -> None:
    raw = world.prices()
    assert [await put(world, raw), await put(world, raw)] == [(201, ""), (200, "")]
    served = await world.ask("GET", f"/prices/{address(raw)}")
    assert (served.status, served.body, served.headers["ETag"]) == (200, raw, f'"{address(raw)}"')
    acts = [each["entry"]["act"] for each in (await world.ask("GET", "/audit", "auditor")).json["items"]]
    assert acts == ["prices-published"]
    assert (await world.ask("GET", "/prices/sha256:" + "0" * 64)).code == "unknown-prices"


async def test_what_no_auditor_would_take_is_refused(world: World) -> None:
    assert await put(world, world.prices(), "sha256:" + "0" * 64) == (400, "wrong-digest")
    assert await put(world, world.prices(world.author)) == (400, "wrong-use")
    assert await put(world, world.prices(issuer="somebody.else")) == (400, "wrong-owner")
    assert await put(world, world.prices(prices=[])) == (400, "bad-value")
    assert await put(world, world.prices(serial=2)) == (201, "")
    for serial in (1, 2):
        assert await put(world, world.prices(serial=serial, issued_at=5)) == (409, "stale-serial")
    assert await put(world, world.prices(serial=1, name="other")) == (201, "")


async def test_a_policy_names_a_table_that_is_published(world: World) -> None:
    raw = world.prices()
    egress = {"require_proxy_receipts": False, "prices": address(raw)}
    policy = world.policy(model_egress=egress, budgets={"cost_nano_usd": 10})
    refused = await world.publish(policy)
    assert (refused.status, refused.code, refused.json["field"]) == (404, "unknown-prices", "prices")
    await put(world, raw)
    assert (await world.publish(policy)).status == 201


async def test_levels_that_count_by_different_tables_are_refused(world: World) -> None:
    tables = [world.prices(serial=1), world.prices(serial=2)]
    assert [await put(world, each) for each in tables] == [(201, ""), (201, "")]
    parent, child = ({"model_egress": {"require_proxy_receipts": False, "prices": address(each)}} for each in tables)
    published = await world.publish(world.policy(policy_name="parent", **parent))
    above = address(published.body)
    assert (await world.publish(world.policy(parent=above, **child))).code == "bad-policy"
    assert (await world.publish(world.policy(parent=above, **parent))).status == 201


def draft(**price: Any) -> bytes:
    each = {"provider": "openai", "models": ["gpt-*"], "input": "1.25", "output": 10, **price}
    return canonical({"name": "list", "prices": [each]})


def test_prices_are_written_in_dollars() -> None:
    (price,) = build(read_draft(draft()), issuer="me", now=1).prices
    assert (price.operations, price.input, price.output) == (["*"], 1_250_000_000, 10_000_000_000)
    assert price.cost(1_000_000, 500_000) == 6_250_000_000
    assert price.cost(1, 0) == 1250
    assert price.cost(0, 0) == 0


@pytest.mark.parametrize("dollars", ["", "1.2.3", "-1", "0.0000000001", "1e30", "a"])
def test_what_is_no_price_is_refused(dollars: str) -> None:
    with pytest.raises(Refused, match="no price in dollars") as refused:
        build(read_draft(draft(input=dollars)), issuer="me", now=1)
    assert refused.value.code == "bad-prices"


def test_a_registrar_publishes_a_table_by_command(installed: Installed, tmp_path: Path) -> None:
    written, built, signed = tmp_path / "prices.yaml", tmp_path / "built.json", tmp_path / "signed.json"
    prices = [{"provider": "openai", "models": ["*"], "input": "0.5", "output": "1.5"}]
    written.write_text(yaml.safe_dump({"name": "list", "prices": prices}))
    key = installed.home / "registrar/registry.key"
    said = tally("prices", "build", written, "--key", key, "-o", built, "--json")
    assert Prices.parse(built.read_bytes()).prices[0].input == 500_000_000
    tally("prices", "sign", built, "--key", key, "-o", signed)
    done = tally("prices", "publish", signed, *installed.client("registrar"))
    assert done == f"published {said['digest']} as list\n"
    assert installed.get(f"/prices/{said['digest']}") == signed.read_bytes()
