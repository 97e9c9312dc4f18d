"""The caller's half: proofs that clients kept, looked for in the sealed lanes (specs/verification.md §14).

A file holds a tlog-proof as text, or in base64 as the header `Tally-Proof` carries it. Whoever was shown a receipt that
the operator would rather not have written holds here what the operator signed.
"""

from collections.abc import Iterable

from msgspec import Struct

from verifier.checkpoint import PROOF, Checkpoint, Proof
from verifier.encoding import unb64
from verifier.evidence import Evidence
from verifier.merkle import leaf_hash
from verifier.refused import Refused
from verifier.report import Report
from verifier.seal import origin
from verifier.signing import PublicPair

MAX_KEPT = 1 << 16


class Kept(Struct, frozen=True):
    """One receipt that a client holds: its place in a lane, and the head under which the gateway proved it."""

    name: str
    lane: str
    index: int
    leaf_hash: bytes
    head: Checkpoint


def establish(files: Iterable[tuple[str, bytes]], evidence: Evidence, report: Report) -> dict[str, list[Kept]]:
    """Check what clients kept (name and content) under the gateway's keys; what cannot be checked is found, by name."""
    found: dict[str, list[Kept]] = {}
    for name, raw in files:
        try:
            kept = _open(name, raw, evidence)
        except Refused as refused:
            report.add(refused.code, 14, f"{name}: {refused.why}", place="receipts", hint=refused.hint)
        else:
            found.setdefault(kept.lane, []).append(kept)
    return found


def missing(kept: dict[str, list[Kept]], seen: set[str], report: Report) -> None:
    """Report receipts of lanes that are not in the bundle at all."""
    for lane in sorted(set(kept) - seen):
        for each in kept[lane]:
            why = f"{each.name}: a receipt of lane {lane}, which is not in the bundle"
            report.add("omitted", 14, why, lane=lane, seq=each.index)


def read(raw: bytes) -> Proof:
    """Read what a client kept: a tlog-proof, as text or in base64. Raises `Refused`; nothing in it is believed yet."""
    if len(raw) > MAX_KEPT:
        raise Refused("too-large", f"a kept receipt has at most {MAX_KEPT} bytes")
    try:
        text = raw.decode()
        return Proof.parse(text if text.startswith(PROOF) else unb64(text.strip()).decode())
    except UnicodeDecodeError as error:
        raise Refused("not-utf8", "not UTF-8") from error


def _open(name: str, raw: bytes, evidence: Evidence) -> Kept:
    proof = read(raw)
    keys = [key for key in evidence.trust.listed.keys if key.use == "gateway" and key.owner == evidence.gateway]
    head = _check(proof, [key.pair() for key in keys])
    prefix = origin(evidence.gateway, evidence.job, "")
    if not head.origin.startswith(prefix):
        raise Refused("wrong-job", f"a receipt of another job or gateway: {head.origin}")
    return Kept(name, head.origin.removeprefix(prefix), proof.index, leaf_hash(proof.extra), head)


def _check(proof: Proof, pairs: list[PublicPair]) -> Checkpoint:
    """Check a proof under the first key that fits; else say what is wrong under the last."""
    refused = Refused("unknown-signer", "no gateway key of this owner in the key list")
    for pair in pairs:
        try:
            return proof.check(pair)
        except Refused as reason:
            refused = reason
    raise refused
