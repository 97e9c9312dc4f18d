"""Delegated jobs: grants inside grants, policies under policies, and a parent held together with its children."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.verifier.test_verify import only, says
from tests.world import NOW, SCOPE, SECOND, World, pair
from verifier.bundle import Line, content, kind_of
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.evidence import establish
from verifier.grant import Budget, Grant
from verifier.keys import Trust
from verifier.policy import DAY
from verifier.report import MAX_FINDINGS, Report
from verifier.tree import hold_together

ZERO = "sha256:" + "0" * 64
DEEP: dict[str, Any] = {"token_constraints": {"max_delegation_depth": 2}}
GET_CASE = ["mcp:crm-mcp/get_case"]


def parent(**world: Any) -> World:
    """Open a root job whose policy allows delegation."""
    return World(policy=DEEP | world.pop("policy", {}), **world)


def test_a_delegated_job_passes_by_itself() -> None:
    child = parent().delegate(tools=GET_CASE)
    report = child.verify()
    assert (report.verdict, report.job) == ("PASS", "job-2")
    assert report.kin is not None
    assert (report.kin.depth, report.kin.parent) == (1, digest(child.grants_above[0]))


def test_a_job_delegated_twice_carries_every_grant_above_it() -> None:
    grandchild = parent().delegate().delegate("job-3", "agent-3").story()
    assert len(grandchild.grants_above) == 2
    assert grandchild.verify().verdict == "PASS"


def test_a_delegated_job_that_its_parents_seal_does_not_name_is_wrong_beside_it() -> None:
    world = parent().story()
    child = world.delegate().story()
    world.children.clear()
    reports = {"parent": world.verify(), "child": child.verify()}
    hold_together(reports)
    assert (reports["parent"].verdict, reports["child"].verdict) == ("PASS", "FAIL")
    only(reports["child"], "wrong-child", 12, field="parent")


def test_a_job_that_a_parent_sealed_as_interrupted_does_not_name_yet_is_judged_by_itself() -> None:
    world = parent().story()
    child = world.delegate().story()
    world.children.clear()
    interrupted = world.bundle(world.documents(world.sealed(status="interrupted")))
    reports = {"parent": world.verify(interrupted), "child": child.verify()}
    hold_together(reports)
    assert (reports["parent"].verdict, reports["child"].verdict) == ("INCOMPLETE", "PASS")


def test_a_delegation_to_the_same_agent_names_no_actor() -> None:
    assert parent().delegate(agent="agent-1").story().verify().verdict == "PASS"


WIDER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"tools": GET_CASE}, {"tools": ["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"]}, "tools"),
    ({"models": ["openrouter_via_fal/small-*"]}, {"models": ["openrouter_via_fal/*"]}, "models"),
    ({"limits": Budget(calls=10)}, {"limits": Budget(calls=11)}, "limits"),
    ({"limits": Budget(tokens=10)}, {"limits": Budget()}, "limits"),
    ({}, {"grant": {"expires": NOW + 3601 * SECOND}}, "expires"),
    ({}, {"grant": {"issued_at": NOW - 1, "opened": NOW - 1}}, "issued_at opened"),
    ({}, {"grant": {"opened": NOW - 1}}, "opened"),
    ({}, {"audience": "https://gateway-2.example"}, "audience"),
    ({"user": "u-1"}, {"user": "u-2"}, "user"),
    ({"user": "u-1", "claims": {"team": "a"}}, {"user": "u-1", "claims": {"team": "b"}}, "user"),
    ({"user": "u-1", "claims": {"team": "a"}}, {"user": "u-1"}, "user"),
    ({}, {"environment": "production"}, "environment"),
    ({}, {"act": "agent-9"}, "act"),
    ({}, {"act": None}, "act"),
    ({}, {"agent": "agent-1", "act": "agent-1"}, "act"),
    ({}, {"depth": 0}, "depth"),
    ({}, {"depth": 2}, "depth"),
    ({"binding": "mtls"}, {"binding": "dpop"}, "binding"),
    ({"client_counter": "required"}, {}, "client_counter"),
]


@pytest.mark.parametrize(("mine", "theirs", "field"), WIDER)
def test_a_child_job_is_never_wider_longer_or_deeper_than_its_parent(
    mine: dict[str, Any], theirs: dict[str, Any], field: str
) -> None:
    child = parent(scope=mine).delegate(**theirs)
    found = [each for each in child.verify().findings if each.code == "wrong-delegation"]
    assert {each.field for each in found} == {*field.split()}
    assert {each.step for each in found} == {4}


def test_every_way_in_which_a_child_is_wider_is_listed() -> None:
    child = parent(scope={"tools": GET_CASE}).delegate(
        tools=["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"], environment="production", act=None
    )
    found = {each.field for each in child.verify().findings if each.code == "wrong-delegation"}
    assert found == {"tools", "environment", "act"}


def test_a_child_job_pins_the_manifests_of_its_parent() -> None:
    mother = parent()
    mother.grant = replace(mother.grant, scope=replace(mother.grant.scope, manifests={"crm-mcp": ZERO}))
    mother.grant_payload = canonical(mother.grant)
    mother.grant_digest = digest(mother.grant_payload)
    says(mother.delegate().verify(), "wrong-delegation", 4, field="manifests")


def test_a_child_job_of_another_scope_fails() -> None:
    child = parent().delegate(iss="https://scope-2.example")
    assert {each.code for each in child.verify().findings} >= {"wrong-owner", "missing-document"}
    mother = parent(scope={"iss": "https://scope-2.example"})
    says(mother.delegate(iss=SCOPE).verify(), "wrong-owner", 4)


def test_a_job_deeper_than_its_policy_allows_fails() -> None:
    only(World().delegate().story().verify(), "wrong-delegation", 4, field="depth")
    deepest = parent().delegate().delegate("job-3")
    assert deepest.verify().verdict == "PASS"
    only(deepest.delegate("job-4").verify(), "wrong-delegation", 4, field="depth")


def test_a_delegated_job_without_the_grant_above_it_fails() -> None:
    child = parent().delegate().story()
    child.grants_above = []
    only(child.verify(), "missing-document", 4, field="parent")


def test_a_grant_that_no_grant_of_the_job_comes_from_is_of_another_job() -> None:
    world = World().story()
    world.grants_above = [World(job="job-9").grant_payload]
    report = world.verify()
    assert {each.code for each in report.findings} >= {"wrong-job", "wrong-delegation", "unnamed-document"}


def test_every_way_in_which_a_grant_is_outside_its_policies_is_listed() -> None:
    tools = ["mcp:crm-mcp/export_customers", "mcp:crm-mcp/http_request", "mcp:tickets-mcp/read_ticket"]
    scope = {"tools": tools, "models": ["openai/*"], "agent": "agent-9", "manifests": {"tickets-mcp": ZERO}}
    scope["manifests"] = {"crm-mcp": World().grant.scope.manifests["crm-mcp"], "tickets-mcp": ZERO}
    report = World(policy={"jobs": {"agents": ["agent-1"]}, "budgets": {"calls": 10}}, scope=scope).verify()
    found = [(each.code, each.field) for each in report.findings if each.step == 4]
    assert found == [
        ("not-admitted", "jobs.agents"),
        ("scope-too-wide", "tools"),
        ("scope-too-wide", "tools"),
        ("unknown-server", "tools"),
        ("scope-too-wide", "models"),
        ("scope-too-wide", "limits"),
    ]


# Narrower grants of one job -------------------------------------------------------------------------------------------


def narrowed(world: World, **changes: Any) -> Grant:
    """Narrow the grant of a job."""
    grant = {name: changes.pop(name) for name in ("parent", "expires") if name in changes}
    made = replace(
        world.grant,
        scope=replace(world.grant.scope, **changes),
        issued_at=NOW + SECOND,
        **({"parent": world.grant_digest} | grant),
    )
    world.narrower.append(made)
    return made


def test_a_job_may_have_narrower_grants() -> None:
    world = World().story()
    narrowed(world, tools=GET_CASE)
    narrowed(world, tools=[], parent=digest(canonical(world.narrower[0])), expires=NOW + 60 * SECOND)
    narrowed(world, agent="agent-2", act="agent-1", tools=[])
    world.narrower.sort(key=lambda each: digest(canonical(each)))
    assert world.verify().verdict == "PASS"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"job_type": "billing"}, "job_type"),
        ({"expires": NOW + 3601 * SECOND}, "expires"),
        ({"agent": "agent-2"}, "act"),
        ({"depth": 1}, "depth"),
        ({"parent": None}, "grant"),
    ],
)
def test_a_narrower_grant_of_a_job_is_inside_the_one_it_comes_from(changes: dict[str, Any], field: str) -> None:
    world = parent(policy={"jobs": {"types": ["*"]}}).story()
    narrowed(world, **changes)
    only(world.verify(), "wrong-delegation", 4, field=field)


def test_a_second_grant_from_the_delegating_job_is_a_second_beginning() -> None:
    child = parent().delegate().story()
    narrowed(child, parent=digest(child.grants_above[0]))
    only(child.verify(), "wrong-delegation", 4, field="grant")


def test_the_first_grant_opened_the_job_wherever_it_stands() -> None:
    world = World().story()
    made = narrowed(world, tools=GET_CASE)
    world.narrower = [replace(made, issued_at=world.grant.issued_at)]
    report = world.verify()
    assert report.kin is not None
    assert report.kin.grant == world.grant_digest


def test_a_child_that_dies_with_its_parent_may_say_so() -> None:
    child = parent().delegate().story()
    child.revoke("job", "job-1", NOW + DAY)
    assert child.verify(child.bundle(child.documents(child.sealed(status="revoked")))).verdict == "PASS"


def test_a_grant_is_known_with_those_above_it() -> None:
    grandchild = parent().delegate().delegate("job-3", "agent-3")
    lines = [
        Line(number, kind, content(raw, kind))
        for number, raw in enumerate(grandchild.bundle().splitlines())
        if (kind := kind_of(raw)) not in {None, "header"} and kind is not None
    ]
    trust = Trust.establish(grandchild.pin(), seal_up("keys", grandchild.keys_payload, pair("root")))
    found = establish("job-3", trust, lines, Report())
    assert found is not None
    assert [each.scope.agent for each in found.grants.values()] == ["agent-3"]
    assert sorted(each.scope.agent for each in found.ancestors.values()) == ["agent-1", "agent-2"]
    assert (found.policy, found.gateway) == (grandchild.policy, grandchild.grant.scope.audience)


# Binding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "bound", "passes"),
    [
        ("none", "mtls", True),
        ("dpop", "dpop", True),
        ("dpop", "mtls", True),
        ("dpop", "none", False),
        ("mtls", "dpop", False),
    ],
)
def test_tokens_are_bound_at_least_as_the_policy_asks(asked: str, bound: str, passes: bool) -> None:  # noqa: FBT001
    report = World(policy={"token_constraints": {"binding": asked}}, scope={"binding": bound}).story().verify()
    if passes:
        assert report.verdict == "PASS"
    else:
        only(report, "wrong-binding", 4, field="binding")


def test_the_strictest_policy_of_a_chain_says_how_tokens_are_bound_and_how_deep_jobs_go() -> None:
    above = [{"token_constraints": {"binding": "dpop", "max_delegation_depth": 0}}]
    report = parent(above=above).delegate().verify()
    assert {(each.code, each.field) for each in report.findings} == {
        ("wrong-binding", "binding"),
        ("wrong-delegation", "depth"),
    }


# Chains of policies ---------------------------------------------------------------------------------------------------


def test_a_policy_stands_in_the_bundle_with_those_above_it() -> None:
    assert World(above=[{"serial": 2}, {"serial": 3}, {"serial": 4}]).verify().verdict == "PASS"


def test_a_chain_of_five_policies_is_not_decided() -> None:
    only(World(above=[{"serial": number} for number in range(2, 6)]).verify(), "bad-policy", 3, field="parent")


def test_a_policy_above_that_is_left_out_fails() -> None:
    world = World(above=[{"serial": 2}])
    world.chain.pop()
    only(world.verify(), "missing-document", 3, field="policy")


def test_a_policy_above_that_was_not_in_force_fails() -> None:
    world = World(above=[{"valid_until": NOW}])
    assert {each.code for each in world.verify().findings} == {"policy-not-valid", "missing-document"}


def test_a_grant_ends_with_the_first_policy_of_its_chain_that_ends() -> None:
    only(World(above=[{"valid_until": NOW + 60 * SECOND}]).verify(), "wrong-grant", 4, field="expires")


def test_a_child_job_may_have_a_policy_under_its_parents() -> None:
    mother = parent()
    child = World(
        policy=DEEP | {"serial": 2}, above=[DEEP], job="job-2", grant={"parent": mother.grant_digest},
        scope={"agent": "agent-2", "act": "agent-1", "depth": 1},
    )  # fmt: skip
    child.grants_above = [mother.grant_payload]
    assert child.verify().verdict == "PASS"


def test_a_child_job_of_a_policy_beside_its_parents_fails() -> None:
    mother = parent()
    child = World(
        policy=DEEP | {"serial": 2}, job="job-2", grant={"parent": mother.grant_digest},
        scope={"agent": "agent-2", "act": "agent-1", "depth": 1},
    )  # fmt: skip
    child.grants_above = [mother.grant_payload]
    only(child.verify(), "wrong-delegation", 4, field="policy")


# A tree of jobs -------------------------------------------------------------------------------------------------------


def family(**shares: Any) -> tuple[World, World]:
    """Play a parent and its child, each with a short job."""
    mother = parent()
    child = mother.delegate(**shares).story()
    return mother.story(), child


def together(*worlds: World) -> list[Report]:
    reports = {f"{world.job}.tally": world.verify() for world in worlds}
    hold_together(reports)
    return list(reports.values())


def test_a_parent_alone_is_incomplete() -> None:
    mother, _ = family()
    only(mother.verify(), "missing-child", 12, field="children.job-2")
    only(together(mother)[0], "missing-child", 12)
    assert together(mother)[0].verdict == "INCOMPLETE"


def test_a_parent_passes_with_its_children_beside_it() -> None:
    mother, child = family()
    for reports in (together(mother, child), together(child, mother)):
        assert [(each.verdict, each.exit_code, each.findings) for each in reports] == [("PASS", 0, [])] * 2
        said = {len(each.proved): each.proved[-1] for each in reports}
        assert said[6].startswith("1 child job delegated: each bundle is the one")
        assert len(said) == 2


def test_a_child_may_be_a_parent() -> None:
    mother = parent()
    child = mother.delegate()
    grandchild = child.delegate("job-3", "agent-3").story()
    worlds = [mother.story(), child.story(), grandchild]
    assert {each.verdict for each in together(*worlds)} == {"PASS"}
    first, second = together(*worlds[:2])
    only(second, "missing-child", 12, field="children.job-3")
    only(first, "wrong-child", 12, field="children.job-2")


def bent(change: Callable[[World], object]) -> Report:
    """Seal a parent, then let its child become another."""
    mother, child = family()
    raw = mother.bundle()
    change(child)
    reports = {"a": mother.verify(raw), "b": child.verify()}
    hold_together(reports)
    return reports["a"]


def test_a_child_that_was_sealed_otherwise_is_another() -> None:
    only(bent(lambda child: child.revoke("agent", "somebody", NOW)), "wrong-child", 12, field="children.job-2")


def test_a_child_that_does_not_pass_fails_its_parent() -> None:
    mother, child = family()
    reports = {"a": mother.verify(), "b": child.verify(child.bundle()[:-1])}
    hold_together(reports)
    assert (reports["a"].verdict, reports["b"].verdict) == ("FAIL", "MALFORMED")
    only(reports["a"], "wrong-child", 12)


def sealing_child(**changes: Any) -> Report:
    """Let a parent's seal say something else of its child."""
    mother, child = family()
    named = replace(child.as_child(), **changes)
    reports = {
        "a": mother.verify(mother.bundle(mother.documents(mother.sealed(children=[named])))),
        "b": child.verify(),
    }
    hold_together(reports)
    return reports["a"]


@pytest.mark.parametrize("changes", [{"grant": ZERO}, {"seal": ZERO}, {"share": Budget(calls=1)}])
def test_a_child_is_the_one_that_its_parents_seal_names(changes: dict[str, Any]) -> None:
    only(sealing_child(**changes), "wrong-child", 12, field="children.job-2")


def test_a_job_that_was_delegated_by_another_parent_is_no_child() -> None:
    mother, stranger = parent(), parent(scope={"client": "orchestrator-2"})
    child = stranger.delegate().story()
    mother.children = [child]
    only(together(mother.story(), child)[0], "wrong-child", 12)


def test_a_job_that_is_no_deeper_than_its_parent_is_no_child_and_circles_end() -> None:
    mother, other = parent(), parent(job="job-2")
    mother.children, other.children = [World(policy=DEEP, job="job-2")], [World(policy=DEEP)]
    for report in together(mother, other):
        only(report, "wrong-child", 12)


def test_a_bundle_without_a_grant_is_no_child() -> None:
    mother, child = family()
    documents = replace(child.documents(child.sealed()), grants=[])
    reports = {"a": mother.verify(), "b": child.verify(child.bundle(documents))}
    assert reports["b"].job is None
    hold_together(reports)
    only(reports["a"], "missing-child", 12)
    reports["b"].job = "job-2"
    hold_together(reports)
    only(reports["a"], "wrong-child", 12)


def test_a_child_sealed_again_after_its_parent_is_the_one_that_was_named() -> None:
    mother = parent()
    child = mother.delegate()
    lane = child.lane()
    lane.model("call-1")
    child.superseded = child.sealed(status="interrupted")
    named = replace(child.as_child(), seal=digest(canonical(child.superseded)))
    raw = mother.story().bundle(mother.documents(mother.sealed(children=[named])))
    lane.close()
    reports = {"a": mother.verify(raw), "b": child.verify()}
    hold_together(reports)
    assert [each.verdict for each in reports.values()] == ["PASS", "PASS"]


def test_a_report_with_more_findings_than_it_lists_keeps_its_verdict() -> None:
    mother, child = family()
    report = mother.verify()
    for _ in range(MAX_FINDINGS):
        report.add("lost-call", 12, "why")
    hold_together({"a": report, "b": child.verify()})
    assert (report.verdict, report.unlisted) == ("INCOMPLETE", 1)


@pytest.mark.parametrize(
    ("share", "passes"),
    [
        (Budget(calls=6, wall_seconds=600), True),
        (Budget(calls=7, wall_seconds=600), False),
        (Budget(calls=6, wall_seconds=601), False),
        (Budget(calls=6), False),
    ],
)
def test_what_lanes_spent_and_children_got_is_inside_the_jobs_purse(share: Budget, passes: bool) -> None:  # noqa: FBT001
    mother = parent(scope={"limits": Budget(calls=10, wall_seconds=600)})
    mother.delegate(limits=share)
    lane = mother.lane()
    for number in range(4):
        lane.model(f"call-{number}")
    lane.close()
    codes = {each.code for each in mother.verify().findings}
    assert codes == ({"missing-child"} if passes else {"missing-child", "over-budget"})


def test_a_job_whose_policy_allows_no_delegation_has_no_children() -> None:
    mother = World()
    mother.delegate()
    report = mother.story().verify()
    says(report, "wrong-delegation", 5, field="children")
