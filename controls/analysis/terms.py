"""What a policy says in numbers and lists besides its rules: where a new one says more than the old one."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import z3

from controls.analysis.patterns import globs
from verifier.chain import INJECTION, Terms, terms
from verifier.grant import BINDINGS
from verifier.policy import Approvals, Chain
from verifier.rules import ToolRule

VIOLATION = ("block", "redact")


def wider(old: Chain, new: Chain) -> Iterator[str]:
    """Say in words each number or list by which the new policy lets through more. Validity is not compared."""
    before, after = terms(old), terms(new)
    for name in ("calls", "calls_per_minute", "tokens", "cost_nano_usd", "wall_seconds"):
        yield from _more(f"budgets.{name}", getattr(before.budgets, name), getattr(after.budgets, name))
    tools = after.budgets.per_tool or {}
    for tool, most in (before.budgets.per_tool or {}).items():
        yield from _more(f"budgets.per_tool {tool}", most, tools.get(tool))
    one, other = before.token_constraints, after.token_constraints
    for name in ("cst_max_ttl_seconds", "max_staleness_seconds", "max_delegation_depth"):
        yield from _more(f"token_constraints.{name}", getattr(one, name), getattr(other, name))
    yield from _weaker("token_constraints.binding", BINDINGS[::-1], one.binding, other.binding)
    yield from _screens(old, new, before, after)
    yield from _requests(old, new)
    if before.prices not in {None, after.prices}:
        yield "model_egress.prices: costs are counted by another table"
    yield from _people(before.approvals, after.approvals)
    for name, lost in (
        ("regulated", before.regulated and not after.regulated),
        ("model_egress.require_proxy_receipts", before.tied and not after.tied),
        ("receipts.privacy sealed", before.sealed and not after.sealed),
    ):
        if lost:
            yield f"{name} is given up"
    if extra := sorted(set(after.auditors) - set(before.auditors)):
        yield f"receipts.auditors: {', '.join(extra)} may read payloads too"


def _screens(old: Chain, new: Chain, before: Terms, after: Terms) -> Iterator[str]:
    yield from _more("responses.max_bytes", before.max_bytes, after.max_bytes)
    yield from _weaker("responses.injection", INJECTION, before.injection, after.injection)
    violations = [[each.data_classes.on_violation for each in chain] for chain in (old, new)]
    strictest = [min(each, key=VIOLATION.index) for each in violations]
    yield from _weaker("data_classes.on_violation", VIOLATION, *strictest)
    if (found := _outside(before.content_types, after.content_types)) is not None:
        yield f"responses.content_types: {found} is let through"


def _requests(old: Chain, new: Chain) -> Iterator[str]:
    """What servers may ask the client for: only what a rule over the same names let them ask for before."""
    known = [rule for policy in old for rule in policy.allowed_tools]
    for rule in (rule for policy in new for rule in policy.allowed_tools if rule.server_requests):
        alike = [each for each in known if _aimed(each) == _aimed(rule)]
        if not any(set(rule.server_requests) <= set(each.server_requests) for each in alike):
            yield f"rule {rule.id}: servers may ask the client for {', '.join(rule.server_requests)}"
    denied = {(rule.server, each) for policy in old for rule in policy.denied_tools for each in rule.server_requests}
    still = {(rule.server, each) for policy in new for rule in policy.denied_tools for each in rule.server_requests}
    for server, each in sorted(denied - still):
        yield f"denied_tools: servers {server} may ask the client for {each}"


def _aimed(rule: ToolRule) -> tuple[object, ...]:
    return rule.kind, rule.server, rule.tools, rule.resources, rule.prompts


def _people(before: Approvals, after: Approvals) -> Iterator[str]:
    if after.quorum < before.quorum:
        yield f"approvals.quorum: {after.quorum}, before {before.quorum}"
    yield from _more("approvals.ttl_seconds", before.ttl_seconds, after.ttl_seconds)
    # Where nobody could approve, a call that a manifest holds was as good as denied.
    if extra := sorted(set(after.approvers) - set(before.approvers)):
        yield f"approvals.approvers: {', '.join(extra)} may approve too"


def _more(name: str, before: int | None, after: int | None) -> Iterator[str]:
    if before is not None and (after is None or after > before):
        yield f"{name}: {'no limit' if after is None else after}, before {before}"


def _weaker(name: str, order: tuple[str, ...], before: str, after: str) -> Iterator[str]:
    """`order` is from the strictest to the weakest."""
    if order.index(after) > order.index(before):
        yield f"{name}: {after}, before {before}"


def _outside(before: Sequence[list[str]], after: Sequence[list[str]]) -> str | None:
    """Find a text that every one of the later lists of globs matches and not every one of the former."""
    if before == after:
        return None
    text, solver = z3.String("text"), z3.Solver()
    solver.set("rlimit", 2_000_000)
    solver.add(*(z3.InRe(text, globs(each)) for each in after))
    solver.add(z3.Not(z3.And(*(z3.InRe(text, globs(each)) for each in before))))
    answer = solver.check()
    if answer == z3.unsat:
        return None
    return str(solver.model()[text]) if answer == z3.sat else "something, perhaps,"


def same(old: Chain, new: Chain) -> bool:
    """Tell whether two chains say the same but for name, serial, validity and tests."""
    return [_said(each) for each in old] == [_said(each) for each in new]


def _said(policy: Any) -> dict[str, Any]:
    left_out = ("policy_name", "issuer", "serial", "supersedes", "parent", "valid_from", "valid_until", "tests")
    return {name: value for name, value in msgspec.to_builtins(policy).items() if name not in left_out}
