"""What each living job can be revoked by, the end of a revocation, and which key signed a token."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add table and columns. Jobs that are not sealed are entered, but for what stands above their policies."""
    op.add_column("revocations", sa.Column("until", sa.BigInteger(), nullable=True))
    op.add_column("tokens", sa.Column("kid", sa.String(32), nullable=True))
    targets = op.create_table(
        "targets",
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_targets_job"),
        sa.PrimaryKeyConstraint("kind", "value", "job", name="pk_targets"),
    )
    op.create_index("ix_targets_job", "targets", ["job"])
    found = set[tuple[str, str, str]]()
    living = "SELECT job, agent, client, policy, scope FROM jobs WHERE state <> 'sealed'"
    for row in op.get_bind().execute(sa.text(living)):
        found |= {("agent", row.agent, row.job), ("client", row.client, row.job), ("policy", row.policy, row.job)}
        if (user := json.loads(row.scope).get("user")) is not None:
            found.add(("user", user, row.job))
    grants = "SELECT job, envelope FROM grants WHERE job IN (SELECT job FROM jobs WHERE state <> 'sealed')"
    for row in op.get_bind().execute(sa.text(grants)):
        signatures = json.loads(row.envelope)["signatures"]
        found |= {("key", each["keyid"].partition("/")[0], row.job) for each in signatures}
    rows = [{"kind": kind, "value": value, "job": job} for kind, value, job in sorted(found)]
    op.bulk_insert(targets, rows)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_targets_job", "targets")
    op.drop_table("targets")
    op.drop_column("tokens", "kid")
    op.drop_column("revocations", "until")
