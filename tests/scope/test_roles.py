"""Who may do what at scope: nobody without a token of their own, each client only what its role says."""

import re
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.scope.conftest import GatewayLane, Town
from verifier.explanation import SPECS

CLIENTS = {"orchestrator", "auditor", "receipts", "responder"}
PUBLIC = {*CLIENTS, None}
# Every route, and who may use it; a route that is not here fails the test below.
MATRIX: dict[tuple[str, str], set[str | None]] = {
    ("POST", "/jobs"): {"orchestrator"},
    ("GET", "/jobs"): {"orchestrator"},
    ("GET", "/jobs/{job}"): {*CLIENTS},
    ("DELETE", "/jobs/{job}"): {"responder"},
    ("POST", "/jobs/{job}/close"): {"orchestrator"},
    ("GET", "/jobs/{job}/seal"): {*CLIENTS},
    ("POST", "/jobs/{job}/lanes"): {"receipts"},
    ("GET", "/jobs/{job}/revocations"): {"receipts", "auditor"},
    ("POST", "/heads"): {"receipts"},
    ("POST", "/revocations"): {"responder"},
    ("POST", "/revocations/preview"): {"responder"},
    ("GET", "/revocations/snapshot"): {"receipts", "auditor", "responder"},
    ("GET", "/revocations/stream"): {"receipts", "auditor", "responder"},
    ("GET", "/incidents"): {"auditor", "responder"},
    ("GET", "/unsealed"): {"auditor", "responder"},
    ("GET", "/audit"): {"auditor"},
    ("POST", "/token"): {"orchestrator"},
    ("POST", "/revoke"): {"orchestrator"},
    ("POST", "/introspect"): {"orchestrator", "receipts", "auditor", "responder"},
    ("GET", "/grants/{digest}"): {*PUBLIC},
    ("GET", "/keys"): {*PUBLIC},
    ("GET", "/.well-known/oauth-authorization-server"): {*PUBLIC},
    ("GET", "/authorize"): {*PUBLIC},
    ("GET", "/jwks.json"): {*PUBLIC},
    ("GET", "/livez"): {*PUBLIC},
    ("GET", "/readyz"): {*PUBLIC},
}
VALUES = {"digest": "sha256:" + "0" * 64, "job": "job-1"}
FORMS = {"/token", "/revoke", "/introspect"}


async def test_every_route_is_in_the_matrix(town: Town) -> None:
    described = msgspec.json.decode((await town.ask("GET", "/openapi/openapi.json"))[2])["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {route for route in routes if not route[1].startswith("/openapi")} == set(MATRIX)


def test_the_routes_that_the_manual_lists_are_those_that_there_are() -> None:
    _, _, manual = (SPECS / "http.md").read_text(encoding="utf-8").partition("## 2. scope")
    listed, method = set[tuple[str, str]](), ""
    for row in re.findall(r"^\| (`[^|]*)\|", manual.partition("## 3.")[0], re.MULTILINE):
        for named, path in re.findall(r"`(?:([A-Z]+) )?(/[^`?]*)", row):
            method = named or method
            listed.add((method, path))
    assert listed == {route for route in MATRIX if route[1] not in {"/livez", "/readyz"}}


async def test_each_role_may_do_what_the_matrix_says_and_nothing_else(town: Town) -> None:
    for (method, path), allowed in MATRIX.items():
        for client in [*sorted(CLIENTS), None]:
            given = {"data": {"token": "x"}} if path in FORMS else {"data": b"{}"} if method == "POST" else {}
            given |= {"params": {"reason": "asked-for"}} if method == "DELETE" else {}
            if path == "/revocations/stream" and client in allowed:
                assert [each async for each in limited(town, client)]
                continue
            status, _, body = await town.ask(method, path.format(**VALUES), client, **given)
            refused = isinstance(body, dict) and body.get("code") in {"unauthenticated", "forbidden"}
            assert refused != (client in allowed), (method, path, client, status)
            assert status < 500, (method, path, client)


async def limited(town: Town, client: str | None) -> AsyncIterator[bytes]:
    """Read the first line of a feed that has no end."""
    async for heartbeat, _ in town.scope(client or "").follow(0):
        yield heartbeat
        return


async def test_a_jobs_state_is_its_clients_and_its_overseers(town: Town) -> None:
    job = (await town.open()).job
    for client in sorted(CLIENTS):
        assert (await town.ask("GET", f"/jobs/{job}", client))[0] == 200, client


@pytest.mark.parametrize("client", ["auditor", "responder"])
async def test_incidents_are_listed_in_pages(town: Town, client: str) -> None:
    lane = await town.lane(await town.open())
    lane.open()
    lane.note(3)
    await town.scope("receipts").report_heads([lane.head()])
    fork = GatewayLane(town, lane.job, lane.name)
    fork.open()
    fork.note(1)
    await town.scope("receipts").report_heads([fork.head()])
    found = (await town.scope(client).incidents()).incidents
    assert found
    assert {each.lane for each in found} == {"lane-1"}
    after = (await town.scope(client).incidents(found[-1].position)).incidents
    assert after == []
    status, _, page = await town.ask("GET", "/incidents?limit=1", client)
    assert (status, len(page["incidents"])) == (200, 1)
    assert page.get("next") == (found[0].position if len(found) > 1 else None)
