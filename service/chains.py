"""A policy with its ancestors, fetched one after the other from wherever a service has them (specs/policy.md §7)."""

from collections.abc import Awaitable, Callable

from verifier.chain import MAX_CHAIN, check_prices
from verifier.policy import Chain, Policy
from verifier.refused import Refused

Fetch = Callable[[str], Awaitable[Policy]]


async def with_ancestors(policy: Policy, fetch: Fetch) -> Chain:
    """Put a policy and its ancestors together, the child first.

    Raises `Refused`: bad-policy for more than four or several price tables, and what `fetch` refuses.
    """
    chain = [policy]
    while (parent := chain[-1].parent) is not None:
        if len(chain) == MAX_CHAIN:
            raise Refused("bad-policy", f"more than {MAX_CHAIN} policies in a chain", field="parent")
        chain.append(await fetch(parent))
    check_prices(tuple(chain))
    return tuple(chain)
