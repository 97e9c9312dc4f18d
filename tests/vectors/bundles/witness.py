"""Step 5: seals that complete others, and a log's word for a seal's time."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import lines, place, signed
from tests.vectors.case import Made, case
from tests.world import NOW, SCOPE, SECOND, World, key, log_proof, pair
from verifier import seal
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.keys import Key
from verifier.policy import DAY
from verifier.seal import Mark, Seal

MADE: Made = {}
ZERO = "sha256:" + "0" * 64
LOG = key("log", "log", "https://log.example")
COSIGNER = key("witness", "log", "https://witness.example")
LATER = NOW // SECOND + 3600


def resumed(**changes: Any) -> bytes:
    """Seal a job while its gateway is cut off, and again when it came back; let the first seal say something else."""
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    world.superseded = world.sealed(status="interrupted")
    lane.tool("call-2")
    lane.close()
    honest = world.sealed()
    world.superseded = replace(world.superseded, **changes)
    name = digest(canonical(world.superseded))
    return world.bundle(world.documents(replace(honest, supersedes=name)))


def resumed_lane(**changes: Any) -> bytes:
    """Let the first seal say something else of its lane."""
    world = World()
    world.lane().model("call-1", "get_case")
    return resumed(lanes=[replace(world.sealed().lanes[0], **changes)])


@case(MADE, "PASS", "an interrupted seal, and the final one that completes it")
def seal_superseding() -> bytes:
    return resumed()


@case(MADE, "FAIL wrong-supersedes", "two final seals: the earlier one was final, for ever")
def seal_supersedes_final() -> bytes:
    return resumed(status="complete")


@case(MADE, "FAIL wrong-supersedes", "a lane of the earlier seal is gone")
def superseded_lane_dropped() -> bytes:
    return resumed_lane(lane="lane-0", origin=seal.origin("https://gateway.example", "job-1", "lane-0"))


@case(MADE, "FAIL wrong-supersedes", "a lane shrank after it had been sealed")
def superseded_lane_longer() -> bytes:
    return resumed_lane(size=99)


@case(MADE, "FAIL wrong-supersedes", "a mark of the earlier seal was changed")
def superseded_mark_changed() -> bytes:
    return resumed_lane(marks=[Mark(time=NOW + SECOND, size=1)])


@case(MADE, "FAIL wrong-supersedes", "a token of the earlier seal was dropped")
def superseded_token_dropped() -> bytes:
    return resumed_lane(tokens=[seal.SealedToken(jti="token-0", grant=ZERO, iat=0, exp=1)])


@case(MADE, "FAIL wrong-supersedes", "a grant of the earlier seal was dropped")
def superseded_grant_dropped() -> bytes:
    return resumed(grants=[ZERO])


@case(MADE, "FAIL wrong-keys", "the earlier seal names a key list that is not in the chain")
def superseded_under_other_keys() -> bytes:
    return resumed(keys=ZERO)


@case(MADE, "FAIL missing-document", "the superseded seal is left out")
def superseded_left_out() -> bytes:
    return signed_without(resumed())


def signed_without(raw: bytes) -> bytes:
    """Leave out the first seal line."""
    written = raw.splitlines(keepends=True)
    del written[place(written, "seal")]
    return b"".join(written)


@case(MADE, "MALFORMED unnamed-document", "a second seal that the last one does not name")
def two_seals() -> bytes:
    world = World().story()
    sealed = world.sealed()
    other = seal_up("seal", canonical(replace(sealed, closed=sealed.closed - 1)), pair("seal"))
    return signed(world, superseded=other)


@case(MADE, "MALFORMED bad-line", "a seal stands twice")
def seal_twice() -> bytes:
    written = lines(World().story())
    at = place(written, "seal")
    written.insert(at, written[at])
    return b"".join(written)


@case(MADE, "MALFORMED bad-seal", "an interrupted seal that supersedes another", also="no-seal")
def interrupted_seal_superseding() -> bytes:
    world = World().story()
    return world.bundle(world.documents(replace(world.sealed(), status="interrupted", supersedes=ZERO)))


def witnessed(
    proves: Callable[[bytes], str], *, compromised: int | None = NOW + DAY, more: tuple[Key, ...] = (LOG, COSIGNER)
) -> bytes:
    """Write a job whose seal's key was compromised later, with a log's proof of the seal."""
    keys = [*World().listed.keys, *more]
    if compromised is not None:
        revoked = {"revoked_at": compromised, "reason": "compromise"}
        keys = [replace(each, **revoked) if each.use == "seal" else each for each in keys]
    world = World(keys=keys).story()
    sealed: Seal = world.sealed()
    world.log = proves(digest(canonical(sealed)).encode())
    return world.bundle(world.documents(sealed))


@case(MADE, "PASS", "a log of somebody else had the seal before its key was compromised")
def log_line() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER))


@case(MADE, "PASS", "a log with a cosigner")
def log_with_cosigner() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER, witness=LATER + 60))


@case(MADE, "UNTRUSTED key-revoked", "the log saw the seal after the compromise", also="no-seal")
def log_after_compromise() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER), compromised=LATER * SECOND)


@case(MADE, "UNTRUSTED key-revoked", "of log and cosigner the later time counts", also="no-seal")
def log_with_late_cosigner() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER, witness=LATER + 60), compromised=(LATER + 60) * SECOND)


@case(MADE, "FAIL bad-proof", "the log's proof is of another seal")
def log_of_another_seal() -> bytes:
    return witnessed(lambda _: log_proof(ZERO.encode(), LATER), compromised=None)


@case(MADE, "FAIL bad-proof", "the log's proof is of another place in the tree")
def log_of_another_place() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER).replace("index 1", "index 0"), compromised=None)


@case(MADE, "FAIL bad-proof", "the log saw the seal before the job was closed")
def log_before_seal() -> bytes:
    return witnessed(lambda entry: log_proof(entry, NOW // SECOND - 60), compromised=None)


@case(MADE, "UNTRUSTED unknown-signer", "a log that no key list names")
def log_by_attacker() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER, "attacker"), compromised=None)


@case(MADE, "UNTRUSTED unknown-signer", "a key for something else signs as a log")
def log_by_gateway() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER, "gateway"), compromised=None)


@case(MADE, "UNTRUSTED unknown-signer", "a cosigner that no key list names")
def log_with_unknown_cosigner() -> bytes:
    return witnessed(lambda entry: log_proof(entry, LATER, attacker=LATER), compromised=None)


@case(MADE, "UNTRUSTED wrong-owner", "scope is the witness of its own seal")
def log_by_sealer() -> bytes:
    own = replace(LOG, owner=SCOPE)
    return witnessed(lambda entry: log_proof(entry, LATER), compromised=None, more=(own,))


@case(MADE, "FAIL missing-signature", "ML-DSA-44 stripped from the log's head: without it there is no time")
def log_stripped_of_ml_dsa() -> bytes:
    def strip(entry: bytes) -> str:
        *lines_, _, end = log_proof(entry, LATER).split("\n")
        return "\n".join([*lines_, end])

    return witnessed(strip, compromised=None)


@case(MADE, "FAIL bad-signature", "the cosigner signed another tree")
def log_with_forged_cosigner() -> bytes:
    def forge(entry: bytes) -> str:
        honest = log_proof(entry, LATER, witness=LATER)
        other = log_proof(b"another", LATER, witness=LATER)
        return honest[: honest.rindex("—")] + other[other.rindex("—") :]

    return witnessed(forge, compromised=None)


@case(MADE, "MALFORMED unnamed-document", "a log's proof without a seal", also="no-seal")
def log_without_seal() -> bytes:
    world = World(keys=[*World().listed.keys, LOG]).story()
    world.log = log_proof(digest(canonical(world.sealed())).encode(), LATER)
    return world.bundle(world.documents(None))


@case(MADE, "MALFORMED wrong-type", "a log line that is no text")
def log_not_text() -> bytes:
    written = lines(World().story())
    written.insert(place(written, "head"), b'{"log":{}}\n')
    return b"".join(written)
