"""What the deletion of sealed jobs looks for: their age, and the lanes that saw a token."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two indexes."""
    op.create_index("ix_jobs_state_closing_at", "jobs", ["state", "closing_at"])
    op.create_index("ix_lane_tokens_jti", "lane_tokens", ["jti"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_lane_tokens_jti", "lane_tokens")
    op.drop_index("ix_jobs_state_closing_at", "jobs")
