"""Steps 8 and 9 for one call: its token's grant, its target rebuilt, the policy asked again (specs/verification.md §9).

Facts are rebuilt, never believed: who from the grant, what from the manifest, when from the receipt. Arguments of which
only a commitment is kept may have been anything: a recorded decision stands when some value could have led to it.
"""

from typing import Any

from msgspec import Struct

from verifier.admission import subject_of, tool_target
from verifier.conditions import UNDISCLOSED, any_glob
from verifier.decision import Call, ModelTarget, Possible, ToolTarget, possible, reads
from verifier.fold import Fold
from verifier.grant import Grant
from verifier.leaf import Begin, Deny, Target
from verifier.manifest import Manifest
from verifier.policy import Chain
from verifier.refused import Refused

SECOND = 1_000_000
MAX_MEMO = 4096


class TokenUse(Struct, frozen=True):
    """A token as a lane may use it, times in microseconds."""

    grant: Grant
    grant_digest: str
    iat: int
    exp: int


class Judged(Struct, frozen=True):
    """What the policy can say of one target; `full` when only one thing."""

    possible: Possible
    full: bool
    tool: str | None


class Replay:
    """The policy of one job, asked again for each call."""

    def __init__(self, chain: Chain, manifests: dict[str, Manifest], fold: Fold) -> None:
        """Take the pinned policy with its ancestors, the manifests by digest, and what the lane has added up to."""
        self._chain = chain
        self._manifests = manifests
        self._fold = fold
        self._timeless = not reads(chain, "time", "age", "recent", "gateway")
        self._memo: dict[tuple[Any, ...], Judged] = {}  # what cannot depend on the time of a call

    def judge(self, leaf: Begin | Deny, token: TokenUse) -> Judged:
        """Decide a recorded call again. Raises `Refused`: wrong-target, wrong-manifest, wrong-facts."""
        target = leaf.target or Target()
        labels = leaf.facts.labels if leaf.facts else []
        allowed = leaf.kind == "begin"
        key = (
            allowed, token.grant_digest, token.exp - token.iat, target.server, target.tool,
            target.provider, target.model, target.operation, leaf.manifest, *labels,
        )  # fmt: skip
        judged = self._memo.get(key)
        if judged is None:
            rebuilt = self._rebuild(leaf, target, token.grant, labels)
            judged = self._ask(rebuilt, token, leaf, target)
            if self._timeless and len(self._memo) < MAX_MEMO:
                self._memo[key] = judged
        return judged

    def _ask(self, rebuilt: ToolTarget | ModelTarget, token: TokenUse, leaf: Begin | Deny, target: Target) -> Judged:
        recent = self._fold.recent
        call = Call(
            subject=subject_of(token.grant.scope),
            target=rebuilt,
            token_ttl=(token.exp - token.iat) // SECOND,
            time=leaf.time,
            recent=UNDISCLOSED if recent is None else recent.at(leaf.time, target),
            staleness=leaf.staleness,
        )
        found = possible(self._chain, call)
        return Judged(found, found.full, rebuilt.tool if isinstance(rebuilt, ToolTarget) else None)

    def _rebuild(self, leaf: Begin | Deny, target: Target, grant: Grant, labels: list[str]) -> ToolTarget | ModelTarget:
        """Rebuild a target from grant and manifest; an allowed one must lie inside the grant."""
        if labels != sorted(set(labels)):
            raise Refused("wrong-facts", "labels are sorted, none twice", field="facts")
        if target.provider and target.model and target.operation and not (target.server or target.tool):
            named = f"{target.provider}/{target.model}"
            if leaf.kind == "begin" and not any_glob(grant.scope.models, named):
                raise Refused("wrong-target", "the grant does not name this model", field="target")
            if leaf.manifest is not None:
                raise Refused("wrong-manifest", "a model has no manifest", field="manifest")
            return ModelTarget(target.provider, target.model, target.operation, tuple(labels))
        if not target.server or not target.tool or target.provider or target.model or target.operation:
            raise Refused(
                "wrong-target", "a target is server and tool, or provider, model and operation", field="target"
            )
        return self._tool(leaf, target.server, target.tool, grant, labels)

    def _tool(self, leaf: Begin | Deny, server: str, name: str, grant: Grant, labels: list[str]) -> ToolTarget:
        pinned = grant.scope.manifests.get(server)
        manifest = self._manifests.get(pinned or "")
        if pinned is None or pinned != leaf.manifest or manifest is None:
            raise Refused("wrong-manifest", "not the manifest that the grant pins for this server", field="manifest")
        tool = manifest.tool(name)
        if tool is None or (leaf.kind == "begin" and f"mcp:{server}/{name}" not in grant.scope.tools):
            raise Refused("wrong-target", "manifest or grant does not name this tool", field="target")
        if not set(tool.data_classes) <= set(labels):
            raise Refused("wrong-facts", "the labels lack what the manifest says of the tool", field="facts")
        return tool_target(manifest, tool, labels)
