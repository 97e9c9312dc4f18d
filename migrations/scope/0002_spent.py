"""What a closed lane spent of its share: the rest goes back to the job's purse."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a lane that closed before has spent its whole share."""
    op.add_column("lanes", sa.Column("spent", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lanes", "spent")
