"""A bundle's heads and receipts as files of C2SP: checkpoints, verifier keys, tlog-proofs (specs/exports.md §2).

They are what the bundle holds, in the files that other tools for transparency logs read; nothing is signed anew.
"""

from collections.abc import Iterator
from typing import BinaryIO

from msgspec import Struct

from verifier.bundle import Head, content, kind_of
from verifier.checkpoint import ED25519_TYPE, ML_DSA_44_TYPE, Checkpoint, key_id, proof
from verifier.encoding import b64, read
from verifier.envelope import Envelope
from verifier.keys import KeyList
from verifier.leaf import MAX_LEAF, End
from verifier.merkle import leaf_hash
from verifier.paths import Paths
from verifier.refused import Refused
from verifier.reveal import HEAD, places
from verifier.signing import PublicPair

ENVELOPES = frozenset({"keys", "policy", "prices", "manifest", "grant", "revocation", "approval", "seal"})
MAX_PROOFS = 1000


class File(Struct, frozen=True):
    """One file to write."""

    name: str
    content: bytes


class Export:
    """What one pass over a verified bundle finds: `envelopes` as they stand, and file by file the rest."""

    def __init__(self, *, proofs: int = MAX_PROOFS, call: str | None = None) -> None:
        """Prove at most so many `end` receipts, or only that of one call."""
        self.envelopes: list[bytes] = []
        self.proved = 0
        self.skipped: list[str] = []  # lanes whose head or root does not hold
        self._left = proofs
        self._call = call
        self._pairs: list[PublicPair] = []

    def files(self, source: BinaryIO) -> Iterator[File]:
        """Read the bundle once; yield each lane's files when it ends."""
        lane: _Lane | None = None
        for place in places(source):
            if place.raw.startswith(HEAD):
                yield from self._finish(lane)
                lane = _Lane(read(content(place.raw, "head"), Head, limit=4 * MAX_LEAF))
            elif lane is None:
                self._document(place.raw)
            else:
                lane.hashes += leaf_hash(place.raw)
                if isinstance(place.leaf, End) and self._left > 0 and self._call in {None, place.leaf.call}:
                    self._left -= 1
                    lane.chosen.append((place.leaf.seq, place.raw))
        yield from self._finish(lane)

    def _document(self, raw: bytes) -> None:
        kind = kind_of(raw)
        if kind in ENVELOPES:
            self.envelopes.append(content(raw, kind))
        if kind == "keys":
            listed = KeyList.parse(Envelope.parse(content(raw, kind), kind).content())
            self._pairs = [key.pair() for key in listed.keys if key.use == "gateway"]

    def _finish(self, lane: "_Lane | None") -> Iterator[File]:
        if lane is None:
            return
        tree = Paths([bytes(lane.hashes)])
        signer = self._signer(lane, tree)
        if signer is None:
            self.skipped.append(lane.head.lane)
            return
        name, note = lane.head.lane, lane.head.note
        first, second = signer.raw()
        origin = Checkpoint.parse(note).origin
        yield File(f"{name}.checkpoint", note.encode())
        yield File(f"{name}.vkey", verifier_key(origin, ED25519_TYPE, first))
        yield File(f"{name}.ml-dsa-44.vkey", verifier_key(origin, ML_DSA_44_TYPE, second))
        for seq, raw in lane.chosen:
            self.proved += 1
            yield File(f"{name}-{seq}.tlog-proof", proof(raw, seq, tree.path(seq), note).encode())

    def _signer(self, lane: "_Lane", tree: Paths) -> PublicPair | None:
        """Find the gateway key that signed a lane's head, when that head is over these very receipts."""
        try:
            head = Checkpoint.parse(lane.head.note)
            ids = {line.key_id for line in head.lines}
            named = [pair for pair in self._pairs if key_id(head.origin, ED25519_TYPE, pair.raw()[0]) in ids]
            if (head.size, head.root) == (tree.size, tree.root()) and named:
                head.check(named[0], closing=False)
                return named[0]
        except Refused:
            pass
        return None


class _Lane:
    """One lane as it is read: 32 bytes a receipt, and the receipts to prove."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.hashes = bytearray()
        self.chosen: list[tuple[int, bytes]] = []


def verifier_key(name: str, kind: bytes, public: bytes) -> bytes:
    """Write a verifier key of C2SP signed-note: name, key id in hex, base64 of type and public key."""
    return f"{name}+{key_id(name, kind, public).hex()}+{b64(kind + public)}\n".encode()
