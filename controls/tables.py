"""What the registry keeps. Documents are stored as the bytes that were signed and are never updated.

Times are Unix microseconds. `policy_heads` is the one row of an (issuer, name) that two publishers contend for.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from service.record import Record
from service.schema import Position, new_metadata

metadata = new_metadata()

policies = Table(
    "policies",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("digest", String(71), nullable=False, unique=True),
    Column("issuer", String(128), nullable=False),
    Column("name", String(64), nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("valid_from", BigInteger, nullable=False),
    Column("valid_until", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("published_by", String(128), nullable=False),
    Column("withdrawn_at", BigInteger),
    Column("withdrawn_by", String(128)),
    Column("withdrawn_reason", String(512)),
    UniqueConstraint("issuer", "name", "serial"),
    Index(None, "name"),
)

policy_heads = Table(
    "policy_heads",
    metadata,
    Column("issuer", String(128), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("serial", BigInteger, nullable=False),
    Column("digest", String(71), ForeignKey("policies.digest", deferrable=True, initially="DEFERRED"), nullable=False),
)

# Which keys signed a policy, as author or as registry: what a key's compromise touches is one look-up.
policy_signatures = Table(
    "policy_signatures",
    metadata,
    Column("kid", String(32), primary_key=True),
    Column("digest", String(71), ForeignKey("policies.digest"), primary_key=True),
)

servers = Table(
    "servers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("record", LargeBinary, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", String(128), nullable=False),
    Column("manifest_serial", BigInteger, nullable=False),
)

manifests = Table(
    "manifests",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("server", String(64), ForeignKey("servers.name"), nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("url", String(256), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("approved_at", BigInteger, nullable=False),
    Column("approved_by", String(128), nullable=False),
    UniqueConstraint("server", "serial"),
)

prices = Table(
    "prices",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("issuer", String(128), nullable=False),
    Column("name", String(64), nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("published_by", String(128), nullable=False),
    UniqueConstraint("issuer", "name", "serial"),
)

# The record of what was done, append-only (migrations/controls/0003_audit.py).
audit = Record("audit", metadata)
