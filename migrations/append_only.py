"""An append-only record: its table, its head, and the triggers that keep every row as it was written."""

import sqlalchemy as sa
from alembic import op


def create(name: str) -> None:
    """Make the record `name` and its head, empty, and the triggers that refuse to change or delete its rows."""
    op.create_table(
        name,
        sa.Column("position", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.String(71), nullable=False),
        sa.PrimaryKeyConstraint("position", name=f"pk_{name}"),
    )
    head = op.create_table(
        f"{name}_head",
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(71), nullable=False),
    )
    op.bulk_insert(head, [{"position": 0, "time": 0, "hash": "sha256:" + "0" * 64}])
    for statement in _sqlite(name) if op.get_bind().dialect.name == "sqlite" else _postgresql(name):
        op.execute(statement)


def drop(name: str) -> None:
    """Drop them."""
    op.drop_table(name)
    op.drop_table(f"{name}_head")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP FUNCTION {name}_keeps()")


def _sqlite(name: str) -> list[str]:
    says = f"the {name} table is append-only"
    return [
        f"CREATE TRIGGER {name}_keeps_{act} BEFORE {act} ON {name} BEGIN SELECT RAISE(ABORT, '{says}'); END"
        for act in ("UPDATE", "DELETE")
    ]


def _postgresql(name: str) -> list[str]:
    raises = f"BEGIN RAISE EXCEPTION 'the {name} table is append-only'; END"
    keeps = f"EXECUTE FUNCTION {name}_keeps()"
    return [
        f"CREATE FUNCTION {name}_keeps() RETURNS trigger LANGUAGE plpgsql AS $$ {raises} $$",
        f"CREATE TRIGGER {name}_keeps_rows BEFORE UPDATE OR DELETE ON {name} FOR EACH ROW {keeps}",
        f"CREATE TRIGGER {name}_keeps_all BEFORE TRUNCATE ON {name} FOR EACH STATEMENT {keeps}",
    ]
