"""Price tables, by which budgets of cost are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables of prices."""
    op.create_table(
        "prices",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("issuer", sa.String(128), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("published_by", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_prices"),
        sa.UniqueConstraint("issuer", "name", "serial", name="uq_prices_issuer_name_serial"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("prices")
