"""Steps 12 to 14: what stands behind receipts, what clients add to their calls, and what they kept."""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import GET_CASE, MODEL, dishonest, story
from tests.vectors.case import PASS, Made, case
from tests.world import Lane, World, key
from verifier.box import AuditorKey, Box, commit_boxes
from verifier.bundle import wrap
from verifier.commitment import call_key, commit
from verifier.disclosure import Disclosure, disclose_each
from verifier.encoding import b64, canonical, unb64
from verifier.keys import Key
from verifier.leaf import Echo, Target, ToolCall, Usage, leaf_digest

MADE: Made = {}
NOTHING = "sha256:" + "0" * 64
BODY = [b'{"arguments":{', b'"amount":7', b",", b'"query":"case-1"', b"}}"]
PREFIX = {"attr": "args.query", "op": "prefix", "value": "case-"}

# Disclosures ----------------------------------------------------------------------------------------------------------


def conditioned(body: list[bytes] | None = None, *, when: dict[str, Any] | None = None) -> tuple[World, Lane, int]:
    """Play one tool call whose rule looks at an argument; say where its begin stands."""
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "when": [when or PREFIX]}
    world = World(policy={"allowed_tools": [rule]})
    lane = world.lane()
    lane.model("call-1", "get_case")
    sent = commit(call_key(lane.lane_key, "call-2", "sent"), body or BODY)
    begun = lane.begin("call-2", GET_CASE, sent=sent)
    lane.end("call-2")
    lane.close()
    return world, lane, begun.seq


def shown(lane: Lane, *indexes: int, body: list[bytes] | None = None) -> list[Disclosure]:
    """Disclose some slices of what was sent."""
    return disclose_each(call_key(lane.lane_key, "call-2", "sent"), body or BODY, indexes, "sent")


def disclosed(
    *indexes: int, body: list[bytes] | None = None, when: dict[str, Any] | None = None,
    change: Callable[[list[Disclosure]], list[Disclosure]] = list,
) -> bytes:  # fmt: skip
    """Write a bundle in which a holder disclosed something of one call."""
    world, lane, seq = conditioned(body, when=when)
    lane.behind[seq] = [wrap("disclosure", canonical(each)) for each in change(shown(lane, *indexes, body=body))]
    return world.bundle()


def _bent(**changes: Any) -> Callable[[list[Disclosure]], list[Disclosure]]:
    return lambda given: [replace(given[0], **changes), *given[1:]]


def summed(most: str, *calls: str) -> bytes:
    """Make calls of seven each, under a limit on their sum; the amounts of those named were disclosed."""
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "limits": {"sums": {"amount": most}}}
    world = World(policy={"allowed_tools": [rule]})
    lane = world.lane()
    lane.model("call-1", "get_case", "get_case")
    for call in ("call-2", "call-3"):
        begun = lane.begin(call, GET_CASE, sent=commit(call_key(lane.lane_key, call, "sent"), BODY))
        lane.end(call)
        if call in calls:
            given = disclose_each(call_key(lane.lane_key, call, "sent"), BODY, (1,), "sent")
            lane.behind[begun.seq] = [wrap("disclosure", canonical(each)) for each in given]
    lane.close()
    return world.bundle()


@case(MADE, PASS, "disclosed amounts add up to the limit on their sum")
def disclosure_of_amounts_within_their_sum() -> bytes:
    return summed("14", "call-2", "call-3")


@case(MADE, PASS, "one of two amounts was disclosed: what is not could be nothing")
def disclosure_of_one_of_two_amounts() -> bytes:
    return summed("13", "call-2")


@case(MADE, "FAIL over-budget", "disclosed amounts add up to more than the rule allows in all")
def disclosure_of_amounts_beyond_their_sum() -> bytes:
    return summed("13", "call-2", "call-3")


@case(MADE, PASS, "one argument was disclosed: the replay of its condition is full as far as it goes")
def disclosure_of_one_argument() -> bytes:
    return disclosed(3)


@case(MADE, PASS, "everything of one call was disclosed: its replay is full")
def disclosure_of_everything() -> bytes:
    return disclosed(0, 1, 2, 3, 4)


@case(MADE, "FAIL wrong-decision", "what was disclosed shows that the policy did not allow the call")
def disclosure_that_convicts() -> bytes:
    return disclosed(3, body=[*BODY[:3], b'"query":"all"', BODY[4]])


@case(MADE, "FAIL wrong-disclosure", "other content than the receipt commits to")
def disclosure_of_other_content() -> bytes:
    return disclosed(3, change=_bent(content=b64(b'"query":"case-2"')))


@case(MADE, "FAIL wrong-disclosure", "another salt")
def disclosure_with_another_salt() -> bytes:
    return disclosed(3, change=_bent(salt=b64(bytes(32))))


@case(MADE, "FAIL wrong-disclosure", "bytes moved from the content into the salt")
def disclosure_with_longer_salt() -> bytes:
    return disclosed(
        3, change=lambda given: [replace(given[0], salt=b64(unb64(given[0].salt) + b'"'), content=given[0].content)]
    )


@case(MADE, "FAIL wrong-disclosure", "a slice shown in another's place")
def disclosure_in_another_place() -> bytes:
    return disclosed(3, change=_bent(index=1))


@case(MADE, "FAIL wrong-disclosure", "a slice beyond the body's end")
def disclosure_beyond_the_end() -> bytes:
    return disclosed(3, change=_bent(index=5))


@case(MADE, "FAIL wrong-disclosure", "a slice of a side that the receipt says nothing of")
def disclosure_of_another_side() -> bytes:
    return disclosed(3, change=_bent(side="dlv"))


@case(MADE, "MALFORMED bad-line", "one slice, disclosed twice")
def disclosure_twice() -> bytes:
    return disclosed(3, change=lambda given: given * 2)


@case(MADE, "MALFORMED bad-line", "disclosures out of order")
def disclosures_out_of_order() -> bytes:
    return disclosed(1, 3, change=lambda given: given[::-1])


@case(MADE, "FAIL wrong-disclosure", "two arguments in one slice, to hide the second behind the first")
def disclosure_of_two_arguments() -> bytes:
    return disclosed(1, body=[BODY[0], b'"amount":7,"query":"case-1"', BODY[4]])


@case(MADE, "FAIL wrong-disclosure", "two arguments of one name: a reader may keep either")
def disclosure_of_one_name_twice() -> bytes:
    return disclosed(1, 3, body=[BODY[0], b'"query":"case-1"', b",", b'"query":"all"', BODY[4]])


@case(MADE, "FAIL wrong-disclosure", "an argument hidden in what should only close the body")
def disclosure_around_arguments() -> bytes:
    return disclosed(1, 2, body=[BODY[0], b'"query":"case-1"', b'},"more":{"query":"all"}}'])


@case(MADE, "FAIL wrong-disclosure", "a disclosure behind a receipt that has no body")
def disclosure_behind_close() -> bytes:
    world, lane, _ = conditioned()
    lane.behind[len(lane.raws) - 1] = [wrap("disclosure", canonical(shown(lane, 3)[0]))]
    return world.bundle()


@case(MADE, "MALFORMED unknown-field", "a disclosure with a field that the format does not have")
def disclosure_with_unknown_field() -> bytes:
    world, lane, seq = conditioned()
    raw = canonical(shown(lane, 3)[0])
    lane.behind[seq] = [wrap("disclosure", raw[:-1] + b',"trusted":true}')]
    return world.bundle()


# Sealed payloads ------------------------------------------------------------------------------------------------------

AUDITOR = AuditorKey(bytes(range(32)))


def auditor(name: str = "auditor-1") -> Key:
    """List the auditor's key."""
    made = key("auditor", "auditor", name)
    return replace(made, kid=AUDITOR.kid, ed25519=None, ml_dsa_44=None, hpke=b64(AUDITOR.public))


Boxes = Sequence[Box]
USAGE = Usage(input=10, output=5)


def auditing(privacy: str = "sealed", owner: str = "auditor-1", **policy: Any) -> World:
    """Open a job whose policy lets payloads be sealed for an auditor, or wants them sealed."""
    policy["receipts"] = {"privacy": privacy, "auditors": ["auditor-1"]}
    return World(policy=policy, keys=[*World().listed.keys, auditor(owner)])


def sealed(
    sent: Boxes, answered: Boxes, *, said: Boxes | None = None, owner: str = "auditor-1", privacy: str = "sealed"
) -> bytes:
    """Play one call whose receipts commit to their boxes; what those hold, the auditor's key alone tells.

    `said`: what the begin commits to, where other boxes stand behind it.
    """
    world = auditing(privacy, owner)
    lane = world.lane()
    committed = lane.boxed(*sent) if sent else None
    if said is not None:
        committed = commit_boxes(said) if said else None
    lane.begin("call-1", MODEL, boxes=committed)
    lane.end("call-1", model="small-1", usage=USAGE, boxes=lane.boxed(*answered) if answered else None)
    lane.close()
    return world.bundle()


def box(side: Any, **changes: Any) -> Box:
    """Give the shape of a sealed payload."""
    return replace(Box(auditor=AUDITOR.kid, ciphertext=b64(bytes(1200)), side=side), **changes)


@case(MADE, PASS, "each body was sealed for the auditor whom the policy names")
def boxes_of_every_call() -> bytes:
    return sealed([box("sent")], [box("dlv")])


@case(MADE, "FAIL missing-box", "what was sent was not sealed for the auditor")
def box_of_request_left_out() -> bytes:
    return sealed([], [box("dlv")])


@case(MADE, "FAIL missing-box", "what was answered was not sealed for the auditor")
def box_of_answer_left_out() -> bytes:
    return sealed([box("sent")], [])


@case(MADE, "FAIL wrong-box", "sealed to a key that no list names", also="missing-box")
def box_for_stranger() -> bytes:
    return sealed([box("sent", auditor="0" * 32)], [box("dlv")])


@case(MADE, "FAIL wrong-box", "sealed to an auditor whom the policy does not name", also="missing-box")
def box_for_another_auditor() -> bytes:
    return sealed([box("sent")], [box("dlv")], owner="auditor-2")


@case(MADE, "FAIL wrong-box", "a sealed payload of a side that the receipt says nothing of", also="missing-box")
def box_of_another_side() -> bytes:
    return sealed([box("dlv")], [box("dlv")])


@case(MADE, "FAIL wrong-box", "shorter than any sealed payload", also="missing-box")
def box_too_short() -> bytes:
    return sealed([box("sent", ciphertext=b64(bytes(100)))], [box("dlv")])


@case(MADE, "MALFORMED bad-line", "one sealed payload, twice")
def box_twice() -> bytes:
    return sealed([box("sent")] * 2, [box("dlv")])


def every_kind(left_out: int | None = None) -> bytes:
    """Seal payloads behind a begin, an end, a hold and a denial; perhaps leave those of one of these receipts out."""
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "approval": "human"}
    world = auditing("hash_only", allowed_tools=[rule])
    lane = world.lane()
    lane.begin("call-1", MODEL, boxes=lane.boxed(box("req"), box("sent")))
    asked = [ToolCall(id="t", name="get_case")]
    lane.end("call-1", model="small-1", usage=USAGE, tool_calls=asked, boxes=lane.boxed(box("dlv"), box("recv")))
    lane.hold("call-2", GET_CASE, boxes=lane.boxed(box("sent")))
    lane.deny("call-3", Target(server="crm-mcp", tool="http_request"), boxes=lane.boxed(box("req")))
    lane.close()
    lane.behind.pop(left_out or 0, None)
    return world.bundle()


@case(MADE, PASS, "payloads sealed behind receipts of every kind that has a body, where the policy lets this be done")
def boxes_of_every_kind() -> bytes:
    return every_kind()


@case(MADE, "FAIL missing-box", "the sealed payload of a call that waits was left out")
def box_of_hold_left_out() -> bytes:
    return every_kind(4)


@case(MADE, "FAIL missing-box", "the sealed payload of a denied call was left out")
def box_of_denial_left_out() -> bytes:
    return every_kind(5)


@case(MADE, "FAIL wrong-box", "one bit of a sealed payload is another")
def box_altered() -> bytes:
    flipped = b64(b"\1" + bytes(1199))
    return sealed([box("sent", ciphertext=flipped)], [box("dlv")], said=[box("sent")])


@case(MADE, "FAIL missing-box", "a sealed payload that its receipt commits to was left out, though no policy wants it")
def box_left_out() -> bytes:
    return sealed([], [box("dlv")], said=[box("sent")], privacy="hash_only")


@case(MADE, "FAIL missing-box", "one of two sealed payloads was left out")
def box_left_out_of_two() -> bytes:
    return sealed([box("sent")], [box("dlv")], said=[box("req"), box("sent")])


@case(MADE, "FAIL wrong-box", "a sealed payload behind a receipt that commits to none")
def box_unasked() -> bytes:
    return sealed([box("sent")], [], said=[], privacy="hash_only")


@case(MADE, "FAIL wrong-box", "a sealed payload more than the receipt commits to")
def boxes_counted_wrong() -> bytes:
    return sealed([box("req"), box("sent")], [box("dlv")], said=[box("sent")])


# Clients --------------------------------------------------------------------------------------------------------------


def _calls(*added: dict[str, Any], required: bool = False) -> bytes:
    """Let a client make calls, each with what it adds."""

    def call(_: World, lane: Lane) -> None:
        for number, more in enumerate(added):
            lane.begin(f"call-{number}", MODEL, **more)
            lane.end(f"call-{number}")

    return dishonest(call, scope={"client_counter": "required"} if required else {})


@case(MADE, PASS, "a client that counts its calls, each in its turn")
def counters() -> bytes:
    return _calls({"counter": 1}, {"counter": 2}, {"counter": 3}, required=True)


@case(MADE, PASS, "a client whose calls overtook each other")
def counters_overtaken() -> bytes:
    return _calls({"counter": 2}, {"counter": 1}, {"counter": 3}, required=True)


@case(MADE, "FAIL counter-used", "one counter, twice: a call was repeated by somebody")
def counter_twice() -> bytes:
    return _calls({"counter": 1}, {"counter": 1})


@case(MADE, "INCOMPLETE counter-gap", "a counter that no receipt has: the gateway left a call out, or never had it")
def counter_left_out() -> bytes:
    return _calls({"counter": 1}, {"counter": 3}, required=True)


@case(MADE, "INCOMPLETE counter-gap", "a call without a counter, where the grant requires one")
def counter_missing() -> bytes:
    return _calls({}, required=True)


@case(MADE, PASS, "a client that says which receipt it saw last")
def echo() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1")
        lane.begin("call-2", MODEL, echo=Echo(seq=3, hash=leaf_digest(lane.raws[3])))
        lane.end("call-2")

    return dishonest(call)


@case(MADE, "FAIL bad-echo", "an echo of a receipt that was not written yet")
def echo_of_the_future() -> bytes:
    return _calls({"echo": Echo(seq=9, hash=NOTHING)})


@case(MADE, "FAIL bad-echo", "an echo of another receipt than stands there: the client saw another history")
def echo_of_another_history() -> bytes:
    return _calls({"echo": Echo(seq=0, hash=NOTHING)})


@case(MADE, PASS, "a proof that a client kept, of a receipt that is there", kept="proofs/honest")
def kept_and_there() -> bytes:
    return story().bundle()


@case(
    MADE,
    "FAIL omitted",
    "a proof that a client kept, of a receipt that the sealed lane does not have",
    kept="proofs/honest",
)
def kept_and_omitted() -> bytes:
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.close()
    return world.bundle()


@case(MADE, "FAIL omitted", "a proof that a client kept, of a lane that is not in the bundle", kept="proofs/honest")
def kept_of_another_lane() -> bytes:
    world = World()
    lane = world.lane("lane-2")
    lane.model("call-1")
    lane.close()
    return world.bundle()


@case(MADE, "FAIL bad-proof", "a file of a client that proves nothing", kept="proofs/other-leaf")
def kept_and_forged() -> bytes:
    return story().bundle()
