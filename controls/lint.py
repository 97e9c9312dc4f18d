"""What is allowed and yet suspicious in a policy: each finding has a name, a place and what to do about it."""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from verifier.conditions import any_glob, glob_matches
from verifier.policy import DAY, Policy
from verifier.rules import KINDS, ModelRule, ToolRule

# Tools that run whatever they are told: by name, as servers call them.
EXECUTORS = (
    "shell", "bash", "sh", "exec", "execute", "eval", "python", "node", "run", "run_command", "run_code", "run_shell",
    "terminal", "http_request", "fetch_url", "file_write", "write_file", "sql", "query",
)  # fmt: skip
MAX_TTL = 900
MAX_VALIDITY = 366 * DAY


class Found(Struct, frozen=True):
    """One finding: its name, how grave, the field, a sentence, and what to do."""

    name: str
    severity: Literal["error", "warning"]
    field: str
    says: str
    hint: str


def lint(policy: Policy) -> list[Found]:
    """List what is suspicious, in the order of the policy's fields."""
    return [*_allowed(policy), *_shadowed(policy), *_unreachable(policy), *_denied(policy), *_whole(policy)]


def _allowed(policy: Policy) -> Iterator[Found]:
    for place, rule in enumerate(policy.allowed_tools):
        field = f"allowed_tools[{place}]"
        for tool in (name for name in EXECUTORS if any_glob(rule.tools, name)):
            if not _refuses(policy, rule, tool):
                why = f"rule {rule.id} allows {tool!r}: a tool that runs whatever it is told"
                yield Found("generic-executor", "error", f"{field}.tools", why, "Name the tools, or deny this one.")
                break
        if "*" in rule.server:
            why = f"rule {rule.id} is about server {rule.server!r}: also of servers that are registered later"
            yield Found("wildcard-server", "warning", f"{field}.server", why, "Name each server in a rule of its own.")
        if "*" in rule.tools and len(rule.classes) > 1:
            why = f"rule {rule.id} allows every tool: also what the next manifest adds"
            yield Found("wildcard-tools", "warning", f"{field}.tools", why, "Name the tools, or one class of them.")
        if rule.approval != "none" and not policy.approvals.approvers and rule.approval == "human":
            why = f"rule {rule.id} asks for a person, and nobody is named in approvals.approvers"
            yield Found("nobody-approves", "error", f"{field}.approval", why, "Name approvers and a quorum.")


def _refuses(policy: Policy, rule: ToolRule, tool: str) -> bool:
    """Tell whether an unconditional deny rule covers this tool of a rule, in every class that the rule allows."""
    covered: set[str] = set()
    for each in policy.denied_tools:
        if not each.when and any_glob(each.tools, tool) and _covers([each.server], [rule.server]):
            covered |= set(each.classes)
    return set(rule.classes) <= covered


def _shadowed(policy: Policy) -> Iterator[Found]:
    """Rules behind one that always decides first."""
    for field, rules in (("allowed_tools", policy.allowed_tools), ("denied_tools", policy.denied_tools)):
        for place, rule in enumerate(rules):
            for other in rules[:place]:
                if not other.when and _about_all(other, rule):
                    why = f"rule {rule.id} never decides: {other.id} before it matches all of its calls"
                    yield Found("shadowed-rule", "warning", f"{field}[{place}]", why, "Drop it, or put it first.")
                    break
    models = policy.model_egress.models
    for place, model in enumerate(models):
        if any(_same_models(other, model) for other in models[:place]):
            why = f"rule {model.id} never decides: one before it matches all of its calls"
            yield Found("shadowed-rule", "warning", f"model_egress.models[{place}]", why, "Drop it, or put it first.")


def _unreachable(policy: Policy) -> Iterator[Found]:
    for place, rule in enumerate(policy.allowed_tools):
        if any(not each.when and _about_all(each, rule) for each in policy.denied_tools):
            why = f"rule {rule.id} never allows anything: a deny rule matches all of its calls"
            yield Found("unreachable-rule", "warning", f"allowed_tools[{place}]", why, "Drop one of the two.")


def _denied(policy: Policy) -> Iterator[Found]:
    for place, rule in enumerate(policy.denied_tools):
        if not (rule.tools or rule.resources or rule.prompts or rule.server_requests) or not rule.classes:
            why = f"rule {rule.id} names nothing, or no class: it denies nothing"
            yield Found("empty-rule", "warning", f"denied_tools[{place}]", why, "Name what it denies, or drop it.")


def _whole(policy: Policy) -> Iterator[Found]:
    budgets, ttl = policy.budgets, policy.token_constraints.cst_max_ttl_seconds
    if (budgets.calls, budgets.tokens, budgets.cost_nano_usd) == (None, None, None):
        why = "a job may make as many calls as it likes"
        yield Found("no-budget", "warning", "budgets", why, "Set budgets.calls, or budgets.tokens.")
    depth, counted = policy.token_constraints.max_delegation_depth, _counted_in_one_lane(policy)
    if depth and counted:
        why = f"{counted} counts in the root job alone: in the jobs that it delegates such calls are refused"
        hint = "Limit budgets.calls or budgets.tokens, which are divided, or set max_delegation_depth to 0."
        yield Found("undivided-limit", "warning", "token_constraints.max_delegation_depth", why, hint)
    if ttl > MAX_TTL:
        why = f"a token may live {ttl} seconds; one that leaks is good for as long"
        field = "token_constraints.cst_max_ttl_seconds"
        yield Found("long-token", "warning", field, why, f"{MAX_TTL} at most.")
    if policy.valid_until - policy.valid_from > MAX_VALIDITY:
        yield Found("long-validity", "warning", "valid_until", "good for more than a year", "Renew it each quarter.")
    if not policy.tests:
        why = "the policy makes no claim about itself"
        yield Found("no-tests", "warning", "tests", why, "Write one that must be allowed and one that must be denied.")


def _counted_in_one_lane(policy: Policy) -> str:
    """Name a limit that no purse divides (specs/policy.md §2); nothing where there is none."""
    if policy.budgets.per_tool:
        return "budgets.per_tool"
    limits = ((rule.id, rule.limits) for rule in policy.allowed_tools if rule.limits is not None)
    found = (name for name, each in limits if each.calls_per_job is not None or each.sums)
    return next((f"a limit of rule {name}" for name in found), "")


def _about_all(wide: ToolRule, rule: ToolRule) -> bool:
    """Tell whether a rule is about every tool that another one is about."""
    return (
        wide.kind == rule.kind
        and set(rule.classes) <= set(wide.classes)
        and _covers([wide.server], [rule.server])
        and bool(rule.tools or rule.resources or rule.prompts)
        and all(_covers(wide.names(kind), rule.names(kind)) for kind in KINDS)
    )


def _same_models(wide: ModelRule, rule: ModelRule) -> bool:
    doors = wide.remote_content and wide.provider_state and "*" in wide.hosted_tools and wide.max_output_tokens is None
    closed = not (rule.remote_content or rule.provider_state or rule.hosted_tools)
    return (
        wide.provider == rule.provider
        and not wide.when
        and (doors or (closed and wide.max_output_tokens is None))
        and _covers(wide.models, rule.models)
        and _covers(wide.operations, rule.operations)
    )


def _covers(wide: list[str], globs: list[str]) -> bool:
    """Tell whether each glob, taken as a text, is matched by one of the wide ones: then all that it matches is."""
    return all(any(glob_matches(each, glob) for each in wide) for glob in globs)
