"""A policy and its ancestors: what counts where each of them says a number or a list (specs/policy.md §7).

Rules are asked level by level (decision.py). What is one number or one list for the whole job is here, and never wider
than at any level: a child can only tighten.
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from verifier.grant import BINDINGS
from verifier.policy import Approvals, Budgets, Chain, TokenConstraints
from verifier.refused import Refused

# The strictest first.
INJECTION = ("block", "flag", "off")
MAX_CHAIN = 4


class Terms(Struct, frozen=True, kw_only=True):
    """What a chain comes to: lowest limits, strictest binding and screens, every level's approvers, any's auditors.

    An answer's content type has to match each of the lists of globs in `content_types`.
    """

    budgets: Budgets
    token_constraints: TokenConstraints
    approvals: Approvals
    auditors: tuple[str, ...]
    sealed: bool
    regulated: bool
    tied: bool
    prices: str | None
    max_bytes: int
    content_types: tuple[list[str], ...]
    injection: Literal["block", "flag", "off"]


def terms(chain: Chain) -> Terms:
    """Put together what every level says."""
    tokens, approvals = [each.token_constraints for each in chain], [each.approvals for each in chain]
    everyone = set[str]().union(*(each.approvers for each in approvals))
    return Terms(
        budgets=_budgets([each.budgets for each in chain]),
        token_constraints=TokenConstraints(
            cst_max_ttl_seconds=min(each.cst_max_ttl_seconds for each in tokens),
            require_scope_hash=True,
            policy_hash_pinning="required",
            binding=max((each.binding for each in tokens), key=BINDINGS.index),
            max_delegation_depth=min(each.max_delegation_depth for each in tokens),
            max_staleness_seconds=min(each.max_staleness_seconds for each in tokens),
        ),
        approvals=Approvals(
            quorum=max(each.quorum for each in approvals),
            ttl_seconds=min(each.ttl_seconds for each in approvals),
            approvers=sorted(everyone.intersection(*(each.approvers for each in approvals))),
        ),
        auditors=tuple(sorted({auditor for each in chain for auditor in each.receipts.auditors})),
        sealed=any(each.receipts.privacy == "sealed" for each in chain),
        regulated=any(each.regulated for each in chain),
        tied=any(each.model_egress.require_proxy_receipts for each in chain),
        prices=next((each.model_egress.prices for each in chain if each.model_egress.prices is not None), None),
        max_bytes=min(each.responses.max_bytes for each in chain),
        content_types=tuple(each.responses.content_types for each in chain),
        injection=min((each.responses.injection for each in chain), key=INJECTION.index),
    )


def check_prices(chain: Chain) -> None:
    """Raise `Refused` bad-policy when the levels name several price tables: a cost would mean several things."""
    if len({each.model_egress.prices for each in chain} - {None}) > 1:
        why = "a policy and its ancestors name several price tables; costs are counted by one"
        raise Refused("bad-policy", why, field="prices")


def _budgets(several: list[Budgets]) -> Budgets:
    tools = {name for each in several for name in each.per_tool or {}}
    per_tool = {name: _least((each.per_tool or {}).get(name) for each in several) for name in sorted(tools)}
    names = ("calls", "calls_per_minute", "tokens", "cost_nano_usd", "wall_seconds")
    lowest: dict[str, Any] = {name: _least(getattr(each, name) for each in several) for name in names}
    return Budgets(**lowest, per_tool=per_tool or None)  # type: ignore[arg-type]


def _least(limits: Iterable[int | None]) -> int | None:
    """Return the lowest limit; absent is none."""
    return min((each for each in limits if each is not None), default=None)
