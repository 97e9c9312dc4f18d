"""The Work Policy Contract: what a job may do, with every value written out (specs/policy.md).

A policy is never edited: a change is a new document with a new digest, so a token that names a digest names exactly
one set of rules, forever. What absence in an author's draft becomes is `draft.py`'s business; here nothing is implicit.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from verifier.conditions import any_glob
from verifier.encoding import Count, Digest, Name, SafeText, Text, Time, read
from verifier.grammar import number
from verifier.refused import Refused
from verifier.rules import (
    Condition,
    Document,
    Globs,
    Label,
    LabelGlob,
    ModelRule,
    Scalar,
    TargetKind,
    Tier,
    ToolClass,
    ToolRule,
    check_conditions,
    unsupported,
)

MAX_POLICY = 1 << 18
DAY = 86_400 * 1_000_000


class Jobs(Document, frozen=True, kw_only=True):
    """Who may use the policy."""

    types: Globs
    environments: Globs
    agents: Globs


class DataClasses(Document, frozen=True, kw_only=True):
    """Which labels a call may carry; a label that nothing allows is denied."""

    allow: list[LabelGlob]
    deny: list[LabelGlob]
    on_violation: Literal["block", "redact"]

    def denies(self, label: str) -> bool:
        """Tell whether this denies a label, by name or because nothing allows it."""
        return any_glob(self.deny, label) or not any_glob(self.allow, label)


class ModelEgress(Document, frozen=True, kw_only=True):
    """The model side; `require_proxy_receipts` ties each tool call to a tool call that a model asked for."""

    require_proxy_receipts: bool
    provider: Name | None = None
    models: Annotated[list[ModelRule], Meta(max_length=256)]
    prices: Digest | None = None


class Responses(Document, frozen=True, kw_only=True):
    """Screens on what tools return; `max_bytes` counts the decoded body."""

    max_bytes: Annotated[int, Meta(ge=1, le=1 << 26)]
    content_types: Globs
    injection: Literal["block", "flag", "off"]


class Egress(Document, frozen=True, kw_only=True):
    """Upstream hosts of MCP servers, as the approved manifest names them; `*` is any that a manifest names."""

    hosts: Globs


class Budgets(Document, frozen=True, kw_only=True):
    """Cumulative limits of a root job; absent is no limit."""

    calls: Count | None = None
    calls_per_minute: Count | None = None
    tokens: Count | None = None
    cost_nano_usd: Count | None = None
    wall_seconds: Count | None = None
    per_tool: dict[SafeText, Count] | None = None


class TokenConstraints(Document, frozen=True, kw_only=True):
    """What a token may be; times in seconds."""

    cst_max_ttl_seconds: Annotated[int, Meta(ge=1, le=3600)]
    require_scope_hash: Literal[True]
    policy_hash_pinning: Literal["required"]
    binding: Literal["none", "dpop", "mtls"]
    max_delegation_depth: Annotated[int, Meta(ge=0, le=4)]
    max_staleness_seconds: Annotated[int, Meta(ge=1, le=60)]


class Privacy(Document, frozen=True, kw_only=True):
    """What receipts keep of payloads."""

    privacy: Literal["hash_only", "sealed"]
    auditors: list[SafeText]


class Approvals(Document, frozen=True, kw_only=True):
    """Who may release a held call."""

    quorum: Annotated[int, Meta(ge=0, le=16)]
    ttl_seconds: Annotated[int, Meta(ge=1, le=86_400)]
    approvers: list[SafeText]


class TestCall(Document, frozen=True, kw_only=True):
    """The call of a policy's own test: a tool (`arguments` is JSON text) or a model.

    `kind` says what `tool` names, where that is no tool of a server.
    """

    __test__ = False

    server: Name | None = None
    kind: TargetKind | None = None
    tool: SafeText | None = None
    arguments: Text | None = None
    provider: Name | None = None
    model: SafeText | None = None
    operation: SafeText | None = None
    max_output_tokens: Count | None = None
    hosted_tools: list[SafeText] | None = None


class TestFacts(Document, frozen=True, kw_only=True):
    """What a policy's own test assumes of job, tool and time (Unix microseconds)."""

    __test__ = False

    agent: SafeText | None = None
    client: SafeText | None = None
    job_type: SafeText | None = None
    environment: SafeText | None = None
    tool_class: ToolClass | None = None
    sensitivity: SafeText | None = None
    host: SafeText | None = None
    labels: list[Label] | None = None
    time: Time | None = None
    user: SafeText | None = None
    claims: dict[Name, Scalar] | None = None
    approval: Tier | None = None
    recent_calls: Count | None = None
    recent_denials: Count | None = None
    first_use: bool | None = None


class PolicyTest(Document, frozen=True, kw_only=True):
    """A claim that the author makes about the policy; all hold, or it is not published."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    call: TestCall
    facts: TestFacts
    expect: Literal["allow", "hold", "deny"]
    rule: Annotated[str, Meta(pattern=r"^([1-3]/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")] | None = None


class Policy(Document, frozen=True, kw_only=True):
    """A Work Policy Contract, pinned by the digest of its canonical bytes."""

    wpc_version: Literal["v1"]
    policy_name: Name
    issuer: SafeText
    serial: Annotated[int, Meta(ge=1, le=2**31)]
    supersedes: Digest | None = None
    parent: Digest | None = None
    valid_from: Time
    valid_until: Time
    regulated: bool
    jobs: Jobs
    allowed_tools: Annotated[list[ToolRule], Meta(max_length=1000)]
    denied_tools: Annotated[list[ToolRule], Meta(max_length=1000)]
    data_classes: DataClasses
    model_egress: ModelEgress
    responses: Responses
    egress: Egress
    budgets: Budgets
    token_constraints: TokenConstraints
    receipts: Privacy
    approvals: Approvals
    tests: Annotated[list[PolicyTest], Meta(max_length=256)]

    @classmethod
    def parse(cls, payload: bytes) -> "Policy":
        """Read a policy from its canonical bytes.

        Raises `Refused`: the reading codes, bad-policy for a contradiction, unsupported for what no step judges yet.
        """
        policy = read(payload, cls, limit=MAX_POLICY)
        check_consistent(policy)
        check_kinds(policy)
        check_limits(policy)
        check_supported(policy)
        return policy

    def conditions(self) -> Iterator[list[Condition]]:
        """Give the conditions of every rule."""
        rules: list[ToolRule | ModelRule] = [*self.allowed_tools, *self.denied_tools, *self.model_egress.models]
        return (rule.when for rule in rules)

    def reads(self, *families: str) -> bool:
        """Tell whether a condition asks for an attribute of one of these families: `time` for `time.hour`."""
        return any(each.attr.partition(".")[0] in families for when in self.conditions() for each in when)

    def in_force(self, at: int) -> None:
        """Check the validity window for a time (the grant's)."""
        if not self.valid_from <= at < self.valid_until:
            raise Refused(
                "policy-not-valid", f"policy {self.policy_name} was not in force at that time", field="valid_until"
            )


def check_consistent(policy: Policy) -> None:
    """Refuse a policy that contradicts itself."""
    rules = [rule.id for rule in (*policy.allowed_tools, *policy.denied_tools)] + [
        rule.id for rule in policy.model_egress.models
    ]
    if len(set(rules)) != len(rules):
        raise Refused(
            "bad-policy", "two rules have one id; a receipt could not say which decided", field="allowed_tools"
        )
    if policy.valid_from >= policy.valid_until:
        raise Refused("bad-policy", "the policy ends before it begins", field="valid_until")
    provider = policy.model_egress.provider
    if provider is not None and any(rule.provider != provider for rule in policy.model_egress.models):
        raise Refused(
            "bad-policy", f"model_egress.provider is {provider}, a model rule names another", field="model_egress"
        )
    for rule in policy.denied_tools:
        if rule.approval != "none" or rule.limits is not None:
            raise Refused(
                "bad-policy", f"{rule.id} denies: nobody approves it, nothing counts it", field="denied_tools"
            )
    approvals, privacy = policy.approvals, policy.receipts
    for name, owners in (("approvers", approvals.approvers), ("auditors", privacy.auditors)):
        if len(set(owners)) != len(owners):
            raise Refused("bad-policy", f"{name} names one owner twice", field=name)
    if approvals.quorum > len(approvals.approvers):
        raise Refused("bad-policy", "the quorum is more than there are approvers", field="approvals")
    if privacy.privacy == "sealed" and not privacy.auditors:
        raise Refused("bad-policy", "payloads sealed to nobody: name an auditor", field="receipts")


def check_kinds(policy: Policy) -> None:
    """Refuse a rule over tools of the runtime that names what only a server has."""
    for rule in (*policy.allowed_tools, *policy.denied_tools):
        if rule.kind == "local" and (rule.resources or rule.prompts or rule.server_requests):
            why = f"{rule.id} is about tools that the runtime runs itself: these have no resources, prompts or requests"
            raise Refused("bad-policy", why, field="kind")


def check_limits(policy: Policy) -> None:
    """Refuse a limit that nobody could count by: a sum that is no number from nothing up, a cost without prices."""
    if policy.budgets.cost_nano_usd is not None and policy.model_egress.prices is None:
        why = "a budget of cost is counted by a price table: model_egress.prices names it"
        raise Refused("bad-policy", why, field="budgets")
    for rule in policy.allowed_tools:
        sums = None if rule.limits is None else rule.limits.sums
        for path, most in (sums or {}).items():
            exact = number(most)
            if exact is None or exact < 0:
                raise Refused("bad-policy", f"{rule.id}: the sum of {path} is limited to no number", field="sums")


def check_supported(policy: Policy) -> None:
    """Refuse by name what no step can decide or judge yet: never accepted and ignored (specs/policy.md §6)."""
    for conditions in policy.conditions():
        check_conditions(conditions)


def check_enforceable(policy: Policy) -> None:
    """Refuse by name what the verifier can judge and the services of this version cannot do (specs/policy.md §6).

    Asked by the registry at publication, by scope when a job opens, by the gateway when it takes a policy. What is not
    here fails closed by itself: a call that waits for people is refused, an attribute of a user is missing.
    """
    for undone, name in (
        (policy.receipts.privacy == "sealed" or bool(policy.receipts.auditors), "receipts.privacy sealed"),
        (policy.token_constraints.binding == "mtls", "token_constraints.binding"),
    ):
        if undone:
            raise unsupported(name)


# A policy and its ancestors, the child first: every one of them must allow (chain.py).
Chain = tuple[Policy, ...]


def rule_name(level: int, rule: str) -> str:
    """Name a rule as receipts do: an ancestor's bears the number of its level (specs/policy.md §7)."""
    return f"{level}/{rule}" if level else rule
