"""Steps 4 and 12: delegated jobs, narrower grants, and parents beside their children."""

from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.make import sealing
from tests.vectors.case import Made, case
from tests.world import NOW, SECOND, World
from verifier.grant import Budget
from verifier.leaf import Target
from verifier.seal import Mark

MADE: Made = {}
ZERO = "sha256:" + "0" * 64
DEEP: dict[str, Any] = {"token_constraints": {"max_delegation_depth": 2}}
GET_CASE = ["mcp:crm-mcp/get_case"]


def parent(**scope: Any) -> World:
    """A root job whose policy allows delegation."""
    return World(policy=DEEP, scope=scope)


def child(**scope: Any) -> World:
    """A job that a root job delegated, with a short story."""
    return parent().delegate(**scope).story()


def family() -> tuple[World, World]:
    """A parent and its child, both sealed."""
    mother = parent()
    delegated = mother.delegate().story()
    return mother.story(), delegated


@case(MADE, "PASS", "a job that another one delegated: its grant, and the grant above it")
def child_job() -> bytes:
    return child().bundle()


@case(MADE, "PASS", "delegated twice: three grants, one inside the other")
def grandchild_job() -> bytes:
    return parent().delegate(tools=GET_CASE).delegate("job-3", "agent-3").bundle()


@case(MADE, "FAIL wrong-delegation", "a child job with a tool that its parent does not have")
def child_with_more_tools() -> bytes:
    tools = ["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"]
    return parent(tools=GET_CASE).delegate(tools=tools).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job with models that its parent does not have")
def child_with_more_models() -> bytes:
    return parent(models=["openrouter_via_fal/small-*"]).delegate(models=["openrouter_via_fal/*"]).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job with a larger purse than its parent")
def child_with_larger_purse() -> bytes:
    return parent(limits=Budget(calls=10)).delegate(limits=Budget()).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job that outlives its parent")
def child_outlives_parent() -> bytes:
    return parent().delegate(grant={"expires": NOW + 3601 * SECOND}).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job opened before its parent was granted")
def child_before_parent() -> bytes:
    return parent().delegate(grant={"opened": NOW - SECOND}).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job that acts for another user than its parent")
def child_of_another_user() -> bytes:
    return parent(user="u-1").delegate(user="u-2").bundle()


@case(MADE, "FAIL wrong-delegation", "a child job whose user has claims that the parent's had not")
def child_with_more_claims() -> bytes:
    return parent(user="u-1").delegate(user="u-1", claims={"role": "admin"}).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job in another environment than its parent")
def child_in_another_environment() -> bytes:
    return parent().delegate(environment="production").bundle()


@case(MADE, "FAIL wrong-delegation", "a child job before another gateway than its parent")
def child_before_another_gateway() -> bytes:
    return parent().delegate(audience="https://gateway-2.example").bundle()


@case(MADE, "FAIL wrong-delegation", "a child job of another agent that does not say who delegated")
def child_without_actor() -> bytes:
    return parent().delegate(act=None).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job that says that it is no deeper than its parent")
def child_hides_depth() -> bytes:
    return parent().delegate(depth=0).bundle()


@case(MADE, "FAIL wrong-delegation", "a child job where the policy allows no delegation")
def child_against_policy() -> bytes:
    return World().delegate().story().bundle()


@case(MADE, "FAIL wrong-delegation", "a child job whose tokens are bound less than its parent's")
def child_bound_less() -> bytes:
    return parent(binding="dpop").delegate(binding="none").bundle()


@case(MADE, "FAIL wrong-delegation", "a child job that counts no calls where its parent has to")
def child_without_counter() -> bytes:
    return parent(client_counter="required").delegate().bundle()


@case(MADE, "FAIL wrong-delegation", "a child job under a policy beside its parent's: what the parent may not, it may")
def child_under_another_policy() -> bytes:
    mother = parent()
    other = World(
        policy=DEEP | {"serial": 2}, job="job-2", grant={"parent": mother.grant_digest},
        scope={"agent": "agent-2", "act": "agent-1", "depth": 1},
    )  # fmt: skip
    other.grants_above = [mother.grant_payload]
    return other.bundle()


@case(MADE, "FAIL missing-document", "a child job without the grant above it")
def child_without_parents_grant() -> bytes:
    made = child()
    made.grants_above = []
    return made.bundle()


@case(MADE, "FAIL after-revocation", "a child job's call after its parent had to be known as revoked")
def child_outlives_revocation_of_parent() -> bytes:
    made = parent().delegate()
    made.revoke("job", "job-1", NOW + SECOND)
    lane = made.lane()
    honest = len(lane.raws)
    lane.time = NOW + 20 * SECOND
    lane.model("call-1")
    lane.close()
    sealed = made.sealed(status="revoked")
    marks = [Mark(time=NOW + SECOND, size=0), Mark(time=NOW + 10 * SECOND, size=honest)]
    return sealing(made, status="revoked", lanes=[replace(sealed.lanes[0], marks=marks)])


@case(MADE, "FAIL wrong-binding", "tokens bound to nobody, where the policy asks for DPoP")
def grant_bound_to_nobody() -> bytes:
    return World(policy={"token_constraints": {"binding": "dpop"}}).bundle()


def narrowed(world: World, **changes: Any) -> bytes:
    """Narrow a job's grant once more."""
    grant = {"parent": world.grant_digest} | changes.pop("grant", {})
    scope = replace(world.grant.scope, **changes)
    world.narrower = [replace(world.grant, scope=scope, issued_at=NOW + SECOND, **grant)]
    return world.bundle()


@case(MADE, "PASS", "a narrower grant of the same job, which names the one that it comes from")
def narrower_grant() -> bytes:
    return narrowed(World(), tools=GET_CASE)


@case(MADE, "FAIL wrong-delegation", "a second grant with tools that the first does not have")
def wider_grant() -> bytes:
    world = World(scope={"tools": GET_CASE})
    return narrowed(world, tools=["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"])


@case(MADE, "FAIL wrong-delegation", "a second grant of the job that comes from none of its grants")
def second_beginning() -> bytes:
    return narrowed(World(), grant={"parent": None})


# Trees --------------------------------------------------------------------------------------------------------------


@case(MADE, "INCOMPLETE missing-child", "a child job left out: the parent's seal names it")
def parent_alone() -> bytes:
    return family()[0].bundle()


@case(MADE, "PASS", "a parent with its child's bundle beside it", beside="bundles/child-job")
def parent_with_child() -> bytes:
    return family()[0].bundle()


@case(MADE, "FAIL wrong-child", "the child beside its parent was sealed otherwise", beside="bundles/child-job")
def parent_with_child_of_another_seal() -> bytes:
    return _naming(seal=ZERO)


@case(MADE, "FAIL wrong-child", "the child beside its parent opened with another grant", beside="bundles/child-job")
def parent_with_child_of_another_grant() -> bytes:
    return _naming(grant=ZERO)


@case(MADE, "FAIL wrong-child", "the child's purse is not the share that it got", beside="bundles/child-job")
def parent_with_child_of_another_share() -> bytes:
    return _naming(share=Budget(calls=1))


def _naming(**changes: Any) -> bytes:
    mother, delegated = family()
    return sealing(mother, children=[replace(delegated.as_child(), **changes)])


@case(
    MADE,
    "FAIL wrong-child",
    "the child beside its parent does not pass: its answer was lost",
    beside="bundles/child-job-with-lost-call",
)
def parent_with_child_that_does_not_pass() -> bytes:
    mother, delegated = parent(), _losing()
    mother.children = [delegated]
    return mother.bundle()


@case(MADE, "INCOMPLETE lost-call", "a child job that lost an answer")
def child_job_with_lost_call() -> bytes:
    return _losing().bundle()


def _losing() -> World:
    made = parent().delegate()
    lane = made.lane()
    lane.begin("call-1", Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions"))
    lane.end("call-1", status="lost", recv=None, dlv=None)
    lane.close()
    return made


@case(MADE, "FAIL wrong-child", "another parent's child is given as this one's", beside="bundles/child-job")
def parent_with_child_of_another_parent() -> bytes:
    mother = parent(client="orchestrator-2")
    mother.children = [family()[1]]
    return mother.bundle()


@case(MADE, "FAIL over-budget", "lanes and child jobs together got more than the job has", also="missing-child")
def shares_beyond_purse() -> bytes:
    mother = parent(limits=Budget(calls=10))
    mother.delegate("job-2", limits=Budget(calls=6))
    mother.delegate("job-3", limits=Budget(calls=5))
    return mother.bundle()


@case(MADE, "FAIL over-budget", "a child job without a limit where the job has one", also="missing-child")
def share_without_limit() -> bytes:
    mother = parent(limits=Budget(wall_seconds=600))
    mother.delegate(limits=Budget())
    return mother.bundle()


@case(MADE, "FAIL wrong-delegation", "a seal with a child, where the policy allows none", also="missing-child")
def child_named_against_policy() -> bytes:
    mother = World()
    mother.delegate()
    return mother.bundle()
