"""What the three services' tables have in common: how constraints are named, and what numbers rows."""

from sqlalchemy import BigInteger, Integer, MetaData

# SQLite numbers rows by itself only where the key is spelled INTEGER.
Position = BigInteger().with_variant(Integer, "sqlite")


def new_metadata() -> MetaData:
    """Begin a service's tables; constraints have names, so that a migration can name them too."""
    return MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
