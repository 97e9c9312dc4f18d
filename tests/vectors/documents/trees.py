"""Checkpoints and inclusion proofs."""

from typing import Any

from tests.vectors.case import PASS
from tests.vectors.documents.make import rows
from tests.world import GATEWAY, NOW, SECOND, World, pair
from verifier import seal
from verifier.checkpoint import proof, sign_head
from verifier.merkle import inclusion_proof, leaf_hash


def _checkpoint(**more: Any) -> str:
    world = World().story()
    lane = world.lanes[0]
    return sign_head(
        pair("gateway"), seal.origin(GATEWAY, world.job, lane.name), len(lane.raws), lane.tree.root(), **more
    )


CHECKPOINTS = rows(
    ("running", PASS, "a running head has one Ed25519 line", lambda: _checkpoint().encode()),
    (
        "closing",
        PASS,
        "a closing head has an ML-DSA-44 line too",
        lambda: _checkpoint(closing_at=NOW // SECOND).encode(),
    ),
    (
        "no-signature",
        "MALFORMED bad-checkpoint",
        "a note without signatures",
        lambda: _checkpoint().split("\n\n")[0].encode() + b"\n",
    ),
    (
        "extension",
        "MALFORMED bad-checkpoint",
        "a fourth line",
        lambda: _checkpoint().replace("\n\n", "\nextra\n\n").encode(),
    ),
    (
        "leading-zero",
        "MALFORMED bad-checkpoint",
        "a size that can be written in two ways",
        lambda: _checkpoint().replace("\n12\n", "\n012\n").encode(),
    ),
    (
        "size",
        "FAIL bad-signature",
        "another size than was signed",
        lambda: _checkpoint().replace("\n12\n", "\n13\n").encode(),
    ),
    (
        "other-name",
        "UNTRUSTED unknown-signer",
        "a line in another name",
        lambda: _checkpoint().replace("— gateway", "— gatevay").encode(),
    ),
    ("cut", "MALFORMED bad-base64", "a signature that is cut", (_checkpoint()[:-2] + "\n").encode),
)


def _proof(seq: int = 5) -> str:
    world = World().story()
    lane = world.lanes[0]
    hashes = [leaf_hash(raw) for raw in lane.raws]
    return proof(lane.raws[seq], seq, inclusion_proof(hashes, seq), _checkpoint())


PROOFS = rows(
    ("honest", PASS, "a receipt, its place and a running head", lambda: _proof().encode()),
    ("other-index", "FAIL bad-proof", "another place", lambda: _proof().replace("index 5", "index 6").encode()),
    ("other-leaf", "FAIL bad-proof", "another receipt", lambda: _proof().replace("extra ", "extra AAAA", 1).encode()),
    ("hash-missing", "FAIL bad-proof", "a hash is missing", lambda: "\n".join(_drop(_proof().split("\n"), 3)).encode()),
    ("version", "FAIL bad-proof", "another version of the format", lambda: _proof().replace("@v1", "@v2").encode()),
    ("no-extra", "FAIL bad-proof", "no receipt", lambda: "\n".join(_drop(_proof().split("\n"), 1)).encode()),
)


def _drop(lines: list[str], at: int) -> list[str]:
    return lines[:at] + lines[at + 1 :]
