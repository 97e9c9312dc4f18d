"""The registry: policies, the newest of each name, servers, manifests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the registry's tables."""
    op.create_table(
        "policies",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("issuer", sa.String(128), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_until", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("published_by", sa.String(128), nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger()),
        sa.Column("withdrawn_by", sa.String(128)),
        sa.Column("withdrawn_reason", sa.String(512)),
        sa.PrimaryKeyConstraint("position", name="pk_policies"),
        sa.UniqueConstraint("digest", name="uq_policies_digest"),
        sa.UniqueConstraint("issuer", "name", "serial", name="uq_policies_issuer_name_serial"),
    )
    op.create_index("ix_policies_name", "policies", ["name"])
    op.create_table(
        "policy_heads",
        sa.Column("issuer", sa.String(128), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["policies.digest"], name="fk_policy_heads_digest", deferrable=True, initially="DEFERRED"
        ),
        sa.PrimaryKeyConstraint("issuer", "name", name="pk_policy_heads"),
    )
    op.create_table(
        "servers",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
        sa.Column("manifest_serial", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_servers"),
    )
    op.create_table(
        "manifests",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("server", sa.String(64), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.String(256), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("approved_at", sa.BigInteger(), nullable=False),
        sa.Column("approved_by", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name="fk_manifests_server"),
        sa.PrimaryKeyConstraint("digest", name="pk_manifests"),
        sa.UniqueConstraint("server", "serial", name="uq_manifests_server_serial"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("manifests", "servers", "policy_heads", "policies"):
        op.drop_table(table)
