"""Tables of what a decision reads besides arguments, and of policies under others."""

from typing import Any

from tests.world import NOW
from verifier.conditions import UNDISCLOSED, Partial, evaluate
from verifier.decision import Allowed, Call, Denied, Held, Recency, Subject, ToolTarget, attributes, decide, outcomes
from verifier.draft import build
from verifier.rules import Condition

MONDAY = 1_789_996_439_999_999  # 2026-09-21T13:13:59.999999Z
CLAIMS = {"team": "support", "mfa_at": 1_789_996_379, "later": 1_789_996_440, "staff": True}
FACTS: tuple[tuple[str, str, Any, str | None], ...] = (
    ("time.now", "eq", MONDAY, None),
    ("time.hour", "eq", 13, "+00:00"),
    ("time.hour", "eq", 14, "+01:00"),
    ("time.hour", "between", [9, 16], "-14:00"),
    ("time.minute_of_day", "eq", 793, "+00:00"),
    ("time.minute_of_day", "eq", 0, "+10:47"),
    ("time.weekday", "eq", 1, "+10:46"),
    ("time.weekday", "eq", 2, "+10:47"),
    ("time.weekday", "eq", 7, "-14:00"),
    ("age.mfa_at", "eq", 60, None),
    ("age.mfa_at", "lt", 60, None),
    ("age.later", "ge", 0, None),
    ("age.team", "ge", 0, None),
    ("age.staff", "ge", 0, None),
    ("age.other", "exists", False, None),
    ("user.id", "eq", "u-1", None),
    ("user.team", "in", ["support", "sales"], None),
    ("user.staff", "eq", True, None),
    ("user.other", "eq", "a", None),
    ("agent.act", "exists", True, None),
    ("job.depth", "le", 1, None),
    ("recent.calls", "lt", 3, None),
    ("recent.denials", "gt", 5, None),
    ("recent.first_use", "eq", True, None),
    ("gateway.url", "prefix", "https://", None),
    ("gateway.staleness", "le", 2_000_000, None),
    ("model.name", "exists", True, None),
    ("args.known", "eq", 1, None),
    ("args.other", "eq", 1, None),
    ("args.other", "exists", False, None),
)
CALL = Call(
    subject=Subject(
        "agent-1", "client-1", "job-1", "support", "test", user="u-1", claims=CLAIMS, gateway="https://gateway.example"
    ),
    target=ToolTarget("crm", "get", "read", "internal", "crm.example"),
    token_ttl=60, time=MONDAY, arguments=Partial({"known": 1}), recent=Recency(3, 6, first_use=False), staleness=1000,
)  # fmt: skip

GET: dict[str, Any] = {"kind": "mcp", "server": "crm", "tools": ["get"]}
ONE: dict[str, Any] = GET | {"when": [{"attr": "args.x", "op": "eq", "value": 1}]}
CHAINS: tuple[tuple[list[dict[str, Any]], dict[str, Any] | None, str], ...] = (
    ([{"allowed_tools": [GET]}], {}, "none"),
    ([{"allowed_tools": [GET]}], {}, "confirm"),
    ([{"allowed_tools": [GET | {"approval": "human"}]}], {}, "confirm"),
    ([{"allowed_tools": [GET]}, {"allowed_tools": [GET | {"approval": "confirm"}]}], {}, "none"),
    ([{"allowed_tools": [GET]}, {"allowed_tools": []}], {}, "none"),
    ([{"allowed_tools": [GET]}, {"allowed_tools": [GET], "denied_tools": [GET]}], {}, "none"),
    ([{"allowed_tools": []}, {"allowed_tools": [GET], "denied_tools": [GET]}], {}, "none"),
    ([{"allowed_tools": [GET]}, {"allowed_tools": [GET]}, {"allowed_tools": [ONE]}], {"x": 2}, "none"),
    ([{"allowed_tools": [GET]}, {"allowed_tools": [ONE]}], None, "none"),
    ([{"allowed_tools": [ONE]}, {"allowed_tools": [GET], "denied_tools": [ONE]}], None, "human"),
)  # fmt: skip


def facts() -> list[dict[str, Any]]:
    """Say what conditions come to of one call; of its arguments one is known."""
    known = attributes(CALL)
    return [
        {
            "attr": attr, "op": op, "value": value, **({"offset": offset} if offset else {}),
            "is": evaluate(Condition(attr=attr, op=op, value=value, offset=offset), known).value,  # type: ignore[arg-type]
        }
        for attr, op, value, offset in FACTS
    ]  # fmt: skip


def chains() -> list[dict[str, Any]]:
    """Say what policies under others decide; where the arguments are null they are undisclosed."""
    return [_chain(*row) for row in CHAINS]


def _chain(drafts: list[dict[str, Any]], arguments: dict[str, Any] | None, approval: str) -> dict[str, Any]:
    chain = tuple(build({"policy_name": "p"} | draft, issuer="team", now=NOW) for draft in drafts)
    target = ToolTarget("crm", "get", "read", "internal", "crm.example", approval=approval)  # type: ignore[arg-type]
    given = UNDISCLOSED if arguments is None else arguments
    call = Call(subject=CALL.subject, target=target, token_ttl=60, time=NOW, arguments=given)
    found = outcomes(chain, call)
    assert arguments is None or found == (decide(chain, call),)
    return {
        "policies": drafts,
        "arguments": arguments,
        "approval": approval,
        "possible": [_said(each) for each in found],
    }


def _said(decision: Allowed | Held | Denied) -> dict[str, Any]:
    if isinstance(decision, Denied):
        return {"decision": "deny", "rule": decision.rule, "reason": decision.reason}
    word = {"decision": "allow"} if isinstance(decision, Allowed) else {"decision": "hold", "tier": decision.tier}
    return {**word, "rule": decision.rule, "inherited": list(decision.inherited)}
