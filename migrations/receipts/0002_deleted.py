"""Lanes whose receipts were deleted: when, by whom, why."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add three columns, and the index of the oldest lanes that are kept."""
    op.add_column("lanes", sa.Column("deleted", sa.BigInteger(), nullable=True))
    op.add_column("lanes", sa.Column("deleted_by", sa.String(128), nullable=True))
    op.add_column("lanes", sa.Column("deleted_for", sa.String(64), nullable=True))
    is_kept = sa.text("deleted IS NULL")
    op.create_index("ix_lanes_opened", "lanes", ["opened", "lane"], sqlite_where=is_kept, postgresql_where=is_kept)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_lanes_opened", "lanes")
    for column in ("deleted_for", "deleted_by", "deleted"):
        op.drop_column("lanes", column)
