"""The next key list of an installation: a key added, ended or revoked, signed by roots, then put where it is read.

    keys.json --change--> keys.next.json --signed by the thresholds of roots--> keys.json, here and in each service

A list is never edited: a change is the next version, which a verifier of the former accepts (specs/keys.md §4). What
lacks signatures waits as `keys.next.json`, which is also the lock: there is one change at a time.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from service import NAMES
from service.initialise import VALIDITY
from verifier.encoding import canonical
from verifier.envelope import Envelope
from verifier.envelope import seal_up as sign
from verifier.keys import Key, KeyList, Pin, Reason, Trust
from verifier.private import write_private
from verifier.refused import Refused
from verifier.signing import KeyPair

CURRENT, NEXT = "keys.json", "keys.next.json"
# Who reads the list first: the seal names scope's, so scope is never behind the others.
READERS = ("scope", *(name for name in NAMES if name != "scope"), "")


class Installed(Struct, frozen=True):
    """The key list of an installation, opened with its pin: `raw` is the envelope."""

    directory: Path
    trust: Trust
    raw: bytes

    @classmethod
    def read(cls, directory: Path) -> "Installed":
        """Open DIR/keys.json with DIR/pin.json. Raises `Refused`: no-keys, and the pin's and the list's codes."""
        raw = _read(directory / CURRENT)
        return cls(directory, Trust.establish(Pin.parse(_read(directory / "pin.json")), raw), raw)

    @property
    def listed(self) -> KeyList:
        """The list."""
        return self.trust.listed

    def key(self, kid: str) -> Key:
        """Find a key by its id or the first eight digits of it, or more. Raises `Refused`: unknown-key."""
        found = [key for key in self.listed.keys if key.kid.startswith(kid)] if len(kid) >= 8 else []  # noqa: PLR2004
        if len(found) != 1:
            raise Refused("unknown-key", f"the list names no single key {kid[:32]!r}", hint="tally keys list")
        return found[0]


def added(listed: KeyList, key: Key) -> KeyList:
    """Name one more key. Raises `Refused` key-exists."""
    if any(each.kid == key.kid for each in listed.keys):
        raise Refused("key-exists", f"the list names {key.kid} already: a key has one use and one owner for ever")
    return replace(listed, keys=sorted([*listed.keys, key], key=lambda each: each.kid))


def ended(listed: KeyList, key: Key, at: int) -> KeyList:
    """Let a key's time end, at the latest when it would have anyway. Raises `Refused` key-ended."""
    if key.revoked_at is not None or not key.not_before < at <= key.not_after:
        raise Refused("key-ended", f"key {key.kid} has ended, was revoked, or begins later than that")
    return _with(listed, replace(key, not_after=at))


def revoked(listed: KeyList, key: Key, at: int, reason: Reason) -> KeyList:
    """Revoke a key from a time on, for `compromise` from the beginning. Raises `Refused` key-ended.

    A revocation can only become earlier or a compromise: nothing revives a key.
    """
    if key.revoked_at is not None and (at > key.revoked_at or (key.reason == "compromise" and reason != "compromise")):
        raise Refused("key-ended", f"key {key.kid} was revoked before, as {key.reason}; that stays")
    return _with(listed, replace(key, revoked_at=at, reason=reason))


def with_quorum(listed: KeyList, owner: str, keys: int) -> KeyList:
    """Say how many keys of an owner have to sign a policy. Raises `Refused` unreachable-quorum."""
    signing = [key for key in listed.keys if key.use == "policy" and key.owner == owner and key.revoked_at is None]
    if keys > len(signing):
        raise Refused("unreachable-quorum", f"{owner} has {len(signing)} keys that sign policies, not {keys}")
    return replace(listed, author_quorum={**listed.author_quorum, owner: keys})


def require_free(directory: Path) -> None:
    """Refuse a second change beside one that waits for signatures. Raises `Refused` change-under-way."""
    if (directory / NEXT).exists():
        hint = "Finish it (tally keys sign), or forget it (tally keys drop)."
        raise Refused("change-under-way", f"{NEXT} waits for signatures: one change at a time", hint=hint)


def propose(before: Installed, changed: KeyList, now: int) -> Path:
    """Write the next version, unsigned: DIR/keys.next.json. Raises `Refused` change-under-way."""
    listed = replace(changed, version=before.listed.version + 1, issued_at=now, expires=now + VALIDITY)
    payload = canonical(listed)
    KeyList.parse(payload)
    path = before.directory / NEXT
    try:
        write_private(path, sign("keys", payload))
    except FileExistsError:
        require_free(before.directory)
        raise
    return path


def countersign(before: Installed, roots: Sequence[KeyPair]) -> list[str]:
    """Add roots' signatures to keys.next.json; install it when they are enough, else say who may still sign.

    Raises `Refused`: no-change, unknown-root for a key that is no root of this list.
    """
    path = before.directory / NEXT
    raw = _read(path)
    listed = KeyList.parse(Envelope.parse(raw, "keys").content())
    known = {root.pair().kid(): root.owner for root in (*before.listed.roots, *listed.roots)}
    for pair in roots:
        if pair.kid not in known:
            raise Refused("unknown-root", f"key {pair.kid} is no root of this installation's list")
    signed = Envelope.parse(raw, "keys").signed_by("keys", *roots)
    _replace(path, signed.encode())
    try:
        Trust.establish(before.trust.pin, [before.raw, signed.encode()])
    except Refused as refused:
        if refused.code not in {"wrong-rotation", "missing-signature"} or refused.field != "signatures":
            raise
        return sorted({owner for kid, owner in known.items() if kid not in signed.kids()})
    install(before.directory, signed.encode())
    path.unlink()
    return []


def install(directory: Path, raw: bytes) -> None:
    """Put a list where each service reads it; one that broke off is repeated by `tally keys sign`."""
    for name in READERS:
        if name == "" or (directory / name).is_dir():
            _replace(directory / name / CURRENT, raw)


def drop(directory: Path) -> None:
    """Forget a change that waits for signatures. Raises `Refused` no-change."""
    try:
        (directory / NEXT).unlink()
    except FileNotFoundError as error:
        raise _no_file(directory / NEXT) from error


def _with(listed: KeyList, key: Key) -> KeyList:
    return replace(listed, keys=[key if each.kid == key.kid else each for each in listed.keys])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _no_file(path) from error


def _no_file(path: Path) -> Refused:
    if path.name == NEXT:
        return Refused("no-change", f"there is no {NEXT}: no change waits for signatures")
    return Refused("no-keys", f"{path} cannot be read", hint="Name the installation: --dir DIR.")


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a reader finds the old content or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(beside, content)
    beside.replace(path)
