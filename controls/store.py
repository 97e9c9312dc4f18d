"""The registry's SQL. Every function runs in the caller's transaction; documents are only ever added."""

from collections.abc import Iterable
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Select, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from controls.tables import manifests, policies, policy_heads, policy_signatures, servers

S = TypeVar("S", bound=Struct)
INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class StoredPolicy(Struct, frozen=True, kw_only=True):
    """A published policy with what happened to it."""

    position: int
    digest: str
    issuer: str
    name: str
    serial: int
    valid_from: int
    valid_until: int
    envelope: bytes
    published_at: int
    published_by: str
    withdrawn_at: int | None = None
    withdrawn_by: str | None = None
    withdrawn_reason: str | None = None


class Head(Struct, frozen=True, kw_only=True):
    """The newest policy of one issuer and name."""

    issuer: str
    name: str
    serial: int
    digest: str


class StoredServer(Struct, frozen=True, kw_only=True):
    """A registered server; `record` is JSON, `manifest_serial` that of its newest manifest (0: none)."""

    name: str
    record: bytes
    registered_at: int
    updated_at: int
    updated_by: str
    manifest_serial: int


class StoredManifest(Struct, frozen=True, kw_only=True):
    """An approved manifest of one server."""

    digest: str
    server: str
    serial: int
    url: str
    envelope: bytes
    approved_at: int
    approved_by: str


class NewestManifest(Struct, frozen=True, kw_only=True):
    """Which manifest is a server's newest, beside the server's record."""

    name: str
    record: bytes
    url: str
    digest: str


async def policy(db: AsyncConnection, digest: str) -> StoredPolicy | None:
    """Find a policy by its digest."""
    return await _one(db, select(policies).where(policies.c.digest == digest), StoredPolicy)


async def add_policy(db: AsyncConnection, values: dict[str, Any], kids: Iterable[str]) -> None:
    """Add a policy with the keys that signed it; its position is the order of publication."""
    await db.execute(insert(policies).values(values))
    await db.execute(insert(policy_signatures), [{"kid": kid, "digest": values["digest"]} for kid in sorted(kids)])


async def history(
    db: AsyncConnection, *, name: str | None, issuer: str | None, kid: str | None, before: int | None, limit: int
) -> list[StoredPolicy]:
    """List policies, the newest first, of one name, issuer or signing key when asked."""
    query = select(policies).order_by(policies.c.position.desc()).limit(limit)
    if kid is not None:
        signed = select(policy_signatures.c.digest).where(policy_signatures.c.kid == kid)
        query = query.where(policies.c.digest.in_(signed))
    for column, value in ((policies.c.name, name), (policies.c.issuer, issuer)):
        query = query if value is None else query.where(column == value)
    query = query if before is None else query.where(policies.c.position < before)
    return await _all(db, query, StoredPolicy)


async def heads(db: AsyncConnection, name: str, issuer: str | None) -> list[Head]:
    """Find the newest policy of a name: one an issuer."""
    query = select(policy_heads).where(policy_heads.c.name == name).limit(2)
    query = query if issuer is None else query.where(policy_heads.c.issuer == issuer)
    return await _all(db, query, Head)


async def head(db: AsyncConnection, issuer: str, name: str) -> Head | None:
    """Read the newest policy of an issuer and name."""
    found = (policy_heads.c.issuer == issuer) & (policy_heads.c.name == name)
    return await _one(db, select(policy_heads).where(found), Head)


async def claim_head(db: AsyncConnection, issuer: str, name: str) -> Head | None:
    """Read the newest policy of an issuer and name and keep other publishers from it until the transaction ends."""
    found = (policy_heads.c.issuer == issuer) & (policy_heads.c.name == name)
    return await _one(db, select(policy_heads).where(found).with_for_update(), Head)


async def move_head(db: AsyncConnection, head: Head) -> bool:
    """Make a policy the newest; false when one with this serial or a higher one got there first."""
    statement: Any = _insert(db, policy_heads).values(
        issuer=head.issuer, name=head.name, serial=head.serial, digest=head.digest
    )
    moved = await db.execute(
        statement.on_conflict_do_update(
            index_elements=["issuer", "name"],
            set_={"serial": head.serial, "digest": head.digest},
            where=policy_heads.c.serial < head.serial,
        )
    )
    return bool(moved.rowcount)


async def withdraw(db: AsyncConnection, digest: str, *, at: int, by: str, reason: str) -> None:
    """Mark a policy withdrawn; the first mark stays."""
    await db.execute(
        update(policies)
        .where(policies.c.digest == digest, policies.c.withdrawn_at.is_(None))
        .values(withdrawn_at=at, withdrawn_by=by, withdrawn_reason=reason)
    )


async def server(db: AsyncConnection, name: str, *, claim: bool = False) -> StoredServer | None:
    """Find a server; with `claim`, keep others from changing it until the transaction ends."""
    query = select(servers).where(servers.c.name == name)
    return await _one(db, query.with_for_update() if claim else query, StoredServer)


async def put_server(db: AsyncConnection, name: str, record: bytes, *, at: int, by: str) -> None:
    """Register a server, or replace the record of one."""
    statement: Any = _insert(db, servers).values(
        name=name, record=record, registered_at=at, updated_at=at, updated_by=by, manifest_serial=0
    )
    changed = {"record": record, "updated_at": at, "updated_by": by}
    await db.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))


async def list_servers(db: AsyncConnection, *, after: str, limit: int) -> list[StoredServer]:
    """List servers by name."""
    query = select(servers).where(servers.c.name > after).order_by(servers.c.name).limit(limit)
    return await _all(db, query, StoredServer)


async def manifest(db: AsyncConnection, digest: str) -> StoredManifest | None:
    """Find a manifest by its digest."""
    return await _one(db, select(manifests).where(manifests.c.digest == digest), StoredManifest)


async def newest_manifest(db: AsyncConnection, server: StoredServer) -> StoredManifest | None:
    """Find the newest manifest of a server."""
    found = (manifests.c.server == server.name) & (manifests.c.serial == server.manifest_serial)
    return await _one(db, select(manifests).where(found), StoredManifest)


async def newest_manifests(db: AsyncConnection, names: list[str] | None) -> list[NewestManifest]:
    """List the newest manifests of the servers of some names, or of all, by name."""
    newest = (manifests.c.server == servers.c.name) & (manifests.c.serial == servers.c.manifest_serial)
    query = select(servers.c.name, servers.c.record, manifests.c.url, manifests.c.digest).join(manifests, newest)
    query = query if names is None else query.where(servers.c.name.in_(names))
    return await _all(db, query.order_by(servers.c.name), NewestManifest)


async def add_manifest(db: AsyncConnection, new: StoredManifest) -> None:
    """Add a manifest and make it its server's newest; the caller has claimed the server."""
    await db.execute(insert(manifests).values({name: getattr(new, name) for name in new.__struct_fields__}))
    await db.execute(update(servers).where(servers.c.name == new.server).values(manifest_serial=new.serial))


async def _one(db: AsyncConnection, query: Select[Any], kind: type[S]) -> S | None:
    row = (await db.execute(query)).mappings().first()
    return kind(**row) if row else None


async def _all(db: AsyncConnection, query: Select[Any], kind: type[S]) -> list[S]:
    return [kind(**row) for row in (await db.execute(query)).mappings()]


def _insert(db: AsyncConnection, table: Table) -> Any:
    """Begin an INSERT that can say ON CONFLICT, which each engine's dialect spells alike."""
    return INSERT[db.dialect.name](table)
