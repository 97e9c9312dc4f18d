"""The registry's API held against its own description by schemathesis: whatever is sent, no answer is a bug."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from tests.controls.conftest import World

EXAMPLES = 20  # of each operation and mode
CLIENTS = {"policies": "author", "servers": "registrar"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_no_request_makes_the_registry_fail(world: World, mode: GenerationMode) -> None:
    await world.register()
    await world.publish(world.policy())
    schema = schemathesis.openapi.from_dict((await world.ask("GET", "/openapi/openapi.json")).json)
    statuses = await asyncio.to_thread(drive, schema, world, mode)
    assert {200, 400, 404} <= statuses


async def test_every_route_that_takes_a_body_describes_it(world: World) -> None:
    paths = (await world.ask("GET", "/openapi/openapi.json")).json["paths"]
    operations = [(path, method, each) for path, methods in paths.items() for method, each in methods.items()]
    without = [
        (path, method) for path, method, each in operations if method in {"put", "post"} and "requestBody" not in each
    ]
    assert without == [("/servers/{name}/scan", "post")]


def drive(schema: Any, world: World, mode: GenerationMode) -> set[int]:
    """Send generated requests to every operation, as a client that may use it."""
    statuses: set[int] = set()
    for result in schema.get_all_operations():
        with suppress(schemathesis.errors.SchemathesisError, Unsatisfiable):  # nothing of it can be wrong
            sending(result.ok(), world, mode, statuses)()
    return statuses


def sending(operation: Any, world: World, mode: GenerationMode, statuses: set[int]) -> Callable[[], None]:
    """Make the test of one operation."""
    client = CLIENTS.get(operation.path.split("/")[1], "auditor")

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(base_url=world.url, headers={"Authorization": f"Bearer {world.token(client)}"})
        statuses.add(response.status_code)
        asked_elsewhere = response.status_code == 502 and response.json()["code"] == "scan-failed"  # no bug of ours
        assert response.status_code < 500 or asked_elsewhere, (case, response.text)

    return send
