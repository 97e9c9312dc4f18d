"""Step 8: calls and their tokens, targets, manifests."""

from tests.vectors.bundles.make import MODEL, dishonest
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, Lane, World
from verifier.leaf import Target, Token
from verifier.merkle import Tree, leaf_hash

MADE: Made = {}


@case(MADE, "FAIL unknown-token", "a token that scope never issued")
def token_never_issued() -> bytes:
    def forge(world: World, lane: Lane) -> None:
        lane.write(lambda seq, time: Token(
            exp=world.exp, grant=world.grant_digest, iat=world.iat, jti="token-9", kind="token",
            scope_hash=world.grant.scope.hash(), seq=seq, time=time,
        ))  # fmt: skip

    return dishonest(forge)


@case(MADE, "FAIL unknown-token", "a call by a token that the lane has not recorded")
def call_by_unknown_token() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL, jti="token-9")
        lane.end("call-1")

    return dishonest(call)


@case(MADE, "FAIL outside-token", "a call after its token had expired")
def call_after_token() -> bytes:
    def late(_: World, lane: Lane) -> None:
        lane.time = NOW + 301 * SECOND
        lane.model("call-1")

    return dishonest(late)


@case(MADE, "FAIL wrong-scope", "the lane's token receipt has another scope hash than its grant", also="unknown-token")
def token_of_another_scope() -> bytes:
    def bend(world: World, lane: Lane) -> None:
        lane.raws.pop()
        lane.tree = Tree()
        lane.tree.append(leaf_hash(lane.raws[0]))
        lane.kinds["token"] = 0
        lane.write(lambda seq, time: Token(
            exp=world.exp, grant=world.grant_digest, iat=world.iat, jti=world.jti, kind="token",
            scope_hash="sha256:" + "0" * 64, seq=seq, time=time,
        ))  # fmt: skip
        lane.model("call-1")

    return dishonest(bend)


@case(MADE, "FAIL wrong-target", "a call to a tool that the grant does not name")
def call_outside_grant() -> bytes:
    return dishonest(lambda _, lane: lane.tool("call-1", "export_customers", parent=None))


@case(MADE, "FAIL wrong-target", "a call to a model of another provider")
def call_to_another_provider() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.begin("call-1", Target(provider="elsewhere", model="small-1", operation="chat.completions"))
        lane.end("call-1")

    return dishonest(call)


@case(MADE, "FAIL wrong-manifest", "a call under an older manifest than the grant's")
def call_under_older_manifest() -> bytes:
    def call(_: World, lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2", manifest="sha256:" + "0" * 64)

    return dishonest(call)
