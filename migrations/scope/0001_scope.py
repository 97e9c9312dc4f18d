"""Jobs, tokens, lanes, revocations, seals."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# SQLite numbers rows by itself only where the key is spelled INTEGER.
POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, and the one counter that revocations are numbered by."""
    op.create_table(
        "counters",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.execute("INSERT INTO counters (name, value) VALUES ('revocations', 0)")
    op.create_table(
        "incidents",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_incidents"),
    )
    op.create_index("ix_incidents_job", "incidents", ["job"])
    op.create_table(
        "jobs",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("client", sa.String(128), nullable=False),
        sa.Column("agent", sa.String(128), nullable=False),
        sa.Column("policy", sa.String(71), nullable=False),
        sa.Column("grant", sa.String(71), nullable=False),
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("opened", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("max_ttl", sa.Integer(), nullable=False),
        sa.Column("staleness", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("closing_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(16), nullable=True),
        sa.PrimaryKeyConstraint("position", name="pk_jobs"),
        sa.UniqueConstraint("job", name="uq_jobs_job"),
    )
    op.create_index("ix_jobs_client_position", "jobs", ["client", "position"])
    op.create_index("ix_jobs_state_expires", "jobs", ["state", "expires"])
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocations"),
        sa.UniqueConstraint("digest", name="uq_revocations_digest"),
    )
    op.create_index("ix_revocations_kind_value", "revocations", ["kind", "value"])
    op.create_table(
        "due_marks",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_due_marks_job"),
        sa.PrimaryKeyConstraint("position", name="pk_due_marks"),
    )
    op.create_index("ix_due_marks_job", "due_marks", ["job"])
    op.create_index("ix_due_marks_time", "due_marks", ["time"])
    op.create_table(
        "grants",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_grants_job"),
        sa.PrimaryKeyConstraint("digest", name="pk_grants"),
    )
    op.create_index("ix_grants_job", "grants", ["job"])
    op.create_table(
        "lanes",
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("client", sa.String(128), nullable=False),
        sa.Column("gateway", sa.String(128), nullable=False),
        sa.Column("kid", sa.String(32), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("marked", sa.BigInteger(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("share", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_lanes_job"),
        sa.PrimaryKeyConstraint("lane", name="pk_lanes"),
    )
    op.create_index("ix_lanes_job", "lanes", ["job"])
    op.create_table(
        "seals",
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_seals_job"),
        sa.PrimaryKeyConstraint("job", name="pk_seals"),
        sa.UniqueConstraint("digest", name="uq_seals_digest"),
    )
    op.create_table(
        "tokens",
        sa.Column("jti", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("grant", sa.String(71), nullable=False),
        sa.Column("iat", sa.BigInteger(), nullable=False),
        sa.Column("exp", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_tokens_job"),
        sa.PrimaryKeyConstraint("jti", name="pk_tokens"),
    )
    op.create_index("ix_tokens_job", "tokens", ["job"])
    op.create_table(
        "lane_tokens",
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("jti", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["jti"], ["tokens.jti"], name="fk_lane_tokens_jti"),
        sa.ForeignKeyConstraint(["lane"], ["lanes.lane"], name="fk_lane_tokens_lane"),
        sa.PrimaryKeyConstraint("lane", "jti", name="pk_lane_tokens"),
    )
    op.create_table(
        "marks",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["lane"], ["lanes.lane"], name="fk_marks_lane"),
        sa.PrimaryKeyConstraint("position", name="pk_marks"),
    )
    op.create_index("ix_marks_lane", "marks", ["lane"])


def downgrade() -> None:
    """Unmake them."""
    op.drop_table("marks")
    op.drop_table("lane_tokens")
    op.drop_table("tokens")
    op.drop_table("seals")
    op.drop_table("lanes")
    op.drop_table("grants")
    op.drop_table("due_marks")
    op.drop_table("revocations")
    op.drop_table("jobs")
    op.drop_table("incidents")
    op.drop_table("counters")
