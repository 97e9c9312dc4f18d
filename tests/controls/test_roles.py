"""Who may do what: nobody without a token of their own, each client only what its role says."""

from pathlib import Path

import pytest

from tests.controls.conftest import ISSUER, World, WorldOf

DIGEST = "sha256:" + "0" * 64
CLIENTS = {"author", "registrar", "orchestrator", "auditor", "scope", "receipts"}
ANY = CLIENTS
PUBLIC = {*CLIENTS, None}
# Every route, and who may use it; a route that is not here fails the test below.
MATRIX: dict[tuple[str, str], set[str | None]] = {
    ("PUT", "/policies/{digest}"): {"author"},
    ("GET", "/policies/{digest}"): {*PUBLIC},
    ("GET", "/policies/{digest}/status"): {*ANY},
    ("POST", "/policies/{digest}/withdraw"): {"author"},
    ("POST", "/policies/{digest}/simulate"): {"author", "auditor", "registrar", "orchestrator"},
    ("GET", "/policies/{a}/diff/{b}"): {"author", "auditor", "registrar"},
    ("GET", "/export/{digest}"): {*PUBLIC},
    ("GET", "/policies"): {*ANY},
    ("GET", "/policies/{name}/latest"): {*ANY},
    ("PUT", "/servers/{name}"): {"registrar"},
    ("GET", "/servers"): {*ANY},
    ("GET", "/servers/due"): {"registrar", "auditor"},
    ("GET", "/servers/{name}"): {*ANY},
    ("PUT", "/servers/{name}/manifests/{digest}"): {"registrar"},
    ("GET", "/servers/{name}/manifest"): {*ANY},
    ("POST", "/servers/{name}/scan"): {"registrar"},
    ("GET", "/manifests/{digest}"): {*PUBLIC},
    ("PUT", "/prices/{digest}"): {"registrar"},
    ("GET", "/prices/{digest}"): {*PUBLIC},
    ("GET", "/keys"): {*PUBLIC},
    ("GET", "/audit"): {"auditor"},
    ("GET", "/livez"): {*PUBLIC},
    ("GET", "/readyz"): {*PUBLIC},
}
VALUES = {"digest": DIGEST, "a": DIGEST, "b": DIGEST, "name": "crm-mcp"}


async def test_every_route_is_in_the_matrix(world: World) -> None:
    described = (await world.ask("GET", "/openapi/openapi.json")).json["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {route for route in routes if not route[1].startswith("/openapi")} == set(MATRIX)


async def test_each_role_may_do_what_the_matrix_says_and_nothing_else(world: World) -> None:
    for (method, path), allowed in MATRIX.items():
        for client in [*sorted(CLIENTS), None]:
            answer = await world.ask(method, path.format(**VALUES), client, data=b"{}" if method != "GET" else None)
            refused = answer.status in {401, 403}
            assert refused != (client in allowed), (method, path, client, answer.status)
            if refused:
                expected = (403, "forbidden") if client else (401, "unauthenticated")
                assert (answer.status, answer.code) == expected, (method, path, client)
            assert answer.status < 500, (method, path, client)


async def test_a_token_is_taken_once(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.token('author')}"}
    assert (await world.ask("GET", "/policies", headers=headers)).status == 200
    answer = await world.ask("GET", "/policies", headers=headers)
    assert (answer.status, answer.code) == (401, "unauthenticated")


async def test_a_token_for_another_service_is_refused(world: World) -> None:
    for audience in ("http://127.0.0.1:8702", ISSUER + "/", ""):
        headers = {"Authorization": f"Bearer {world.token('author', audience)}"}
        assert (await world.ask("GET", "/policies", headers=headers)).status == 401


async def test_a_token_that_has_ended_is_refused(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.token('author')}"}
    world.clock.pass_seconds(61)
    assert (await world.ask("GET", "/policies", headers=headers)).status == 401


async def test_changes_are_counted_and_reads_are_not(
    world_of: WorldOf, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_CONTROLS_WRITES_PER_MINUTE", "2")
    world = await world_of(installation)
    assert [(await world.register()).status for _ in range(3)] == [201, 200, 429]
    refused = await world.register()
    assert (refused.code, refused.headers["Retry-After"]) == ("too-many-requests", "5")
    assert (await world.ask("GET", "/servers", "registrar")).status == 200
    assert (await world.publish(world.policy())).status == 201
    world.clock.pass_seconds(31)
    assert (await world.register()).status == 200
