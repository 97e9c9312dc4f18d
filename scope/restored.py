"""Is the database the one that was written last? And what is done when all that is left is an older one.

Gateways and clients hold tokens, lanes and revocations that an older database knows nothing of. Accepting it takes up
every number of a revocation that was lost, each with one that ends all that was open.
"""

import asyncio
from pathlib import Path

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from scope import revoke, store
from scope.authority import SECOND, Authority
from scope.client import RevocationRequest
from scope.tables import acts
from service.engine import reading
from service.newest import Newest, identity, restored
from verifier.refused import Refused


class Seen(Struct, frozen=True):
    """The newest entry of the record, and the last revocation's sequence."""

    position: int
    hash: str
    sequence: int


class Memory:
    """What this process knows that the database held; `refused` says why nothing is done any more."""

    def __init__(self, newest: Newest[Seen]) -> None:
        """Take the file."""
        self._newest = newest
        self._behind = False
        self._file: tuple[int, int] | None = None
        self.refused: Refused | None = None

    def require(self) -> None:
        """Raise `Refused` database-restored once the database was found to be an older one."""
        if self.refused is not None:
            raise self.refused

    async def ready(self) -> None:
        """Raise as `require` (`/readyz`)."""
        self.require()

    async def look(self, authority: Authority) -> None:
        """Compare the database with what is known, and remember what is new. Raises `Refused` database-restored."""
        self.require()
        async with reading(authority.engine) as db:
            now, lost = await _seen(db), await self._lost(db)
        if lost is not None:
            raise self._refuse(authority, f"entry {lost.position} of the record is missing or another", lost.hash)
        if _file(authority) != self._file:
            raise self._refuse(authority, "another file was put in its place, and this one has no name", now.hash)
        await self._remember(authority, now)

    def _refuse(self, authority: Authority, why: str, word: str) -> Refused:
        """Do nothing any more, and end every feed."""
        self.refused = restored(why, word)
        authority.feed.close()
        return self.refused

    async def _remember(self, authority: Authority, now: Seen) -> None:
        """Keep the file up to date; where that fails it lags behind, which is no reason to seal nothing."""
        try:
            await asyncio.to_thread(self._newest.remember, now)
            self._behind = False
        except OSError as error:
            if not self._behind:
                authority.log.warning("not-remembered", why=type(error).__name__)
            self._behind = True

    async def start(self, authority: Authority, accepted: str) -> None:
        """Compare before anything is served. Raises `Refused` database-restored, unless just this was accepted."""
        async with reading(authority.engine) as db:
            lost = await self._lost(db)
        if lost is not None and accepted == lost.hash:
            await _accept(authority, lost)
            async with reading(authority.engine) as db:
                self._newest.remember(await _seen(db))
        self._file = _file(authority)
        await self.look(authority)

    async def _lost(self, db: AsyncConnection) -> Seen | None:
        """Find what is known and not there."""
        known = self._newest.known
        if known is None:
            return None
        same = known.position == 0 or await acts.hash(db, known.position) == known.hash
        return None if same and await store.sequence(db) >= known.sequence else known


def _file(authority: Authority) -> tuple[int, int] | None:
    """Tell which file an SQLite database is; None of PostgreSQL."""
    url = authority.engine.url
    return identity(Path(url.database or "")) if url.get_backend_name() == "sqlite" else None


async def _seen(db: AsyncConnection) -> Seen:
    position, digest = await acts.newest(db)
    return Seen(position, digest, await store.sequence(db))


async def _accept(authority: Authority, lost: Seen) -> None:
    """End everything that was open, under every number that was lost and one more, and record what was lost."""
    async with revoke.revoking(authority) as db:
        for _ in range(max(0, lost.sequence - await store.sequence(db)) + 1):
            until = authority.clock() + SECOND
            everything = RevocationRequest(kind="all", value="*", reason="database-restored", until=until)
            await revoke.write(db, authority, everything, authority.issuer)
        said = {"lost_position": lost.position, "lost_sequence": lost.sequence}
        await acts.append(
            db,
            at=authority.clock(),
            by=authority.issuer,
            act="database-restored",
            subject="scope",
            digest=lost.hash,
            **said,
        )
    authority.log.warning("database-restored", **said)
