"""Steps 8 and 9 for one call: its token's grant, its target rebuilt, the policy asked again (specs/verification.md §9).

Facts are rebuilt, never believed: who from the grant, what from the manifest, when from the receipt. Arguments of which
only a commitment is kept may have been anything: a recorded decision stands when some value could have led to it.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from verifier.admission import find_target, grants, subject_of
from verifier.conditions import UNDISCLOSED, Partial, Undisclosed, any_glob
from verifier.decision import Allowed, Call, Held, ModelTarget, Possible, ToolTarget, reads
from verifier.fold import Fold
from verifier.grant import Grant
from verifier.leaf import Begin, Deny, Hold, Target
from verifier.manifest import Manifest
from verifier.narrowed import Narrowed
from verifier.policy import Chain
from verifier.refused import Refused
from verifier.tokens import SECOND, TokenUse

# Of what was decided before, so many calls are remembered, and of all of them together so many possible answers.
MAX_MEMO, MAX_ANSWERS = 4096, 1 << 16
Arguments = Mapping[str, Any] | Partial | Undisclosed


class Judged(Struct, frozen=True):
    """What the policy can say of one call: `full` when only one thing, `lasting` when it is known for calls like it.

    `tool` is None for a model.
    """

    possible: Possible
    full: bool
    lasting: bool
    tool: str | None
    labels: tuple[str, ...]

    def by(self, rules: tuple[str, ...]) -> Allowed | Held | None:
        """Say what one rule of each level comes to; None when these cannot be the rules that allow."""
        levels = self.possible.levels
        known = len(rules) == len(levels) and all(
            rule in level.allows for rule, level in zip(rules, levels, strict=True)
        )
        return self.possible.decision(rules) if known else None


class Replay:
    """The policy of one job, asked again for each call, or for the first of those that nothing tells apart."""

    def __init__(self, chain: Chain, manifests: dict[str, Manifest], fold: Fold, narrowed: Narrowed) -> None:
        """Take the pinned policy with its ancestors, the manifests by digest, and what the lane has added up to.

        `narrowed` is the chain as the lanes of a bundle ask it together.
        """
        self._narrowed = narrowed
        self._manifests = manifests
        self._fold = fold
        self._fixed = not reads(chain, "time", "age", "recent", "gateway")
        self._memo: dict[tuple[Any, ...], Judged] = {}
        self._answers = 0

    def judge(self, leaf: Begin | Deny | Hold, token: TokenUse, arguments: Arguments = UNDISCLOSED) -> Judged | None:
        """Decide a recorded call again; None when too much had been asked before.

        Raises `Refused`: wrong-target, wrong-manifest, wrong-facts, too-large.
        """
        labels: tuple[str, ...] = leaf.facts.labels if leaf.facts else ()
        target = leaf.target or Target()
        lasting = self._fixed and arguments is UNDISCLOSED
        key = (
            leaf.kind == "deny",
            token.grant_digest,
            token.exp - token.iat,
            target,
            leaf.manifest,
            labels,
            _observed(leaf),
        )
        judged = self._memo.get(key) if lasting else None
        if judged is None:
            rebuilt = self._rebuild(leaf, target, token.grant, labels)
            call = self._call(rebuilt, token, leaf, arguments)
            found = self._narrowed.possible(call, token.grant_digest if lasting else None)
            if found is None:
                return None
            tool = rebuilt.tool if isinstance(rebuilt, ToolTarget) and rebuilt.kind in {"mcp", "local"} else None
            size = sum(len(level.allows) + len(level.denies) for level in found.levels)
            kept = lasting and len(self._memo) < MAX_MEMO and self._answers + size <= MAX_ANSWERS
            judged = Judged(found, found.full, kept, tool, labels)
            if kept:
                self._memo[key] = judged
                self._answers += size
        return judged

    def _call(
        self, rebuilt: ToolTarget | ModelTarget, token: TokenUse, leaf: Begin | Deny | Hold, arguments: Arguments
    ) -> Call:
        recent = self._fold.recent
        return Call(
            subject=subject_of(token.grant.scope),
            target=rebuilt,
            token_ttl=(token.exp - token.iat) // SECOND,
            time=leaf.time,
            arguments=arguments,
            recent=UNDISCLOSED if recent is None else recent.at(leaf.time, leaf.target or Target()),
            staleness=leaf.staleness,
        )

    def _rebuild(
        self, leaf: Begin | Deny | Hold, target: Target, grant: Grant, labels: tuple[str, ...]
    ) -> ToolTarget | ModelTarget:
        """Rebuild a target from grant and manifest; an allowed one must lie inside the grant."""
        if list(labels) != sorted(set(labels)):
            raise Refused("wrong-facts", "labels are sorted, none twice", field="facts")
        if target.provider and target.model and target.operation and not (target.server or target.named):
            named = f"{target.provider}/{target.model}"
            if leaf.kind != "deny" and not any_glob(grant.scope.models, named):
                raise Refused("wrong-target", "the grant does not name this model", field="target")
            if leaf.manifest is not None:
                raise Refused("wrong-manifest", "a model has no manifest", field="manifest")
            return ModelTarget(target.provider, target.model, target.operation, tuple(labels))
        given = [each for each in (target.tool, target.resource, target.prompt) if each]
        if not target.server or len(given) != 1 or target.provider or target.model or target.operation:
            why = "a target is a server and its tool, resource or prompt, or provider, model and operation"
            raise Refused("wrong-target", why, field="target")
        return self._tool(leaf, target, target.server, grant, labels)

    def _tool(
        self, leaf: Begin | Deny | Hold, target: Target, server: str, grant: Grant, labels: tuple[str, ...]
    ) -> ToolTarget:
        pinned = grant.scope.manifests.get(server)
        manifest = self._manifests.get(pinned or "")
        if pinned is None or pinned != leaf.manifest or manifest is None:
            raise Refused("wrong-manifest", "not the manifest that the grant pins for this server", field="manifest")
        assert target.named is not None, "the caller has looked"
        found = find_target(manifest, *target.named)
        if found is None or (leaf.kind != "deny" and not grants(grant.scope, found)):
            raise Refused("wrong-target", "manifest or grant does not name this tool", field="target")
        if not set(found.labels) <= set(labels):
            raise Refused("wrong-facts", "the labels lack what the manifest says of the tool", field="facts")
        if isinstance(leaf, Begin) and (leaf.observed == "runtime") != (found.kind == "local"):
            why = "what the runtime runs itself is observed by the runtime, and nothing else is"
            raise Refused("wrong-facts", why, field="observed")
        return replace(found, labels=labels)


def _observed(leaf: Begin | Deny | Hold) -> str | None:
    return leaf.observed if isinstance(leaf, Begin) else None
