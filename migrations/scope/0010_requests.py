"""By which requests jobs were opened, so that one that is repeated opens no second job."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; requests from before had no name."""
    op.create_table(
        "requests",
        sa.Column("client", sa.String(128), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("asked", sa.String(71), nullable=False),
        sa.Column("unavailable", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_requests_job"),
        sa.PrimaryKeyConstraint("client", "request", name="pk_requests"),
    )
    op.create_index("ix_requests_job", "requests", ["job"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("requests")
