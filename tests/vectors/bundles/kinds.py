"""Steps 8, 9 and 12: tools that the runtime runs itself, resources, prompts, and what servers ask their client for."""

from typing import Any

from tests.vectors.bundles.make import GET_CASE, dishonest
from tests.vectors.case import PASS, Made, case
from tests.world import Lane, World
from verifier.leaf import Facts, Target
from verifier.manifest import Prompt, Resource

MADE: Made = {}
REVIEWED: dict[str, Any] = {
    "resources": [
        Resource(
            uri="file:///docs/*", description="", sensitivity="internal", data_classes=["internal"], approval="none"
        )
    ],
    "prompts": [
        Prompt(
            name="summary", description="", input_schema="{}", sensitivity="internal", data_classes=[], approval="none"
        )
    ],
}
FREE: dict[str, Any] = {"model_egress": {"require_proxy_receipts": False}}
RULE: dict[str, Any] = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}
LOCAL: dict[str, Any] = {
    "policy": {"allowed_tools": [RULE | {"kind": "local"}], **FREE}, "manifest": {"url": None},
}  # fmt: skip
READING: dict[str, Any] = {
    "policy": {"allowed_tools": [{**RULE, "resources": ["file:///docs/*"], "prompts": ["*"]}], **FREE},
    "manifest": REVIEWED,
}
ASKING: dict[str, Any] = {"policy": {"allowed_tools": [RULE | {"server_requests": ["elicitation/*"]}], **FREE}}
PAGE, SUMMARY = Target(server="crm-mcp", resource="file:///docs/a.md"), Target(server="crm-mcp", prompt="summary")


def _called(target: Target, world: dict[str, Any], end: dict[str, Any] | None = None, **begin: Any) -> bytes:
    """Make one call."""

    def play(_: World, lane: Lane) -> None:
        lane.begin("call-1", target, **begin)
        lane.end("call-1", **(end or {}))

    return dishonest(play, **world)


@case(MADE, PASS, "a tool that the runtime ran itself, marked as such")
def honest_local() -> bytes:
    return _called(GET_CASE, LOCAL, observed="runtime")


@case(MADE, "FAIL wrong-facts", "a tool that the runtime ran itself, as if the gateway had seen it")
def local_as_seen() -> bytes:
    return _called(GET_CASE, LOCAL)


@case(MADE, "FAIL wrong-facts", "a server's tool, as if only the runtime had seen it")
def seen_as_local() -> bytes:
    return _called(GET_CASE, {"policy": {"allowed_tools": [RULE], **FREE}}, observed="runtime")


@case(MADE, "FAIL observed-by-runtime", "a regulated job's call that only its runtime saw")
def local_of_regulated_job() -> bytes:
    return _called(GET_CASE, LOCAL | {"policy": LOCAL["policy"] | {"regulated": True}}, observed="runtime")


@case(MADE, "FAIL wrong-decision", "a tool that the runtime ran itself, by a rule over servers' tools")
def local_by_rule_of_servers() -> bytes:
    granted = {"tools": ["local:crm-mcp/get_case"]}
    policy = {"allowed_tools": [RULE, RULE | {"kind": "local"}], **FREE}
    return _called(GET_CASE, LOCAL | {"policy": policy, "scope": granted}, observed="runtime", rule="allow-1")


@case(MADE, PASS, "a resource and a prompt, read by rule and grant")
def honest_resource_and_prompt() -> bytes:
    def play(_: World, lane: Lane) -> None:
        for call, target, labels in (("call-1", PAGE, ("internal",)), ("call-2", SUMMARY, ())):
            lane.begin(call, target, facts=Facts(labels=labels))
            lane.end(call)

    return dishonest(play, **READING)


@case(MADE, "FAIL wrong-target", "a resource that the grant does not name")
def resource_beyond_grant() -> bytes:
    narrow = {"tools": ["mcp:crm-mcp/get_case", "resource:crm-mcp/file:///docs/b*"]}
    return _called(PAGE, READING | {"scope": narrow}, facts=Facts(labels=("internal",)))


@case(MADE, "FAIL wrong-target", "a resource that the manifest does not know")
def resource_unknown() -> bytes:
    return _called(Target(server="crm-mcp", resource="file:///etc/passwd"), READING)


@case(MADE, "FAIL wrong-target", "a prompt that the manifest does not know")
def prompt_unknown() -> bytes:
    return _called(Target(server="crm-mcp", prompt="other"), READING)


@case(MADE, "FAIL wrong-target", "a tool and a resource at once")
def tool_and_resource_at_once() -> bytes:
    return _called(Target(server="crm-mcp", resource="file:///docs/a.md", tool="get_case"), READING)


@case(MADE, PASS, "a server asked its client for something that the rule names")
def honest_server_request() -> bytes:
    return _called(GET_CASE, ASKING, {"server_requests": ["elicitation/create"]})


@case(MADE, "FAIL wrong-decision", "a server was let to ask its client for what no rule names")
def server_request_unnamed() -> bytes:
    return _called(GET_CASE, ASKING, {"server_requests": ["elicitation/create", "sampling/createMessage"]})


@case(MADE, "FAIL wrong-decision", "a server was let to ask its client for what a rule denies")
def server_request_denied() -> bytes:
    denied = {"denied_tools": [{"kind": "mcp", "server": "*", "tools": [], "server_requests": ["elicitation/create"]}]}
    return _called(GET_CASE, {"policy": ASKING["policy"] | denied}, {"server_requests": ["elicitation/create"]})


@case(MADE, "FAIL wrong-decision", "a server asked what the rule names and its ancestor's does not")
def server_request_beyond_parent() -> bytes:
    above = [{"allowed_tools": [RULE], **FREE}]
    return _called(
        GET_CASE, ASKING | {"above": above}, {"server_requests": ["elicitation/create"]}, inherited=["1/allow-1"]
    )
