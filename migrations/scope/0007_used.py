"""What counts once, shared by all processes on one PostgreSQL; nobody waits for the disk to hold it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table: unlogged, what it holds is worth a minute."""
    op.create_table(
        "used",
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_used"),
        prefixes=["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else [],
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("used")
