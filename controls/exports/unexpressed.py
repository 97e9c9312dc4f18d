"""What an export is: files for a runtime, and a list of all that they do not say (specs/exports.md §4).

Each item says what becomes of it. `narrower`: the files let less through than the policy. `gateway`: the files say
nothing of it, and the gateway and scope enforce it as they do for every call.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from verifier.policy import Chain, Policy, rule_name
from verifier.refused import Refused

MAX_EXPORT = 1 << 20  # characters of all files
Effect = Literal["narrower", "gateway"]


class Unexpressed(Struct, frozen=True):
    """One thing that the files do not say: the policy's field or rule, an ancestor's with its level, and why."""

    place: str
    why: str
    effect: Effect


class Export(Struct, frozen=True):
    """A policy in the words of another program: its files by name; `policy` is the digest of what was exported."""

    runtime: str
    policy: str
    files: dict[str, str]
    unexpressed: list[Unexpressed]


def as_file(value: Any) -> str:
    """Write a JSON file for people to read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def too_large(what: str) -> Refused:
    """Refuse a policy that would take too long, or too much, to write in another form."""
    return Refused("export-too-large", what, hint="Export a policy with fewer rules and names.")


def beside_calls(chain: Chain) -> Iterator[Unexpressed]:
    """List what is beside the decision of one call, so that no runtime's rules can say it: the gateway does."""
    for level, policy in enumerate(chain):
        for place, is_set, why in _beside(policy):
            if is_set:
                yield Unexpressed(rule_name(level, place), why, "gateway")
        for rule in (*policy.allowed_tools, *policy.denied_tools):
            if rule.server_requests:
                why = "what servers ask their clients for is passed on or withheld by the gateway"
                yield Unexpressed(rule_name(level, rule.id), why, "gateway")
            if rule.limits is not None:
                why = "calls and sums are counted by the gateway, within the job's share"
                yield Unexpressed(rule_name(level, rule.id), why, "gateway")


def _beside(policy: Policy) -> tuple[tuple[str, bool, str], ...]:
    budgets, tokens = policy.budgets, policy.token_constraints
    return (
        ("valid_from, valid_until", True, "validity is judged when a job opens"),
        ("regulated", policy.regulated, "what is lost or interrupted is judged by the verifier"),
        ("model_egress.require_proxy_receipts", policy.model_egress.require_proxy_receipts,
         "a tool call is tied to a model's by the gateway"),
        ("data_classes.on_violation", policy.data_classes.on_violation == "redact",
         "data is replaced by the gateway, before it decides"),
        ("responses", True, "answers are screened by the gateway"),
        ("budgets", budgets != type(budgets)(), "what a job uses up is counted by the gateway"),
        ("token_constraints", True,
         f"binding ({tokens.binding}), delegation and staleness are checked by scope and gateway"),
        ("receipts", policy.receipts.privacy == "sealed", "payloads are sealed by the gateway"),
    )  # fmt: skip
