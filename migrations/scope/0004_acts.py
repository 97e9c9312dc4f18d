"""The append-only record of what was done with jobs and revoked: no row of it is ever changed or deleted."""

from migrations import append_only

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the record, its head, and the triggers that keep it. What was done before is not in it."""
    append_only.create("acts")


def downgrade() -> None:
    """Drop them."""
    append_only.drop("acts")
