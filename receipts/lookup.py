"""One call's receipt with its proof, and a job's receipts page by page."""

import re
from pathlib import Path

from msgspec import Raw
from sqlalchemy.ext.asyncio import AsyncConnection

from receipts import store
from receipts.client import Place, Receipt, ReceiptPage
from receipts.lanes import Lanes, read_key
from receipts.retention import deleted
from receipts.store import StoredLeaf
from receipts.tree import LaneTree
from verifier.checkpoint import Checkpoint, proof, sign_head
from verifier.commitment import SIDES, call_key
from verifier.encoding import b64
from verifier.refused import Refused
from verifier.signing import KeyPair

_seq = re.compile(r"[0-9]{1,16}")


class Lookup:
    """Finds receipts, in open lanes and in those of long ago."""

    def __init__(self, lanes: Lanes, directory: Path, pair: KeyPair) -> None:
        """Take the open lanes, and the directory of lane keys."""
        self._lanes = lanes
        self._directory = directory
        self._pair = pair

    async def job_of(self, reader: AsyncConnection, call: str) -> str:
        """Tell a call's job, also when its receipts were deleted.

        Raises `Refused` unknown-call, also while it has not ended.
        """
        leaf = await store.end_of(reader, call)
        lane = await store.lane(reader, call.rpartition("-")[0] if leaf is None else leaf.lane)
        if lane is None or (leaf is None and lane.deleted is None):
            raise Refused("unknown-call", "no call of this name has ended here", field="call")
        return lane.job

    async def receipt(self, reader: AsyncConnection, job: str, call: str) -> Receipt:
        """Prove a call's `end` under the newest head of its lane. Raises `Refused` receipts-deleted."""
        await _require_kept(reader, job)
        leaf = await store.end_of(reader, call)
        assert leaf is not None, "job_of has found it"
        tree, note = await self._tree(reader, job, leaf)
        size = Checkpoint.parse(note).size
        key = read_key(self._directory, leaf.lane)
        return Receipt(
            call=call,
            job=job,
            lane=leaf.lane,
            seq=leaf.seq,
            proof=proof(leaf.raw, leaf.seq, tree.inclusion(leaf.seq, size), note),
            keys={side: b64(call_key(key, call, side)) for side in SIDES} if key else {},
        )

    async def page(self, reader: AsyncConnection, job: str, after: str, limit: int) -> ReceiptPage:
        """Return receipts behind `after`, which is `<lane>:<seq>` or empty. Raises `Refused` receipts-deleted."""
        await _require_kept(reader, job)
        lane, _, seq = after.partition(":")
        leaves = await store.page(reader, job, (lane, _number(seq)), limit)
        items = [Place(leaf.lane, leaf.seq, Raw(leaf.raw)) for leaf in leaves]
        return ReceiptPage(items, f"{items[-1].lane}:{items[-1].seq}" if len(items) == limit else None)

    async def _tree(self, reader: AsyncConnection, job: str, leaf: StoredLeaf) -> tuple[LaneTree, str]:
        """Return a leaf's tree and a head over it: the living one, or rebuilt from the ledger."""
        living = self._lanes.find(job)
        if living is not None and living.lane == leaf.lane and living.durable_size > leaf.seq:
            return living.tree, living.closing_head or living.head
        stored = await store.lane(reader, leaf.lane)
        assert stored is not None, "a leaf's lane is a foreign key"
        tree = LaneTree()
        for hashed in await store.hashes(reader, leaf.lane):
            tree.append(hashed)
        return tree, stored.closing or sign_head(self._pair, stored.origin, tree.size, tree.root(tree.size))


async def _require_kept(reader: AsyncConnection, job: str) -> None:
    if await store.is_deleted(reader, job):
        raise deleted()


def _number(seq: str) -> int:
    """Read the seq of a cursor; before all when there is none."""
    if seq and not _seq.fullmatch(seq):
        raise Refused("bad-value", "a page begins after <lane>:<seq>", field="after")
    return int(seq) if seq else -1
