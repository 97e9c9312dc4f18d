"""The register of MCP servers and the approval of their tool manifests: what is not registered cannot be reached."""

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from controls import store
from controls.client import ServerRecord
from controls.store import StoredManifest, StoredServer
from controls.tables import audit
from verifier.conditions import any_glob
from verifier.documents import open_manifest
from verifier.encoding import canonical
from verifier.encoding import digest as digest_of
from verifier.envelope import Envelope
from verifier.keys import Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.refused import Refused

AT_ONCE = 200


class Registered(Struct, frozen=True):
    """A server with its record as it stands."""

    server: StoredServer
    record: ServerRecord


class Approved(Struct, frozen=True):
    """An approved manifest as it is served; `new` is false when it had been approved before."""

    envelope: bytes
    digest: str
    new: bool


async def register(
    db: AsyncConnection, name: str, record: ServerRecord, *, by: str, now: int
) -> tuple[Registered, bool]:
    """Register a server or replace its record; says whether it is new. Raises `Refused` bad-server."""
    if record.next_review <= record.last_review:
        raise Refused("bad-server", "the next review comes after the last", field="next_review")
    if (record.transport == "local") != (record.url is None):
        raise Refused("bad-server", "a server has a url, and tools that the runtime runs itself have none", field="url")
    if record.data_classes != sorted(set(record.data_classes)):
        raise Refused("bad-server", "data classes are sorted, none twice", field="data_classes")
    known = await store.server(db, name, claim=True)
    await store.put_server(db, name, canonical(record), at=now, by=by)
    act = "server-registered" if known is None else "server-changed"
    await audit.append(
        db, at=now, by=by, act=act, subject=name, digest=digest_of(canonical(record)), status=record.status
    )
    return await find(db, name), known is None


async def due(db: AsyncConnection, *, after: str, limit: int, now: int) -> list[Registered]:
    """List servers that are not retired and whose next review has come, by name."""
    found: list[Registered] = []
    while len(found) < limit and (page := await store.list_servers(db, after=after, limit=AT_ONCE)):
        after = page[-1].name
        read = map(registered, page)
        found += [each for each in read if each.record.status != "retired" and each.record.next_review <= now]
    return found[:limit]


async def as_reviewed(db: AsyncConnection, name: str) -> tuple[Registered, StoredManifest | None, dict[str, set[str]]]:
    """Find a server, its newest manifest, and the tools that are approved for every other server in use."""
    server = await find(db, name)
    others: dict[str, set[str]] = {}
    after = ""
    while page := await store.list_servers(db, after=after, limit=AT_ONCE):
        after = page[-1].name
        for each in page:
            newest = await store.newest_manifest(db, each) if each.name != name else None
            if newest is not None and registered(each).record.status != "retired":
                others[each.name] = {tool.name for tool in read(newest).tools}
    return server, await store.newest_manifest(db, server.server), others


def read(stored: StoredManifest) -> Manifest:
    """Read a manifest that is approved: it was checked then."""
    return Manifest.parse(Envelope.parse(stored.envelope, "manifest").content())


async def find(db: AsyncConnection, name: str, *, claim: bool = False) -> Registered:
    """Find a server. Raises `Refused` unknown-server."""
    found = await store.server(db, name, claim=claim)
    if found is None:
        raise Refused(
            "unknown-server", f"no server is registered as {name}", hint="Register it: tally server register."
        )
    return registered(found)


def registered(server: StoredServer) -> Registered:
    """Read a stored server's record."""
    return Registered(server, msgspec.json.decode(server.record, type=ServerRecord))


async def approve(
    db: AsyncConnection, raw: bytes, name: str, digest: str, trust: Trust, *, by: str, now: int
) -> Approved:
    """Check a signed manifest as the verifier will, and against the server's record; then store the bytes as they came.

    Raises `Refused`: the envelope's and the manifest's codes, wrong-digest, unknown-server, wrong-server, wrong-url,
    unregistered-data-class, stale-serial.
    """
    if trust.open(raw, "manifest").digest != digest:
        raise Refused("wrong-digest", "the address is not the digest of this manifest")
    server = await find(db, name, claim=True)
    known = await store.manifest(db, digest)
    if known is not None and known.server == name:
        return Approved(known.envelope, digest, new=False)
    manifest = open_manifest(trust, raw, now).value
    _check_fits(manifest, server)
    if manifest.serial <= server.server.manifest_serial:
        raise Refused(
            "stale-serial",
            f"serial {manifest.serial} is not higher than the last of {name}",
            hint="Build the manifest with a higher serial and sign it again.",
            field="serial",
        )
    await store.add_manifest(db, _stored(manifest, digest, raw, by, now))
    await audit.append(db, at=now, by=by, act="manifest-approved", subject=name, digest=digest, serial=manifest.serial)
    return Approved(raw, digest, new=True)


async def approved(db: AsyncConnection, name: str) -> StoredManifest:
    """Find the manifest that a new job gets: a server's newest, while the server is active and has not moved.

    Raises `Refused`: unknown-server, server-not-active, no-manifest.
    """
    server = await find(db, name)
    newest = await store.newest_manifest(db, server.server)
    if (refused := _withheld(name, server.record, None if newest is None else newest.url)) is not None:
        raise refused
    assert newest is not None, "what is not there is withheld"
    return newest


async def offered(db: AsyncConnection, policy: Policy) -> dict[str, str]:
    """Name the manifests that a new job gets, by server, of those that a policy's rules name."""
    globs = sorted({rule.server for rule in policy.allowed_tools})
    found = await store.newest_manifests(db, None if any("*" in each for each in globs) else globs)
    records = {each.name: msgspec.json.decode(each.record, type=ServerRecord) for each in found}
    given = (each for each in found if _withheld(each.name, records[each.name], each.url) is None)
    return {each.name: each.digest for each in given if any_glob(globs, each.name)}


def _withheld(name: str, record: ServerRecord, url: str | None) -> Refused | None:
    """Tell why a new job does not get a server's newest manifest, which is for an address; None where it does."""
    if record.status != "active":
        return Refused("server-not-active", f"server {name} is {record.status}")
    if url != (record.url or ""):
        return Refused("no-manifest", f"no manifest is approved for {name} at its present address")
    return None


async def find_manifest(db: AsyncConnection, digest: str) -> StoredManifest:
    """Find a manifest by digest. Raises `Refused` unknown-manifest."""
    if found := await store.manifest(db, digest):
        return found
    raise Refused("unknown-manifest", "no manifest is approved under this digest")


def _check_fits(manifest: Manifest, server: Registered) -> None:
    if manifest.server != server.server.name:
        raise Refused("wrong-server", f"the manifest is one of {manifest.server}", field="server")
    if manifest.url != server.record.url:
        raise Refused("wrong-url", "the manifest's address is not the registered one", field="url")
    for name, classes in (
        *((each.name, each.data_classes) for each in manifest.tools),
        *((each.name, each.data_classes) for each in manifest.prompts),
        *((each.uri, each.data_classes) for each in manifest.resources),
    ):
        if extra := sorted(set(classes) - set(server.record.data_classes)):
            why = f"{name} carries {', '.join(extra)}, for which the server is not registered"
            raise Refused("unregistered-data-class", why, field="data_classes")


def _stored(manifest: Manifest, digest: str, raw: bytes, by: str, now: int) -> StoredManifest:
    return StoredManifest(
        digest=digest,
        server=manifest.server,
        serial=manifest.serial,
        url=manifest.url or "",
        envelope=raw,
        approved_at=now,
        approved_by=by,
    )
