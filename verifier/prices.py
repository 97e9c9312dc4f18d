"""The price table that a policy's budget of cost is counted by (specs/prices.md).

A document of its own, signed by a registrar like a manifest: prices change more often than policies, and which prices a
job was counted by is in its bundle.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verifier.conditions import any_glob
from verifier.encoding import Count, Name, SafeText, Time, read
from verifier.leaf import Target, Usage
from verifier.refused import Refused
from verifier.rules import OPERATIONS, Globs

MAX_PRICES = 1 << 18
MILLION = 1_000_000


class Price(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What some models of a provider cost: nano-US-dollars per million tokens read and written."""

    provider: Name
    models: Globs
    operations: Globs
    input: Count
    output: Count

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """Compute a cost in nano-US-dollars, rounded up."""
        return -(-(tokens_in * self.input + tokens_out * self.output) // MILLION)


class Prices(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A price table; of several prices that name a model the first counts."""

    issuer: SafeText
    name: Name
    serial: Annotated[int, Meta(ge=1, le=2**31)]
    issued_at: Time
    prices: Annotated[list[Price], Meta(min_length=1, max_length=1000)]

    @classmethod
    def parse(cls, payload: bytes) -> "Prices":
        """Read a table from canonical bytes. Raises `Refused`: the reading codes, bad-prices."""
        table = read(payload, cls, limit=MAX_PRICES)
        for price in table.prices:
            if not price.models or not any(any_glob(price.operations, each) for each in OPERATIONS):
                raise Refused("bad-prices", f"a price of {price.provider} that names no model or no operation")
        return table

    def of(self, target: Target) -> Price | None:
        """Find the price of a model's call, None for a tool's or where none is named."""
        for price in self.prices:
            if (
                price.provider == target.provider
                and any_glob(price.models, target.model or "")
                and any_glob(price.operations, target.operation or "")
            ):
                return price
        return None

    def cost(self, target: Target, usage: Usage) -> int | None:
        """Compute what a call cost by the provider's own figures, in nano-US-dollars; None without a price."""
        price = self.of(target)
        return None if price is None else price.cost(usage.input, usage.output)
