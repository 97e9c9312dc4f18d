"""Calls as Cedar is asked about them, as specs/exports.md §7 says, and its answers."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import cedarpy

from controls.exports import Export
from verifier.conditions import ABSENT, find
from verifier.decision import Call, ModelBody, Recency, ToolTarget, attributes
from verifier.grammar import number
from verifier.policy import Chain
from verifier.rules import Condition

MOST = 2**63 - 1
RECORDS = {"args": "args", "user": "claims", "age": "ages"}


class Engine:
    """An exported policy set, read once."""

    def __init__(self, exported: Export, chain: Chain) -> None:
        self.policies = cedarpy.PolicySet.from_str(exported.files["policy.cedar"])
        self.schema = cedarpy.Schema.from_str(exported.files["policy.cedarschema"])
        self.conditions = [each for policy in chain for when in policy.conditions() for each in when]

    def allows(self, call: Call) -> bool:
        """Ask about one call: the engine has to understand the request and to evaluate every policy."""
        request, entities = asked(call, self.conditions)
        found = cedarpy.is_authorized(request, self.policies, entities, self.schema)
        assert found.diagnostics.errors == [], found.diagnostics.errors
        return bool(found.allowed)


def asked(call: Call, conditions: list[Condition]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the request and its entities."""
    target, subject = call.target, call.subject
    tool = isinstance(target, ToolTarget)
    agent = {"type": "Agent", "id": subject.agent}
    if isinstance(target, ToolTarget):
        resource = {"type": "Tool", "id": f"{target.server}/{target.tool}"}
        attrs = {
            "kind": target.kind, "server": target.server, "name": target.tool, "class": target.tool_class,
            "sensitivity": target.sensitivity, "host": target.host, "approval": target.approval,
        }  # fmt: skip
    else:
        resource = {"type": "Model", "id": f"{target.provider}/{target.model}"}
        attrs = {"provider": target.provider, "name": target.model}
    request = {
        "principal": agent,
        "action": {"type": "Action", "id": "tool" if tool else "model"},
        "resource": resource,
        "context": dict(context(call, conditions)),
    }
    return request, [
        {"uid": agent, "attrs": {"id": subject.agent}, "parents": []},
        {"uid": resource, "attrs": attrs, "parents": []},
    ]


def context(call: Call, conditions: list[Condition]) -> Iterator[tuple[str, Any]]:
    """Lay out what conditions read."""
    subject, target, known = call.subject, call.target, attributes(call)
    assert isinstance(call.recent, Recency)
    yield "job", {
        "id": subject.job, "type": subject.job_type, "environment": subject.environment, "client": subject.client,
        "depth": subject.depth,
    }  # fmt: skip
    optional = {"act": subject.act, "user": subject.user, "gateway": subject.gateway}
    yield from ((name, value) for name, value in optional.items() if value is not None)
    yield from (("token_ttl", call.token_ttl), ("now", call.time), ("staleness", call.staleness))
    yield "labels", list(target.labels)
    first = {} if call.recent.first_use is None else {"first_use": call.recent.first_use}
    yield "recent", {"calls": call.recent.calls, "denials": call.recent.denials, **first}
    for family, record in RECORDS.items():
        if family != "args" or isinstance(target, ToolTarget):
            yield record, dict(members(family, known, conditions))
    yield "local", dict(places(known, conditions))
    if not isinstance(target, ToolTarget):
        assert isinstance(call.body, ModelBody)
        yield "operation", target.operation
        yield "hosted_tools", list(call.body.hosted_tools)
        yield from (("remote_content", call.body.remote_content), ("provider_state", call.body.provider_state))
        if call.body.max_output_tokens is not None:
            yield "max_output_tokens", call.body.max_output_tokens


def members(family: str, known: dict[str, Any], conditions: list[Condition]) -> Iterator[tuple[str, Any]]:
    """Give the arguments, claims or ages that a condition asks for."""
    for each in conditions:
        name = each.attr.partition(".")[2]
        if each.attr.startswith(family + ".") and each.attr != "user.id":
            found = find(each, known)
            if found is not ABSENT:
                yield name, found if family == "age" else typed(found)


def typed(found: Any) -> dict[str, Any]:
    """Say what a value is, in one of Cedar's types."""
    if isinstance(found, bool):
        return {"flag": found}
    if isinstance(found, str):
        return {"text": found}
    exact = number(found) if isinstance(found, int | Decimal) else None
    if exact is None:
        return {}
    if exact == int(exact):
        assert abs(exact) <= MOST, "Cedar has no such number: it is not asked, the call is denied"
        return {"whole": int(exact)}
    assert exact * 10_000 == int(exact * 10_000)
    return {"fraction": {"__extn": {"fn": "decimal", "arg": f"{exact:f}"}}}


def places(known: dict[str, Any], conditions: list[Condition]) -> Iterator[tuple[str, Any]]:
    """Read the clock and the calendar at each offset that a condition names."""
    for offset in {each.offset for each in conditions if each.offset is not None}:
        yield (
            offset,
            {
                name: find(Condition(attr=f"time.{name}", op="eq", value=0, offset=offset), known)
                for name in ("hour", "minute_of_day", "weekday")
            },
        )
