"""Steps 12 to 14: what stands behind receipts, what clients add to their calls, and what they kept."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import GET_CASE, MODEL, dishonest, story
from tests.vectors.case import PASS, Made, case
from tests.world import Lane, World, key
from verifier.box import AuditorKey, Box
from verifier.bundle import wrap
from verifier.commitment import call_key, commit
from verifier.disclosure import Disclosure, disclose_each
from verifier.encoding import b64, canonical, unb64
from verifier.keys import Key
from verifier.leaf import Echo, leaf_digest

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


def sealed(boxes: dict[int, list[Box]], *, owner: str = "auditor-1") -> bytes:
    """Write a job whose policy wants payloads sealed for an auditor; what they hold, its key alone tells."""
    policy = {"receipts": {"privacy": "sealed", "auditors": ["auditor-1"]}}
    world = World(policy=policy, keys=[*World().listed.keys, auditor(owner)])
    lane = world.lane()
    lane.model("call-1")
    lane.close()
    for seq, each in boxes.items():
        lane.behind[seq] = [wrap("box", canonical(box)) for box in each]
    return world.bundle()


def box(side: Any, **changes: Any) -> Box:
    """Give the shape of a sealed payload."""
    return replace(Box(auditor=AUDITOR.kid, ciphertext=b64(bytes(1200)), side=side), **changes)


@case(MADE, PASS, "each body was sealed for the auditor whom the policy names")
def boxes_of_every_call() -> bytes:
    return sealed({2: [box("sent")], 3: [box("dlv")]})


@case(MADE, "FAIL missing-box", "what was sent was not sealed for the auditor")
def box_of_request_left_out() -> bytes:
    return sealed({3: [box("dlv")]})


@case(MADE, "FAIL missing-box", "what was answered was not sealed for the auditor")
def box_of_answer_left_out() -> bytes:
    return sealed({2: [box("sent")]})


@case(MADE, "FAIL wrong-box", "sealed to a key that no list names", also="missing-box")
def box_for_stranger() -> bytes:
    return sealed({2: [box("sent", auditor="0" * 32)], 3: [box("dlv")]})


@case(MADE, "FAIL wrong-box", "sealed to an auditor whom the policy does not name", also="missing-box")
def box_for_another_auditor() -> bytes:
    return sealed({2: [box("sent")], 3: [box("dlv")]}, owner="auditor-2")


@case(MADE, "FAIL wrong-box", "a sealed payload of a side that the receipt says nothing of", also="missing-box")
def box_of_another_side() -> bytes:
    return sealed({2: [box("dlv")], 3: [box("dlv")]})


@case(MADE, "FAIL wrong-box", "shorter than any sealed payload", also="missing-box")
def box_too_short() -> bytes:
    return sealed({2: [box("sent", ciphertext=b64(bytes(100)))], 3: [box("dlv")]})


@case(MADE, "MALFORMED bad-line", "one sealed payload, twice")
def box_twice() -> bytes:
    return sealed({2: [box("sent")] * 2, 3: [box("dlv")]})


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
