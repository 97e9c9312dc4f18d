"""Bring a service's database to the newest form before it serves."""

from pathlib import Path

from alembic import command
from alembic.config import Config

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def configuration(name: str, url: str) -> Config:
    """Describe one service's history and its database to alembic, as `alembic -n <name>` would."""
    config = Config(str(SCRIPTS / "alembic.ini"), ini_section=name)
    config.attributes["url"] = url
    return config


def upgrade(name: str, url: str, revision: str = "head") -> None:
    """Upgrade a service's database. `url` is an asynchronous engine's (`Settings.engine_url`)."""
    command.upgrade(configuration(name, url), revision)


def downgrade(name: str, url: str, revision: str = "base") -> None:
    """Take a service's database back; only tests and an operator who knows why call it."""
    command.downgrade(configuration(name, url), revision)


def check(name: str, url: str) -> None:
    """Raise alembic's error when the tables in code are not those that the migrations make."""
    command.check(configuration(name, url))
