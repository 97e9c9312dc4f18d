"""Manifests, grants, tokens, revocations, seals: what each refuses of itself, and who may sign it."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.world import AUTHOR, GATEWAY, NOW, REGISTRY, SCHEMA, SCOPE, SECOND, World, key, pair
from verifier import documents
from verifier.admission import admits, expand, subject_of, within
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Budget, Confirmation, Grant, Token, authorization_details
from verifier.keys import Trust
from verifier.latest import Latest
from verifier.manifest import Manifest, Tool
from verifier.policy import DAY, Policy
from verifier.refused import Refused
from verifier.revocation import Heartbeat, Revocation, Target, named
from verifier.seal import Child, Mark, Seal, SealedToken, origin

WORLD = World().story()
TRUST = Trust.establish(WORLD.pin(), seal_up("keys", WORLD.keys_payload, pair("root")))
GRANT, SEAL, TOOL = WORLD.grant, WORLD.sealed(), WORLD.manifest.tools[0]
ZERO = "sha256:" + "0" * 64
CHILD = Child(job="job-2", grant=ZERO, seal=ZERO, share=Budget())
REVOKED = Revocation(
    iss=SCOPE, sequence=1, time=NOW, target=Target("job", "job-1"), reason="incident", actor="responder"
)


def scoped(**changes: Any) -> Grant:
    """Bend the grant's scope."""
    return replace(GRANT, scope=replace(GRANT.scope, **changes))


def laned(**changes: Any) -> Seal:
    """Bend the seal's lane."""
    return replace(SEAL, lanes=[replace(SEAL.lanes[0], **changes)])


def tooled(**changes: Any) -> Manifest:
    """Bend the manifest's first tool."""
    return replace(WORLD.manifest, tools=[replace(TOOL, **changes)])


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (replace(WORLD.manifest, tools=WORLD.manifest.tools[::-1]), "bad-manifest"),
        (replace(WORLD.manifest, tools=[TOOL, TOOL]), "bad-manifest"),
        (tooled(data_classes=["b", "a"]), "bad-manifest"),
        (tooled(data_classes=["a", "a"]), "bad-manifest"),
        (tooled(input_schema="[]"), "bad-manifest"),
        (tooled(output_schema="12"), "bad-manifest"),
        (tooled(annotations='"x"'), "bad-manifest"),
        (tooled(input_schema='{"a":1,"a":2}'), "not-canonical"),
        (tooled(input_schema="{]"), "not-json"),
        (tooled(input_schema='{"a":NaN}'), "not-json"),
        (tooled(input_schema="[" * 40 + "]" * 40), "too-deep"),
        (tooled(approval="everybody"), "bad-value"),
        (tooled(name="a tool"), "bad-value"),
        (replace(WORLD.manifest, url="file:///etc/passwd"), "bad-value"),
        (replace(WORLD.manifest, url="https://user@host/"), "bad-value"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(manifest: Manifest, code: str) -> None:
    with refused(code):
        Manifest.parse(canonical(manifest))


def test_a_manifest_names_its_host_and_its_tools() -> None:
    assert WORLD.manifest.host == "crm.example"
    assert replace(WORLD.manifest, url="http://[::1]:8080/mcp").host == "[::1]:8080"
    assert WORLD.manifest.tool("get_case") is not None
    assert WORLD.manifest.tool("get") is None


@pytest.mark.parametrize(
    ("grant", "code"),
    [
        (replace(GRANT, expires=GRANT.issued_at), "bad-grant"),
        (replace(GRANT, issued_at=GRANT.opened - 1), "bad-grant"),
        (scoped(tools=GRANT.scope.tools[::-1]), "bad-grant"),
        (scoped(models=["b/x", "a/x"]), "bad-grant"),
        (scoped(manifests={}), "bad-grant"),
        (scoped(act="agent-0"), "bad-grant"),
        (scoped(depth=1), "bad-grant"),
        (scoped(depth=5), "bad-value"),
        (scoped(claims={"team": "support"}), "bad-grant"),
        (scoped(user="u-1", claims={}), "bad-value"),
        (scoped(user="u-1", claims={"a team": "support"}), "bad-value"),
        (scoped(user="u-1", claims={"team": "x" * 257}), "bad-value"),
        (scoped(user="u-1", claims={"team": ["support"]}), "wrong-type"),
        (scoped(client_counter="perhaps"), "bad-value"),
        (scoped(tools=["crm-mcp/get_case"]), "bad-value"),
        (scoped(manifests={"crm mcp": ZERO}), "bad-value"),
        (scoped(binding="rope"), "bad-value"),
    ],
)
def test_a_grant_that_contradicts_itself_is_refused(grant: Grant, code: str) -> None:
    with refused(code):
        Grant.parse(canonical(grant))


def token(**changes: Any) -> Token:
    """Write the claims of an honest token, with some replaced."""
    scope = GRANT.scope
    made = Token(
        iss=scope.iss,
        sub=scope.agent,
        aud=scope.audience,
        client_id=scope.client,
        iat=WORLD.iat,
        nbf=WORLD.iat,
        exp=WORLD.exp,
        jti=WORLD.jti,
        txn=scope.job,
        policy_hash=scope.policy,
        scope_hash=scope.hash(),
        grant=WORLD.grant_digest,
        authorization_details=authorization_details(scope),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy_hash": ZERO}, "wrong-policy"),
        ({"scope_hash": ZERO}, "wrong-scope"),
        ({"iss": GATEWAY}, "wrong-grant"),
        ({"sub": "agent-2"}, "wrong-grant"),
        ({"client_id": "client-2"}, "wrong-grant"),
        ({"txn": "job-2"}, "wrong-grant"),
        ({"aud": SCOPE}, "wrong-grant"),
        ({"exp": GRANT.expires // SECOND + 1}, "wrong-grant"),
        ({"nbf": GRANT.issued_at // SECOND - 1}, "wrong-grant"),
    ],
)
def test_a_token_that_says_more_than_its_grant_does_not_fit(changes: dict[str, Any], code: str) -> None:
    token().fits(GRANT)
    with refused(code):
        token(**changes).fits(GRANT)


def test_a_token_that_is_bound_to_nobody_does_not_fit_a_grant_of_bound_ones() -> None:
    grant = replace(GRANT, scope=replace(GRANT.scope, binding="dpop"))
    made = token(scope_hash=grant.scope.hash())
    with refused("wrong-grant"):
        made.fits(grant)
    replace(made, cnf=Confirmation(jkt="thumbprint")).fits(grant)


def test_a_scope_is_described_as_rfc_9396_asks() -> None:
    details = authorization_details(GRANT.scope)
    assert [each["type"] for each in details] == ["tally_mcp", "tally_model"]
    assert details[0]["tools"] == ["get_case", "search_customer"]
    assert authorization_details(replace(GRANT.scope, models=[], tools=[])) == []


@pytest.mark.parametrize(
    ("seal", "code"),
    [
        (replace(SEAL, lanes=SEAL.lanes * 2), "bad-seal"),
        (replace(SEAL, opened=SEAL.closed + 1), "bad-seal"),
        (laned(origin="gateway.example/tally/job-2/lane-1"), "bad-seal"),
        (laned(tokens=SEAL.lanes[0].tokens * 2), "bad-seal"),
        (laned(marks=SEAL.lanes[0].marks[::-1]), "bad-seal"),
        (laned(marks=[Mark(time=NOW, size=10**6)]), "bad-seal"),
        (laned(marks=[Mark(time=1, size=2), Mark(time=2, size=1)]), "bad-seal"),
        (laned(marks=[]), "bad-value"),
        (replace(SEAL, status="interrupted", supersedes=ZERO), "bad-seal"),
        (replace(SEAL, children=[CHILD, CHILD]), "bad-seal"),
        (replace(SEAL, children=[CHILD, replace(CHILD, job="job-0")]), "bad-seal"),
        (replace(SEAL, children=[replace(CHILD, job="job-1")]), "bad-seal"),
        (replace(SEAL, status="fine"), "bad-value"),
        (laned(tokens=[SealedToken(jti="a b", grant=ZERO, iat=0, exp=1)]), "bad-value"),
    ],
)
def test_a_seal_that_contradicts_itself_is_refused(seal: Seal, code: str) -> None:
    with refused(code):
        Seal.parse(canonical(seal))


def test_a_lanes_log_is_named_after_gateway_job_and_lane() -> None:
    assert origin("https://gateway.example/", "job-1", "lane-1") == "gateway.example/tally/job-1/lane-1"


@pytest.mark.parametrize(("kind", "value"), [("all", "job-1"), ("job", "*")])
def test_everything_is_revoked_by_one_name_alone(kind: Any, value: str) -> None:
    with refused("bad-value"):
        Revocation.parse(canonical(replace(REVOKED, target=Target(kind, value))))


@pytest.mark.parametrize(
    ("kind", "value", "ends", "touches"),
    [
        ("job", "job-1", True, True),
        ("job", "job-2", False, False),
        ("agent", "agent-1", True, True),
        ("client", "orchestrator-1", True, True),
        ("policy", WORLD.policy_digest, True, True),
        ("all", "*", True, True),
        ("jti", "token-1", False, True),
        ("jti", "token-2", False, False),
        ("server", "crm-mcp", False, True),
        ("tool", "crm-mcp/get_case", False, True),
        ("model", "provider/small", False, True),
        ("agent", "agent-2", False, False),
        ("user", "user-1", True, True),
        ("user", "user-2", False, False),
        ("key", "a" * 32, True, True),
        ("key", "b" * 32, False, False),
        ("policy", "sha256:above", True, True),
    ],
)
def test_a_revocation_ends_grants_or_touches_calls(kind: Any, value: str, ends: bool, touches: bool) -> None:  # noqa: FBT001
    made = Revocation.parse(canonical(replace(REVOKED, target=Target(kind, value))))
    names = named(replace(GRANT.scope, user="user-1"), ["a" * 32], ["sha256:above"])
    assert (made.name in names) is ends
    assert made.touches(names | {("jti", "token-1")}) is touches


@pytest.mark.parametrize(
    ("kind", "value", "until", "field"),
    [
        ("user", "ann", None, "target.kind"),
        ("key", "A" * 32, None, "target.kind"),
        ("job", "job-1", REVOKED.time + 1, "until"),
        ("jti", "token-1", REVOKED.time + 1, "until"),
        ("key", "a" * 32, REVOKED.time + 1, "until"),
        ("all", "*", REVOKED.time, "until"),
    ],
)
def test_a_target_or_an_end_that_cannot_be_is_refused(kind: Any, value: str, until: int | None, field: str) -> None:
    with pytest.raises(Refused) as caught:
        Revocation.parse(canonical(replace(REVOKED, target=Target(kind, value), until=until)))
    assert (caught.value.code, caught.value.field) == ("bad-value", field)


def test_no_grant_without_a_user_is_a_revoked_users() -> None:
    assert not [kind for kind, _ in named(replace(GRANT.scope, user=None)) if kind == "user"]


BEAT = Heartbeat(iss=SCOPE, sequence=0, time=NOW)
OPENERS: list[tuple[str, Callable[[bytes], Any], Any, list[str]]] = [
    ("policy", lambda raw: documents.open_policy(TRUST, raw, NOW), WORLD.policy, ["author", "registry"]),
    ("policy", lambda raw: documents.open_draft_policy(TRUST, raw, NOW), WORLD.policy, ["author"]),
    ("manifest", lambda raw: documents.open_manifest(TRUST, raw, NOW), WORLD.manifest, ["registry"]),
    ("grant", lambda raw: documents.open_grant(TRUST, raw), GRANT, ["grant"]),
    ("seal", lambda raw: documents.open_seal(TRUST, raw), SEAL, ["seal"]),
    ("revocation", lambda raw: documents.open_revocation(TRUST, raw), REVOKED, ["revocation"]),
    ("heartbeat", lambda raw: documents.open_heartbeat(TRUST, raw), BEAT, ["revocation"]),
]


@pytest.mark.parametrize(("kind", "opener", "value", "names"), OPENERS)
def test_a_document_opens_with_the_keys_of_its_use_and_no_others(
    kind: str, opener: Callable[[bytes], Any], value: Any, names: list[str]
) -> None:
    opened = opener(seal_up(kind, canonical(value), *map(pair, names)))
    assert (opened.value, opened.digest, opened.payload) == (value, digest(canonical(value)), canonical(value))
    with refused("wrong-use"):
        opener(seal_up(kind, canonical(value), pair("gateway"), *map(pair, names[1:])))
    with refused("unknown-signer"):
        opener(seal_up(kind, canonical(value), pair("attacker"), *map(pair, names[1:])))


def test_a_policy_without_the_registrys_signature_is_not_published() -> None:
    with refused("wrong-use"):
        documents.open_policy(TRUST, seal_up("policy", WORLD.policy_payload, pair("author")), NOW)


def test_a_policy_that_only_its_author_signed_under_two_hats_is_not_published() -> None:
    listed = replace(TRUST.listed, keys=[*TRUST.listed.keys, key("hat", "registry", AUTHOR)])
    two_hats = replace(TRUST, listed=listed, by_kid={each.kid: each for each in listed.keys})
    with refused("wrong-owner"):
        documents.open_policy(two_hats, seal_up("policy", WORLD.policy_payload, pair("author"), pair("hat")), NOW)


def test_a_policy_that_its_author_signs_as_a_registry_too_counts_by_the_real_registry() -> None:
    for hat in ("hat", "cap", "bonnet", "beret"):  # whichever key comes first by its name
        listed = replace(TRUST.listed, keys=[*TRUST.listed.keys, key(hat, "registry", AUTHOR)])
        trust = Trust.establish(WORLD.pin(), seal_up("keys", canonical(listed), pair("root")))
        raw = seal_up("policy", WORLD.policy_payload, pair("author"), pair(hat), pair("registry"))
        assert documents.open_policy(trust, raw, NOW).value == WORLD.policy


def test_a_policy_of_an_author_with_a_quorum_has_so_many_signatures_of_good_keys() -> None:
    listed = replace(
        TRUST.listed, author_quorum={AUTHOR: 2}, keys=[*TRUST.listed.keys, key("author-2", "policy", AUTHOR)]
    )
    quorum = replace(TRUST, listed=listed, by_kid={each.kid: each for each in listed.keys})
    one = seal_up("policy", WORLD.policy_payload, pair("author"), pair("registry"))
    both = seal_up("policy", WORLD.policy_payload, pair("author"), pair("author-2"), pair("registry"))
    assert documents.open_policy(quorum, both, NOW).value == WORLD.policy
    with refused("below-quorum", "issuer"):
        documents.open_policy(quorum, one, NOW)
    retired = replace(key("author-2", "policy", AUTHOR), revoked_at=NOW, reason="retired")
    with refused("below-quorum"):
        documents.open_policy(replace(quorum, by_kid=quorum.by_kid | {retired.kid: retired}), both, NOW)


@pytest.mark.parametrize(
    ("kind", "value", "signer"),
    [
        ("policy", replace(WORLD.policy, issuer="another-team"), ["author", "registry"]),
        ("manifest", replace(WORLD.manifest, issuer="https://other.example"), ["registry"]),
        ("grant", scoped(iss="https://other.example"), ["grant"]),
        ("seal", replace(SEAL, iss="https://other.example"), ["seal"]),
        ("revocation", replace(REVOKED, iss="https://other.example"), ["revocation"]),
        ("heartbeat", replace(BEAT, iss="https://other.example"), ["revocation"]),
    ],
)
def test_a_document_of_another_issuer_than_its_keys_owner_is_refused(kind: str, value: Any, signer: list[str]) -> None:
    opener = next(each for name, each, _, _ in OPENERS if name == kind)
    with refused("wrong-owner"):
        opener(seal_up(kind, canonical(value), *map(pair, signer)))


def test_a_policy_counts_only_while_it_is_in_force() -> None:
    raw = seal_up("policy", WORLD.policy_payload, pair("author"), pair("registry"))
    with refused("policy-not-valid"):
        documents.open_policy(TRUST, raw, NOW + 100 * DAY)


def test_a_document_is_the_one_that_was_asked_for() -> None:
    opened = documents.open_grant(TRUST, seal_up("grant", WORLD.grant_payload, pair("grant")))
    assert documents.addressed(opened, WORLD.grant_digest) is opened
    with refused("wrong-digest"):
        documents.addressed(opened, ZERO)


def test_the_newest_policy_of_a_name_is_said_in_one_canonical_way() -> None:
    said = Latest(
        issuer=REGISTRY, time=NOW, policy_issuer=AUTHOR, policy_name="p", policy=ZERO, serial=1, withdrawn=False
    )
    assert Latest.parse(canonical(said)) == said
    with refused("not-canonical"):
        Latest.parse(canonical(said) + b" ")


# Admission: is a scope inside its policy? -----------------------------------------------------------------------------

MANIFESTS = {"crm-mcp": WORLD.manifest}
LIMITED = replace(WORLD.policy, budgets=replace(WORLD.policy.budgets, calls=10, tokens=100, wall_seconds=60))
SMALL = Budget(calls=10, tokens=100, wall_seconds=60)


def test_the_widest_scope_is_inside_its_policy_and_says_what_is_unavailable() -> None:
    tools, models, unavailable = expand((WORLD.policy,), MANIFESTS, subject_of(GRANT.scope))
    assert tools == ["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"]
    assert (models, unavailable) == (["openrouter_via_fal/*"], ["tickets-mcp"])
    within(replace(GRANT.scope, tools=tools, models=models), (WORLD.policy,), MANIFESTS)


@pytest.mark.parametrize(
    ("policy", "changes", "code", "field"),
    [
        (WORLD.policy, {"tools": ["mcp:crm-mcp/http_request"]}, "scope-too-wide", "tools"),
        (WORLD.policy, {"tools": ["mcp:crm-mcp/export_customers"]}, "scope-too-wide", "tools"),
        (WORLD.policy, {"tools": ["mcp:crm-mcp/no_such_tool"]}, "scope-too-wide", "tools"),
        (WORLD.policy, {"tools": ["mcp:tickets-mcp/read_ticket"]}, "unknown-server", "tools"),
        (WORLD.policy, {"models": ["openai/*"]}, "scope-too-wide", "models"),
        (WORLD.policy, {"models": ["*"]}, "scope-too-wide", "models"),
        (LIMITED, {"limits": Budget()}, "scope-too-wide", "limits"),
        (LIMITED, {"limits": replace(SMALL, calls=11)}, "scope-too-wide", "limits"),
        (LIMITED, {"limits": replace(SMALL, tokens=None)}, "scope-too-wide", "limits"),
        (LIMITED, {"limits": replace(SMALL, wall_seconds=61)}, "scope-too-wide", "limits"),
        (replace(WORLD.policy, jobs=replace(WORLD.policy.jobs, agents=["other-*"])), {}, "not-admitted", "jobs.agents"),
        (replace(WORLD.policy, jobs=replace(WORLD.policy.jobs, types=[])), {}, "not-admitted", "jobs.types"),
        (
            replace(WORLD.policy, jobs=replace(WORLD.policy.jobs, environments=["prod"])),
            {},
            "not-admitted",
            "jobs.environments",
        ),
    ],
)
def test_a_scope_outside_its_policy_is_refused(policy: Policy, changes: dict[str, Any], code: str, field: str) -> None:
    with refused(code, field):
        within(replace(GRANT.scope, **changes), (policy,), MANIFESTS)


def test_a_scope_inside_its_limits_is_admitted() -> None:
    within(replace(GRANT.scope, limits=SMALL), (LIMITED,), MANIFESTS)
    admits((WORLD.policy,), agent="agent-1", job_type="support", environment="test")


def test_a_tool_that_only_a_deny_without_conditions_names_is_never_in_a_scope() -> None:
    tool = Tool(
        name="shell",
        description="",
        input_schema=SCHEMA,
        tool_class="read",
        sensitivity="internal",
        data_classes=[],
        approval="none",
    )
    tools, _, _ = expand((WORLD.policy,), {"crm-mcp": replace(WORLD.manifest, tools=[tool])}, subject_of(GRANT.scope))
    assert tools == []
