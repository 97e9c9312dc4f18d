"""The gateway's tables: lanes, their leaves, and the documents that a bundle will need.

Leaves are append-only: nothing in this package changes one, and they are deleted with their whole job alone
(retention.py). A lane's 32-byte key is not here but in a file of its own, so that deleting it erases what the
commitments hide, backups of this database included.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# `share` is the lane's part of the purse in canonical JSON; `closing` the closing head, once the lane is closed; `done`
# says that scope has it, or has sealed without it; `deleted` when its leaves were deleted.
lanes = Table(
    "lanes",
    metadata,
    Column("lane", String(64), primary_key=True),
    Column("job", String(64), nullable=False, index=True),
    Column("policy", String(71), nullable=False),
    Column("origin", String(255), nullable=False),
    Column("kid", String(32), nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("share", LargeBinary, nullable=False),
    Column("closing", Text),
    Column("done", Integer, nullable=False),
    Column("deleted", BigInteger),
    Column("deleted_by", String(128)),
    Column("deleted_for", String(64)),
)
_is_kept = lanes.c.deleted.is_(None)
Index(None, lanes.c.opened, lanes.c.lane, sqlite_where=_is_kept, postgresql_where=_is_kept)

# `call` is set on `end` leaves alone: whoever asks for a call's receipt means the proof of its end.
leaves = Table(
    "leaves",
    metadata,
    Column("lane", String(64), ForeignKey("lanes.lane"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("call", String(64)),
    sqlite_with_rowid=False,
)
_is_end = leaves.c.call.is_not(None)
Index("ix_leaves_call", leaves.c.call, sqlite_where=_is_end, postgresql_where=_is_end)

# One row: how many leaves were ever written. A copy of this database that is older has fewer.
progress = Table("progress", metadata, Column("leaves", BigInteger, nullable=False))

# `job` is set on grants alone: they are deleted with the receipts of their job.
documents = Table(
    "documents",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("job", String(64), index=True),
)
