"""Jobs: what a grant holds, and every way in which one is not given."""

from functools import partial

import msgspec
import pytest

from controls.client import ControlsClient, Document
from scope.client import Models, RevocationRequest, ScopeClient, Tools
from scope.jobs import open_job
from service.clients import Caller
from tests.conftest import free_port
from tests.refusal import refused
from tests.scope.conftest import RECORD, SECOND, Town, granted, refusal
from verifier.encoding import digest
from verifier.grant import Budget
from verifier.policy import Policy


async def test_a_job_is_granted_all_that_its_policy_allows_on_approved_servers(town: Town) -> None:
    job = await town.open()
    grant = granted(job, town.trust)
    scope = grant.value.scope
    assert grant.digest == job.grant_digest
    assert scope.tools == ["mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"]
    assert scope.models == ["openrouter_via_fal/*"]
    assert list(scope.manifests) == ["crm-mcp"]
    assert (scope.iss, scope.audience, scope.policy) == (town.urls.scope, town.urls.receipts, town.policy)
    assert (scope.job, scope.agent, scope.client) == (job.job, "agent-1", "orchestrator")
    assert job.unavailable == ["tickets-mcp"]
    assert grant.value.expires == job.expires == town.clock() + 3600 * SECOND


async def test_a_scope_asked_for_is_granted_exactly(town: Town) -> None:
    details = [Tools(server="crm-mcp", tools=["get_case"]), Models(models=["openrouter_via_fal/small-*"])]
    job = await town.open(authorization_details=details, limits=Budget(calls=7), expires_in=60)
    grant = granted(job, town.trust).value
    assert grant.scope.tools == ["mcp:crm-mcp/get_case"]
    assert grant.scope.models == ["openrouter_via_fal/small-*"]
    assert grant.scope.limits == Budget(calls=7)
    assert grant.expires == town.clock() + 60 * SECOND
    assert job.unavailable == []


async def test_a_job_without_tools_names_no_manifest(town: Town) -> None:
    job = await town.open(authorization_details=[Models(models=["openrouter_via_fal/*"])])
    scope = granted(job, town.trust).value.scope
    assert (scope.tools, scope.manifests) == ([], {})


REFUSALS: list[tuple[dict[str, object], str]] = [
    ({"authorization_details": [Tools(server="crm-mcp", tools=["export_customers"])]}, "scope-too-wide"),
    ({"authorization_details": [Tools(server="crm-mcp", tools=["http_request"])]}, "scope-too-wide"),
    ({"authorization_details": [Tools(server="crm-mcp", tools=["no_such_tool"])]}, "scope-too-wide"),
    ({"authorization_details": [Tools(server="nobody-mcp", tools=["get_case"])]}, "unknown-server"),
    ({"authorization_details": [Tools(server="tickets-mcp", tools=["read_ticket"])]}, "unknown-server"),
    ({"authorization_details": [Models(models=["another/model"])]}, "scope-too-wide"),
    ({"expires_in": 91 * 86_400}, "scope-too-wide"),
    ({"policy": "sha256:" + "0" * 64}, "unknown-policy"),
    ({"policy": "sha256:0"}, "bad-value"),
    ({"agent": "a b"}, "bad-value"),
]


async def test_what_is_outside_the_policy_is_refused_by_name(town: Town) -> None:
    for changes, code in REFUSALS:
        assert await refusal(town.scope().open(msgspec.structs.replace(town.job(), **changes))) == code, changes
    assert (await town.ask("GET", "/jobs", "orchestrator"))[2] == {"jobs": []}


async def test_a_policy_with_budgets_and_admissions_binds_its_jobs(town: Town) -> None:
    town.policy = await town.publish(
        policy_name="narrow", jobs={"agents": ["support-*"], "types": ["support"], "environments": ["test"]},
        budgets={"calls": 10, "wall_seconds": 100},
    )  # fmt: skip
    assert await refusal(town.open()) == "not-admitted"
    assert await refusal(town.open(agent="support-1", job_type="other")) == "not-admitted"
    assert await refusal(town.open(agent="support-1", environment="live")) == "not-admitted"
    assert await refusal(town.open(agent="support-1", limits=Budget(calls=11))) == "scope-too-wide"
    assert await refusal(town.open(agent="support-1", expires_in=101)) == "scope-too-wide"
    job = await town.open(agent="support-1", limits=Budget(calls=9))
    assert granted(job, town.trust).value.scope.limits == Budget(calls=9, wall_seconds=100)
    assert job.expires == job.opened + 100 * SECOND


async def test_a_withdrawn_policy_is_pinned_by_no_new_job(town: Town) -> None:
    job = await town.open()
    await town.registry("author").withdraw(town.policy, "a mistake")
    assert await refusal(town.open()) == "policy-withdrawn"
    assert (await town.scope().status(job.job)).state == "open"


async def test_a_policy_that_asks_for_what_no_service_does_is_pinned_by_no_job(town: Town) -> None:
    """The registry publishes none; scope does not rely on it."""
    published = town.authority.registry

    class Another(ControlsClient):
        """A registry that published what ours refuses."""

        async def policy(self, wanted: str, at: int) -> Document[Policy]:  # type: ignore[explicit-override]
            document = await published.policy(wanted, at)
            asks = msgspec.structs.replace(document.value.receipts, privacy="sealed", auditors=["auditor"])
            return msgspec.structs.replace(document, value=msgspec.structs.replace(document.value, receipts=asks))

    who = partial(town.credential, "scope", town.urls.controls)
    other = Another(town.session, town.urls.controls, town.trust, who)
    authority = msgspec.structs.replace(town.authority, registry=other)
    with refused("unsupported"):
        await open_job(authority, Caller("orchestrator", frozenset({"orchestrator"})), town.job())


async def test_a_policy_out_of_force_is_pinned_by_no_job(town: Town) -> None:
    town.pass_seconds(91 * 86_400)
    assert await refusal(town.open()) == "policy-not-valid"


@pytest.mark.parametrize(
    ("kind", "value"), [("agent", "agent-1"), ("client", "orchestrator"), ("policy", ""), ("all", "*")]
)
async def test_what_was_revoked_opens_no_job(town: Town, kind: str, value: str) -> None:
    wanted = RevocationRequest(kind=kind, value=value or town.policy, reason="incident")  # type: ignore[arg-type]
    await town.scope("responder").revoke(wanted)
    assert await refusal(town.open()) == "revoked"


@pytest.mark.parametrize(("kind", "value"), [("tool", "crm-mcp/get_case"), ("server", "crm-mcp")])
async def test_no_grant_names_a_tool_that_is_revoked(town: Town, kind: str, value: str) -> None:
    wanted = RevocationRequest(kind=kind, value=value, reason="incident")  # type: ignore[arg-type]
    await town.scope("responder").revoke(wanted)
    asked = [Tools(server="crm-mcp", tools=["get_case", "search_customer"])]
    assert await refusal(town.open(authorization_details=asked)) == "revoked"
    job = await town.open()
    left = ["mcp:crm-mcp/search_customer"] if kind == "tool" else []
    assert granted(job, town.trust).value.scope.tools == left
    assert set(job.unavailable) == {"tickets-mcp", "mcp:crm-mcp/get_case", "mcp:crm-mcp/search_customer"} - set(left)


NO_POLICY = "sha256:" + "0" * 64
BODIES = {
    "": "truncated",
    "{": "truncated",
    "nonsense": "not-json",
    '{"agent":"a"}': "missing-field",
    f'{{"agent":"a","agent":"b","policy":"{NO_POLICY}","job_type":"t","environment":"e"}}': "not-canonical",
    f'{{"agent":"a","policy":"{NO_POLICY}","job_type":"t","environment":"e","extra":1}}': "unknown-field",
    "[" * 100: "too-deep",
}


async def test_a_body_that_is_no_request_has_its_own_code(town: Town) -> None:
    for body, code in BODIES.items():
        status, headers, problem = await town.ask("POST", "/jobs", "orchestrator", data=body.encode())
        assert (status, problem["code"]) == (400, code), body
        assert headers["Content-Type"] == "application/problem+json"


async def test_a_client_sees_its_own_jobs_newest_first(town: Town) -> None:
    opened = [(await town.open()).job for _ in range(3)]
    _, _, first = await town.ask("GET", "/jobs?limit=2", "orchestrator")
    assert [each["job"] for each in first["jobs"]] == [opened[2], opened[1]]
    _, _, rest = await town.ask("GET", f"/jobs?limit=2&before={first['next']}", "orchestrator")
    assert [each["job"] for each in rest["jobs"]] == [opened[0]]
    assert "next" not in rest


async def test_a_job_is_shown_to_its_client_and_to_those_who_watch(town: Town) -> None:
    job = await town.open()
    for client in ("orchestrator", "receipts", "responder", "auditor"):
        assert (await town.scope(client).status(job.job)).state == "open"
    assert await refusal(town.scope().status("job-unknown")) == "unknown-job"


async def test_a_grant_is_public_by_digest_byte_for_byte(town: Town) -> None:
    job = await town.open()
    status, headers, body = await town.ask("GET", f"/grants/{job.grant_digest}")
    assert (status, body) == (200, bytes(job.grant))
    assert headers["ETag"] == f'"{job.grant_digest}"'
    assert "immutable" in headers["Cache-Control"]
    again = await town.ask("GET", f"/grants/{job.grant_digest}", headers={"If-None-Match": headers["ETag"]})
    assert (again[0], again[2]) == (304, b"")
    assert await town.scope().grant(job.grant_digest) == bytes(job.grant)
    assert await refusal(town.scope().grant(digest(b""))) == "unknown-grant"


async def test_the_key_list_is_public(town: Town) -> None:
    assert await town.scope().keys() == (town.installation / "keys.json").read_bytes()


ROLES = {
    "POST /jobs": {"orchestrator"},
    "GET /jobs": {"orchestrator"},
    "POST /jobs/job-x/close": {"orchestrator"},
    "POST /jobs/job-x/lanes": {"receipts"},
    "POST /heads": {"receipts"},
    "GET /jobs/job-x/revocations": {"receipts", "auditor"},
    "POST /revocations": {"responder", "controls"},
    "GET /revocations/snapshot": {"receipts", "auditor", "responder", "controls"},
}


async def test_each_route_is_for_its_roles_alone(town: Town) -> None:
    for route, allowed in ROLES.items():
        method, path = route.split()
        for client in ("orchestrator", "receipts", "responder", "auditor", "controls"):
            status, _, _ = await town.ask(method, path, client, data=b"" if method == "POST" else None)
            assert (status == 403) == (client not in allowed), (route, client, status)
        assert (await town.ask(method, path))[0] == 401, route


async def test_the_api_describes_itself(town: Town) -> None:
    status, _, body = await town.ask("GET", "/openapi/openapi.json")
    assert status == 200
    assert {"/jobs", "/token", "/heads", "/revocations", "/grants/{digest}"} <= set(msgspec.json.decode(body)["paths"])


async def test_a_suspended_server_is_unavailable_and_by_name_refused(town: Town) -> None:
    await town.registry("registrar").register("crm-mcp", msgspec.structs.replace(RECORD, status="suspended"))
    job = await town.open()
    assert job.unavailable == ["crm-mcp", "tickets-mcp"]
    assert granted(job, town.trust).value.scope.tools == []
    asked = [Tools(server="crm-mcp", tools=["get_case"])]
    assert await refusal(town.open(authorization_details=asked)) == "server-not-active"


async def test_a_policy_without_tools_opens_jobs_of_models_alone(town: Town) -> None:
    town.policy = await town.publish(policy_name="models", allowed_tools=[])
    job = await town.open()
    scope = granted(job, town.trust).value.scope
    assert (scope.tools, scope.models, job.unavailable) == ([], ["openrouter_via_fal/*"], [])


async def test_a_scope_that_is_away_is_named(town: Town) -> None:
    nobody = ScopeClient(town.session, f"http://127.0.0.1:{free_port()}", lambda: town.credential("orchestrator"))
    assert await refusal(nobody.open(town.job())) == "scope-unavailable"
    assert await refusal(nobody.grant("sha256:" + "0" * 64)) == "scope-unavailable"
