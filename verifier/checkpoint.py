"""Signed tree heads and proofs in the formats of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof.

A running head has one Ed25519 line (type 0x01); a closing head also an ML-DSA-44 line (type 0x06), which signs the
`subtree/v1` message with a time in seconds and not the note's text (specs/checkpoint.md).
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from re import compile as pattern

from msgspec import Struct

from verifier.encoding import MAX_INT, b64, unb64
from verifier.merkle import HASH_BYTES, check_inclusion, leaf_hash
from verifier.refused import Refused
from verifier.signing import KeyPair, PublicPair, verify_ed25519, verify_ml_dsa_44

MAX_NOTE = 1 << 14
MAX_ORIGIN = 255
ED25519_TYPE, ML_DSA_44_TYPE = b"\x01", b"\x06"
PROOF = "c2sp.org/tlog-proof@v1"
_NUMBER = pattern(r"0|[1-9][0-9]{0,15}")
_TIME_BYTES = 8


class Line(Struct, frozen=True):
    """One signature line: the first four bytes name the key, the rest is the signature."""

    name: str
    key_id: bytes
    signature: bytes


class Checkpoint(Struct, frozen=True):
    """A tree head as read: nobody has vouched for it until `check`."""

    origin: str
    size: int
    root: bytes
    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, note: str) -> "Checkpoint":
        """Read a signed note that holds a checkpoint without extension lines. Raises `Refused` bad-checkpoint."""
        text, gap, tail = note.rpartition("\n\n")
        body = text.split("\n")
        if not gap or len(body) != 3 or not tail.endswith("\n") or len(note) > MAX_NOTE:  # noqa: PLR2004 - origin, size, root
            raise Refused("bad-checkpoint", "not a signed checkpoint of three lines")
        size, root = number(body[1]), unb64(body[2], field="root")
        if not 0 < len(body[0].encode()) <= MAX_ORIGIN or len(root) != HASH_BYTES:
            raise Refused("bad-checkpoint", "no origin, one of more than 255 bytes, or a root that is not 32 bytes")
        return cls(body[0], size, root, tuple(_line(each) for each in tail[:-1].split("\n")))

    def text(self) -> str:
        """Return the note's text, which Ed25519 signs."""
        return note_text(self.origin, self.size, self.root)

    def check(self, pair: PublicPair, *, closing: bool) -> int | None:
        """Check every signature line by one key pair; return the ML-DSA line's time in seconds, if there is one.

        A head with `closing` carries both lines; Ed25519 stands first, so that no other order is a second form of a
        head. Raises `Refused`: unknown-signer, bad-signature, missing-signature.
        """
        first, second = pair.raw()
        wanted = [key_id(self.origin, ED25519_TYPE, first), key_id(self.origin, ML_DSA_44_TYPE, second)]
        seconds: int | None = None
        seen: list[bytes] = []
        for line in self.lines:
            if line.name != self.origin or line.key_id not in wanted:
                raise Refused("unknown-signer", "a signature line of another name or key")
            if line.key_id == wanted[0]:
                good = verify_ed25519(first, self.text().encode(), line.signature)
            else:
                seconds = int.from_bytes(line.signature[:_TIME_BYTES], "big")
                message = subtree_message(self.origin, seconds, self.origin, self.size, self.root)
                good = seconds <= MAX_INT and verify_ml_dsa_44(second, message, line.signature[_TIME_BYTES:])
            if not good:
                raise Refused("bad-signature", "a signature of the head does not fit it")
            seen.append(line.key_id)
        if seen not in (wanted, wanted[:1]) or (closing and seconds is None):
            raise Refused(
                "missing-signature", "the head lacks a signature that it must carry, or has one out of its place"
            )
        return seconds


def note_text(origin: str, size: int, root: bytes) -> str:
    """Write a checkpoint's three lines."""
    return f"{origin}\n{size}\n{b64(root)}\n"


def sign_head(pair: KeyPair, origin: str, size: int, root: bytes, *, closing_at: int | None = None) -> str:
    """Sign a head; with `closing_at` (seconds) also with ML-DSA-44."""
    first, second = pair.raw
    text = note_text(origin, size, root)
    lines = [_write(origin, key_id(origin, ED25519_TYPE, first), pair.ed25519(text.encode()))]
    if closing_at is not None:
        signature = pair.ml_dsa_44(subtree_message(origin, closing_at, origin, size, root))
        lines.append(
            _write(origin, key_id(origin, ML_DSA_44_TYPE, second), closing_at.to_bytes(_TIME_BYTES, "big") + signature)
        )
    return text + "\n" + "".join(lines)


@lru_cache(maxsize=4096)
def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    """Compute a note key's id: the first four bytes of SHA-256(name || LF || type || public key)."""
    return sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def subtree_message(cosigner: str, seconds: int, origin: str, size: int, root: bytes) -> bytes:
    """Build the `cosigned_message` of tlog-cosignature for a whole tree."""
    name, log = cosigner.encode(), origin.encode()
    return (
        b"subtree/v1\n\0" + bytes([len(name)]) + name + seconds.to_bytes(8, "big")
        + bytes([len(log)]) + log + bytes(8) + size.to_bytes(8, "big") + root
    )  # fmt: skip


class Proof(Struct, frozen=True):
    """A C2SP tlog-proof: `extra` is the leaf, and is believed only after `check`."""

    extra: bytes
    index: int
    hashes: tuple[bytes, ...]
    note: str

    def encode(self) -> str:
        """Write the proof's text."""
        return "\n".join(
            [PROOF, f"extra {b64(self.extra)}", f"index {self.index}", *map(b64, self.hashes), "", self.note]
        )

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """Read a proof with its extra line. Raises `Refused` bad-proof."""
        head, _, note = text.partition("\n\n")
        lines = head.split("\n")
        if lines[0] != PROOF or [line[:6] for line in lines[1:3]] != ["extra ", "index "]:
            raise Refused("bad-proof", "not a tlog-proof with extra and index lines")
        return cls(unb64(lines[1][6:]), number(lines[2][6:]), tuple(unb64(each) for each in lines[3:]), note)

    def check(self, pair: PublicPair) -> Checkpoint:
        """Check that `extra` is the leaf at `index` of the signed tree; return that tree's head."""
        head = Checkpoint.parse(self.note)
        head.check(pair, closing=False)
        check_inclusion(leaf_hash(self.extra), self.index, head.size, self.hashes, head.root)
        return head


def proof(leaf: bytes, index: int, hashes: Sequence[bytes], note: str) -> str:
    """Write a tlog-proof whose extra line carries the leaf."""
    return Proof(leaf, index, tuple(hashes), note).encode()


def number(text: str) -> int:
    """Read a decimal without leading zeros."""
    if not _NUMBER.fullmatch(text):
        raise Refused("bad-checkpoint", "not a decimal number without leading zeros")
    return int(text)


def _line(text: str) -> Line:
    dash, _, rest = text.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "—" or not name or "+" in name:
        raise Refused("bad-checkpoint", "not a signature line")
    blob = unb64(encoded, field="signature")
    return Line(name, blob[:4], blob[4:])


def _write(name: str, ident: bytes, signature: bytes) -> str:
    return f"— {name} {b64(ident + signature)}\n"
