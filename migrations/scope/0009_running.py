"""How many calls are under way in each lane, as its gateway said with the last head."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of lanes from before nothing was said."""
    op.add_column("lanes", sa.Column("running", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lanes", "running")
