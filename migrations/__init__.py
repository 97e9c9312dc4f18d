"""One alembic environment; one straight history a service."""
