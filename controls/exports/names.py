"""A policy as far as names go: for runtimes whose rules know a tool by server and name and nothing else of a call.

A rule whose answer hangs on anything else (conditions, classes) is *asked*: neither free nor barred. Of a policy and
its ancestors a tool is free when every level frees it. Two globs have in common what one of them covers; where each
covers a part of the other nothing is kept: less than the policy allows, never more.
"""

from collections.abc import Iterable, Iterator
from itertools import product

from msgspec import Struct

from controls.exports.unexpressed import Unexpressed, too_large
from verifier.conditions import glob_matches
from verifier.policy import Chain, Policy, rule_name
from verifier.rules import ToolRule

MAX_NAMES = 4096  # of tools, in all rules of all levels
MAX_COMPARED = 1 << 17  # globs held against names, each time: a fifth of a second
CLASSES = 4
Pair = tuple[str, str]  # server and tool, both globs
Lost = tuple[Pair, Pair]


class Named(Struct, frozen=True):
    """Tools by name: called freely, perhaps, with a person's word; denied always, or perhaps."""

    free: list[Pair]
    asked: list[Pair]
    held: list[Pair]
    barred: list[Pair]
    doubtful: list[Pair]
    lost: Lost | None


def by_name(chain: Chain) -> Named:
    """Sort out which tools a policy and its ancestors name, and how. Raises `Refused` export-too-large."""
    allowing = [rule for policy in chain for rule in policy.allowed_tools]
    denying = [rule for policy in chain for rule in policy.denied_tools]
    if sum(len(rule.tools) for rule in (*allowing, *denying)) > MAX_NAMES:
        raise too_large(f"the policy names more than {MAX_NAMES} tools")
    free, _ = _in_common([_pairs(_freeing(policy)) for policy in chain])
    known, lost = _in_common([_pairs(policy.allowed_tools) for policy in chain])
    covering = _Cover(free)
    return Named(
        free=free,
        asked=[pair for pair in known if not covering.covers(pair)],
        held=_pairs(rule for rule in allowing if rule.approval != "none"),
        barred=_pairs(rule for rule in denying if unconditional(rule)),
        doubtful=_pairs(rule for rule in denying if not unconditional(rule)),
        lost=lost,
    )


def unconditional(rule: ToolRule) -> bool:
    """Tell whether server and name are all that a rule asks for."""
    return not rule.when and len(set(rule.classes)) == CLASSES


def hanging(chain: Chain) -> Iterator[tuple[str, ToolRule, str]]:
    """Give the rules whose answer hangs on more than names, each with its place and what it hangs on, in words."""
    for level, policy in enumerate(chain):
        for rule in filter(_of_servers, (*policy.allowed_tools, *policy.denied_tools)):
            asks = [f"{each.attr} {each.op}" for each in rule.when]
            asks += [] if len(set(rule.classes)) == CLASSES else [f"the tool's class ({', '.join(rule.classes)})"]
            asks += [] if rule.approval == "none" else [f"a person's word ({rule.approval})"]
            if asks:
                yield rule_name(level, rule.id), rule, ", ".join(asks)


def beside_names(chain: Chain, named: Named) -> Iterator[Unexpressed]:
    """List what is left out because of its name, or decided by the gateway alone of a call that names let through."""
    if named.lost is not None:
        one, other = ("/".join(pair) for pair in named.lost)
        why = f"globs of the policy and of an ancestor each cover a part of the other ({one}, {other}): nothing of that"
        yield Unexpressed("allowed_tools", why + " part is offered", "narrower")
    for level, policy in enumerate(chain):
        for place, is_set, why in _beside(policy):
            if is_set:
                yield Unexpressed(rule_name(level, place), why, "gateway")
        for rule in (*policy.allowed_tools, *policy.denied_tools):
            if rule.names("local") or rule.resources:
                why = "tools of the runtime's own and resources are not offered"
                yield Unexpressed(rule_name(level, rule.id), why, "narrower")
            if rule.prompts:
                yield Unexpressed(rule_name(level, rule.id), "prompts are decided by the gateway", "gateway")


def _of_servers(rule: ToolRule) -> bool:
    return bool(rule.names("mcp"))


def _beside(policy: Policy) -> tuple[tuple[str, bool, str], ...]:
    jobs, classes = policy.jobs, policy.data_classes
    anybody = all("*" in globs for globs in (jobs.agents, jobs.types, jobs.environments))
    return (
        ("jobs", not anybody, "who may use the policy is judged when a job opens"),
        ("data_classes", bool(classes.deny) or "*" not in classes.allow, "labels of a call are known to the gateway"),
        ("model_egress.models", True, "models are called through the gateway, by its own rules"),
        ("egress.hosts", "*" not in policy.egress.hosts, "only the gateway reaches upstream hosts"),
    )


def _freeing(policy: Policy) -> Iterable[ToolRule]:
    return (rule for rule in policy.allowed_tools if unconditional(rule) and rule.approval == "none")


def _pairs(rules: Iterable[ToolRule]) -> list[Pair]:
    found = {(rule.server, tool): None for rule in rules for tool in rule.names("mcp")}
    return list(found)


def _in_common(levels: list[list[Pair]]) -> tuple[list[Pair], Lost | None]:
    """Keep what every level names; and tell of two pairs whose common part no single glob says, if there are such."""
    found, *others = levels
    lost = None
    for other in others:
        if len(found) * len(other) > MAX_COMPARED:
            raise too_large("the policy and its ancestors name too many tools to be held against each other")
        kept: dict[Pair, None] = {}
        for one, each in product(found, other):
            met = _met(one, each)
            if met is not None:
                kept[met] = None
            elif lost is None and all(map(_may_overlap, one, each)):
                lost = one, each
        found = list(kept)
    return found, lost


def _may_overlap(one: str, other: str) -> bool:
    return _narrower(one, other) is not None or ("*" in one and "*" in other)


def _met(one: Pair, other: Pair) -> Pair | None:
    """Find what two pairs have in common, part by part: the glob that the other one covers."""
    server, tool = map(_narrower, one, other)
    return None if server is None or tool is None else (server, tool)


def _narrower(one: str, other: str) -> str | None:
    """A glob that matches another one as text matches all that the other matches."""
    if glob_matches(other, one):
        return one
    return other if glob_matches(one, other) else None


class _Cover:
    """Pairs of globs, asked whether one of them matches all that another pair matches."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._exact = set(pairs)
        self._globs = [pair for pair in pairs if "*" in pair[0] or "*" in pair[1]]
        self._left = MAX_COMPARED

    def covers(self, pair: Pair) -> bool:
        """Ask. Raises `Refused` export-too-large."""
        if pair in self._exact:
            return True
        self._left -= len(self._globs)
        if self._left < 0:
            raise too_large("the policy names too many tools by too many globs")
        server, tool = pair
        return any(glob_matches(each[0], server) and glob_matches(each[1], tool) for each in self._globs)
