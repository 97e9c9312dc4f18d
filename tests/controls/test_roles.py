"""Who may do what: nobody without a token of their own, each client only what its role says."""

from tests.controls.conftest import ISSUER, World

DIGEST = "sha256:" + "0" * 64
CLIENTS = {"author", "registrar", "orchestrator", "auditor", "scope", "receipts"}
WRITES = {
    ("PUT", f"/policies/{DIGEST}"): {"author"},
    ("POST", f"/policies/{DIGEST}/withdraw"): {"author"},
    ("PUT", "/servers/crm-mcp"): {"registrar"},
    ("PUT", f"/servers/crm-mcp/manifests/{DIGEST}"): {"registrar"},
}
READS = [
    "/policies",
    "/policies/crm-read/latest",
    f"/policies/{DIGEST}/status",
    "/servers",
    "/servers/crm-mcp",
    "/servers/crm-mcp/manifest",
]


async def test_a_client_without_the_role_is_refused(world: World) -> None:
    for (method, path), roles in WRITES.items():
        for client in sorted(CLIENTS):
            answer = await world.ask(method, path, client, data=b"{}")
            allowed = client in roles
            assert (answer.status == 403) != allowed, (method, path, client)
            assert (answer.code == "forbidden") != allowed, (method, path, client)


async def test_a_caller_without_a_token_is_refused(world: World) -> None:
    for method, path in [*WRITES, *(("GET", path) for path in READS)]:
        answer = await world.ask(method, path, data=b"{}")
        assert (answer.status, answer.code) == (401, "unauthenticated"), (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_every_client_may_read(world: World) -> None:
    for path in READS:
        for client in sorted(CLIENTS):
            assert (await world.ask("GET", path, client)).status in {200, 404}, (path, client)


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
