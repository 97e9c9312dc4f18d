"""The one decision: the gateway asks it live and the verifier asks it again years later (specs/policy.md §4).

`decide` is pure and total. What no rule names is denied; deny wins over everything; a rule whose conditions are missing
does not match if it allows and matches if it denies.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from verifier.conditions import UNDISCLOSED, Truth, Undisclosed, any_glob, glob_matches, holds
from verifier.policy import ModelRule, Policy, ToolRule

DEFAULT = "default"


class Subject(Struct, frozen=True):
    """Who calls, by the grant and never by what a model wrote."""

    agent: str
    client: str
    job: str
    job_type: str
    environment: str


class ToolTarget(Struct, frozen=True):
    """A tool as the approved manifest describes it; `labels` are the manifest's and the detectors'."""

    server: str
    tool: str
    tool_class: str
    sensitivity: str
    host: str
    labels: tuple[str, ...] = ()


class ModelTarget(Struct, frozen=True):
    """A model and what is asked of it (`operation`)."""

    provider: str
    model: str
    operation: str
    labels: tuple[str, ...] = ()


class ModelBody(Struct, frozen=True):
    """The side doors of a model request: what the provider would run, fetch or remember."""

    max_output_tokens: int | None = None
    hosted_tools: tuple[str, ...] = ()
    remote_content: bool = False
    provider_state: bool = False


class Call(Struct, frozen=True, kw_only=True):
    """One call as it is decided: `arguments` are a tool's, `body` a model's.

    `time` in microseconds, `token_ttl` in seconds.
    """

    subject: Subject
    target: ToolTarget | ModelTarget
    token_ttl: int
    time: int | Undisclosed
    arguments: Mapping[str, Any] | Undisclosed = UNDISCLOSED
    body: ModelBody | Undisclosed = UNDISCLOSED


class Allowed(Struct, frozen=True):
    """The call may go through."""

    rule: str


class Held(Struct, frozen=True):
    """The call waits for a person of this tier."""

    rule: str
    tier: Literal["confirm", "human"]


class Denied(Struct, frozen=True):
    """The call may not go through; `reason` is a public code."""

    rule: str
    reason: str


Decision = Allowed | Held | Denied


def decide(policy: Policy, call: Call) -> Decision:
    """Decide one call whose arguments are known."""
    return next(_possible(policy, call))


def outcomes(policy: Policy, call: Call) -> tuple[Decision, ...]:
    """Give every decision that some value of what is undisclosed could lead to; exactly one when nothing is."""
    return tuple(dict.fromkeys(_possible(policy, call)))


def _possible(policy: Policy, call: Call) -> Iterator[Decision]:
    """Walk the rules in order, yield each decision that can be reached, stop at the first that must be."""
    if call.token_ttl > policy.token_constraints.cst_max_ttl_seconds:
        yield Denied("token_constraints", "token-ttl")
        return
    classes = policy.data_classes
    if any(any_glob(classes.deny, label) or not any_glob(classes.allow, label) for label in call.target.labels):
        yield Denied("data_classes", "data-class")
        return
    if isinstance(call.target, ToolTarget):
        yield from _tool(policy, call, call.target)
    else:
        yield from _model(policy, call, call.target)


def _tool(policy: Policy, call: Call, target: ToolTarget) -> Iterator[Decision]:
    attributes = _attributes(call)
    for rule in policy.denied_tools:
        if _names(rule, target):
            truth = holds(rule.when, attributes, denies=True)
            if truth is not Truth.FALSE:
                yield Denied(rule.id, "denied-tool")
            if truth in (Truth.TRUE, Truth.MISSING):
                return
    if not any_glob(policy.egress.hosts, target.host):
        yield Denied("egress", "egress-host")
        return
    for rule in policy.allowed_tools:
        if _names(rule, target):
            truth = holds(rule.when, attributes)
            if truth in (Truth.TRUE, Truth.UNDISCLOSED):
                yield Allowed(rule.id) if rule.approval == "none" else Held(rule.id, rule.approval)
            if truth is Truth.TRUE:
                return
    yield Denied(DEFAULT, "not-allowed")


def _names(rule: ToolRule, target: ToolTarget) -> bool:
    """Tell whether a rule is about this tool at all."""
    return (
        rule.kind == "mcp"
        and target.tool_class in rule.classes
        and glob_matches(rule.server, target.server)
        and any_glob(rule.tools, target.tool)
    )


def _model(policy: Policy, call: Call, target: ModelTarget) -> Iterator[Decision]:
    """Allow by the first rule that matches and opens every side door used; else deny by the first that matches."""
    attributes = _attributes(call)
    refusals: list[Decision] = []
    settled = False
    for rule in policy.model_egress.models:
        if (
            rule.provider != target.provider
            or not any_glob(rule.models, target.model)
            or not any_glob(rule.operations, target.operation)
        ):
            continue
        truth = holds(rule.when, attributes)
        if truth not in (Truth.TRUE, Truth.UNDISCLOSED):
            continue
        doors = _side_doors(rule, call.body)
        if None in doors:
            yield Allowed(rule.id)
        if truth is Truth.TRUE and doors == (None,):
            return
        if not settled:
            refusals += [Denied(rule.id, door) for door in doors if door]
            settled = truth is Truth.TRUE
    yield from refusals
    if not settled:
        yield Denied(DEFAULT, "not-allowed")


def _side_doors(rule: ModelRule, body: ModelBody | Undisclosed) -> tuple[str | None, ...]:
    """Name the side door that a request uses and the rule does not open; None for no such door."""
    if isinstance(body, Undisclosed):
        opened = {
            "hosted-tool": "*" in rule.hosted_tools,
            "remote-content": rule.remote_content,
            "provider-state": rule.provider_state,
            "max-output-tokens": rule.max_output_tokens is None,
        }
        return (None, *(door for door, is_open in opened.items() if not is_open))
    if any(not any_glob(rule.hosted_tools, name) for name in body.hosted_tools):
        return ("hosted-tool",)
    if body.remote_content and not rule.remote_content:
        return ("remote-content",)
    if body.provider_state and not rule.provider_state:
        return ("provider-state",)
    if rule.max_output_tokens is not None and (
        body.max_output_tokens is None or body.max_output_tokens > rule.max_output_tokens
    ):
        return ("max-output-tokens",)
    return (None,)


def _attributes(call: Call) -> dict[str, Any]:
    """Lay out what conditions may read (specs/conditions.md §2)."""
    subject, target = call.subject, call.target
    found: dict[str, Any] = {
        "agent.id": subject.agent,
        "job.id": subject.job,
        "job.type": subject.job_type,
        "job.environment": subject.environment,
        "job.client": subject.client,
        "data.labels": target.labels,
        "time.now": call.time if not isinstance(call.time, Undisclosed) else UNDISCLOSED,
        "args": call.arguments,
    }
    if isinstance(target, ToolTarget):
        return found | {
            "tool.server": target.server,
            "tool.name": target.tool,
            "tool.class": target.tool_class,
            "tool.sensitivity": target.sensitivity,
        }
    found |= {"model.provider": target.provider, "model.name": target.model, "model.operation": target.operation}
    if isinstance(call.body, Undisclosed):
        return found | {"model.max_output_tokens": UNDISCLOSED}
    return found | (
        {} if call.body.max_output_tokens is None else {"model.max_output_tokens": call.body.max_output_tokens}
    )


def reads_time(policy: Policy) -> bool:
    """Tell whether a decision can depend on the time of the call."""
    rules: list[ToolRule | ModelRule] = [*policy.allowed_tools, *policy.denied_tools, *policy.model_egress.models]
    return any(condition.attr.startswith("time.") for rule in rules for condition in rule.when)
