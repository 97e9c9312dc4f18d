"""What waits for its seal: jobs that close for too long; gateways with open lanes, and when each last reported."""

from scope import store
from scope.authority import SECOND, Authority
from scope.client import LateJob, Unsealed, Writing
from service.engine import reading_elsewhere

LATE = 60 * SECOND  # a job closes within seconds: five for its gateways, then a turn for it and each level above
MOST = 100


async def unsealed(authority: Authority) -> Unsealed:
    """Tell what is not sealed now."""
    now = authority.clock()
    async with reading_elsewhere(authority.engine).connect() as db:
        counts = await store.count_unsealed(db)
        late = await store.closing_since(db, now - LATE, MOST)
        writing = await store.writing(db, MOST)
    reports = authority.reports
    return Unsealed(
        time=now,
        since=reports.since,
        open=counts.get("open", 0),
        closing=counts.get("closing", 0),
        late=[LateJob(job=job, reason=reason, closing_at=at) for job, reason, at in late],
        gateways=[
            Writing(gateway=gateway, client=client, lanes=lanes, reported=reports.last.get(client))
            for gateway, client, lanes in writing
        ],
    )
