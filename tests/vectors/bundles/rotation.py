"""Step 2: chains of key lists, and what a newer list says of the keys."""

from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import lines, place, story
from tests.vectors.case import Made, case
from tests.world import NOW, SCOPE, World, key, pair, root
from verifier.box import AuditorKey
from verifier.encoding import b64
from verifier.keys import Key
from verifier.policy import DAY

MADE: Made = {}
NEW_ROOT = [root("root-2", "owner-2")]


def rotated(*roots: str, **changes: Any) -> bytes:
    """Write a job under the second of two key lists."""
    return World().rotate(*roots, **changes).story().bundle()


def changed(name: str, **changes: Any) -> list[Key]:
    """Give the honest keys, one of them changed."""
    return [replace(each, **changes) if each.kid == pair(name).kid else each for each in World().listed.keys]


@case(MADE, "PASS", "a second key list: one key more")
def keys_chain() -> bytes:
    return rotated(keys=[*World().listed.keys, key("seal-2", "seal", SCOPE)])


@case(MADE, "PASS", "the roots were changed: both the old and the new signed the second list")
def keys_of_new_roots() -> bytes:
    return rotated("root", "root-2", roots=NEW_ROOT)


@case(MADE, "UNTRUSTED wrong-rotation", "one key list twice: a chain is in the order of versions")
def keys_twice() -> bytes:
    written = lines(story())
    at = place(written, "keys")
    written.insert(at, written[at])
    return b"".join(written)


@case(MADE, "UNTRUSTED wrong-rotation", "a key list between the two is left out")
def keys_chain_with_gap() -> bytes:
    return rotated(version=3)


@case(MADE, "UNTRUSTED wrong-rotation", "new roots that the old ones did not agree to")
def keys_of_new_roots_alone() -> bytes:
    return rotated("root-2", roots=NEW_ROOT)


@case(MADE, "UNTRUSTED wrong-rotation", "new roots that did not sign themselves: nobody may hold their keys")
def keys_of_new_roots_unsigned() -> bytes:
    return rotated("root", roots=NEW_ROOT)


@case(MADE, "UNTRUSTED wrong-rotation", "below the new threshold: two owners are asked for, one signed")
def keys_below_new_threshold() -> bytes:
    return rotated("root", "root-2", roots=[*NEW_ROOT, root("root-3", "owner-3")], threshold=2)


@case(MADE, "UNTRUSTED unknown-signer", "an attacker signed the second list besides")
def keys_signed_by_attacker_too() -> bytes:
    return rotated("root", "attacker")


@case(MADE, "UNTRUSTED wrong-rotation", "a key was dropped: what it signed could not be judged any more")
def key_dropped() -> bytes:
    return rotated(keys=[each for each in World().listed.keys if each.kid != pair("token").kid])


@case(MADE, "UNTRUSTED wrong-rotation", "a key got another owner")
def key_moved() -> bytes:
    return rotated(keys=changed("grant", owner="https://tenant-a.example"))


@case(MADE, "UNTRUSTED wrong-rotation", "a key's life was made longer")
def key_prolonged() -> bytes:
    return rotated(keys=changed("grant", not_after=NOW + 400 * DAY))


@case(MADE, "UNTRUSTED wrong-rotation", "a revoked key was made good again")
def key_revived() -> bytes:
    world = World(keys=changed("token", revoked_at=NOW, reason="compromise"))
    return world.rotate(keys=World().listed.keys).story().bundle()


@case(MADE, "PASS", "nothing happened to the keys since", keys="keys/newer")
def keys_newer() -> bytes:
    return story().bundle()


@case(
    MADE,
    "UNTRUSTED key-revoked",
    "an older key list, in which the seal's key is not compromised yet; a newer one says so",
    also="no-seal",
    keys="keys/newer-compromise",
)
def seal_key_compromised_since() -> bytes:
    return story().bundle()


@case(MADE, "UNTRUSTED wrong-rotation", "another list of the same version: one of two is not meant", keys="keys/other")
def keys_of_same_version() -> bytes:
    return story().bundle()


@case(MADE, "PASS", "the pin's floor is reached by a newer list", keys="keys/newer", pin="pin-newer-keys.json")
def keys_newer_than_pin() -> bytes:
    return story().bundle()


@case(MADE, "PASS", "an auditor's key encrypts, and hinders nobody")
def keys_with_auditor() -> bytes:
    owned = AuditorKey(bytes(range(32)))
    listed = Key(
        kid=owned.kid, use="auditor", owner="auditor-1", hpke=b64(owned.public),
        not_before=NOW - DAY, not_after=NOW + 365 * DAY,
    )  # fmt: skip
    return World(keys=[*World().listed.keys, listed]).story().bundle()
