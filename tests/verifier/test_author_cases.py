"""What policy authors ask for, written as they would write it, and what comes of each call."""

from decimal import Decimal
from typing import Any

import pytest

from tests.world import NOW
from verifier.compiled import compile_policy
from verifier.decision import Allowed, Call, Decision, Denied, Recency, Subject, ToolTarget, decide
from verifier.draft import build

SECOND = 1_000_000
HOUR = 3600 * SECOND
# Monday 2026-09-21, 00:00 UTC.
MONDAY = 1_789_948_800 * SECOND


def decided(
    draft: dict[str, Any], server: str, tool: str, arguments: dict[str, Any] | None = None, **facts: Any
) -> Decision:
    """Decide one call under a draft, both ways."""
    chain = (build({"policy_name": "p"} | draft, issuer="team", now=NOW),)
    known: dict[str, Any] = {
        "agent": "agent-1",
        "mfa_at": None,
        "tool_class": "read",
        "time": MONDAY,
        "denials": 0,
    } | facts
    claims = {} if known["mfa_at"] is None else {"mfa_at": known["mfa_at"]}
    asked = Call(
        subject=Subject(known["agent"], "client-1", "job-1", "support", "production", user="u-1", claims=claims),
        target=ToolTarget(server, tool, known["tool_class"], "internal", f"{server}.example"),
        token_ttl=60,
        time=known["time"],
        arguments=arguments or {},
        recent=Recency(calls=9, denials=known["denials"], first_use=False),
        staleness=0,
    )
    decision = decide(chain, asked)
    assert compile_policy(chain)(asked) == decision
    return decision


ALLOWED, NOT_ALLOWED = Allowed("allow-1"), Denied("default", "not-allowed")


def rule(server: str, *when: dict[str, Any], tools: tuple[str, ...] = ("*",), **more: Any) -> dict[str, Any]:
    """Write one rule."""
    return {"kind": "mcp", "server": server, "tools": list(tools), "when": list(when), **more}


PAYROLL = {
    "allowed_tools": [
        rule(
            "payroll-db",
            {"attr": "agent.id", "op": "eq", "value": "finance-bot"},
            {"attr": "time.hour", "offset": "+02:00", "op": "between", "value": [9, 16]},
            {"attr": "time.weekday", "offset": "+02:00", "op": "between", "value": [1, 5]},
            {"attr": "age.mfa_at", "op": "lt", "value": 3600},
        )
    ]
}


@pytest.mark.parametrize(
    ("time", "age", "agent", "allowed"),
    [
        (MONDAY + 7 * HOUR, 0, "finance-bot", True),
        (MONDAY + 7 * HOUR - 1, 0, "finance-bot", False),
        (MONDAY + 15 * HOUR - 1, 3599, "finance-bot", True),
        (MONDAY + 15 * HOUR, 0, "finance-bot", False),
        (MONDAY + 9 * HOUR, 3600, "finance-bot", False),
        (MONDAY + 9 * HOUR, -1, "finance-bot", False),
        (MONDAY + 9 * HOUR, None, "finance-bot", False),
        (MONDAY + 9 * HOUR, 10, "support-bot", False),
        (MONDAY - 48 * HOUR + 9 * HOUR, 10, "finance-bot", False),
        (MONDAY + 4 * 24 * HOUR + 9 * HOUR, 10, "finance-bot", True),
    ],
)
def test_finance_bot_uses_payroll_between_9_and_17_there_with_fresh_mfa(
    time: int,
    age: int | None,
    agent: str,
    allowed: bool,  # noqa: FBT001 - a row of a table
) -> None:
    mfa_at = None if age is None else time // SECOND - age
    found = decided(PAYROLL, "payroll-db", "read_salaries", time=time, mfa_at=mfa_at, agent=agent)
    assert found == (ALLOWED if allowed else NOT_ALLOWED)


MAIL = {
    "allowed_tools": [
        rule(
            "mail",
            {"attr": "args.to", "op": "email_domain_in", "value": ["example.com", "partner.example"]},
            {"attr": "args.cc", "op": "exists", "value": False},
            {"attr": "args.bcc", "op": "exists", "value": False},
            tools=("send_mail",),
        )
    ]
}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"to": "ann@example.com"}, True),
        ({"to": ["ann@example.com", "bob@partner.example"]}, True),
        ({"to": ["ann@example.com", "eve@evil.test"]}, False),
        ({"to": "ann@example.com", "bcc": "eve@evil.test"}, False),
        ({"to": "eve@evil.test"}, False),
        ({"to": "eve@sub.example.com"}, False),
        ({"to": "ann@example.com, eve@evil.test"}, False),
        ({"to": '"ann@example.com" <eve@evil.test>'}, False),
        ({"to": []}, False),
        ({}, False),
    ],
)
def test_mail_goes_to_two_domains_only(arguments: dict[str, Any], allowed: bool) -> None:  # noqa: FBT001 - see above
    assert decided(MAIL, "mail", "send_mail", arguments) == (ALLOWED if allowed else NOT_ALLOWED)


FILES = {"allowed_tools": [rule("files", {"attr": "args.path", "op": "subpath_of", "value": "/srv/reports"})]}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/srv/reports", True),
        ("/srv/reports/2026/q3.csv", True),
        ("/srv/reports/../secrets", False),
        ("/srv/reports/%2e%2e/secrets", False),
        ("/srv/reports/..%2fsecrets", False),
        ("/srv/reports//../secrets", False),
        ("/srv/reports\\..\\secrets", False),
        ("/srv/reports-old/a", False),
        ("reports/a", False),
        ("/proc/self/cwd/a", False),
        ("/srv/reports/a\x00.txt", False),
    ],
)
def test_files_are_read_under_one_directory(path: str, allowed: bool) -> None:  # noqa: FBT001 - see above
    assert decided(FILES, "files", "read_file", {"path": path}) == (ALLOWED if allowed else NOT_ALLOWED)


FETCH = {"allowed_tools": [rule("web", {"attr": "args.url", "op": "host_in", "value": ["*.example.com"]})]}


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://docs.example.com/a?b=c", True),
        ("https://example.com/", False),
        ("https://docs.example.com@evil.test/", False),
        ("https://evil.test/docs.example.com", False),
        ("https://docs.example.com:8443/", False),
        ("https://docs.example.com.evil.test/", False),
        ("https://xn--dcs-jua.example.com/", False),
        ("https://d\u043ecs.example.com/", False),
        ("http://169.254.169.254/latest/meta-data", False),
        ("http://2852039166/", False),
        ("http://[fe80::1]/", False),
        ("https://docs.example.com./", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_hosts_under_one_domain_are_fetched(url: str, allowed: bool) -> None:  # noqa: FBT001 - see above
    assert decided(FETCH, "web", "fetch", {"url": url}) == (ALLOWED if allowed else NOT_ALLOWED)


CAUTIOUS = {
    "allowed_tools": [rule("crm")],
    "denied_tools": [
        rule("*", {"attr": "recent.denials", "op": "gt", "value": 5}, classes=["write", "destructive", "external"])
    ],
}


@pytest.mark.parametrize(
    ("denials", "tool_class", "decision"),
    [
        (5, "write", ALLOWED),
        (6, "write", Denied("deny-1", "denied-tool")),
        (6, "destructive", Denied("deny-1", "denied-tool")),
        (600, "read", ALLOWED),
    ],
)
def test_nothing_is_written_while_too_much_was_denied(denials: int, tool_class: str, decision: Decision) -> None:
    assert decided(CAUTIOUS, "crm", "update", denials=denials, tool_class=tool_class) == decision


TRANSFER = {
    "allowed_tools": [
        rule("bank", {"attr": "args.amount", "op": "between", "value": ["0.01", 1000]}, tools=("transfer",))
    ]
}


@pytest.mark.parametrize(
    ("amount", "allowed"),
    [
        (Decimal("0.01"), True),
        (1000, True),
        (Decimal("1000.00"), True),
        (Decimal("1000.000000000000000000000000000001"), False),
        (Decimal("1e3"), True),
        (-5, False),
        (0, False),
        ("1000", False),
        (True, False),
        (Decimal("1e-40"), False),
        ([1], False),
        (None, False),
    ],
)
def test_at_most_a_thousand_is_transferred_at_once(amount: Any, allowed: bool) -> None:  # noqa: FBT001 - see above
    assert decided(TRANSFER, "bank", "transfer", {"amount": amount}) == (ALLOWED if allowed else NOT_ALLOWED)
