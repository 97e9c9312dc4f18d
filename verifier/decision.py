"""The one decision: the gateway asks it live and the verifier asks it again years later (specs/policy.md §4).

`decide` is pure and total. What no rule names is denied; deny wins over everything; a rule whose conditions are missing
does not match if it allows and matches if it denies. Of a policy and its ancestors every one must allow.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from msgspec import Struct

from verifier.conditions import UNDISCLOSED, Partial, Truth, Undisclosed, any_glob, glob_matches, holds
from verifier.policy import Chain, Policy, rule_name
from verifier.rules import TIERS, ModelRule, Scalar, TargetKind, Tier, ToolRule

DEFAULT = "default"


class Subject(Struct, frozen=True):
    """Who calls and for whom, by the grant and never by what a model wrote; `gateway` is its base URL."""

    agent: str
    client: str
    job: str
    job_type: str
    environment: str
    act: str | None = None
    depth: int = 0
    user: str | None = None
    claims: Mapping[str, Scalar] = {}
    gateway: str | None = None


class ToolTarget(Struct, frozen=True):
    """A tool as the approved manifest describes it; `labels` are the manifest's and the detectors'.

    Of another `kind`, `tool` is the name of what the runtime runs itself, of a prompt, or a resource's URI.
    """

    server: str
    tool: str
    tool_class: str
    sensitivity: str
    host: str
    labels: tuple[str, ...] = ()
    approval: Tier = "none"
    kind: TargetKind = "mcp"


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


class Recency(Struct, frozen=True):
    """What the lane saw in the ten minutes before a call; `first_use` of its tool, None for a model."""

    calls: int = 0
    denials: int = 0
    first_use: bool | None = None


class Call(Struct, frozen=True, kw_only=True):
    """One call as it is decided: `arguments` are a tool's, `body` a model's.

    `time` and `staleness` (of the revocation feed) in microseconds, `token_ttl` in seconds.
    """

    subject: Subject
    target: ToolTarget | ModelTarget
    token_ttl: int
    time: int | Undisclosed
    arguments: Mapping[str, Any] | Partial | Undisclosed = UNDISCLOSED
    body: ModelBody | Undisclosed = UNDISCLOSED
    recent: Recency | Undisclosed = UNDISCLOSED
    staleness: int | Undisclosed = UNDISCLOSED


class Allowed(Struct, frozen=True):
    """The call may go through; `inherited` are the rules of the policy's ancestors that allow it too, nearest first."""

    rule: str
    inherited: tuple[str, ...] = ()


class Held(Struct, frozen=True):
    """The call waits for a person of this tier."""

    rule: str
    tier: Literal["confirm", "human"]
    inherited: tuple[str, ...] = ()


class Denied(Struct, frozen=True):
    """The call may not go through; `reason` is a public code."""

    rule: str
    reason: str


Decision = Allowed | Held | Denied


class Level(Struct, frozen=True):
    """What one policy of a chain can say: by which rules it allows, each with the tier that it asks, how it denies."""

    allows: dict[str, Tier]
    denies: dict[tuple[str, str], None]


class Possible(Struct, frozen=True):
    """Every decision that some value of what is undisclosed could lead to, level by level.

    `decision in possible` asks for one without listing them all: four levels of a thousand rules have many.
    """

    levels: tuple[Level, ...]
    approval: Tier

    def __contains__(self, decision: object) -> bool:
        if isinstance(decision, Denied):
            return self._denies(decision)
        if not isinstance(decision, Allowed | Held):
            return False
        rules = (decision.rule, *decision.inherited)
        if len(rules) != len(self.levels) or any(
            rule not in level.allows for rule, level in zip(rules, self.levels, strict=True)
        ):
            return False
        return self.decision(rules) == decision

    def _denies(self, denied: Denied) -> bool:
        for level in self.levels:
            if (denied.rule, denied.reason) in level.denies:
                return True
            if not level.allows:
                return False
        return False

    def allows(self, rule: str) -> bool:
        """Tell whether a rule, an ancestor's named with its level, can be among those that allow."""
        return all(level.allows for level in self.levels) and any(rule in level.allows for level in self.levels)

    @property
    def full(self) -> bool:
        """Tell whether only one decision is left."""
        denials = 0
        for level in self.levels:
            denials += len(level.denies)
            if not level.allows:
                return denials == 1
        return not denials and all(len(level.allows) == 1 for level in self.levels)

    def decision(self, rules: tuple[str, ...]) -> Allowed | Held:
        """Put together what one rule of each level comes to: the highest tier that one of them or the tool asks."""
        asked = (self.approval, *(level.allows[rule] for level, rule in zip(self.levels, rules, strict=True)))
        tier = max(asked, key=TIERS.index)
        return Allowed(rules[0], rules[1:]) if tier == "none" else Held(rules[0], tier, rules[1:])

    def __iter__(self) -> Iterator[Decision]:
        """List them; a denial is the first level's that denies."""
        for level in self.levels:
            yield from (Denied(*denied) for denied in level.denies)
            if not level.allows:
                return
        yield from map(self.decision, product(*(level.allows for level in self.levels)))


def decide(chain: Chain, call: Call) -> Decision:
    """Decide one call of which everything is known; the policy comes first in the chain, then its ancestors."""
    return next(iter(possible(chain, call)))


def outcomes(chain: Chain, call: Call) -> tuple[Decision, ...]:
    """List every decision that some value of what is undisclosed could lead to; exactly one when nothing is."""
    return tuple(possible(chain, call))


def possible(chain: Chain, call: Call) -> Possible:
    """Ask every level what it could say."""
    known = attributes(call)
    levels = tuple(_level(policy, number, call, known) for number, policy in enumerate(chain))
    return Possible(levels, call.target.approval if isinstance(call.target, ToolTarget) else "none")


def _level(policy: Policy, number: int, call: Call, known: Mapping[str, Any]) -> Level:
    """Ask one policy; an ancestor's rules bear the number of its level."""
    found = Level({}, {})
    for rule, answer in _possible(policy, call, known):
        if answer in TIERS:
            found.allows[rule_name(number, rule)] = answer
        else:
            found.denies[rule_name(number, rule), answer] = None
    return found


def _possible(policy: Policy, call: Call, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Walk the rules in order, yield each answer that can be reached, stop at the first that must be."""
    if call.token_ttl > policy.token_constraints.cst_max_ttl_seconds:
        yield "token_constraints", "token-ttl"
        return
    if any(map(policy.data_classes.denies, call.target.labels)):
        yield "data_classes", "data-class"
        return
    if isinstance(call.target, ToolTarget):
        yield from _tool(policy, call.target, known)
    else:
        yield from _model(policy, call.target, call.body, known)


def _tool(policy: Policy, target: ToolTarget, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in policy.denied_tools:
        if _names(rule, target):
            truth = holds(rule.when, known, denies=True)
            if truth is not Truth.FALSE:
                yield rule.id, "denied-tool"
            if truth in (Truth.TRUE, Truth.MISSING):
                return
    if target.kind != "local" and not any_glob(policy.egress.hosts, target.host):
        yield "egress", "egress-host"
        return
    for rule in policy.allowed_tools:
        if _names(rule, target):
            truth = holds(rule.when, known)
            if truth in (Truth.TRUE, Truth.UNDISCLOSED):
                yield rule.id, rule.approval
            if truth is Truth.TRUE:
                return
    yield DEFAULT, "not-allowed"


def named_tools(rules: Iterable[ToolRule], target: ToolTarget) -> list[ToolRule]:
    """Keep the rules that are about this tool."""
    return [rule for rule in rules if _names(rule, target)]


def named_models(policy: Policy, target: ModelTarget) -> list[ModelRule]:
    """Keep the rules that are about this model and what is asked of it."""
    return [rule for rule in policy.model_egress.models if _names_model(rule, target)]


def _names_model(rule: ModelRule, target: ModelTarget) -> bool:
    return (
        rule.provider == target.provider
        and any_glob(rule.models, target.model)
        and any_glob(rule.operations, target.operation)
    )


def _names(rule: ToolRule, target: ToolTarget) -> bool:
    """Tell whether a rule is about this tool at all."""
    return (
        target.tool_class in rule.classes
        and glob_matches(rule.server, target.server)
        and any_glob(rule.names(target.kind), target.tool)
    )


def may_ask(chain: Chain, rules: Sequence[str], server: str, method: str) -> bool:
    """Tell whether a server may ask the client for something: by every rule that allowed its call, and none denies it.

    `rules` are those of the call's `begin`, one of each level; conditions of a rule that denies are not looked at.
    """
    return len(rules) == len(chain) and all(
        _may_ask(policy, rule_name(level, ""), name, server, method)
        for level, (policy, name) in enumerate(zip(chain, rules, strict=True))
    )


def _may_ask(policy: Policy, level: str, named: str, server: str, method: str) -> bool:
    denied = any(
        glob_matches(rule.server, server) and any_glob(rule.server_requests, method) for rule in policy.denied_tools
    )
    return not denied and any(
        level + rule.id == named and any_glob(rule.server_requests, method) for rule in policy.allowed_tools
    )


def _model(
    policy: Policy, target: ModelTarget, body: ModelBody | Undisclosed, known: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Allow by the first rule that matches and opens every side door used; else deny by the first that matches."""
    refusals: list[tuple[str, str]] = []
    settled = False
    for rule in policy.model_egress.models:
        if not _names_model(rule, target):
            continue
        truth = holds(rule.when, known)
        if truth not in (Truth.TRUE, Truth.UNDISCLOSED):
            continue
        doors = _side_doors(rule, body)
        if None in doors:
            yield rule.id, "none"
        if truth is Truth.TRUE and doors == (None,):
            return
        if not settled:
            refusals += [(rule.id, door) for door in doors if door]
            settled = truth is Truth.TRUE
    yield from refusals
    if not settled:
        yield DEFAULT, "not-allowed"


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


def attributes(call: Call) -> dict[str, Any]:
    """Lay out what conditions may read (specs/conditions.md §2)."""
    subject, target = call.subject, call.target
    found: dict[str, Any] = {
        "agent.id": subject.agent,
        "job.id": subject.job,
        "job.type": subject.job_type,
        "job.environment": subject.environment,
        "job.client": subject.client,
        "job.depth": subject.depth,
        "data.labels": target.labels,
        "time.now": call.time,
        "gateway.staleness": call.staleness,
        **{f"user.{name}": value for name, value in subject.claims.items()},
    }
    # What is not there is missing; a claim that calls itself `id` is not the user.
    found |= {"agent.act": subject.act, "user.id": subject.user, "gateway.url": subject.gateway}
    found |= _recent(call.recent)
    if isinstance(target, ToolTarget):
        found |= {
            "tool.server": target.server,
            "tool.name": target.tool,
            "tool.class": target.tool_class,
            "tool.sensitivity": target.sensitivity,
            "args": call.arguments,
        }
    else:
        found |= {"model.provider": target.provider, "model.name": target.model, "model.operation": target.operation}
        body = call.body
        found["model.max_output_tokens"] = body if isinstance(body, Undisclosed) else body.max_output_tokens
    return {name: value for name, value in found.items() if value is not None}


def _recent(recent: Recency | Undisclosed) -> dict[str, Any]:
    names = ("calls", "denials", "first_use")
    if isinstance(recent, Undisclosed):
        return {f"recent.{name}": UNDISCLOSED for name in names}
    return {f"recent.{name}": getattr(recent, name) for name in names}


def reads(chain: Chain, *families: str) -> bool:
    """Tell whether a decision can depend on attributes of these families."""
    return any(policy.reads(*families) for policy in chain)
