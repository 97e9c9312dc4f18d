"""Step 2: pin and key list."""

from tests.vectors.bundles.make import Bend, bent, signed, story, with_keys
from tests.vectors.case import Made, case
from tests.world import NOW, World, pair
from verifier.encoding import b64
from verifier.envelope import seal_up
from verifier.policy import DAY

MADE: Made = {}


@case(MADE, "UNTRUSTED unknown-root", "an attacker's root signed a key list of the attacker's keys")
def keys_of_another_root() -> bytes:
    world = story()
    return signed(world, keys=seal_up("keys", world.keys_payload, pair("attacker")))


@case(MADE, "UNTRUSTED unknown-root", "the pin asks for two owners, one signed", pin="pin-two-roots.json")
def keys_below_threshold() -> bytes:
    return story().bundle()


@case(
    MADE,
    "UNTRUSTED old-keys",
    "an older key list than the pin allows: a key may have been revoked since",
    pin="pin-newer-keys.json",
)
def keys_older_than_pin() -> bytes:
    return story().bundle()


@case(MADE, "UNTRUSTED keys-expired", "the key list had expired when the job was sealed")
def keys_expired_at_seal() -> bytes:
    return World(listed={"expires": NOW}).story().bundle()


@case(MADE, "UNTRUSTED keys-expired", "the key list is older than the pin's max_keys_age", pin="pin-young-keys.json")
def keys_too_old() -> bytes:
    return story().bundle()


@case(MADE, "UNTRUSTED keys-expired", "current at the seal, and no longer at the time asked for", at=NOW + 91 * DAY)
def keys_expired_at_time_asked() -> bytes:
    return story().bundle()


@case(MADE, "MALFORMED bad-key", "a public key of 31 bytes")
def keys_with_short_key() -> bytes:
    return _keys_bent(lambda it: it["keys"][0].update(ed25519=b64(bytes(31))))


@case(MADE, "MALFORMED bad-keys", "a name moved to another key: a kid is the hash of its key")
def keys_with_moved_name() -> bytes:
    return _keys_bent(lambda it: it["keys"][0].update(kid="0" * 32))


@case(MADE, "MALFORMED bad-keys", "one key with two uses")
def keys_with_key_twice() -> bytes:
    return _keys_bent(lambda it: it["keys"].append({**it["keys"][0], "use": "seal"}))


def _keys_bent(change: Bend) -> bytes:
    world = story()
    return signed(world, keys=seal_up("keys", bent(world.keys_payload, change), pair("root")))


@case(MADE, "UNTRUSTED key-not-valid", "the grant's key was not yet valid", also="missing-document")
def grant_key_not_yet_valid() -> bytes:
    return with_keys(grant={"not_before": NOW + DAY}).bundle()


@case(MADE, "UNTRUSTED key-revoked", "the grant's key had been retired before the grant", also="missing-document")
def grant_key_retired() -> bytes:
    return with_keys(grant={"revoked_at": NOW - 1, "reason": "retired"}).bundle()


@case(MADE, "UNTRUSTED key-revoked", "a compromised seal key: nothing vouches for a seal's time", also="no-seal")
def seal_key_compromised() -> bytes:
    return with_keys(seal={"revoked_at": NOW + DAY, "reason": "compromise"}).bundle()


@case(MADE, "UNTRUSTED key-revoked", "a compromised gateway key")
def gateway_key_compromised() -> bytes:
    return with_keys(gateway={"revoked_at": NOW + DAY, "reason": "compromise"}).bundle()
