"""How many receipts were ever written: an older copy of the ledger has fewer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the one row, and count what there is."""
    op.create_table("progress", sa.Column("leaves", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO progress (leaves) SELECT count(*) FROM leaves")


def downgrade() -> None:
    """Drop it."""
    op.drop_table("progress")
