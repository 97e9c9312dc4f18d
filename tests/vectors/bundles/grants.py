"""Step 4: grants."""

from msgspec.structs import replace

from tests.vectors.bundles.make import bent, grant_bent, signed, story
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, World, key, pair
from verifier.encoding import digest
from verifier.envelope import seal_up

MADE: Made = {}


@case(MADE, "FAIL missing-document", "the grant is left out")
def grant_left_out() -> bytes:
    return signed(story(), grants=[])


@case(MADE, "UNTRUSTED wrong-use", "a grant signed with the gateway's key", also="missing-document")
def grant_by_gateway() -> bytes:
    world = story()
    return signed(world, grants=[seal_up("grant", world.grant_payload, pair("gateway"))])


@case(
    MADE,
    "UNTRUSTED wrong-owner",
    "tenant A's key on tenant B's job: listed, and not the issuer's",
    also="missing-document",
)
def grant_by_another_tenant() -> bytes:
    world = World(keys=[*World().listed.keys, key("tenant-a", "grant", "https://tenant-a.example")])
    world.story()
    return signed(world, grants=[seal_up("grant", world.grant_payload, pair("tenant-a"))])


@case(MADE, "FAIL scope-too-wide", "the grant names a tool that the policy does not allow")
def grant_wider_than_policy() -> bytes:
    tools = ["mcp:crm-mcp/export_customers", "mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"]
    return World(scope={"tools": tools}).story().bundle()


@case(MADE, "FAIL scope-too-wide", "the grant has no limit where the policy has a budget")
def grant_without_budget() -> bytes:
    return World(policy={"budgets": {"calls": 10}}).story().bundle()


@case(MADE, "FAIL not-admitted", "the policy is for other agents")
def grant_for_unadmitted_agent() -> bytes:
    return World(policy={"jobs": {"agents": ["agent-9"]}}, scope={"tools": [], "models": []}).bundle()


@case(MADE, "FAIL wrong-grant", "a grant that outlives its policy")
def grant_outlives_policy() -> bytes:
    return World(policy={"valid_until": NOW + 60 * SECOND}).story().bundle()


@case(MADE, "FAIL wrong-job", "a grant of another job")
def grant_of_another_job() -> bytes:
    return World(scope={"job": "job-2"}).story().bundle()


@case(MADE, "FAIL wrong-policy", "two policies in one job: a second grant is pinned to another")
def two_policies() -> bytes:
    world = story()
    other = bent(world.policy_payload, lambda it: it.update(serial=2))
    second = bent(
        world.grant_payload,
        lambda it: (it["scope"].update(policy=digest(other)), it.update(issued_at=NOW + 1, parent=world.grant_digest)),
    )
    documents = world.documents(world.sealed(grants=[world.grant_digest, digest(second)]))
    return world.bundle(replace(documents, grants=[*documents.grants, seal_up("grant", second, pair("grant"))]))


@case(MADE, "MALFORMED bad-grant", "a grant that ends before it begins", also="missing-document")
def grant_ends_before_it_begins() -> bytes:
    return grant_bent(lambda it: it.update(expires=it["issued_at"]))


@case(MADE, "MALFORMED bad-grant", "a grant below the root job that comes from none", also="missing-document")
def grant_of_child_job() -> bytes:
    return grant_bent(lambda it: it["scope"].update(depth=1))
