"""Lanes whose receipts were deleted: when, by whom, why; and of which job a grant is."""

import base64
import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index of the oldest lanes that are kept; enter the jobs of the grants that are here."""
    op.add_column("lanes", sa.Column("deleted", sa.BigInteger(), nullable=True))
    op.add_column("lanes", sa.Column("deleted_by", sa.String(128), nullable=True))
    op.add_column("lanes", sa.Column("deleted_for", sa.String(64), nullable=True))
    is_kept = sa.text("deleted IS NULL")
    op.create_index("ix_lanes_opened", "lanes", ["opened", "lane"], sqlite_where=is_kept, postgresql_where=is_kept)
    op.add_column("documents", sa.Column("job", sa.String(64), nullable=True))
    op.create_index("ix_documents_job", "documents", ["job"])
    grants = op.get_bind().execute(sa.text("SELECT digest, raw FROM documents WHERE kind = 'grant'")).all()
    enter = sa.text("UPDATE documents SET job = :job WHERE digest = :digest")
    for row in grants:
        grant = json.loads(base64.b64decode(json.loads(row.raw)["payload"]))
        op.get_bind().execute(enter, {"job": grant["scope"]["job"], "digest": row.digest})


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_documents_job", "documents")
    op.drop_column("documents", "job")
    op.drop_index("ix_lanes_opened", "lanes")
    for column in ("deleted_for", "deleted_by", "deleted"):
        op.drop_column("lanes", column)
