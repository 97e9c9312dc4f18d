"""What forgers try besides: lanes that hold nothing or another's, beginnings, ends and targets that cannot be."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import GET_CASE, HTTP, MODEL, dishonest, lines, place, sealing, sealing_lane, story
from tests.vectors.case import Case, Made, case
from tests.world import GATEWAY, NOW, SECOND, Lane, World, pair
from verifier import bundle, leaf, seal
from verifier.checkpoint import sign_head
from verifier.grant import Budget
from verifier.leaf import Note, Reservation, Target, ToolCall, Usage
from verifier.merkle import Tree

MADE: Made = {}
NOTHING = "sha256:" + "0" * 64


def _with_head(note: Callable[[World, Lane], str], **sealed: Any) -> bytes:
    """Write the story under another head, and perhaps another seal of its lane."""
    world = story()
    lane = world.lanes[0]
    honest = world.sealed()
    documents = world.documents(replace(honest, lanes=[replace(honest.lanes[0], **sealed)]))
    return b"".join(bundle.write(documents, [bundle.Lane(lane.name, note(world, lane), lane.raws)]))


def _signed(root: bytes | None = None, size: int | None = None, at: int | None = None) -> Callable[[World, Lane], str]:
    """Have the gateway sign some head for the lane; with `at` it is a closing one."""

    def note(world: World, lane: Lane) -> str:
        origin = seal.origin(GATEWAY, world.job, lane.name)
        return sign_head(pair("gateway"), origin, size or len(lane.raws), root or lane.tree.root(), closing_at=at)

    return note


# Lanes ----------------------------------------------------------------------------------------------------------------


@case(MADE, "FAIL wrong-root", "a root that is merely there: gateway and scope signed it, and no receipts add up to it")
def root_of_nothing() -> bytes:
    return _with_head(_signed(bytes(32), at=(NOW + 2 * SECOND) // SECOND), root=NOTHING)


@case(
    MADE,
    "FAIL wrong-size",
    "an empty chain: the head of a lane, and not one receipt",
    also="wrong-root no-close unknown-token",
)
def lane_emptied() -> bytes:
    written = lines(story())
    return b"".join(written[: place(written, "head") + 1])


@case(MADE, "FAIL wrong-head", "a closing head that says it was signed long before its last receipt")
def head_of_another_time() -> bytes:
    return _with_head(_signed(at=1))


@case(MADE, "FAIL missing-signature", "a running head, of one signature, where the lane was closed")
def head_running_on_closed_lane() -> bytes:
    return _with_head(_signed())


@case(MADE, "FAIL missing-signature", "the Ed25519 line twice: no second form of a head")
def head_signature_twice() -> bytes:
    def twice(_: World, lane: Lane) -> str:
        head = lane.head().splitlines(keepends=True)
        return "".join([*head[:5], head[4], *head[5:]])

    return _with_head(twice)


@case(MADE, "FAIL no-close", "a lane cut off by its gateway and sealed as complete")
def lane_cut_and_sealed_as_complete() -> bytes:
    world = World()
    world.lane().model("call-1")
    return world.bundle()


# Beginnings -----------------------------------------------------------------------------------------------------------


def _opening(*receipts: Callable[[leaf.Open, leaf.Token], leaf.Leaf]) -> bytes:
    """Write a lane that begins with other receipts than an honest one."""
    world = World()
    lane = world.lane()
    first, second = map(leaf.decode, lane.raws)
    lane.raws.clear()
    lane.tree, lane.kinds = Tree(), {}
    for make in receipts:
        made = make(first, second)  # type: ignore[arg-type]
        lane.write(lambda seq, time, made=made: replace(made, seq=seq, time=time))  # type: ignore[misc]
    lane.model("call-1")
    lane.close()
    return world.bundle()


def _opened(**changes: Any) -> Callable[[], bytes]:
    return lambda: _opening(lambda first, _: replace(first, **changes), lambda _, second: second)


for name, expect, why, changes in (
    ("lane", "FAIL wrong-order", "the lane's first receipt names another lane", {"lane": "lane-9"}),
    ("suite", "UNTRUSTED wrong-suite", "the lane's first receipt names a suite of its own", {"suite": "none"}),
    ("keys", "FAIL wrong-keys", "the lane began under another key list", {"keys": NOTHING}),
    ("keys-version", "FAIL wrong-keys", "the lane began under another version of the key list", {"keys_version": 0}),
    ("gateway", "FAIL wrong-gateway", "the lane's first receipt names another gateway", {"gateway": "https://x.example"}),
    ("job", "FAIL wrong-job", "the lane's first receipt names another job", {"job": "job-9"}),
    ("policy", "FAIL wrong-policy", "the lane's first receipt names another policy", {"policy": NOTHING}),
):  # fmt: skip
    MADE[f"lane-opened-with-another-{name}"] = lambda expect=expect, why=why, changes=changes: Case(  # type: ignore[misc]
        expect, why, _opened(**changes)()
    )


@case(MADE, "FAIL wrong-order", "a lane without its first receipt")
def lane_without_open() -> bytes:
    return _opening(lambda _, second: second)


@case(MADE, "FAIL wrong-order", "a lane that is opened twice")
def lane_opened_twice() -> bytes:
    return _opening(lambda first, _: first, lambda _, second: second, lambda first, _: first)


@case(MADE, "FAIL wrong-grant", "one token's first use, twice")
def token_twice() -> bytes:
    return _opening(lambda first, _: first, lambda _, second: second, lambda _, second: second)


@case(MADE, "FAIL outside-token", "a call before its token was issued")
def call_before_token() -> bytes:
    world = World()
    world.iat, world.exp = world.iat + 100, world.exp + 100
    lane = world.lane()
    lane.model("call-1")
    lane.close()
    return world.bundle()


@case(MADE, "FAIL unknown-token", "a denial by a token that scope never issued, to fill a lane with noise")
def denial_by_unknown_token() -> bytes:
    return dishonest(lambda _, lane: lane.deny("call-1", HTTP, jti="token-9"))


# Ends -----------------------------------------------------------------------------------------------------------------


@case(MADE, "FAIL no-begin", "one call that ends twice")
def end_twice() -> bytes:
    def twice(_: World, lane: Lane) -> None:
        lane.model("call-1")
        lane.end("call-1")

    return dishonest(twice)


@case(MADE, "FAIL bad-end", "a lost call that has an answer all the same", also="lost-call")
def end_lost_with_answer() -> bytes:
    def lost(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL)
        lane.end("call-1", status="lost")

    return dishonest(lost)


@case(MADE, "FAIL bad-end", "a tool whose answer asks for tools, as only a model's can", also="no-model-call")
def end_of_tool_that_asks() -> bytes:
    def ask(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.begin("call-2", GET_CASE)
        lane.end("call-2", tool_calls=[ToolCall(id="call-2-0", name="get_case")])
        lane.tool("call-3", parent=leaf.Parent(call="call-2", id="call-2-0"))

    return dishonest(ask)


@case(MADE, "FAIL wrong-order", "a lane that is closed twice")
def close_twice() -> bytes:
    def twice(_: World, lane: Lane) -> None:
        lane.close()
        lane.close()

    return dishonest(twice)


@case(MADE, "FAIL wrong-seq", "a number left out, as if a receipt had been there")
def receipt_number_left_out() -> bytes:
    def gap(_: World, lane: Lane) -> None:
        lane.write(lambda seq, time: Note(code="one", seq=seq + 1, time=time))

    return dishonest(gap)


# Targets --------------------------------------------------------------------------------------------------------------


def _begun(target: Target, **changes: Any) -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", target, **changes)
        lane.end("call-1")

    return dishonest(call)


@case(MADE, "FAIL wrong-target", "a target that is a tool and a model at once")
def call_to_tool_and_model() -> bytes:
    return _begun(replace(MODEL, server="crm-mcp", tool="get_case"), manifest=None, parent=None)


@case(MADE, "FAIL wrong-target", "a target that is nothing")
def call_to_nothing() -> bytes:
    return _begun(Target())


@case(MADE, "FAIL wrong-manifest", "a tool called under no manifest")
def call_under_no_manifest() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2", manifest=None)

    return dishonest(call)


@case(MADE, "FAIL wrong-manifest", "a model called under a tool's manifest")
def model_under_manifest() -> bytes:
    return _begun(MODEL, manifest=World().grant.scope.manifests["crm-mcp"])


@case(MADE, "FAIL wrong-manifest", "a denial that names another manifest than the grant's")
def denial_under_another_manifest() -> bytes:
    return dishonest(lambda _, lane: lane.deny("call-1", HTTP, manifest=NOTHING))


@case(MADE, "FAIL wrong-decision", "denied for another reason than the policy gives")
def denial_for_another_reason() -> bytes:
    return dishonest(lambda _, lane: lane.deny("call-1", HTTP, code="not-allowed"))


# Budgets --------------------------------------------------------------------------------------------------------------


@case(MADE, "FAIL over-budget", "more tokens than the job has: each call small, all together not")
def tokens_over_budget() -> bytes:
    def spend(_: World, lane: Lane) -> None:
        for number in range(4):
            lane.begin(f"call-{number}", MODEL, reservation=Reservation(tokens=400))
            lane.end(f"call-{number}", usage=Usage(input=200, output=200))

    return dishonest(spend, policy={"budgets": {"tokens": 1000}}, scope={"limits": Budget(tokens=1000)})


@case(MADE, "FAIL over-budget", "a call of a model that sets nothing aside from a limited purse")
def call_without_reservation() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL)
        lane.end("call-1", usage=Usage(input=10, output=10))

    return dishonest(call, policy={"budgets": {"tokens": 1000}}, scope={"limits": Budget(tokens=1000)})


@case(MADE, "FAIL over-budget", "more calls a minute than the policy allows")
def calls_over_rate() -> bytes:
    def hurry(_: World, lane: Lane) -> None:
        for number in range(3):
            lane.model(f"call-{number}")

    return dishonest(hurry, policy={"budgets": {"calls_per_minute": 2}})


@case(MADE, "FAIL over-budget", "more calls of one tool than the policy allows")
def tool_over_budget() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case", "get_case")
        lane.tool("call-2")
        lane.tool("call-3")

    return dishonest(call, policy={"budgets": {"per_tool": {"crm-mcp/get_case": 1}}})


def _two_lanes(**policy: Any) -> bytes:
    """Play the same call in two lanes."""
    world = World(policy=policy)
    for name in ("lane-1", "lane-2"):
        lane = world.lane(name)
        lane.model("call-1", "get_case")
        lane.tool("call-2")
        lane.close()
    return world.bundle()


@case(MADE, "FAIL over-budget", "two lanes that each make the one call of a tool that the job has")
def tool_budget_doubled_by_lanes() -> bytes:
    return _two_lanes(budgets={"per_tool": {"crm-mcp/get_case": 1}})


@case(MADE, "FAIL over-budget", "two lanes that each make the one call that a rule allows in a job")
def rule_limit_doubled_by_lanes() -> bytes:
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "limits": {"calls_per_job": 1}}
    return _two_lanes(allowed_tools=[rule])


# Documents ------------------------------------------------------------------------------------------------------------


def _twice(kind: str) -> bytes:
    world = story()
    world.revoke("agent", "agent-9", world.lanes[0].time)
    written = lines(world)
    at = place(written, kind)
    return b"".join([*written[:at], written[at], *written[at:]])


@case(MADE, "MALFORMED bad-line", "one revocation, twice")
def revocation_twice() -> bytes:
    return _twice("revocation")


@case(MADE, "MALFORMED bad-line", "one policy, twice")
def policy_twice() -> bytes:
    return _twice("policy")


@case(MADE, "MALFORMED unnamed-document", "a revocation that the seal does not name")
def revocation_unnamed() -> bytes:
    world = story()
    sealed = world.sealed()
    world.revoke("agent", "agent-9", world.lanes[0].time)
    return world.bundle(world.documents(sealed))


@case(MADE, "MALFORMED bad-seal", "a seal that closed its job before the last mark of a lane", also="no-seal")
def seal_closed_before_its_end() -> bytes:
    return sealing(story(), closed=NOW)


@case(MADE, "FAIL unknown-token", "scope saw a token used in a lane that has no receipt of it")
def seal_with_token_unrecorded() -> bytes:
    world = story()
    (token,) = world.sealed().lanes[0].tokens
    return sealing_lane(world, tokens=[token, replace(token, jti="token-2")])


@case(MADE, "MALFORMED bad-seal", "a seal whose tokens are out of order, one of them twice", also="no-seal")
def seal_with_token_twice() -> bytes:
    world = story()
    (token,) = world.sealed().lanes[0].tokens
    return sealing_lane(world, tokens=[token, token])


@case(MADE, "FAIL not-expected", "not the policy that the pin expects", pin="pin-other-policy.json")
def another_policy_than_expected() -> bytes:
    return story().bundle()


@case(MADE, "FAIL not-expected", "not the gateway that the pin expects", pin="pin-other-gateway.json")
def another_gateway_than_expected() -> bytes:
    return story().bundle()


# Bytes ----------------------------------------------------------------------------------------------------------------


@case(MADE, "MALFORMED truncated", "an empty line at the end: not a receipt", also="wrong-size wrong-root")
def line_empty_at_the_end() -> bytes:
    return story().bundle() + b"\n"


@case(MADE, "MALFORMED not-json", "line ends of another system", also="missing-line")
def line_ends_changed() -> bytes:
    return story().bundle().replace(b"\n", b"\r\n")


@case(MADE, "MALFORMED missing-line", "a mark of byte order before the first line")
def byte_order_mark() -> bytes:
    return b"\xef\xbb\xbf" + story().bundle()


@case(MADE, "MALFORMED truncated", "something behind the last line")
def byte_behind_the_end() -> bytes:
    return story().bundle() + b"\0"
