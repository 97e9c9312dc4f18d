"""Scope's API held against its own description by schemathesis: whatever is sent, no answer is a bug."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from scope import feed
from scope.client import HeadsReport, JobRequest, LaneRequest, RevocationRequest
from scope.oauth import TOKEN_FIELDS
from tests.scope.conftest import Town

EXAMPLES = 15  # of each operation and mode
CLIENTS = {"heads": "receipts", "revocations": "responder", "incidents": "responder"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_no_request_makes_scope_fail(town: Town, mode: GenerationMode, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY", "LIFETIME"):  # the feed has an end
        monkeypatch.setattr(feed, name, 0.02)
    town.authority.feed.wake()
    await town.open()
    schema = schemathesis.openapi.from_dict(msgspec.json.decode((await town.ask("GET", "/openapi/openapi.json"))[2]))
    statuses = await asyncio.to_thread(drive, schema, town, mode)
    assert max(statuses) < 500
    assert {200, 400} <= statuses


async def test_every_route_that_takes_a_body_describes_it(town: Town) -> None:
    paths = msgspec.json.decode((await town.ask("GET", "/openapi/openapi.json"))[2])["paths"]
    for path, methods in paths.items():
        for method, each in methods.items():
            assert method != "post" or "requestBody" in each or path == "/jobs/{job}/close", path


async def test_the_description_names_what_the_token_address_reads_and_no_answer_that_never_comes(town: Town) -> None:
    paths = msgspec.json.decode((await town.ask("GET", "/openapi/openapi.json"))[2])["paths"]
    (form,) = paths["/token"]["post"]["requestBody"]["content"].values()
    proof = {"client_id", "client_assertion_type", "client_assertion"}
    assert set(form["schema"]["properties"]) == {*TOKEN_FIELDS, *proof}
    refuses = paths["/authorize"]["get"]["responses"]
    assert set(refuses) == {"default"}
    assert "error" in refuses["default"]["content"]["application/json"]["schema"]["properties"]


async def test_the_description_shows_requests_that_are_read_and_the_refusals_that_are_sent(town: Town) -> None:
    paths = msgspec.json.decode((await town.ask("GET", "/openapi/openapi.json"))[2])["paths"]
    kinds: dict[str, Any] = {
        "/jobs": JobRequest, "/jobs/{job}/lanes": LaneRequest, "/heads": HeadsReport, "/revocations": RevocationRequest,
        "/revocations/preview": RevocationRequest,
    }  # fmt: skip
    shown = {
        path: each["post"]["requestBody"]["content"]
        for path, each in paths.items()
        if "requestBody" in each.get("post", {})
    }
    examples = {path: each["application/json"]["example"] for path, each in shown.items() if "application/json" in each}
    assert set(examples) == set(kinds)
    for path, example in examples.items():
        msgspec.convert(example, kinds[path], strict=True)
    assert (await town.ask("POST", "/revocations", "responder", json=examples["/revocations"]))[0] == 201
    for path in set(shown) - set(examples):
        (form,) = shown[path].values()
        assert {"client_assertion_type", "client_assertion"} <= set(form["schema"]["properties"])
        refused = (await town.ask("POST", path, "responder", data={"token": "x"}))[2]
        properties = paths[path]["post"]["responses"]["default"]["content"]["application/json"]["schema"]["properties"]
        assert set(refused) <= {*properties, "active"}, path
    sent = (await town.ask("POST", "/revocations/preview", "auditor", json={}))[2]
    for path, methods in paths.items():
        for method, each in methods.items():
            refusal = each["responses"]["default"]["content"]["application/problem+json"]
            assert refusal["example"] == sent, (path, method)
            assert set(sent) <= set(refusal["schema"]["properties"])
            assert "400" not in each["responses"]


def drive(schema: Any, town: Town, mode: GenerationMode) -> set[int]:
    """Send generated requests to every operation, as a client that may use it."""
    statuses: set[int] = set()
    for result in schema.get_all_operations():
        with suppress(schemathesis.errors.SchemathesisError, Unsatisfiable):  # nothing of it can be wrong
            sending(result.ok(), town, mode, statuses)()
    return statuses


def sending(operation: Any, town: Town, mode: GenerationMode, statuses: set[int]) -> Callable[[], None]:
    """Make the test of one operation."""
    client = (
        "receipts" if operation.path.endswith("/lanes") else CLIENTS.get(operation.path.split("/")[1], "orchestrator")
    )

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(base_url=town.url, headers={"Authorization": f"Bearer {town.credential(client)}"})
        statuses.add(response.status_code)
        assert response.status_code < 500, (case, response.text)

    return send
