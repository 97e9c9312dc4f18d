"""Step 5: the seal."""

from msgspec.structs import replace

from tests.vectors.bundles.make import sealing, sealing_lane, signed, story
from tests.vectors.case import Made, case
from tests.world import GATEWAY, NOW, World, key, pair
from verifier import seal
from verifier.encoding import canonical
from verifier.envelope import seal_up

MADE: Made = {}


@case(MADE, "INCOMPLETE no-seal", "without a seal nothing says that these are all the receipts")
def no_seal() -> bytes:
    world = story()
    return world.bundle(world.documents(None))


@case(MADE, "UNTRUSTED wrong-use", "the gateway sealed its own job", also="no-seal")
def seal_by_gateway() -> bytes:
    world = story()
    return signed(world, seal=seal_up("seal", canonical(world.sealed()), pair("gateway")))


@case(MADE, "FAIL wrong-job", "the seal of another job")
def seal_of_another_job() -> bytes:
    world = story()
    honest = world.sealed()
    lane = replace(honest.lanes[0], origin=seal.origin(GATEWAY, "job-2", "lane-1"))
    return sealing(world, job="job-2", lanes=[lane])


@case(MADE, "FAIL wrong-policy", "the seal names another policy")
def seal_of_another_policy() -> bytes:
    return sealing(story(), policy="sha256:" + "0" * 64)


@case(MADE, "FAIL wrong-keys", "the seal names another key list")
def seal_of_another_key_list() -> bytes:
    return sealing(story(), keys="sha256:" + "0" * 64)


@case(MADE, "FAIL wrong-issuer", "the seal of another scope")
def seal_of_another_issuer() -> bytes:
    other = "https://other.example"
    world = World(keys=[*World().listed.keys, key("seal-2", "seal", other)])
    world.story()
    return signed(world, seal=seal_up("seal", canonical(world.sealed(iss=other)), pair("seal-2")))


@case(MADE, "FAIL wrong-grant", "the seal and the grant name different openings")
def seal_of_another_opening() -> bytes:
    return sealing(story(), opened=NOW + 1)


@case(MADE, "FAIL missing-document", "the seal names a second grant that is not there")
def sealed_grant_left_out() -> bytes:
    world = story()
    return sealing(world, grants=[world.grant_digest, "sha256:" + "0" * 64])


@case(MADE, "FAIL missing-document", "the seal names a revocation that is not there")
def sealed_revocation_left_out() -> bytes:
    return sealing(story(), revocations=["sha256:" + "0" * 64])


@case(MADE, "FAIL missing-document", "sealed as revoked, and nothing revokes")
def revoked_without_revocation() -> bytes:
    return sealing(story(), status="revoked")


@case(MADE, "MALFORMED bad-seal", "a lane's marks that shrink", also="no-seal")
def seal_with_shrinking_marks() -> bytes:
    marks = [seal.Mark(time=NOW, size=5), seal.Mark(time=NOW + 1, size=4)]
    return sealing_lane(story(), marks=marks)


@case(MADE, "FAIL not-expected", "not the job that the pin expects", pin="pin-other-job.json")
def another_job_than_expected() -> bytes:
    return story().bundle()
