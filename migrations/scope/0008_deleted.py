"""Which jobs were deleted: gateways delete the receipts of these, and not of jobs that a database has lost."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, with what the record of acts tells of so far."""
    deleted = op.create_table(
        "deleted",
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_deleted"),
    )
    acts = op.get_bind().execute(sa.text("SELECT entry FROM acts ORDER BY position"))
    told = (json.loads(bytes(row.entry)) for row in acts)
    rows = {each["subject"]: each["time"] for each in told if each["act"] == "job-deleted"}
    op.bulk_insert(deleted, [{"job": job, "time": time} for job, time in rows.items()])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("deleted")
