"""Step 11, its documents: who may sign an approval, and of which job."""

from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import GET_CASE
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, World, key, pair
from verifier.approval import Approval
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.leaf import Commitment, leaf_digest
from verifier.policy import DAY

MADE: Made = {}
ZERO = "sha256:" + "0" * 64
APPROVER = key("approver-1", "approver", "approver-1")


def approval(world: World, **changes: Any) -> Approval:
    """Approve some call of the job."""
    made = Approval(
        approver="approver-1", commitment=Commitment(n=1, root=ZERO), expires=NOW + 60 * SECOND, hold=ZERO,
        job=world.job, policy=world.policy_digest, time=NOW + SECOND, verdict="approve",
    )  # fmt: skip
    return replace(made, **changes)


def approved(signer: str = "approver-1", **changes: Any) -> bytes:
    """Put an approval into an honest bundle."""
    world = World(keys=[*World().listed.keys, APPROVER]).story()
    raw = seal_up("approval", canonical(approval(world, **changes)), pair(signer))
    return world.bundle(replace(world.documents(world.sealed()), approvals=[raw]))


@case(MADE, "UNTRUSTED unknown-signer", "a forged approval: signed by a key that no list names")
def forged_approval() -> bytes:
    return approved("attacker")


@case(MADE, "UNTRUSTED wrong-use", "the gateway approves what it held itself")
def approval_by_gateway() -> bytes:
    return approved("gateway")


@case(MADE, "UNTRUSTED wrong-owner", "one approver signs in another's name")
def approval_in_anothers_name() -> bytes:
    return approved(approver="approver-2")


@case(MADE, "UNTRUSTED key-not-valid", "an approval from before its key was good")
def approval_too_early_for_key() -> bytes:
    return approved(time=NOW - 2 * DAY)


@case(MADE, "MALFORMED bad-approval", "an approval that ends before it is given")
def approval_backwards() -> bytes:
    return approved(expires=NOW)


@case(MADE, "FAIL wrong-approval", "an approval of another job")
def approval_of_another_job() -> bytes:
    return approved(job="job-2")


@case(MADE, "FAIL wrong-approval", "an approval under another policy")
def approval_under_another_policy() -> bytes:
    return approved(policy=ZERO)


@case(MADE, "FAIL wrong-approval", "one approval, two lanes that hold the very same call at the very same time")
def approval_in_two_lanes() -> bytes:
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "approval": "human"}
    terms = {"quorum": 1, "ttl_seconds": 600, "approvers": ["approver-1"]}
    world = World(policy={"allowed_tools": [rule], "approvals": terms}, keys=[*World().listed.keys, APPROVER])
    for name in ("lane-1", "lane-2"):
        lane = world.lane(name)
        lane.model("call-1", "get_case")
        held = lane.hold("call-2", GET_CASE)
        if not world.approvals:
            world.approve(held, lane.raws[-1])
        lane.time += SECOND
        names = [digest(canonical(each)) for each in world.approvals]
        lane.begin("call-2", GET_CASE, hold=leaf_digest(lane.raws[-1]), approvals=names)
        lane.end("call-2")
        lane.close()
    return world.bundle()
