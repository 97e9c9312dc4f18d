"""Policies and drafts."""

import json
from collections.abc import Callable
from typing import Any

from tests.vectors.case import PASS
from tests.vectors.documents.make import ZERO, Make, bend, rows
from tests.world import World


def policy(change: Callable[[dict[str, Any]], Any]) -> Make:
    """Bend the honest policy."""
    return bend(lambda world: world.policy_payload, change)


def rule(**changes: Any) -> Make:
    """Bend the first rule of the honest policy."""
    return policy(lambda it: it["allowed_tools"][0].update(changes))


def when(**condition: Any) -> Make:
    """Give the first rule of the honest policy one condition."""
    return rule(when=[condition])


POLICIES = rows(
    ("honest", PASS, "the users' example with every default written out", lambda: World().policy_payload),
    ("empty", "MALFORMED truncated", "no bytes", lambda: b""),
    ("not-json", "MALFORMED not-json", "YAML where JSON belongs", lambda: b"wpc_version: v1\n"),
    ("truncated", "MALFORMED truncated", "the second half is missing", lambda: World().policy_payload[:500]),
    ("array", "MALFORMED wrong-type", "a list where an object belongs", lambda: b"[]"),
    ("spaces", "MALFORMED not-canonical", "spaces", lambda: json.dumps(json.loads(World().policy_payload)).encode()),
    (
        "duplicate-key",
        "MALFORMED not-canonical",
        "two parsers may keep different ones",
        lambda: World().policy_payload.replace(b'"regulated":false', b'"regulated":true,"regulated":false'),
    ),
    (
        "escape",
        "MALFORMED not-canonical",
        "a needless escape",
        lambda: World().policy_payload.replace(b"crm-mcp", b"\\u0063rm-mcp"),
    ),
    (
        "minus-zero",
        "MALFORMED not-canonical",
        "-0",
        lambda: World().policy_payload.replace(b'"quorum":0', b'"quorum":-0'),
    ),
    (
        "float",
        "MALFORMED wrong-type",
        "a float",
        lambda: World().policy_payload.replace(b'"serial":1', b'"serial":1.5'),
    ),
    (
        "null-for-absent",
        "MALFORMED not-canonical",
        "optional means absent, never null",
        policy(lambda it: it.update(parent=None)),
    ),
    ("null", "MALFORMED wrong-type", "null where false belongs", policy(lambda it: it.update(regulated=None))),
    (
        "too-deep",
        "MALFORMED too-deep",
        "a hundred brackets",
        policy(lambda it: it.update(tests=json.loads("[" * 100 + "]" * 100))),
    ),
    (
        "unknown-field",
        "MALFORMED unknown-field",
        "a misspelt field is not ignored",
        policy(lambda it: it.update(denied_tool=[])),
    ),
    (
        "missing-field",
        "MALFORMED missing-field",
        "no implicit value is published",
        policy(lambda it: it.pop("budgets")),
    ),
    (
        "bad-value",
        "MALFORMED bad-value",
        "a token's life of two hours",
        policy(lambda it: it["token_constraints"].update(cst_max_ttl_seconds=7200)),
    ),
    (
        "without-scope-hash",
        "MALFORMED bad-value",
        "the scope hash is always required",
        policy(lambda it: it["token_constraints"].update(require_scope_hash=False)),
    ),
    (
        "rule-twice",
        "MALFORMED bad-policy",
        "a receipt could not say which rule decided",
        policy(lambda it: it["allowed_tools"].append(it["allowed_tools"][0])),
    ),
    ("ends-before-it-begins", "MALFORMED bad-policy", "never in force", policy(lambda it: it.update(valid_until=0))),
    (
        "two-providers",
        "MALFORMED bad-policy",
        "a model rule against model_egress.provider",
        policy(lambda it: it["model_egress"]["models"][0].update(provider="other")),
    ),
    ("operator-without-list", "MALFORMED bad-policy", "`in` takes a list", when(attr="args.query", op="in", value="x")),
    ("parent", PASS, "a policy under another", policy(lambda it: it.update(parent=ZERO))),
    ("regulated", PASS, "regulated jobs", policy(lambda it: it.update(regulated=True))),
    ("approvers", PASS, "somebody who approves", policy(lambda it: it["approvals"].update(approvers=["ann"]))),
    (
        "quorum",
        "MALFORMED bad-policy",
        "a quorum that its approvers can never reach",
        policy(lambda it: it["approvals"].update(approvers=["ann"], quorum=2)),
    ),
    (
        "approver-twice",
        "MALFORMED bad-policy",
        "one approver under one name twice is no quorum of two",
        policy(lambda it: it["approvals"].update(approvers=["ann", "ann"], quorum=2)),
    ),
    (
        "sealed",
        "MALFORMED bad-policy",
        "payloads sealed to no auditor",
        policy(lambda it: it["receipts"].update(privacy="sealed")),
    ),
    (
        "sealed-to-auditor",
        PASS,
        "payloads kept for an auditor",
        policy(lambda it: it["receipts"].update(privacy="sealed", auditors=["auditor"])),
    ),
    ("binding", PASS, "bound tokens", policy(lambda it: it["token_constraints"].update(binding="dpop"))),
    ("delegation", PASS, "delegation", policy(lambda it: it["token_constraints"].update(max_delegation_depth=1))),
    (
        "cost",
        "MALFORMED bad-policy",
        "a budget of cost without prices",
        policy(lambda it: it["budgets"].update(cost_nano_usd=1)),
    ),
    (
        "cost-priced",
        PASS,
        "a budget of cost, and the table that it is counted by",
        policy(lambda it: (it["budgets"].update(cost_nano_usd=1), it["model_egress"].update(prices=ZERO))),
    ),
    ("injection-block", PASS, "blocking of injections", policy(lambda it: it["responses"].update(injection="block"))),
    (
        "redact",
        PASS,
        "redaction",
        policy(lambda it: it["data_classes"].update(on_violation="redact")),
    ),
    ("rule-approval", PASS, "a rule that asks a person", rule(approval="human")),
    (
        "denial-approved",
        "MALFORMED bad-policy",
        "nobody approves what a rule denies",
        policy(lambda it: it["denied_tools"][0].update(approval="confirm")),
    ),
    ("rule-local", PASS, "tools that the runtime runs itself", rule(kind="local")),
    ("rule-resources", PASS, "resources", rule(resources=["*"])),
    (
        "rule-local-resources",
        "MALFORMED bad-policy",
        "resources of the runtime",
        rule(kind="local", resources=["*"]),
    ),
    ("rule-sums", PASS, "sums over arguments", rule(limits={"sums": {"amount": "100"}})),
    ("operator", PASS, "hosts under a domain", when(attr="args.url", op="host_in", value=["*.example.com"])),
    ("operator-on-a-word", "MALFORMED bad-policy", "no host", when(attr="args.url", op="host_in", value=["intranet"])),
    ("operator-on-nothing", "MALFORMED bad-policy", "none of no values", when(attr="args.x", op="not_in", value=[])),
    (
        "operator-on-text",
        "MALFORMED bad-policy",
        "types of jobs have no order",
        when(attr="job.type", op="lt", value=1),
    ),
    ("attribute", PASS, "what the grant says of the user", when(attr="user.id", op="eq", value="ann")),
    ("attribute-unknown", "MALFORMED unsupported", "no such attribute", when(attr="moon.phase", op="eq", value=1)),
    ("hour", PASS, "at a stated offset", when(attr="time.hour", op="between", value=[9, 16], offset="+01:00")),
    ("hour-anywhere", "MALFORMED bad-policy", "an hour of no place", when(attr="time.hour", op="lt", value=17)),
    (
        "hour-of-24",
        "MALFORMED bad-policy",
        "an hour that never comes",
        when(attr="time.hour", op="eq", value=24, offset="+00:00"),
    ),
)


def draft(**fields: Any) -> Make:
    """Write a draft."""
    return lambda: json.dumps({"wpc_version": "v1", "policy_name": "small", **fields}).encode()


DRAFTS = rows(
    ("minimal", PASS, "everything has a default, and nothing is allowed", draft()),
    ("not-json", "MALFORMED not-json", "no JSON", lambda: b"{wpc_version: v1}"),
    ("list", "MALFORMED wrong-type", "a list", lambda: b"[]"),
    (
        "duplicate-key",
        "MALFORMED not-canonical",
        "a key twice: which one did the author mean?",
        lambda: b'{"a":1,"a":2}',
    ),
    ("unknown-field", "MALFORMED unknown-field", "a misspelt field", draft(denied_tool=[])),
    ("wrong-type", "MALFORMED bad-policy", "rules that are no list", draft(allowed_tools={})),
    (
        "rule-without-server",
        "MALFORMED bad-policy",
        "a rule without a server",
        draft(allowed_tools=[{"kind": "mcp", "tools": ["a"]}]),
    ),
    (
        "test-does-not-hold",
        "FAIL policy-test-failed",
        "the author's own test expects what the policy does not do",
        draft(tests=[{"name": "t", "call": {"server": "crm-mcp", "tool": "get_case"}, "expect": "allow"}]),
    ),
    ("too-deep", "MALFORMED too-deep", "a hundred brackets", lambda: b"[" * 100 + b"]" * 100),
    ("too-large", "MALFORMED too-large", "more than 256 KiB", lambda: b" " * (1 << 18) + b"{}"),
)
