"""Is a grant's scope inside its policy, and what is the widest scope that is? (specs/grant.md §3)

Asked by `scope` when a job opens and by the verifier in step 4, with one answer.
"""

from collections.abc import Iterable, Iterator, Mapping

from verifier.chain import terms
from verifier.conditions import UNDISCLOSED, any_glob, glob_matches
from verifier.decision import Call, Subject, ToolTarget, possible
from verifier.encoding import canonical
from verifier.grant import LIMITS, Scope
from verifier.manifest import Manifest, Prompt, Resource, Tool
from verifier.policy import Chain, Policy
from verifier.refused import Refused
from verifier.rules import TargetKind

# How many globs and conditions the tools of all grants may be compared with: some seconds.
MAX_ASKED = 1 << 22


def admits(chain: Chain, *, agent: str, job_type: str, environment: str) -> None:
    """Check that every policy is for this agent, type of job and environment. Raises `Refused` not-admitted."""
    for refused in _strangers(chain, agent, job_type, environment):
        raise refused


def _strangers(chain: Chain, agent: str, job_type: str, environment: str) -> Iterator[Refused]:
    for policy in chain:
        jobs = policy.jobs
        for name, globs, value in (
            ("agent", jobs.agents, agent),
            ("type", jobs.types, job_type),
            ("environment", jobs.environments, environment),
        ):
            if not any_glob(globs, value):
                why = f"policy {policy.policy_name} does not admit the {name} {value!r}"
                yield Refused("not-admitted", why, field=f"jobs.{name}s")


def expand(chain: Chain, manifests: Mapping[str, Manifest], subject: Subject) -> tuple[list[str], list[str], list[str]]:
    """Return all that the policy allows: tools (exact names), models (patterns), servers that have no manifest yet."""
    tools = sorted(
        f"{target.kind}:{target.server}/{target.tool}"
        for manifest in manifests.values()
        for target in _offered(manifest, chain)
        if may(chain, subject, target)
    )
    patterns = {
        f"{rule.provider}/{glob}" for policy in chain for rule in policy.model_egress.models for glob in rule.models
    }
    models = sorted(pattern for pattern in patterns if covers(chain, pattern))
    named = {rule.server for rule in chain[0].allowed_tools}
    unavailable = sorted(server for server in named if not any(glob_matches(server, known) for known in manifests))
    return tools, models, unavailable


def _offered(manifest: Manifest, chain: Chain) -> Iterator[ToolTarget]:
    """Give all that a grant may name of a server: of resources the globs that manifest and rules name."""
    for tool in manifest.tools:
        yield tool_target(manifest, tool)
    for prompt in manifest.prompts:
        yield prompt_target(manifest, prompt)
    globs = {each.uri for each in manifest.resources}
    globs |= {glob for policy in chain for rule in policy.allowed_tools for glob in rule.resources}
    for glob in sorted(globs if manifest.resources else ()):
        if (resource := manifest.resource(glob)) is not None:
            yield resource_target(manifest, resource, glob)


def may(chain: Chain, subject: Subject, target: ToolTarget) -> bool:
    """Tell whether some arguments at some time could be allowed or held.

    A glob over resources is asked as the text that it is: what matches that matches all that the glob does.
    """
    call = Call(subject=subject, target=target, token_ttl=0, time=UNDISCLOSED)
    return all(level.allows for level in possible(chain, call).levels)


def covers(chain: Chain, pattern: str) -> bool:
    """Tell whether every policy has a model rule whose glob matches this pattern as text."""
    provider, _, glob = pattern.partition("/")
    return all(
        any(rule.provider == provider and any_glob(rule.models, glob) for rule in policy.model_egress.models)
        for policy in chain
    )


def tool_target(manifest: Manifest, tool: Tool, labels: Iterable[str] = ()) -> ToolTarget:
    """Describe a tool for a decision by its manifest, with what detectors added to its labels."""
    every = tuple(sorted({*tool.data_classes, *labels}))
    kind: TargetKind = "mcp" if manifest.url is not None else "local"
    return ToolTarget(
        manifest.server, tool.name, tool.tool_class, tool.sensitivity, manifest.host, every, tool.approval, kind
    )


def resource_target(manifest: Manifest, resource: Resource, uri: str, labels: Iterable[str] = ()) -> ToolTarget:
    """Describe a resource for a decision: it is read."""
    every = tuple(sorted({*resource.data_classes, *labels}))
    return ToolTarget(
        manifest.server, uri, "read", resource.sensitivity, manifest.host, every, resource.approval, "resource"
    )


def prompt_target(manifest: Manifest, prompt: Prompt, labels: Iterable[str] = ()) -> ToolTarget:
    """Describe a prompt for a decision: it is read."""
    every = tuple(sorted({*prompt.data_classes, *labels}))
    return ToolTarget(
        manifest.server, prompt.name, "read", prompt.sensitivity, manifest.host, every, prompt.approval, "prompt"
    )


def find_target(manifest: Manifest, kind: str, name: str, labels: Iterable[str] = ()) -> ToolTarget | None:
    """Find what a receipt or a grant names: a tool (`mcp`, `local` or just `tool`), a `resource`, a `prompt`."""
    if kind == "resource":
        resource = manifest.resource(name)
        return None if resource is None else resource_target(manifest, resource, name, labels)
    if kind == "prompt":
        prompt = manifest.prompt(name)
        return None if prompt is None else prompt_target(manifest, prompt, labels)
    tool = manifest.tool(name)
    found = None if tool is None else tool_target(manifest, tool, labels)
    return found if found is not None and kind in {"tool", found.kind} else None


def grants(scope: Scope, target: ToolTarget) -> bool:
    """Tell whether a scope names a target; resources by the globs that it names."""
    if target.kind != "resource":
        return f"{target.kind}:{target.server}/{target.tool}" in scope.tools
    prefix = f"resource:{target.server}/"
    return any_glob([tool.removeprefix(prefix) for tool in scope.tools if tool.startswith(prefix)], target.tool)


def subject_of(scope: Scope) -> Subject:
    """Name the caller as a grant does."""
    return Subject(
        scope.agent,
        scope.client,
        scope.job,
        scope.job_type,
        scope.environment,
        act=scope.act,
        depth=scope.depth,
        user=scope.user,
        claims=scope.claims or {},
        gateway=scope.audience,
    )


def within(scope: Scope, chain: Chain, manifests: Mapping[str, Manifest]) -> None:
    """Check that a scope is inside its policy and the policy's ancestors; `manifests` by server are those it pins.

    Raises `Refused`: not-admitted, unknown-server, scope-too-wide.
    """
    for refused in outside(scope, chain, manifests):
        raise refused


class Asked:
    """What was asked of a chain of policies already, and how much more may be: grants, tools and rules multiply."""

    def __init__(self, chain: Chain) -> None:
        """Start with nothing asked."""
        self._chain = chain
        self._cost = max(1, sum(map(_parts, chain)))  # of one question
        self._left = MAX_ASKED
        self._known: dict[tuple[bytes, ToolTarget], bool] = {}

    def may(self, subject: Subject, target: ToolTarget) -> bool:
        """Ask as `may` does, each thing once. Raises `Refused` too-large."""
        key = canonical(subject), target
        if key not in self._known:
            self._left -= self._cost
            if self._left < 0:
                why = "the tools of all grants, times the globs and conditions of all rules, are too many to be asked"
                raise Refused("too-large", why, field="tools")
            self._known[key] = may(self._chain, subject, target)
        return self._known[key]


def _parts(policy: Policy) -> int:
    """Count what a policy may have to compare for one tool."""
    return sum(
        len(rule.tools) + len(rule.resources) + len(rule.prompts) + len(rule.when) + 1
        for rule in (*policy.denied_tools, *policy.allowed_tools)
    )


def outside(
    scope: Scope, chain: Chain, manifests: Mapping[str, Manifest], asked: Asked | None = None
) -> Iterator[Refused]:
    """Give every way in which a scope is not inside its policies; `asked` is shared by the grants of a job."""
    yield from _strangers(chain, scope.agent, scope.job_type, scope.environment)
    budgets = terms(chain).budgets
    try:
        yield from _tools(scope, manifests, asked or Asked(chain))
    except Refused as refused:
        yield refused
    for pattern in scope.models:
        if not covers(chain, pattern):
            yield Refused("scope-too-wide", f"the policy does not allow the models {pattern}", field="models")
    for name in LIMITS:
        most, asked = getattr(budgets, name), getattr(scope.limits, name)
        if most is not None and (asked is None or asked > most):
            yield Refused("scope-too-wide", f"the policy's budget of {name} is {most}", field="limits")


def _tools(scope: Scope, manifests: Mapping[str, Manifest], asked: Asked) -> Iterator[Refused]:
    """Give every tool that the policies never allow. Raises `Refused` too-large."""
    subject = subject_of(scope)
    for name in scope.tools:
        kind, _, rest = name.partition(":")
        server, _, tool_name = rest.partition("/")
        manifest = manifests.get(server)
        if manifest is None:
            yield Refused("unknown-server", f"no approved manifest of server {server!r}", field="tools")
            continue
        target = find_target(manifest, kind, tool_name)
        if target is None or not asked.may(subject, target):
            yield Refused("scope-too-wide", f"the policy does not allow {name}", field="tools")
