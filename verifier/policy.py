"""The Work Policy Contract: what a job may do, with every value written out (specs/policy.md).

A policy is never edited: a change is a new document with a new digest, so a token that names a digest names exactly
one set of rules, forever. What absence in an author's draft becomes is `draft.py`'s business; here nothing is implicit.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from verifier.encoding import MAX_INT, Count, Digest, Glob, Name, SafeText, Text, Time, read
from verifier.refused import Refused

MAX_POLICY = 1 << 18
DAY = 86_400 * 1_000_000

ToolClass = Literal["read", "write", "destructive", "external"]
Tier = Literal["none", "confirm", "human"]
Operator = Literal[
    "eq", "ne", "in", "not_in", "lt", "le", "gt", "ge", "between", "prefix", "suffix", "glob", "exists",
    "host_in", "email_domain_in", "subpath_of", "cidr_in",
]  # fmt: skip
Label = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
LabelGlob = Annotated[str, Meta(pattern=r"^[a-z*][a-z0-9_*]{0,63}\Z")]
Globs = Annotated[list[Glob], Meta(max_length=256)]
RuleId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
Scalar = str | Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT)] | bool
OPERATIONS = ("chat.completions", "embeddings", "messages", "models", "responses")
UNBUILT_OPERATORS = frozenset({"host_in", "email_domain_in", "subpath_of", "cidr_in"})


class _Document(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Optional means absent; a published policy has no other defaults."""


class Condition(_Document, frozen=True, kw_only=True):
    """One test of one attribute (specs/conditions.md)."""

    attr: Annotated[str, Meta(pattern=r"^[a-z]+(\.[A-Za-z0-9_-]{1,64}){1,8}\Z")]
    op: Operator
    value: Scalar | Annotated[list[Scalar], Meta(max_length=256)]


class Limits(_Document, frozen=True, kw_only=True):
    """How often one rule may allow a call, within a lane's share."""

    calls_per_job: Count | None = None
    calls_per_minute: Count | None = None
    sums: dict[SafeText, SafeText] | None = None


class ToolRule(_Document, frozen=True, kw_only=True):
    """One rule over tools: in `allowed_tools` it allows, in `denied_tools` it denies; deny wins over everything."""

    id: RuleId
    kind: Literal["mcp", "local"]
    server: Glob
    tools: Globs
    resources: Globs
    prompts: Globs
    server_requests: Globs
    classes: list[ToolClass]
    when: Annotated[list[Condition], Meta(max_length=32)]
    approval: Tier
    limits: Limits | None = None


class ModelRule(_Document, frozen=True, kw_only=True):
    """Which models a job may call, for what; a provider's own tools, fetches and memory only where named."""

    id: RuleId
    provider: Name
    models: Globs
    operations: Globs
    max_output_tokens: Count | None = None
    hosted_tools: Globs
    remote_content: bool
    provider_state: bool
    when: Annotated[list[Condition], Meta(max_length=32)]


class Jobs(_Document, frozen=True, kw_only=True):
    """Who may use the policy."""

    types: Globs
    environments: Globs
    agents: Globs


class DataClasses(_Document, frozen=True, kw_only=True):
    """Which labels a call may carry; a label that nothing allows is denied."""

    allow: list[LabelGlob]
    deny: list[LabelGlob]
    on_violation: Literal["block", "redact"]


class ModelEgress(_Document, frozen=True, kw_only=True):
    """The model side; `require_proxy_receipts` ties each tool call to a tool call that a model asked for."""

    require_proxy_receipts: bool
    provider: Name | None = None
    models: Annotated[list[ModelRule], Meta(max_length=256)]
    prices: Digest | None = None


class Responses(_Document, frozen=True, kw_only=True):
    """Screens on what tools return; `max_bytes` counts the decoded body."""

    max_bytes: Annotated[int, Meta(ge=1, le=1 << 26)]
    content_types: Globs
    injection: Literal["block", "flag", "off"]


class Egress(_Document, frozen=True, kw_only=True):
    """Upstream hosts of MCP servers, as the approved manifest names them; `*` is any that a manifest names."""

    hosts: Globs


class Budgets(_Document, frozen=True, kw_only=True):
    """Cumulative limits of a root job; absent is no limit."""

    calls: Count | None = None
    calls_per_minute: Count | None = None
    tokens: Count | None = None
    cost_nano_usd: Count | None = None
    wall_seconds: Count | None = None
    per_tool: dict[SafeText, Count] | None = None


class TokenConstraints(_Document, frozen=True, kw_only=True):
    """What a token may be; times in seconds."""

    cst_max_ttl_seconds: Annotated[int, Meta(ge=1, le=3600)]
    require_scope_hash: Literal[True]
    policy_hash_pinning: Literal["required"]
    binding: Literal["none", "dpop", "mtls"]
    max_delegation_depth: Annotated[int, Meta(ge=0, le=4)]
    max_staleness_seconds: Annotated[int, Meta(ge=1, le=60)]


class Privacy(_Document, frozen=True, kw_only=True):
    """What receipts keep of payloads."""

    privacy: Literal["hash_only", "sealed"]
    auditors: list[SafeText]


class Approvals(_Document, frozen=True, kw_only=True):
    """Who may release a held call."""

    quorum: Annotated[int, Meta(ge=0, le=16)]
    ttl_seconds: Annotated[int, Meta(ge=1, le=86_400)]
    approvers: list[SafeText]


class TestCall(_Document, frozen=True, kw_only=True):
    """The call of a policy's own test: a tool (`arguments` is JSON text) or a model."""

    __test__ = False

    server: Name | None = None
    tool: SafeText | None = None
    arguments: Text | None = None
    provider: Name | None = None
    model: SafeText | None = None
    operation: SafeText | None = None
    max_output_tokens: Count | None = None
    hosted_tools: list[SafeText] | None = None


class TestFacts(_Document, frozen=True, kw_only=True):
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


class PolicyTest(_Document, frozen=True, kw_only=True):
    """A claim that the author makes about the policy; all hold, or it is not published."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    call: TestCall
    facts: TestFacts
    expect: Literal["allow", "hold", "deny"]
    rule: RuleId | None = None


class Policy(_Document, frozen=True, kw_only=True):
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
        check_supported(policy)
        return policy

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


def check_supported(policy: Policy) -> None:
    """Refuse by name what this version cannot decide or judge: never accepted and ignored (specs/policy.md §6)."""
    for unbuilt, name in (
        (policy.parent is not None, "parent"),
        (policy.regulated, "regulated"),
        (policy.approvals.quorum > 0 or bool(policy.approvals.approvers), "approvals"),
        (policy.receipts.privacy == "sealed" or bool(policy.receipts.auditors), "receipts.privacy sealed"),
        (policy.token_constraints.binding != "none", "token_constraints.binding"),
        (policy.token_constraints.max_delegation_depth > 0, "token_constraints.max_delegation_depth"),
        (policy.budgets.cost_nano_usd is not None or policy.model_egress.prices is not None, "budgets.cost_nano_usd"),
        (policy.responses.injection == "block", "responses.injection block"),
        (policy.data_classes.on_violation == "redact", "data_classes.on_violation redact"),
    ):
        if unbuilt:
            raise _unsupported(name)
    for rule in (*policy.allowed_tools, *policy.denied_tools):
        _check_rule(rule)
    for model in policy.model_egress.models:
        _check_conditions(model.when)


def _check_rule(rule: ToolRule) -> None:
    for unbuilt, name in (
        (rule.approval != "none", "approval"),
        (rule.kind == "local", "kind local"),
        (bool(rule.resources or rule.prompts or rule.server_requests), "resources, prompts or server_requests"),
        (rule.limits is not None and rule.limits.sums is not None, "limits.sums"),
    ):
        if unbuilt:
            raise _unsupported(f"{name} in rule {rule.id}")
    _check_conditions(rule.when)


ATTRIBUTES = frozenset({
    "agent.id", "job.id", "job.type", "job.environment", "job.client",
    "tool.server", "tool.name", "tool.class", "tool.sensitivity",
    "model.provider", "model.name", "model.operation", "model.max_output_tokens", "data.labels", "time.now",
})  # fmt: skip


def _check_conditions(conditions: list[Condition]) -> None:
    for condition in conditions:
        if condition.op in UNBUILT_OPERATORS:
            raise _unsupported(f"operator {condition.op}")
        if condition.attr not in ATTRIBUTES and not condition.attr.startswith("args."):
            raise _unsupported(f"attribute {condition.attr}")
        _check_value(condition)


def _check_value(condition: Condition) -> None:
    """A value of a shape that its operator can never match is an author's mistake, found before publication."""
    op, value = condition.op, condition.value
    shapes = {
        "in": isinstance(value, list), "not_in": isinstance(value, list), "exists": isinstance(value, bool),
        "between": isinstance(value, list) and len(value) == 2,  # noqa: PLR2004 - a lower and an upper bound
        "prefix": isinstance(value, str), "suffix": isinstance(value, str), "glob": isinstance(value, str),
    }  # fmt: skip
    if not shapes.get(op, not isinstance(value, list)):
        raise Refused("bad-policy", f"operator {op} cannot take this value", field=condition.attr)


def _unsupported(name: str) -> Refused:
    return Refused(
        "unsupported",
        f"{name} is not decided by this version",
        hint="Leave it out; nothing is accepted and then ignored.",
    )
