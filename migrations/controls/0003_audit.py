"""The append-only record of what was done in the registry: no row of it is ever changed or deleted."""

from migrations import append_only

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the record, its head, and the triggers that keep it."""
    append_only.create("audit")


def downgrade() -> None:
    """Drop them."""
    append_only.drop("audit")
