"""The one purse of a root job, and who has how much of it (specs/grant.md §4, specs/seal.md §2).

An open lane has its share, a closed one what it spent of it, a child job what it was given. What is left is nobody's.
"""

from collections.abc import Sequence

import msgspec
from msgspec import structs

from scope.store import Job, Lane
from verifier.encoding import read
from verifier.grant import DIVIDED, LIMITS, MAX_GRANT, Budget, Scope
from verifier.refused import Refused


def left(job: Job, lanes: Sequence[Lane], children: Sequence[Job]) -> Budget:
    """Tell what a job's lanes and children leave of its purse."""
    purse = scope_of(job).limits
    taken = [*(_of_lane(lane) for lane in lanes), *(scope_of(child).limits for child in children)]
    rest = {}
    for name in DIVIDED:
        if (most := getattr(purse, name)) is not None:
            rest[name] = max(0, most - sum(getattr(each, name) or 0 for each in taken))
    return structs.replace(purse, **rest)


def half(purse: Budget) -> Budget:
    """Take half of what can be divided, rounded up."""
    parts = {name: (most + 1) // 2 for name in DIVIDED if (most := getattr(purse, name)) is not None}
    return structs.replace(purse, **parts)


def part(rest: Budget, asked: Budget, most: Budget) -> Budget:
    """Take what a child job asks for out of what is left, and half of it, at most its policy's, where it does not ask.

    Raises `Refused` scope-too-wide for more than is left.
    """
    default, given = half(rest), {}
    for name in LIMITS:
        there, wanted = getattr(rest, name), getattr(asked, name)
        if there is not None and wanted is not None and wanted > there:
            raise Refused("scope-too-wide", f"the parent job has {there} {name} left", field="limits")
        capped = [each for each in (getattr(default, name), getattr(most, name)) if each is not None]
        given[name] = min(capped, default=None) if wanted is None else wanted
    return Budget(**given)


def read_budget(raw: bytes) -> Budget:
    """Read a share as it is kept."""
    return msgspec.json.decode(raw, type=Budget)


def scope_of(job: Job) -> Scope:
    """Read the scope that a job opened with."""
    return read(job.scope, Scope, limit=MAX_GRANT)


def _of_lane(lane: Lane) -> Budget:
    return read_budget(lane.spent if lane.closed and lane.spent is not None else lane.share)
