"""Delegation: is a grant inside the one that it was narrowed from? (specs/grant.md §4)

A child is never wider, longer or deeper than its parent, and speaks for the same user before the same gateway.
"""

from collections.abc import Iterator, Sequence

from verifier.conditions import any_glob
from verifier.grant import BINDINGS, DIVIDED, LIMITS, Budget, Grant
from verifier.seal import Child

# Of one job these are compared with its first grant, and found under codes of their own.
OF_THE_JOB = frozenset({"audience", "iss", "limits"})


def widened(grant: Grant, parent: Grant) -> Iterator[tuple[str, str]]:
    """Give every field in which a grant goes beyond its parent, with the reason in words."""
    scope, outer = grant.scope, parent.scope
    same_job = scope.job == outer.job
    acts = outer.agent if scope.agent != outer.agent else None
    for field, holds, why in (
        ("tools", set(scope.tools) <= set(outer.tools), "names tools that its parent does not"),
        ("models", all(any_glob(outer.models, each) for each in scope.models), "names models that its parent does not"),
        ("manifests", scope.manifests.items() <= outer.manifests.items(), "pins other manifests than its parent"),
        ("limits", not list(beyond(outer.limits, scope.limits)), "has a larger purse than its parent"),
        ("expires", grant.expires <= parent.expires, "outlives its parent"),
        ("issued_at", grant.issued_at >= parent.issued_at, "was issued before its parent"),
        ("opened", same_job or grant.opened >= parent.issued_at, "opens a job before its parent was granted"),
        ("iss", scope.iss == outer.iss, "is by another issuer than its parent"),
        ("audience", scope.audience == outer.audience, "is for another gateway than its parent"),
        ("user", (scope.user, scope.claims) == (outer.user, outer.claims), "is for another user than its parent"),
        ("environment", scope.environment == outer.environment, "is for another environment than its parent"),
        ("job_type", not same_job or scope.job_type == outer.job_type, "is for another type of job than its parent"),
        ("act", scope.act == acts, "does not name the agent that delegated, or names one that did not"),
        ("depth", scope.depth == outer.depth + (not same_job), "is not at the depth below its parent"),
        ("binding", BINDINGS.index(scope.binding) >= BINDINGS.index(outer.binding), "is bound less than its parent"),
        (
            "client_counter",
            outer.client_counter in (None, scope.client_counter),
            "asks for no counter where its parent does",
        ),
    ):
        if not holds and not (same_job and field in OF_THE_JOB):
            yield field, why


def beyond(most: Budget, asked: Budget) -> Iterator[str]:
    """Name every limit of which `asked` has more than `most`; no limit is more than any."""
    for name in LIMITS:
        limit, wanted = getattr(most, name), getattr(asked, name)
        if limit is not None and (wanted is None or wanted > limit):
            yield name


def overdrawn(purse: Budget, children: Sequence[Child], spent: Budget) -> Iterator[str]:
    """Say where the children's shares, and what the job's own lanes spent, go beyond the job's purse."""
    shares = [child.share for child in children]
    for child in children:
        for name in beyond(purse, child.share):
            yield f"child job {child.job} got a larger share of {name} than the job has"
    for name in DIVIDED:
        most = getattr(purse, name)
        total = getattr(spent, name) + sum(getattr(share, name) or 0 for share in shares)
        if most is not None and total > most:
            yield f"all lanes spent and all child jobs got {total} {name}, the job has {most}"
