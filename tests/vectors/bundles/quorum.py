"""Step 3: policies that several keys of their author sign, and policies under policies."""

from msgspec.structs import replace

from tests.vectors.case import Made, case
from tests.world import AUTHOR, NOW, SECOND, World, key, pair
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.keys import Key

MADE: Made = {}
SECOND_AUTHOR = key("author-2", "policy", AUTHOR)


def signed(*authors: str, second: Key = SECOND_AUTHOR) -> bytes:
    """Write a job under a policy whose author needs two keys."""
    world = World(keys=[*World().listed.keys, second], listed={"author_quorum": {AUTHOR: 2}}).story()
    policy = seal_up("policy", world.policy_payload, *map(pair, authors), pair("registry"))
    return world.bundle(replace(world.documents(world.sealed()), policies=[policy]))


@case(MADE, "PASS", "two keys of the author signed, as the key list asks")
def policy_with_quorum() -> bytes:
    return signed("author", "author-2")


@case(MADE, "UNTRUSTED below-quorum", "one key of the author signed, two are asked for", also="missing-document")
def policy_below_quorum() -> bytes:
    return signed("author")


@case(MADE, "UNTRUSTED below-quorum", "one of the author's two keys was retired before", also="missing-document")
def policy_with_retired_author() -> bytes:
    return signed("author", "author-2", second=replace(SECOND_AUTHOR, revoked_at=NOW - 1, reason="retired"))


@case(MADE, "UNTRUSTED below-quorum", "the second key is of another author", also="missing-document")
def policy_with_quorum_of_two_authors() -> bytes:
    return signed("author", "author-2", second=replace(SECOND_AUTHOR, owner="finance-team"))


@case(MADE, "PASS", "a policy under three others, all in the bundle")
def policy_chain() -> bytes:
    return World(above=[{"serial": 2}, {"serial": 3}, {"serial": 4}]).bundle()


@case(MADE, "MALFORMED bad-policy", "a chain of five policies")
def policy_chain_too_long() -> bytes:
    return World(above=[{"serial": number} for number in range(2, 6)]).bundle()


@case(MADE, "FAIL missing-document", "a policy without the one above it")
def policy_without_parent() -> bytes:
    world = World(above=[{"serial": 2}])
    world.chain.pop()
    return world.bundle()


@case(MADE, "FAIL policy-not-valid", "the policy above had ended", also="missing-document")
def policy_above_out_of_time() -> bytes:
    return World(above=[{"valid_until": NOW}]).bundle()


@case(MADE, "FAIL wrong-grant", "a grant that outlives the policy above its own")
def grant_outlives_policy_above() -> bytes:
    return World(above=[{"valid_until": NOW + 60 * SECOND}]).bundle()


@case(MADE, "UNTRUSTED wrong-use", "the policy above was never published", also="missing-document")
def policy_above_unpublished() -> bytes:
    world = World(above=[{"serial": 2}])
    documents = world.documents(world.sealed())
    above = seal_up("policy", _payload(world), pair("author"))
    kept = [each for each in documents.policies if each != _published(world)]
    return world.bundle(replace(documents, policies=[*kept, above]))


def _payload(world: World) -> bytes:
    return canonical(world.chain[1])


def _published(world: World) -> bytes:
    return seal_up("policy", _payload(world), pair("author"), pair("registry"))
