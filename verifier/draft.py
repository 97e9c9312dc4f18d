"""From an author's draft to a policy without implicit values (specs/policy.md §3), and the policy's own tests."""

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from verifier.decision import (
    Allowed,
    Call,
    Decision,
    Denied,
    Held,
    ModelBody,
    ModelTarget,
    Recency,
    Subject,
    ToolTarget,
    decide,
)
from verifier.encoding import canonical, reject_duplicates
from verifier.policy import DAY, MAX_POLICY, Chain, Policy, PolicyTest, TestFacts
from verifier.refused import Refused
from verifier.rules import OPERATIONS, TargetKind

VALID_DAYS = 90
_ANY: list[str] = ["*"]
_RULE: dict[str, Any] = {
    "resources": [], "prompts": [], "server_requests": [],
    "classes": ["destructive", "external", "read", "write"], "when": [], "approval": "none",
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "models": _ANY, "operations": list(OPERATIONS),
    "hosted_tools": [], "remote_content": False, "provider_state": False, "when": [],
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "jobs": {"types": _ANY, "environments": _ANY, "agents": _ANY},
    "data_classes": {"allow": _ANY, "deny": [], "on_violation": "block"},
    "model_egress": {"require_proxy_receipts": False},
    "responses": {
        "max_bytes": 1 << 20, "content_types": ["application/json", "text/event-stream"], "injection": "flag",
    },
    "egress": {"hosts": _ANY},
    "budgets": {},
    "token_constraints": {
        "cst_max_ttl_seconds": 300, "require_scope_hash": True, "policy_hash_pinning": "required",
        "binding": "none", "max_delegation_depth": 0, "max_staleness_seconds": 5,
    },
    "receipts": {"privacy": "hash_only", "auditors": []},
    "approvals": {"quorum": 0, "ttl_seconds": 600, "approvers": []},
}  # fmt: skip


def read_draft(raw: bytes) -> dict[str, Any]:
    """Read a JSON draft as a person wrote it.

    Raises `Refused`: too-large, not-json, not-canonical (a key twice), wrong-type.
    """
    if len(raw) > MAX_POLICY:
        raise Refused("too-large", f"a draft has at most {MAX_POLICY} bytes")
    draft = reject_duplicates(raw)
    if not isinstance(draft, dict):
        raise Refused("wrong-type", "a draft is one JSON object")
    return draft


def build(draft: dict[str, Any], *, issuer: str, now: int, serial: int = 1) -> Policy:
    """Write out every default; what the draft says stays as it is. Raises `Refused` naming the field that is wrong."""
    whole: dict[str, Any] = {
        "wpc_version": "v1", "issuer": issuer, "serial": serial,
        "valid_from": now, "valid_until": now + VALID_DAYS * DAY, "regulated": False, "tests": [],
    }  # fmt: skip
    whole |= draft
    for name, defaults in _DEFAULTS.items():
        given = whole.get(name, {})
        whole[name] = {**defaults, **given} if isinstance(given, dict) else given
    whole["allowed_tools"] = _rules(whole.get("allowed_tools", []), "allowed_tools", "allow")
    whole["denied_tools"] = _rules(whole.get("denied_tools", []), "denied_tools", "deny")
    whole["tests"] = [
        {"facts": {}, **test} if isinstance(test, dict) else test for test in _list(whole["tests"], "tests")
    ]
    whole["model_egress"] = _models(whole["model_egress"])
    return Policy.parse(canonical(_typed(whole)))


def _typed(whole: dict[str, Any]) -> Policy:
    try:
        return msgspec.convert(whole, Policy)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `")
        code = "unknown-field" if "unknown field" in said else "bad-policy"
        raise Refused(code, said[0].lower() + said[1:], field=place.removesuffix("`").removeprefix("$.")) from error


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused("bad-policy", "expected a list", field=field)
    return value


def _rules(rules: Any, field: str, name: str) -> list[Any]:
    return [
        {"id": f"{name}-{number}", **_RULE, **rule} if isinstance(rule, dict) else rule
        for number, rule in enumerate(_list(rules, field), start=1)
    ]


def _models(egress: Any) -> Any:
    """Write out the model rules: absent means any model of `provider`, and no model at all without one."""
    if not isinstance(egress, dict):
        return egress
    provider = egress.get("provider")
    rules = egress.get("models", [{}] if provider is not None else [])
    named = {} if provider is None else {"provider": provider}
    written = [
        {"id": f"model-{number}", **_MODEL, **named, **rule} if isinstance(rule, dict) else rule
        for number, rule in enumerate(_list(rules, "model_egress.models"), start=1)
    ]
    return {**egress, "models": written}


def run_tests(chain: Chain) -> list[tuple[PolicyTest, Decision]]:
    """Run the policy's own tests under its ancestors.

    Raises `Refused` policy-test-failed with the first that does not hold.
    """
    results = [(test, decide(chain, call_of(test))) for test in chain[0].tests]
    for test, decision in results:
        if not as_expected(test, decision):
            wanted = f"{test.expect} by {test.rule}" if test.rule else test.expect
            said = f"{word(decision)} by {decision.rule}"
            why = f"test {test.name!r} expects {wanted}, the policy says {said}"
            raise Refused("policy-test-failed", why, field="tests")
    return results


def as_expected(test: PolicyTest, decision: Decision) -> bool:
    """Tell whether a decision is what a test claims."""
    return word(decision) == test.expect and test.rule in {None, decision.rule}


def word(decision: Decision) -> str:
    """Say a decision in the word that tests use."""
    return {Allowed: "allow", Held: "hold", Denied: "deny"}[type(decision)]


def call_of(test: PolicyTest) -> Call:
    """Turn a test into a call; facts that it does not state are `unstated`, so that no rule matches them by chance."""
    facts, call = test.facts, test.call
    subject = Subject(
        facts.agent or "unstated",
        facts.client or "unstated",
        "unstated",
        facts.job_type or "unstated",
        facts.environment or "unstated",
        user=facts.user,
        claims=facts.claims or {},
    )
    common: dict[str, Any] = {"subject": subject, "token_ttl": 0, "time": facts.time or 0, "staleness": 0}
    seen = facts.recent_calls or 0, facts.recent_denials or 0
    if call.tool is not None and call.server is not None:
        tool, recent = (
            _tool(call.server, call.tool, call.kind or "mcp", facts),
            Recency(*seen, facts.first_use is not False),
        )
        return Call(target=tool, arguments=_arguments(call.arguments), recent=recent, **common)
    if call.provider is None or call.model is None:
        raise Refused(
            "bad-policy", f"test {test.name!r} names neither server and tool nor provider and model", field="tests"
        )
    body = ModelBody(max_output_tokens=call.max_output_tokens, hosted_tools=tuple(call.hosted_tools or ()))
    target = ModelTarget(call.provider, call.model, call.operation or OPERATIONS[0], tuple(facts.labels or ()))
    return Call(target=target, body=body, recent=Recency(*seen), **common)


def _tool(server: str, tool: str, kind: TargetKind, facts: TestFacts) -> ToolTarget:
    return ToolTarget(
        server,
        tool,
        facts.tool_class or "read",
        facts.sensitivity or "unstated",
        facts.host or "unstated",
        tuple(sorted(facts.labels or ())),
        facts.approval or "none",
        kind,
    )


def _arguments(text: str | None) -> dict[str, Any]:
    return arguments(text.encode()) if text is not None else {}


def arguments(raw: bytes) -> dict[str, Any]:
    """Parse a call's arguments with exact decimals.

    Raises `Refused`: the codes of `reject_duplicates`, wrong-type, bad-value.
    """
    parsed = reject_duplicates(raw, _exact)
    if not isinstance(parsed, dict):
        raise Refused("wrong-type", "arguments are one JSON object")
    return parsed


def _exact(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise Refused("bad-value", "a number beyond every range") from error
