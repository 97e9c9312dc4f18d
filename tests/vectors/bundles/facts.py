"""Step 9: decisions whose facts are rebuilt from receipts, grant and the policy's ancestors."""

from typing import Any

from tests.vectors.bundles.make import dishonest
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, Lane, World
from verifier.leaf import Target, ToolCall

MADE: Made = {}
RULE: dict[str, Any] = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
SCOPE: dict[str, Any] = {"tools": ["mcp:crm-mcp/get_case"]}
ONCE: dict[str, Any] = {
    "policy": {"allowed_tools": [RULE]},
    "above": [{"allowed_tools": [RULE | {"id": "once", "limits": {"calls_per_job": 1}}]}],
}


def under(*when: dict[str, Any], **scope: Any) -> bytes:
    """Let the gateway allow one tool call, whatever the rule's conditions say of it."""

    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2")

    return dishonest(call, policy={"allowed_tools": [RULE | {"when": list(when)}]}, scope=SCOPE | scope)


def inheriting(*rules: list[str] | None) -> bytes:
    """Let the gateway allow tool calls by a rule of the policy and these of its parent."""

    def calls(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL, inherited=["1/model-1"])
        lane.end("call-1", tool_calls=[ToolCall(id=f"ask-{number}", name="get_case") for number in range(len(rules))])
        for number, inherited in enumerate(rules, start=2):
            lane.tool(f"call-{number}", inherited=inherited)

    return dishonest(calls, **ONCE)


@case(MADE, "FAIL wrong-decision", "a call after another one, where the policy allows the first in ten minutes")
def call_beyond_recent() -> bytes:
    return under({"attr": "recent.calls", "op": "lt", "value": 1})


@case(MADE, "FAIL wrong-decision", "a call outside the hours that the policy allows")
def call_outside_hours() -> bytes:
    hour = NOW // SECOND // 3600 % 24
    return under({"attr": "time.hour", "offset": "+01:00", "op": "eq", "value": hour})


@case(MADE, "FAIL wrong-decision", "a call by a user who proved to be there longer ago than the policy allows")
def call_after_old_login() -> bytes:
    claims = {"mfa_at": NOW // SECOND - 3600}
    return under({"attr": "age.mfa_at", "op": "lt", "value": 3600}, user="u-1", claims=claims)


@case(MADE, "FAIL wrong-decision", "a call of which the receipt names no rule of the policy's parent")
def rule_of_parent_left_out() -> bytes:
    return inheriting(None)


@case(MADE, "FAIL wrong-decision", "a rule that the policy's parent does not have")
def rule_of_parent_invented() -> bytes:
    return inheriting(["1/often"])


@case(MADE, "FAIL over-budget", "a second call by a rule of the policy's parent that allows one")
def rule_of_parent_beyond_limit() -> bytes:
    return inheriting(["1/once"], ["1/once"])
