"""A finished job's proof bundle: its documents, and of each lane as many receipts as the seal says (specs/bundle.md).

It is handed out with the verifier's verdict, whatever that is: a bundle that fails is evidence, too.
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
from scope.client import ScopeClient
from service.chains import with_ancestors
from service.engine import reading
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
from verifier.seal import Seal, SealedLane
from verifier.signing import SUITE, KeyPair

AT_ONCE = 2


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
        self._reader = reading(engine)
        self._archive = archive
        self._scope = scope
        self._trust = trust
        self._pair = pair
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def seal(self, job: str) -> tuple[Seal, bytes]:
        """Return a job's seal. Raises `Refused`: not-sealed, and whatever is wrong with it."""
        raw = await self._scope.seal(job)
        seal = open_seal(self._trust, raw).value
        if seal.job != job:
            raise Refused("wrong-job", "scope answers with the seal of another job")
        return seal, raw

    async def grants(self, seal: Seal) -> dict[str, Grant]:
        """Return the grants that a seal names, by digest."""
        return {digest: (await self._archive.opened_grant(digest)).value for digest in seal.grants}

    async def _above(self, grants: dict[str, Grant]) -> dict[str, Grant]:
        """Return these grants and all that they were narrowed from, up to the root job's, as they were issued."""
        found, wanted = dict(grants), [each.parent for each in grants.values()]
        while wanted:
            parent = wanted.pop()
            if parent is not None and parent not in found:
                found[parent] = (await self._archive.opened_grant(parent)).value
                wanted.append(found[parent].parent)
        return dict(sorted(found.items(), key=lambda each: (each[1].issued_at, each[0])))

    async def assemble(self, seal: Seal, raw_seal: bytes) -> Bundle:
        """Write a sealed job's bundle and judge it."""
        async with self._turns:
            documents = await self._documents(seal, raw_seal)
            file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - whoever sends it closes it
            try:
                return await self._judged(file, documents, seal)
            except BaseException:
                file.close()
                raise

    async def _judged(self, file: BinaryIO, documents: Documents, seal: Seal) -> Bundle:
        async with self._reader.connect() as reader:
            await reader.run_sync(self._write, file, documents, seal)
        size = file.tell()
        file.seek(0)
        report = await asyncio.to_thread(verify, file, self._trust.pin)
        file.seek(0)
        return Bundle(file, size, report.verdict)

    async def _documents(self, seal: Seal, raw_seal: bytes) -> Documents:
        named = await self.grants(seal)
        grants = list(named.values())
        later_first = sorted(grants, key=lambda grant: grant.issued_at, reverse=True)
        issued = {digest: grant.issued_at for grant in later_first for digest in grant.scope.manifests.values()}
        chain, policies = await self._policies(seal)
        prices, first = terms(chain).prices, min((grant.issued_at for grant in grants), default=seal.opened)
        return Documents(
            job=seal.job,
            suite=SUITE,
            keys=await self._archive.key_list(seal.keys),
            policies=policies,
            prices=[] if prices is None else [await self._archive.prices_envelope(prices, first)],
            manifests=[await self._archive.manifest_envelope(digest, at) for digest, at in sorted(issued.items())],
            grants=[await self._archive.grant(digest) for digest in await self._above(named)],
            revocations=await self._scope.revocations(seal.job) if seal.revocations else [],
            seal=raw_seal,
        )

    async def _policies(self, seal: Seal) -> tuple[Chain, list[bytes]]:
        """Return the job's policy and its ancestors; their envelopes by digest, as a bundle has them."""
        found: dict[str, bytes] = {}

        async def fetch(digest: str) -> Policy:
            opened, found[digest] = await self._archive.policy_document(digest, seal.opened)
            return opened.value

        chain = await with_ancestors(await fetch(seal.policy), fetch)
        return chain, [found[each] for each in sorted(found)]

    def _write(self, connection: Connection, file: BinaryIO, documents: Documents, seal: Seal) -> None:
        file.writelines(bundle.write(documents, map(partial(self._lane, connection, seal.job), seal.lanes)))

    def _lane(self, connection: Connection, job: str, sealed: SealedLane) -> Lane:
        """Give a lane's receipts up to the sealed size: under its closing head, or a head over what was witnessed.

        A lane that is not of this job has none: a seal cannot make us hand out, or sign again, another job's receipts.
        """
        stored = store.lane_of(connection, job, sealed.lane)
        size = sealed.size if stored is not None else 0
        note = stored.closing if stored is not None else None
        if note is None or Checkpoint.parse(note).size != sealed.size:
            tree = Tree()
            for leaf in store.leaves_of(connection, sealed.lane, size):
                tree.append(leaf.hash)
            note = sign_head(self._pair, sealed.origin, tree.size, tree.root())
        return Lane(sealed.lane, note, (leaf.raw for leaf in store.leaves_of(connection, sealed.lane, size)))
