"""What `scope` keeps: jobs and their grants, tokens, lanes and what it witnessed of them, revocations, seals, acts.

Signed documents are stored as the bytes that were signed and are never updated; those of a job may be deleted with
it. Times are Unix microseconds, those of tokens seconds. `counters` has one row: whoever revokes, opens or seals locks
it, so that the sequence has no gaps and no revocation falls between the cracks. A job's row is the lock of its lanes
and marks.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from service.once import used_table
from service.record import Record
from service.schema import Position, new_metadata

metadata = new_metadata()

# `sequence` is the last revocation when the job opened; `closing_at` and `reason` are set when it begins to close.
# `parent` is the job that delegated it, `deepest` how deep its policies let jobs be delegated.
jobs = Table(
    "jobs",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("job", String(64), nullable=False, unique=True),
    Column("client", String(128), nullable=False),
    Column("agent", String(128), nullable=False),
    Column("policy", String(71), nullable=False),
    Column("grant", String(71), nullable=False),
    Column("scope", LargeBinary, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("max_ttl", Integer, nullable=False),
    Column("staleness", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("closing_at", BigInteger),
    Column("reason", String(16)),
    Column("parent", String(64), index=True),
    Column("deepest", Integer, nullable=False, server_default="0"),
    Index(None, "client", "position"),
    Index(None, "state", "expires"),
    Index(None, "state", "closing_at"),
)

# By which request of which client a job was opened: `asked` is the request's digest without its tokens, `unavailable`
# what the answer said.
requests = Table(
    "requests",
    metadata,
    Column("client", String(128), primary_key=True),
    Column("request", String(64), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.job"), nullable=False, index=True),
    Column("asked", String(71), nullable=False),
    Column("unavailable", LargeBinary, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.job"), nullable=False, index=True),
    Column("envelope", LargeBinary, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("jti", String(64), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.job"), nullable=False, index=True),
    Column("grant", String(71), nullable=False),
    Column("iat", BigInteger, nullable=False),
    Column("exp", BigInteger, nullable=False),
    Column("kid", String(32)),
)

# `size` and `root` are the last head that was accepted, `running` the calls that were under way then; `marked` is the
# time of the newest mark.
lanes = Table(
    "lanes",
    metadata,
    Column("lane", String(64), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.job"), nullable=False, index=True),
    Column("client", String(128), nullable=False),
    Column("gateway", String(128), nullable=False),
    Column("kid", String(32), nullable=False),
    Column("origin", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text),
    Column("marked", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("share", LargeBinary, nullable=False),
    Column("spent", LargeBinary),
    Column("running", BigInteger, nullable=False, server_default="0"),
)

lane_tokens = Table(
    "lane_tokens",
    metadata,
    Column("lane", String(64), ForeignKey("lanes.lane"), primary_key=True),
    Column("jti", String(64), ForeignKey("tokens.jti"), primary_key=True, index=True),
)

marks = Table(
    "marks",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("lane", String(64), ForeignKey("lanes.lane"), nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
)

# Marks that are to be written on all lanes of a job at a time to come.
due_marks = Table(
    "due_marks",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.job"), nullable=False, index=True),
    Column("time", BigInteger, nullable=False, index=True),
)

revocations = Table(
    "revocations",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(71), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("value", String(128), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("until", BigInteger),
    Index(None, "kind", "value"),
)

# By what each job that is not sealed can be revoked, beside its own name: its agent, client and user, its policy and
# those above it, the keys that signed its grants.
targets = Table(
    "targets",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("value", String(128), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.job"), primary_key=True, index=True),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

seals = Table(
    "seals",
    metadata,
    Column("job", String(64), ForeignKey("jobs.job"), primary_key=True),
    Column("digest", String(71), nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)

# Jobs that were deleted, and when; of a job that is neither here nor there nobody may say that it was.
deleted = Table(
    "deleted",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("time", BigInteger, nullable=False),
)

# What a gateway reported and cannot be: a head that does not extend the last, a token that was never issued.
incidents = Table(
    "incidents",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("time", BigInteger, nullable=False),
    Column("job", String(64), nullable=False, index=True),
    Column("lane", String(64), nullable=False),
    Column("code", String(64), nullable=False),
    Column("value", String(128), nullable=False),
)

# The record of what was done, append-only (migrations/scope/0004_acts.py).
acts = Record("acts", metadata)

# What counted once and did, as all processes on one PostgreSQL know it; empty on SQLite.
used = used_table(metadata)
