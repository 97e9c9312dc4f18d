"""Step 6 for one lane: its size, its root, and the head that the gateway signed (specs/verification.md §6)."""

from collections.abc import Iterator

from msgspec import Struct

from verifier.checkpoint import Checkpoint
from verifier.evidence import Evidence
from verifier.keys import Key
from verifier.refused import Refused
from verifier.seal import SealedLane, origin

SECOND = 1_000_000


def check_head(
    note: str, lane: str, evidence: Evidence, sealed: SealedLane | None, rebuilt: "Rebuilt"
) -> Iterator[Refused]:
    """Hold a lane's head against seal, receipts and keys; give everything that is wrong with it.

    Codes: bad-checkpoint, wrong-head, wrong-gateway, wrong-size, wrong-root, unknown-signer, bad-signature,
    missing-signature, key-revoked, key-not-valid.
    """
    try:
        head = Checkpoint.parse(note)
    except Refused as refused:
        yield refused
        return
    gateway = evidence.gateway
    if head.origin != origin(gateway, evidence.job, lane):
        yield Refused("wrong-head", "the head is of another lane, job or gateway", field="origin")
    if sealed is not None and sealed.gateway != gateway:
        yield Refused("wrong-gateway", "the seal names another gateway than the grant's audience", field="gateway")
    if sealed is not None and (head.size, "sha256:" + head.root.hex()) != (sealed.size, sealed.root):
        yield Refused("wrong-head", "the head is not the one that was sealed", field="note")
    if sealed is None and head.size != rebuilt.size:
        yield Refused("wrong-size", f"{rebuilt.size} receipts, the head says {head.size}", field="size")
    if sealed is None and head.root != rebuilt.root:
        yield Refused("wrong-root", "the receipts do not add up to the head's root", field="root")
    try:
        _signed(head, _candidates(evidence, gateway, sealed), evidence, rebuilt)
    except Refused as refused:
        yield refused


class Rebuilt(Struct, frozen=True):
    """What the receipts of a lane come to: number, root, the last one's time, and whether a close stands last."""

    size: int
    root: bytes
    time: int
    closed: bool


def _candidates(evidence: Evidence, gateway: str, sealed: SealedLane | None) -> list[Key]:
    """List the gateway's keys: the one that the seal names, or without a seal all of its owner's."""
    owned = [key for key in evidence.trust.listed.keys if key.use == "gateway" and key.owner == gateway]
    return owned if sealed is None else [key for key in owned if key.kid == sealed.kid]


def _signed(head: Checkpoint, keys: list[Key], evidence: Evidence, rebuilt: Rebuilt) -> None:
    """Accept the first key whose signatures are all good; else say what is wrong with the last."""
    refused = Refused("unknown-signer", "no gateway key of this owner in the key list", field="kid")
    for key in keys:
        try:
            _check(head, key, evidence, rebuilt)
        except Refused as reason:
            refused = reason
        else:
            return
    raise refused


def _check(head: Checkpoint, key: Key, evidence: Evidence, rebuilt: Rebuilt) -> None:
    """A closing head carries both signatures; it is signed when the lane ends and before the seal, within the skew."""
    seconds = head.check(key.pair(), closing=rebuilt.closed)
    seal, skew = evidence.seal, evidence.trust.pin.max_skew_seconds * SECOND
    evidence.trust.good_at(key, rebuilt.time if seal is None else seal.closed)
    if seconds is None:
        return
    if (seconds + 1) * SECOND < rebuilt.time - skew or (seal is not None and seconds * SECOND > seal.closed + skew):
        raise Refused("wrong-head", "the closing head was signed at another time than the lane's end", field="note")
