"""Step 8: calls and their tokens, targets, manifests."""

from msgspec.structs import replace

from tests.vectors.bundles.make import MODEL, dishonest
from tests.vectors.case import PASS, Made, case
from tests.world import NOW, SECOND, Lane, World, pair
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Grant
from verifier.leaf import Target, Token
from verifier.merkle import Tree, leaf_hash
from verifier.seal import SealedToken

MADE: Made = {}


@case(MADE, "FAIL unknown-token", "a token that scope never issued")
def token_never_issued() -> bytes:
    def forge(world: World, lane: Lane) -> None:
        lane.write(lambda seq, time: Token(
            exp=world.exp, grant=world.grant_digest, iat=world.iat, jti="token-9",
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
            exp=world.exp, grant=world.grant_digest, iat=world.iat, jti=world.jti,
            scope_hash="sha256:" + "0" * 64, seq=seq, time=time,
        ))  # fmt: skip
        lane.model("call-1")

    return dishonest(bend)


@case(MADE, "FAIL wrong-target", "a call to a tool that the grant does not name")
def call_outside_grant() -> bytes:
    return dishonest(lambda _, lane: lane.tool("call-1", "export_customers", parent=None))


def _two_tokens(again: Grant, exp: int) -> bytes:
    """Let a lane use one tool by one token, then by a second one."""
    world = World()
    lane = world.lane()
    named = digest(canonical(again))
    second = SealedToken(jti="token-2", grant=named, iat=world.iat, exp=exp)
    lane.write(lambda seq, time: Token(
        exp=exp, grant=named, iat=world.iat, jti="token-2",scope_hash=again.scope.hash(),
        seq=seq, time=time,
    ))  # fmt: skip
    lane.model("call-1", "get_case", "get_case")
    lane.tool("call-2")
    lane.tool("call-3", jti="token-2")
    lane.close()
    grants = sorted({world.grant_digest, named})
    honest = world.sealed(grants=grants)
    sealed = replace(honest, lanes=[replace(honest.lanes[0], tokens=[*honest.lanes[0].tokens, second])])
    documents = world.documents(sealed)
    more = [seal_up("grant", canonical(again), pair("grant"))] if named != world.grant_digest else []
    return world.bundle(replace(documents, grants=[*documents.grants, *more]))


@case(MADE, PASS, "a refreshed token of the same grant")
def honest_refreshed_token() -> bytes:
    return _two_tokens(World().grant, World().exp)


@case(MADE, "FAIL wrong-target", "a narrower token used where the wider one beside it would do")
def call_by_narrower_token() -> bytes:
    grant = World().grant
    narrower = replace(
        grant,
        issued_at=grant.issued_at + 1,
        parent=digest(canonical(grant)),
        scope=replace(grant.scope, tools=["mcp:crm-mcp/search_customer"]),
    )
    return _two_tokens(narrower, World().exp)


@case(MADE, "FAIL wrong-decision", "a token that lives longer than the policy allows, beside one that does not")
def call_by_long_lived_token() -> bytes:
    return _two_tokens(World().grant, World().iat + 901)


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
