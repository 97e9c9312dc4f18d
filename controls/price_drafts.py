"""From a draft in dollars to a price table (specs/prices.md §1).

    {"name": "list-prices", "prices": [{"provider": "openai", "models": ["gpt-5*"], "input": "1.25", "output": "10"}]}

Prices are US dollars a million tokens: text or whole numbers, since no JSON number keeps 0.1 exactly.
"""

from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct, field

from verifier.encoding import MAX_INT, Name, canonical, parse, reject_duplicates
from verifier.grammar import number
from verifier.prices import MAX_PRICES, Price, Prices
from verifier.refused import Refused
from verifier.rules import Globs

NANO = Decimal(1_000_000_000)


class PriceDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What some models cost; without operations, whatever is asked of them."""

    provider: Name
    models: Globs
    operations: Globs = field(default_factory=lambda: ["*"])
    input: str | int
    output: str | int


class PricesDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price table as a person writes it."""

    name: Name
    prices: Annotated[list[PriceDraft], Meta(min_length=1, max_length=1000)]


def read_draft(raw: bytes) -> PricesDraft:
    """Read a JSON draft. Raises `Refused` with the reading codes."""
    draft = parse(raw, PricesDraft, limit=MAX_PRICES)
    reject_duplicates(raw)
    return draft


def build(draft: PricesDraft, *, issuer: str, now: int, serial: int = 1) -> Prices:
    """Write a table out and read it back as everybody will. Raises `Refused` bad-prices."""
    prices = [
        Price(
            provider=each.provider,
            models=each.models,
            operations=each.operations,
            input=_nano(each.input),
            output=_nano(each.output),
        )
        for each in draft.prices
    ]
    table = Prices(issuer=issuer, name=draft.name, serial=serial, issued_at=now, prices=prices)
    return Prices.parse(canonical(table))


def _nano(dollars: str | int) -> int:
    """Turn dollars into billionths of one."""
    exact = number(dollars)
    nano = None if exact is None else exact * NANO
    if nano is None or nano < 0 or nano != int(nano) or nano > MAX_INT:
        raise Refused(
            "bad-prices", f"{str(dollars)[:32]!r} is no price in dollars of at most nine decimals", field="prices"
        )
    return int(nano)
