"""Which keys signed which policy."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AT_ONCE = 500


def upgrade() -> None:
    """Add the table, and fill it from the policies that are published already."""
    signatures = op.create_table(
        "policy_signatures",
        sa.Column("kid", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["policies.digest"], name="fk_policy_signatures_digest"),
        sa.PrimaryKeyConstraint("kid", "digest", name="pk_policy_signatures"),
    )
    policies = sa.table("policies", sa.column("position"), sa.column("digest"), sa.column("envelope"))
    connection, last = op.get_bind(), 0
    while found := connection.execute(
        sa.select(policies).where(policies.c.position > last).order_by(policies.c.position).limit(AT_ONCE)
    ).all():
        last = found[-1].position
        rows = [
            {"kid": kid, "digest": each.digest}
            for each in found
            for kid in sorted({one["keyid"].partition("/")[0] for one in json.loads(each.envelope)["signatures"]})
        ]
        connection.execute(sa.insert(signatures), rows)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("policy_signatures")
