"""The databases of an installation: is each as this program wants it?"""

import asyncio
import sqlite3
from contextlib import closing
from urllib.parse import quote

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import migrate
from service.doctor import Finding, Level
from service.engine import open_engine, reading
from service.settings import Settings


async def database(settings: Settings) -> list[Finding]:
    """Compare one service's database with the newest migration; it is only read."""
    path, name = settings.directory / f"{settings.name}.db", settings.name
    if settings.database == "sqlite" and not path.is_file():
        return [_finding("warning", name, "has no database yet", f"Start it: tally run {name}.")]
    try:
        found = await (_of_sqlite(settings) if settings.database == "sqlite" else _of_postgresql(settings))
        script = ScriptDirectory.from_config(migrate.configuration(name, settings.engine_url))
    except (sqlite3.Error, SQLAlchemyError, OSError, TimeoutError, ValueError) as error:
        do = "Look at the database itself, and whether it can be reached from here."
        return [_finding("failure", name, f"its database cannot be read: {type(error).__name__}", do)]
    wanted = script.get_current_head()
    if found == wanted:
        return []
    if found is not None and not _knows(script, found):
        do = "Run the version that wrote it, or a later one."
        return [_finding("failure", name, f"its database ({found}) is newer than this program ({wanted})", do)]
    do = f"Restart it: tally run {name} migrates first."
    return [_finding("failure", name, f"its database is at {found or 'nothing'}, this program wants {wanted}", do)]


def _knows(script: ScriptDirectory, revision: str) -> bool:
    try:
        return script.get_revision(revision) is not None
    except CommandError:
        return False


async def _of_sqlite(settings: Settings) -> str | None:
    return await asyncio.to_thread(_read, settings)


def _read(settings: Settings) -> str | None:
    address = f"file:{quote(str(settings.directory / settings.name))}.db?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=5)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [f"{settings.name}_version"]).fetchone():
            return None
        row = db.execute(_query(settings)).fetchone()
    return None if row is None else str(row[0])


async def _of_postgresql(settings: Settings) -> str | None:
    engine = open_engine(settings.engine_url)
    try:
        async with reading(engine) as db:
            if (await db.execute(text("SELECT to_regclass(:name)"), {"name": f"{settings.name}_version"})).scalar():
                return (await db.execute(text(_query(settings)))).scalar()
            return None
    finally:
        await engine.dispose()


def _query(settings: Settings) -> str:
    return f"SELECT version_num FROM {settings.name}_version"  # noqa: S608 - one of three names


def _finding(level: Level, subject: str, says: str, do: str) -> Finding:
    return Finding(check="database", level=level, subject=subject, says=says, do=do)
