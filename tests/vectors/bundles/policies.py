"""Step 3: policies and manifests."""

from tests.vectors.bundles.make import Bend, bent, signed, story
from tests.vectors.case import Made, case
from tests.world import AUTHOR, NOW, World, key, pair
from verifier.envelope import seal_up

MADE: Made = {}


@case(MADE, "UNTRUSTED unknown-signer", "a self-signed policy", also="missing-document")
def policy_self_signed() -> bytes:
    world = story()
    return signed(world, policies=[seal_up("policy", world.policy_payload, pair("attacker"))])


@case(MADE, "UNTRUSTED wrong-use", "a policy that the registry never signed", also="missing-document")
def policy_unpublished() -> bytes:
    world = story()
    return signed(world, policies=[seal_up("policy", world.policy_payload, pair("author"))])


@case(MADE, "UNTRUSTED wrong-use", "a policy that only the registry signed: it has no author", also="missing-document")
def policy_without_author() -> bytes:
    world = story()
    return signed(world, policies=[seal_up("policy", world.policy_payload, pair("registry"))])


@case(MADE, "UNTRUSTED wrong-owner", "a policy in the name of another author", also="missing-document")
def policy_of_another_author() -> bytes:
    return World(policy={"issuer": "finance-team"}).story().bundle()


@case(MADE, "UNTRUSTED wrong-owner", "author and registry are one owner: nobody else saw it", also="missing-document")
def policy_published_by_its_author() -> bytes:
    world = World(keys=[*World().listed.keys, key("registry-2", "registry", AUTHOR)])
    world.story()
    return signed(world, policies=[seal_up("policy", world.policy_payload, pair("author"), pair("registry-2"))])


@case(
    MADE, "FAIL policy-not-valid", "a policy that was no longer in force when the job opened", also="missing-document"
)
def policy_out_of_time() -> bytes:
    return World(policy={"valid_until": NOW}).story().bundle()


@case(MADE, "FAIL missing-document", "the policy is left out")
def policy_left_out() -> bytes:
    return signed(story(), policies=[])


@case(MADE, "FAIL missing-document", "the manifest is left out", also="unknown-server wrong-manifest")
def manifest_left_out() -> bytes:
    return signed(story(), manifests=[])


@case(
    MADE,
    "MALFORMED unnamed-document",
    "an older manifest in place of the granted one",
    also="missing-document unknown-server wrong-manifest",
)
def manifest_older() -> bytes:
    world = story()
    older = bent(world.manifest_payload, lambda it: it["tools"].pop(0))
    return signed(world, manifests=[seal_up("manifest", older, pair("registry"))])


@case(
    MADE,
    "UNTRUSTED wrong-owner",
    "a manifest in the name of another registry",
    also="missing-document unknown-server wrong-manifest",
)
def manifest_of_another_registry() -> bytes:
    world = World(keys=[*World().listed.keys, key("registry-2", "registry", "https://other.example")])
    world.story()
    return signed(world, manifests=[seal_up("manifest", world.manifest_payload, pair("registry-2"))])


def _policy_bent(change: Bend) -> bytes:
    world = story()
    payload = bent(world.policy_payload, change)
    return signed(world, policies=[seal_up("policy", payload, pair("author"), pair("registry"))])


@case(MADE, "MALFORMED bad-policy", "a policy that asks more approvers than it has", also="missing-document")
def policy_with_approvals() -> bytes:
    return _policy_bent(lambda it: it["approvals"].update(quorum=1))


@case(MADE, "FAIL missing-document", "a policy whose parent is left out: nothing says what it forbids")
def policy_with_parent() -> bytes:
    return World(policy={"parent": "sha256:" + "0" * 64}).story().bundle()


@case(MADE, "MALFORMED bad-policy", "two rules with one id", also="missing-document")
def policy_with_rule_twice() -> bytes:
    return _policy_bent(lambda it: it["allowed_tools"].append(it["allowed_tools"][0]))


@case(
    MADE,
    "MALFORMED bad-manifest",
    "a manifest whose tools are not sorted",
    also="missing-document unknown-server wrong-manifest",
)
def manifest_unsorted() -> bytes:
    world = story()
    payload = bent(world.manifest_payload, lambda it: it["tools"].reverse())
    return signed(world, manifests=[seal_up("manifest", payload, pair("registry"))])
