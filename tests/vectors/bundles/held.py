"""Step 11: calls that waited for people, the approvals that released them, and those that should not have."""

from collections.abc import Callable
from typing import Any

from tests.vectors.bundles.make import GET_CASE, place
from tests.vectors.case import PASS, Made, case
from tests.world import SECOND, Lane, World, key
from verifier.encoding import canonical, digest
from verifier.leaf import Begin, Commitment, Hold, leaf_digest
from verifier.manifest import Tool

MADE: Made = {}
NOTHING = "sha256:" + "0" * 64
APPROVERS = ("ann", "bob")
TERMS = {"quorum": 1, "ttl_seconds": 600, "approvers": list(APPROVERS)}


def world(tier: str = "human", **terms: Any) -> World:
    """An installation whose policy wants people for `get_case`."""
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "approval": tier}
    keys = [*World().listed.keys, *(key(name, "approver", name) for name in (*APPROVERS, "agent-1", "eve"))]
    return World(policy={"allowed_tools": [rule], "approvals": TERMS | terms}, keys=keys)


def hold(lane: Lane, tier: str = "human", call: str = "call-2") -> tuple[Hold, str]:
    """Let a model ask for the call, and hold it."""
    lane.model("call-1", "get_case", "get_case")
    held = lane.hold(call, GET_CASE, tier=tier)
    assert isinstance(held, Hold)
    return held, leaf_digest(lane.raws[-1])


def release(lane: Lane, held: Hold, name: str, **changes: Any) -> None:
    """Begin what was held, by every approval there is."""
    given = {"hold": name, "approvals": sorted(digest(canonical(each)) for each in lane.world.approvals) or None}
    lane.time += SECOND
    begun = lane.begin(held.call, GET_CASE, **(given | {"parent": held.parent, "sent": held.sent} | changes))
    assert isinstance(begun, Begin)
    lane.end(begun.call)


def waited(
    approvers: tuple[str, ...] = ("ann",), tier: str = "human", terms: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None, **approval: Any,
) -> bytes:  # fmt: skip
    """Play a call that waited: held, approved, begun; with changes of its begin or of its approvals."""
    made = world(tier, **(terms or {}))
    lane = made.lane()
    held, name = hold(lane, tier)
    for approver in approvers:
        made.approve(held, lane.raws[-1], approver, **approval)
    release(lane, held, name, **(changes or {}))
    lane.close()
    return made.bundle()


@case(MADE, PASS, "a call that a person released: shown the very bytes, approved in time, by one who may")
def held_and_approved() -> bytes:
    return waited()


@case(MADE, PASS, "two of two approvers, where the policy wants two")
def held_and_approved_by_two() -> bytes:
    return waited(APPROVERS, terms={"quorum": 2})


@case(MADE, PASS, "a call that the lighter tier released")
def held_and_confirmed() -> bytes:
    return waited(tier="confirm")


@case(MADE, PASS, "a call that waited, and that nobody released: it was denied in the end")
def held_and_denied() -> bytes:
    made = world()
    lane = made.lane()
    held, name = hold(lane)
    lane.deny(held.call, GET_CASE, by="gateway", code="approval-expired", rule=None, hold=name, parent=held.parent)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL not-approved", "a held call that went through with nobody's approval")
def held_and_released_by_nobody() -> bytes:
    return waited(())


@case(MADE, "FAIL not-approved", "a call that the policy holds, recorded as allowed at once")
def held_by_policy_and_not_held() -> bytes:
    made = world()
    lane = made.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.close()
    return made.bundle()


@case(MADE, "FAIL not-approved", "one approval, where the policy wants two")
def held_and_approved_by_too_few() -> bytes:
    return waited(terms={"quorum": 2})


@case(MADE, "FAIL not-approved", "one approver approved twice: a quorum counts owners")
def held_and_approved_twice_by_one() -> bytes:
    made = world(quorum=2)
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann")
    made.approve(held, lane.raws[-1], "ann", time=held.time + 600)
    release(lane, held, name)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "an approval of other arguments", also="not-approved")
def approval_of_other_arguments() -> bytes:
    return waited(commitment=Commitment(n=1, root=NOTHING))


@case(MADE, "FAIL wrong-approval", "an approval of another hold", also="not-approved")
def approval_of_another_hold() -> bytes:
    return waited(hold=NOTHING)


@case(MADE, "FAIL wrong-approval", "an approval under another manifest than the call's", also="not-approved")
def approval_under_another_manifest() -> bytes:
    return waited(manifest=NOTHING)


@case(MADE, "FAIL wrong-approval", "a refusal named as if it had been an approval", also="not-approved")
def refusal_as_approval() -> bytes:
    return waited(verdict="refuse")


@case(MADE, "FAIL not-approved", "one approves, another had refused", also="no-hold")
def approved_and_refused() -> bytes:
    made = world()
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann")
    good = digest(canonical(made.approvals[0]))
    made.approve(held, lane.raws[-1], "bob", verdict="refuse")
    refused = digest(canonical(made.approvals[1]))
    release(lane, held, name, approvals=[good])
    lane.deny(held.call, GET_CASE, by="gateway", code="refused", rule=None, hold=name, approvals=[refused])
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "the agent approves its own call", also="not-approved")
def approval_by_agent() -> bytes:
    return waited(("agent-1",))


@case(MADE, "FAIL wrong-approval", "somebody approves whom the policy does not name", also="not-approved")
def approval_by_stranger() -> bytes:
    return waited(("eve",))


@case(MADE, "FAIL wrong-approval", "an approval from long before there was anything to approve", also="not-approved")
def approval_in_advance() -> bytes:
    return _timed(lambda held: {"time": held.time - 60 * SECOND})


@case(MADE, "FAIL wrong-approval", "an approval given after the call had begun", also="not-approved")
def approval_afterwards() -> bytes:
    return _timed(lambda held: {"time": held.time + 30 * SECOND})


@case(MADE, "FAIL wrong-approval", "an approval that had expired when the call began", also="not-approved")
def approval_expired() -> bytes:
    return _timed(lambda held: {"expires": held.time + 600})


@case(MADE, "FAIL wrong-approval", "an approval that outlives what the policy allows", also="not-approved")
def approval_for_too_long() -> bytes:
    return _timed(lambda held: {"expires": held.time + 601 * SECOND})


def _timed(times: Callable[[Hold], dict[str, int]]) -> bytes:
    made = world()
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann", **times(held))
    release(lane, held, name)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL no-hold", "a call that names a hold which the lane does not have")
def release_of_no_hold() -> bytes:
    return waited((), changes={"hold": NOTHING})


@case(MADE, "FAIL no-hold", "one hold that released two calls")
def release_twice() -> bytes:
    made = world()
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann")
    release(lane, held, name)
    release(lane, held, name, parent=lane.fold.model_calls.find("get_case", len(lane.raws)))
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "approved for one tool call, begun as another: the same approval, other bytes")
def release_of_other_bytes() -> bytes:
    return waited(changes={"sent": Commitment(n=1, root=NOTHING)})


@case(MADE, "FAIL missing-document", "an approval that a receipt names, left out of the bundle", also="not-approved")
def approval_left_out() -> bytes:
    return waited((), changes={"approvals": [NOTHING]})


@case(MADE, "MALFORMED unnamed-document", "an approval that no receipt names", also="not-approved")
def approval_unnamed() -> bytes:
    return waited(changes={"approvals": None})


@case(MADE, "FAIL wrong-approval", "one approval named twice, to make a quorum", also="not-approved")
def approval_named_twice() -> bytes:
    made = world(quorum=2)
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann")
    release(lane, held, name, approvals=[digest(canonical(made.approvals[0]))] * 2)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-decision", "held as a lighter tier than the policy asks for")
def held_as_lighter_tier() -> bytes:
    made = world("human")
    lane = made.lane()
    held, name = hold(lane, "confirm")
    made.approve(held, lane.raws[-1], "ann")
    release(lane, held, name)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-decision", "a call held that the policy allows at once")
def hold_invented() -> bytes:
    made = World(keys=[*World().listed.keys, key("ann", "approver", "ann")])
    lane = made.lane()
    hold(lane)
    lane.close()
    return made.bundle()


def _tool(approval: str) -> Tool:
    (found,) = (each for each in World().manifest.tools if each.name == "get_case")
    return Tool(**{name: getattr(found, name) for name in Tool.__struct_fields__} | {"approval": approval})


@case(MADE, "FAIL not-approved", "the manifest wants a person for this tool, whatever the rule says")
def held_by_manifest_and_not_held() -> bytes:
    tools = [each if each.name != "get_case" else _tool("human") for each in World().manifest.tools]
    made = World(tools=tools, policy={"approvals": TERMS})
    lane = made.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.close()
    return made.bundle()


@case(
    MADE,
    "FAIL wrong-size",
    "a receipt dropped before a held call: nothing after it is where it says",
    also="wrong-seq wrong-counts wrong-root no-model-call no-begin no-hold",
)
def held_behind_a_gap() -> bytes:
    written = waited().splitlines(keepends=True)
    del written[place(written, "head") + 3]
    return b"".join(written)


@case(MADE, "FAIL unknown-token", "a call held for a token that the lane has not recorded")
def held_for_unknown_token() -> bytes:
    made = world()
    lane = made.lane()
    lane.model("call-1", "get_case")
    lane.hold("call-2", GET_CASE, jti="token-9")
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "a denial that takes up the hold of another call")
def denial_of_another_call() -> bytes:
    made = world()
    lane = made.lane()
    _, name = hold(lane)
    lane.deny("call-9", GET_CASE, by="gateway", code="approval-expired", rule=None, hold=name)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "a denial that names an approval of another hold")
def denial_by_anothers_refusal() -> bytes:
    made = world()
    lane = made.lane()
    held, name = hold(lane)
    made.approve(held, lane.raws[-1], "ann", verdict="refuse", hold=NOTHING)
    named = [digest(canonical(each)) for each in made.approvals]
    lane.deny(held.call, GET_CASE, by="gateway", code="approval-refused", rule=None, hold=name, approvals=named)
    lane.close()
    return made.bundle()


@case(MADE, "FAIL wrong-approval", "a denial that names an approval and no hold")
def denial_by_nobodys_refusal() -> bytes:
    made = world()
    lane = made.lane()
    held, _ = hold(lane)
    made.approve(held, lane.raws[-1], "ann", verdict="refuse")
    named = [digest(canonical(each)) for each in made.approvals]
    lane.deny(held.call, GET_CASE, by="gateway", code="approval-refused", rule=None, approvals=named)
    lane.close()
    return made.bundle()
