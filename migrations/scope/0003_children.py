"""Jobs that another job delegated."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; the jobs that are there are root jobs, and delegate nothing."""
    op.add_column("jobs", sa.Column("parent", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("deepest", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_jobs_parent", "jobs", ["parent"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_jobs_parent", "jobs")
    op.drop_column("jobs", "deepest")
    op.drop_column("jobs", "parent")
