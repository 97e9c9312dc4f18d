"""Times as people read them: RFC 3339 in UTC."""

from datetime import UTC, datetime

from verifier.encoding import MAX_INT


def words(time: int, *, milliseconds: bool = False) -> str:
    """Write microseconds since 1970 as RFC 3339; fractions only where there are any, or where they are asked for."""
    moment = datetime.fromtimestamp(min(max(time, 0), MAX_INT) // 1_000_000, UTC)
    moment = moment.replace(microsecond=min(max(time, 0), MAX_INT) % 1_000_000)
    return moment.isoformat(timespec="milliseconds" if milliseconds else "auto").replace("+00:00", "Z")
