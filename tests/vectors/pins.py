"""The files beside the vectors: the pins that judge bundles, and the key list that envelopes are opened with."""

from functools import cache

from tests.world import World, pair, root
from verifier.encoding import canonical
from verifier.envelope import seal_up


@cache
def pins() -> dict[str, bytes]:
    """Return every pin and `keys.json` by file name."""
    world = World()
    two = [root("root", "owner-1"), root("root-2", "owner-2")]
    made = {
        "pin": world.pin(),
        "pin-two-roots": world.pin(roots=two, threshold=2),
        "pin-newer-keys": world.pin(min_keys_version=2),
        "pin-young-keys": world.pin(max_keys_age=3600),
        "pin-full-replay": world.pin(require_full_replay=True),
        "pin-other-job": world.pin(job="job-2"),
        "pin-other-policy": world.pin(policy="sha256:" + "0" * 64),
        "pin-other-gateway": world.pin(gateway="https://other.example"),
    }
    found = {f"{name}.json": canonical(each) + b"\n" for name, each in made.items()}
    return found | {"keys.json": seal_up("keys", world.keys_payload, pair("root"))}
