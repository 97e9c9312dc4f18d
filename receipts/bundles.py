"""A job's proof bundle: its documents, and of each lane as many receipts as the seal says (specs/bundle.md).

It is handed out with the verifier's verdict, whatever that is: a bundle that fails is evidence, too. Of a job that is
under way it holds what is durable by now, and no seal: INCOMPLETE.
"""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from receipts import store
from receipts.archive import Archive
from receipts.retention import deleted
from scope.client import ScopeClient
from service.chains import with_ancestors
from service.engine import reading_elsewhere
from verifier import bundle
from verifier.audit import verify
from verifier.bundle import Documents, Lane
from verifier.chain import terms
from verifier.checkpoint import Checkpoint, sign_head
from verifier.documents import open_seal
from verifier.grant import Grant
from verifier.keys import Trust
from verifier.merkle import Tree
from verifier.policy import Chain, Policy
from verifier.refused import Refused
from verifier.signing import SUITE, KeyPair

AT_ONCE = 2


class Part(Struct, frozen=True):
    """A lane of a bundle, and how many of its receipts: all there are where nobody has said."""

    lane: str
    origin: str
    size: int | None


class Contents(Struct, frozen=True, kw_only=True):
    """What a bundle is made of. `grants` are in the order of their issue; `keys` is the key list to judge it by."""

    job: str
    policy: str
    opened: int
    keys: str
    grants: dict[str, Grant]
    revocations: list[bytes]
    parts: list[Part]
    seal: bytes | None

    @property
    def owners(self) -> set[str]:
        """Name the clients that the job was opened for."""
        return {each.scope.client for each in self.grants.values()}


class Bundle(Struct, frozen=True):
    """A bundle in a file without a name, and what the verifier says of it."""

    file: BinaryIO
    size: int
    verdict: str


class Bundles:
    """Assembles bundles, two at a time, in files that nobody else can open."""

    def __init__(
        self, *, directory: Path, engine: AsyncEngine, archive: Archive, scope: ScopeClient, trust: Trust, pair: KeyPair
    ) -> None:
        """Take the parts; bundles are written in `directory`."""
        self._directory = directory
        self._reader = reading_elsewhere(engine)
        self._archive = archive
        self._scope = scope
        self._trust = trust
        self._pair = pair
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def sealed(self, job: str) -> Contents:
        """Gather what a sealed job's bundle holds.

        Raises `Refused`: not-sealed, receipts-deleted, or what is wrong with the seal.
        """
        await self._require_kept(job)
        raw = await self._scope.seal(job)
        seal = open_seal(self._trust, raw).value
        if seal.job != job:
            raise Refused("wrong-job", "scope answers with the seal of another job")
        return Contents(
            job=job,
            policy=seal.policy,
            opened=seal.opened,
            keys=seal.keys,
            grants=await self._grants(seal.grants),
            revocations=await self._scope.revocations(job) if seal.revocations else [],
            parts=[Part(each.lane, each.origin, each.size) for each in seal.lanes],
            seal=raw,
        )

    async def underway(self, job: str) -> Contents:
        """Gather what there is of a job by now; of one that is sealed, what its bundle holds. Raises `Refused`."""
        await self._require_kept(job)
        status = await self._scope.status(job)
        if status.state == "sealed":
            return await self.sealed(job)
        async with self._reader.connect() as reader:
            lanes = await store.lanes_of(reader, job)
        return Contents(
            job=job,
            policy=status.policy,
            opened=status.opened,
            keys=self._trust.digest,
            grants=await self._grants(status.grants),
            revocations=await self._scope.revocations(job),
            parts=[Part(each.lane, each.origin, None) for each in lanes],
            seal=None,
        )

    async def _require_kept(self, job: str) -> None:
        """Raise `Refused` receipts-deleted, before documents of a job are fetched that were deleted here."""
        async with self._reader.connect() as reader:
            if await store.is_deleted(reader, job):
                raise deleted()

    async def _grants(self, digests: list[str]) -> dict[str, Grant]:
        return {digest: (await self._archive.opened_grant(digest)).value for digest in digests}

    async def _above(self, grants: dict[str, Grant]) -> dict[str, Grant]:
        """Return these grants and all that they were narrowed from, up to the root job's, as they were issued."""
        found, wanted = dict(grants), [each.parent for each in grants.values()]
        while wanted:
            parent = wanted.pop()
            if parent is not None and parent not in found:
                found[parent] = (await self._archive.opened_grant(parent)).value
                wanted.append(found[parent].parent)
        return dict(sorted(found.items(), key=lambda each: (each[1].issued_at, each[0])))

    async def assemble(self, contents: Contents) -> Bundle:
        """Write a job's bundle and judge it. Raises `Refused` receipts-deleted."""
        async with self._turns:
            documents = await self._documents(contents)
            file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - whoever sends it closes it
            try:
                return await self._judged(file, documents, contents.parts)
            except BaseException:
                file.close()
                raise

    async def _judged(self, file: BinaryIO, documents: Documents, parts: list[Part]) -> Bundle:
        async with self._reader.connect() as reader:
            if await store.is_deleted(reader, documents.job):
                raise deleted()
            await reader.run_sync(self._write, file, documents, parts)
        size = file.tell()
        file.seek(0)
        report = await asyncio.to_thread(verify, file, self._trust.pin)
        file.seek(0)
        return Bundle(file, size, report.verdict)

    async def _documents(self, contents: Contents) -> Documents:
        grants = list(contents.grants.values())
        later_first = sorted(grants, key=lambda grant: grant.issued_at, reverse=True)
        issued = {digest: grant.issued_at for grant in later_first for digest in grant.scope.manifests.values()}
        chain, policies = await self._policies(contents)
        prices, first = terms(chain).prices, min((grant.issued_at for grant in grants), default=contents.opened)
        return Documents(
            job=contents.job,
            suite=SUITE,
            keys=await self._archive.key_list(contents.keys),
            policies=policies,
            prices=[] if prices is None else [await self._archive.prices_envelope(prices, first)],
            manifests=[await self._archive.manifest_envelope(digest, at) for digest, at in sorted(issued.items())],
            grants=[await self._archive.grant(digest) for digest in await self._above(contents.grants)],
            revocations=contents.revocations,
            seal=contents.seal,
        )

    async def _policies(self, contents: Contents) -> tuple[Chain, list[bytes]]:
        """Return the job's policy and its ancestors; their envelopes by digest, as a bundle has them."""
        found: dict[str, bytes] = {}

        async def fetch(digest: str) -> Policy:
            opened, found[digest] = await self._archive.policy_document(digest, contents.opened)
            return opened.value

        chain = await with_ancestors(await fetch(contents.policy), fetch)
        return chain, [found[each] for each in sorted(found)]

    def _write(self, connection: Connection, file: BinaryIO, documents: Documents, parts: list[Part]) -> None:
        file.writelines(bundle.write(documents, map(partial(self._lane, connection, documents.job), parts)))

    def _lane(self, connection: Connection, job: str, part: Part) -> Lane:
        """Give a lane's receipts up to a size: under its closing head, or a head over what was witnessed or is there.

        A lane that is not of this job has none: a seal cannot make us hand out, or sign again, another job's receipts.
        """
        stored = store.lane_of(connection, job, part.lane)
        size = part.size if stored is not None else 0
        note = stored.closing if stored is not None else None
        if note is None or Checkpoint.parse(note).size != size:
            tree = Tree()
            for leaf in store.leaves_of(connection, part.lane, size):
                tree.append(leaf.hash)
            size, note = tree.size, sign_head(self._pair, part.origin, tree.size, tree.root())
        return Lane(part.lane, note, (leaf.raw for leaf in store.leaves_of(connection, part.lane, size)))
