"""Step 4: the grants of a job and of those that it was delegated by, held against each other and the policies.

Every relation is judged, whatever the others say (specs/grant.md §§3-4).
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from verifier.admission import Asked, outside
from verifier.delegation import widened
from verifier.documents import Opened
from verifier.grant import BINDINGS, Grant
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.report import Report
from verifier.revocation import Name, named
from verifier.seal import Seal


class Family(Struct, frozen=True):
    """The job's own grants and its ancestors', by digest; `first` opened the job, `opening` is its digest.

    `kids` are the keys that signed each.
    """

    own: dict[str, Grant]
    ancestors: dict[str, Grant]
    first: Grant
    opening: str
    kids: dict[str, frozenset[str]]

    @classmethod
    def of(cls, job: str, opened: Mapping[str, Opened[Grant]]) -> "Family":
        """Sort grants, of which there is at least one.

        A grant of another job that no grant of this one comes from is the job's own as well: nothing goes unjudged.
        """
        grants = {name: each.value for name, each in opened.items()}
        mine = [name for name, each in grants.items() if each.scope.job == job]
        ancestors: dict[str, Grant] = {}
        for name in mine or grants:
            above = grants[name].parent
            while above in grants and above not in mine and above not in ancestors:
                ancestors[above] = grants[above]
                above = grants[above].parent
        own = {name: each for name, each in grants.items() if name not in ancestors}
        kin = mine or own
        first = min(kin, key=lambda name: (grants[name].parent in kin, grants[name].issued_at, name))
        return cls(own, ancestors, grants[first], first, {name: each.kids for name, each in opened.items()})

    def names(self, policies: Iterable[str]) -> set[Name]:
        """Name all that ends one of the grants, under a chain of policies."""
        every = {**self.ancestors, **self.own}
        return {name for digest, each in every.items() for name in named(each.scope, self.kids[digest], policies)}


def check_family(family: Family, chain: Mapping[str, Policy], job: str, report: Report) -> None:
    """One job, one policy, one issuer, one gateway, one purse; every grant inside the one that it was narrowed from."""
    first, known = family.first, family.own | family.ancestors
    for name, grant in family.own.items():
        scope, parent = grant.scope, grant.parent
        opening = (scope.iss, scope.audience, scope.limits, grant.opened)
        for code, wrong, why in (
            ("wrong-job", scope.job != job, f"is of job {scope.job}"),
            ("wrong-policy", scope.policy != first.scope.policy, "is pinned to another policy: a job has one for life"),
            (
                "wrong-grant",
                opening != (first.scope.iss, first.scope.audience, first.scope.limits, first.opened),
                "has another issuer, gateway, purse or opening than the job's first",
            ),
            (
                "wrong-delegation",
                grant is not first and (parent is None or parent in family.ancestors),
                "is a second beginning of the job: it was narrowed from none of its grants",
            ),
        ):
            if wrong:
                report.add(code, 4, f"grant {name} {why}", place="grant")
    for name, grant in known.items():
        parent_grant = known.get(grant.parent or "")
        if parent_grant is not None:
            for field, why in (*widened(grant, parent_grant), *_above(grant, parent_grant, chain)):
                report.add("wrong-delegation", 4, f"grant {name} {why}", place=field)
        elif grant.parent is not None:
            why = f"grant {name} was narrowed from one that is not in the bundle, or cannot be used"
            report.add("missing-document", 4, why, place="parent")


def _above(grant: Grant, parent: Grant, chain: Mapping[str, Policy]) -> Iterator[tuple[str, str]]:
    """A child job's policy is its parent's, or stands under it: what the parent may not do, no child may."""
    names = list(chain)
    whole = bool(names) and chain[names[-1]].parent is None
    if whole and grant.scope.job != parent.scope.job and grant.scope.policy in chain:
        above = names[names.index(grant.scope.policy) :]
        if parent.scope.policy not in above:
            yield "policy", "is pinned to a policy that does not stand under its parent's"


def check_scopes(
    family: Family,
    policies: tuple[Policy, ...],
    manifests: Mapping[str, Manifest],
    seal: Seal | None,
    report: Report,
) -> None:
    """Every scope inside the policies, every manifest the one of its server, no grant longer, deeper or looser."""
    ends = min(policy.valid_until for policy in policies)
    deepest = min(policy.token_constraints.max_delegation_depth for policy in policies)
    binding = max((policy.token_constraints.binding for policy in policies), key=BINDINGS.index)
    asked = Asked(policies)
    for grant in family.own.values():
        scope = grant.scope
        pinned = {server: manifests[name] for server, name in scope.manifests.items() if name in manifests}
        for server, manifest in pinned.items():
            if manifest.server != server:
                why = f"the manifest pinned for {server} is of {manifest.server}"
                report.add("wrong-manifest", 4, why, place="manifests")
        looser = BINDINGS.index(scope.binding) < BINDINGS.index(binding)
        for code, wrong, field, why in (
            ("wrong-grant", grant.expires > ends, "expires", "the grant outlives its policy"),
            ("wrong-delegation", scope.depth > deepest, "depth", f"depth {scope.depth}, the policy allows {deepest}"),
            ("wrong-binding", looser, "binding", f"bound by {scope.binding}, the policy asks for {binding}"),
        ):
            if wrong:
                report.add(code, 4, why, place=field)
        for refused in outside(scope, policies, pinned, asked):
            report.refuse(refused, 4)
    if seal is not None and seal.children and family.first.scope.depth >= deepest:
        why = f"the job delegated at depth {family.first.scope.depth}, the policy allows {deepest}"
        report.add("wrong-delegation", 5, why, place="children")
