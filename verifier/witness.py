"""A log's word for the time of a seal: a C2SP tlog-proof of the seal's digest (specs/seal.md §4).

Nothing in a bundle vouches for when a seal was made but the seal itself. A log kept by somebody else does: with its
proof a seal stays believed when its key is compromised later.
"""

from verifier.checkpoint import (
    ED25519_TYPE,
    MAX_ORIGIN,
    ML_DSA_44_TYPE,
    Checkpoint,
    Line,
    Proof,
    key_id,
    subtree_message,
)
from verifier.encoding import MAX_INT, read
from verifier.keys import Key, Trust
from verifier.merkle import check_inclusion, leaf_hash
from verifier.refused import Refused
from verifier.seal import Seal
from verifier.signing import verify_ed25519, verify_ml_dsa_44

MAX_LOG = 1 << 15
SECOND = 1_000_000
_TIME_BYTES = 8


def witness(trust: Trust, raw: bytes, digest: str, seal: Seal) -> int:
    """Check a `log` line; return the time that counts, in microseconds: the latest that the log or a cosigner says.

    Raises `Refused`: bad-checkpoint, bad-proof, unknown-signer, wrong-owner, bad-signature, missing-signature,
    key-not-valid, key-revoked, and the codes of reading.
    """
    proof = Proof.parse(read(raw, str, limit=MAX_LOG))
    if proof.extra != digest.encode():
        raise Refused("bad-proof", "the log's proof is of something else than this seal", field="log")
    head = Checkpoint.parse(proof.note)
    time = _signed(trust, head, seal.iss)
    check_inclusion(leaf_hash(proof.extra), proof.index, head.size, proof.hashes, head.root)
    if time + trust.pin.max_skew_seconds * SECOND < seal.closed:
        raise Refused("bad-proof", "the log saw the seal before the job was closed", field="log")
    return time


def _signed(trust: Trust, head: Checkpoint, issuer: str) -> int:
    """Check every line: the log's two, then cosigners' in the order of their keys; return the latest time."""
    lines = head.lines
    log = _key(trust, lines[0], issuer, ED25519_TYPE)
    if lines[0].name != head.origin or log is None:
        raise Refused("unknown-signer", "the first line is no log key's over its own log", field="log")
    if not verify_ed25519(log.pair().raw()[0], head.text().encode(), lines[0].signature):
        raise Refused("bad-signature", "the log's signature does not fit its head", field="log")
    latest, before = 0, ""
    for place, line in enumerate(lines[1:]):
        key = _key(trust, line, issuer, ML_DSA_44_TYPE)
        if key is None:
            raise Refused("unknown-signer", "a line of the log's head is by no log key", field="log")
        if (place == 0) != (key.kid == log.kid) or key.kid <= before or (place == 0 and line.name != head.origin):
            raise Refused(
                "missing-signature", "the log's ML-DSA-44 line, then cosigners by key, each once", field="log"
            )
        before = "" if place == 0 else key.kid
        latest = max(latest, _time(trust, head, line, key))
    if len(lines) == 1:
        raise Refused("missing-signature", "the log's head carries one signature of two", field="log")
    return latest


def _key(trust: Trust, line: Line, issuer: str, kind: bytes) -> Key | None:
    """Find the log key whose name a line bears; whoever sealed does not witness. Raises `Refused` wrong-owner."""
    half = 0 if kind == ED25519_TYPE else 1
    for key in trust.by_kid.values():
        if key.use == "log" and key_id(line.name, kind, key.pair().raw()[half]) == line.key_id:
            if key.owner == issuer:
                raise Refused("wrong-owner", f"{issuer} cannot be the witness of its own seal", field="log")
            return key
    return None


def _time(trust: Trust, head: Checkpoint, line: Line, key: Key) -> int:
    """Check one ML-DSA-44 line, whose key was good at the time that it says; return that time in microseconds."""
    if len(line.name.encode()) > MAX_ORIGIN:
        raise Refused("bad-checkpoint", f"a cosigner's name of more than {MAX_ORIGIN} bytes", field="log")
    seconds = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    message = subtree_message(line.name, seconds, head.origin, head.size, head.root)
    public = key.pair().raw()[1]
    if seconds * SECOND > MAX_INT or not verify_ml_dsa_44(public, message, line.signature[_TIME_BYTES:]):
        raise Refused("bad-signature", "a signature of the log's head does not fit it", field="log")
    trust.good_at(key, seconds * SECOND)
    return seconds * SECOND
