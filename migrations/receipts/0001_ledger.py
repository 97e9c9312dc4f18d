"""Lanes, leaves, documents."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the ledger."""
    op.create_table(
        "lanes",
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("policy", sa.String(71), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("kid", sa.String(32), nullable=False),
        sa.Column("opened", sa.BigInteger(), nullable=False),
        sa.Column("share", sa.LargeBinary(), nullable=False),
        sa.Column("closing", sa.Text(), nullable=True),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("lane", name="pk_lanes"),
    )
    op.create_index("ix_lanes_job", "lanes", ["job"])
    op.create_table(
        "leaves",
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("call", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(["lane"], ["lanes.lane"], name="fk_leaves_lane"),
        sa.PrimaryKeyConstraint("lane", "seq", name="pk_leaves"),
        sqlite_with_rowid=False,
    )
    is_end = sa.text("call IS NOT NULL")
    op.create_index("ix_leaves_call", "leaves", ["call"], sqlite_where=is_end, postgresql_where=is_end)
    op.create_table(
        "documents",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_documents"),
    )


def downgrade() -> None:
    """Unmake it."""
    op.drop_table("documents")
    op.drop_table("leaves")
    op.drop_table("lanes")
