"""The rules of a policy: what they name, what they ask, and which of them nobody could ever judge (specs/policy.md §2).

A condition that its operator or its attribute can never meet is an author's mistake: found before publication, by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from verifier import grammar
from verifier.encoding import MAX_INT, Count, Glob, Name, SafeText
from verifier.refused import Refused

# What a call of a server is aimed at: a tool of it, a tool that the runtime runs itself, a resource, a prompt.
TargetKind = Literal["mcp", "local", "resource", "prompt"]
KINDS: tuple[TargetKind, ...] = ("mcp", "local", "resource", "prompt")
ToolClass = Literal["read", "write", "destructive", "external"]
Tier = Literal["none", "confirm", "human"]
TIERS: tuple[Tier, ...] = ("none", "confirm", "human")
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


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Optional means absent; a published policy has no other defaults."""


class Condition(Document, frozen=True, kw_only=True):
    """One test of one attribute; `offset` from UTC for the hour, the minute of the day and the day of the week."""

    attr: Annotated[str, Meta(pattern=r"^[a-z]+(\.[A-Za-z0-9_-]{1,64}){1,8}\Z")]
    op: Operator
    value: Scalar | Annotated[list[Scalar], Meta(max_length=256)]
    offset: Annotated[str, Meta(pattern=r"^[+-][0-9]{2}:[0-5][0-9]\Z")] | None = None


class Limits(Document, frozen=True, kw_only=True):
    """How often one rule may allow a call, within a lane's share."""

    calls_per_job: Count | None = None
    calls_per_minute: Count | None = None
    sums: dict[SafeText, SafeText] | None = None


class ToolRule(Document, frozen=True, kw_only=True):
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

    def names(self, kind: TargetKind) -> list[str]:
        """Give the globs over names of one kind of target: none when the rule is not about that kind."""
        if kind in {"mcp", "local"}:
            return self.tools if self.kind == kind else []
        return self.resources if kind == "resource" else self.prompts


class ModelRule(Document, frozen=True, kw_only=True):
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


# What an attribute holds, and so which values it can be compared with.
Holds = Literal["text", "number", "flag", "labels", "any"]
ATTRIBUTES: dict[str, Holds] = {
    "agent.id": "text", "agent.act": "text",
    "job.id": "text", "job.type": "text", "job.environment": "text", "job.client": "text", "job.depth": "number",
    "user.id": "text",
    "tool.server": "text", "tool.name": "text", "tool.class": "text", "tool.sensitivity": "text",
    "model.provider": "text", "model.name": "text", "model.operation": "text", "model.max_output_tokens": "number",
    "data.labels": "labels",
    "time.now": "number", "time.hour": "number", "time.minute_of_day": "number", "time.weekday": "number",
    "recent.calls": "number", "recent.denials": "number", "recent.first_use": "flag",
    "gateway.url": "text", "gateway.staleness": "number",
}  # fmt: skip
FAMILIES: dict[str, Holds] = {"args": "any", "user": "any", "age": "number"}
# Of a place on earth: they need an offset. Monday is 1 and Sunday 7 (ISO 8601).
LOCAL = {"time.hour": (0, 23), "time.minute_of_day": (0, 1439), "time.weekday": (1, 7)}
_ORDER = ("lt", "le", "gt", "ge", "between")
_TEXT = ("prefix", "suffix", "glob", "host_in", "email_domain_in", "subpath_of", "cidr_in")
_NEVER: dict[Holds, tuple[str, ...]] = {
    "text": _ORDER, "number": _TEXT, "flag": (*_ORDER, *_TEXT, "in", "not_in"),
    "labels": (*_ORDER, *_TEXT, "eq", "ne"), "any": (),
}  # fmt: skip


def holds_what(attr: str) -> Holds | None:
    """Say what an attribute holds, or None when there is no such attribute."""
    return ATTRIBUTES.get(attr) or FAMILIES.get(attr.partition(".")[0])


def check_conditions(conditions: list[Condition]) -> None:
    """Refuse a condition that nobody can judge: `unsupported` an attribute, `bad-policy` a value or an offset."""
    for condition in conditions:
        attr, op = condition.attr, condition.op
        held = holds_what(attr)
        if held is None:
            raise unsupported(f"attribute {attr}")
        if (attr in LOCAL) != (condition.offset is not None):
            raise Refused("bad-policy", "an offset belongs to the hour, minute of day and weekday alone", field=attr)
        if condition.offset is not None and grammar.offset_minutes(condition.offset) is None:
            raise Refused("bad-policy", f"{condition.offset} is no offset from UTC", field=attr)
        if op in _NEVER[held] or not _SHAPES[op](condition.value, held) or not _in_range(condition):
            raise Refused("bad-policy", f"operator {op} cannot take this value", field=attr)


def _in_range(condition: Condition) -> bool:
    """Tell whether every number of the value is one that the attribute can have."""
    if condition.attr not in LOCAL or condition.op == "exists":
        return True
    low, high = LOCAL[condition.attr]
    values = condition.value if isinstance(condition.value, list) else [condition.value]
    return all((exact := grammar.number(each)) is not None and low <= exact <= high for each in values)


def _scalar(value: Any, held: Holds) -> bool:
    """Tell whether a value can equal what the attribute holds."""
    if held == "any":
        return not isinstance(value, list)
    if held == "flag":
        return isinstance(value, bool)
    return _number(value, held) if held == "number" else isinstance(value, str)


def _number(value: Any, _: Holds) -> bool:
    return grammar.number(value) is not None


def _between(value: Any, _: Holds) -> bool:
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004 - a lower and an upper bound
        return False
    low, high = map(grammar.number, value)
    return low is not None and high is not None and low <= high


def _each(reads: Callable[[str], object]) -> Callable[[Any, Holds], bool]:
    """Make the check of a list that has one thing in it at least."""
    return lambda value, _: (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, str) and reads(each) is not None for each in value)
    )


def _is_text(value: Any, _: Holds) -> bool:
    return isinstance(value, str)


def _members(value: Any, held: Holds) -> bool:
    return isinstance(value, list) and bool(value) and all(_scalar(each, held) for each in value)


_SHAPES: dict[str, Callable[[Any, Holds], bool]] = {
    "eq": _scalar, "ne": _scalar, "in": _members, "not_in": _members,
    "lt": _number, "le": _number, "gt": _number, "ge": _number, "between": _between,
    "prefix": _is_text, "suffix": _is_text, "glob": _is_text,
    "exists": lambda value, _: isinstance(value, bool),
    "host_in": _each(grammar.host_port_pattern), "email_domain_in": _each(grammar.host_pattern),
    "subpath_of": lambda value, _: isinstance(value, str) and grammar.path_parts(value) is not None,
    "cidr_in": _each(grammar.network),
}  # fmt: skip


def unsupported(name: str) -> Refused:
    """Refuse by name what this version cannot judge, or cannot do."""
    return Refused(
        "unsupported",
        f"{name} is not decided by this version",
        hint="Leave it out; nothing is accepted and then ignored.",
    )
