"""An application answers in problem details, within limits, with one transaction a request."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from litestar import Request, get, post, put
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.app import build
from service.clients import Caller, Clients, client_token
from service.engine import reading
from service.keystore import load
from service.settings import common
from tests.conftest import START, Clock, Serve
from verifier.refused import Refused


@put("/notes/{name:str}")
async def write_note(name: FromPath[str], state: State) -> dict[str, str]:
    async with state.engine.begin() as db:
        await db.execute(text("INSERT INTO note VALUES (:name)"), {"name": name})
        if name == "bad":
            raise Refused("bad-value", "a bad note", hint="Write a better one.", field="name")
        if name == "bug":
            raise RuntimeError("hunter2")
    return {"name": name}


@get("/notes")
async def count_notes(state: State) -> int:
    async with reading(state.engine) as db:
        found: int = (await db.execute(text("SELECT count(*) FROM note"))).scalar_one()
    return found


@post("/echo")
async def echo(request: Request[Any, Any, Any]) -> int:
    return len(await request.body())


@get("/mine")
async def mine(caller: NamedDependency[Caller]) -> dict[str, str]:
    caller.require("orchestrator")
    return {"client": caller.client}


@put("/orphan")
async def write_orphan(state: State) -> dict[str, str]:
    async with state.engine.begin() as db:
        await db.execute(text("INSERT INTO orphan VALUES ('nobody')"))
    return {}


@get("/page")
async def page(number: FromQuery[int]) -> int:
    return number


@get("/conflict")
async def conflict() -> None:
    raise Refused("already-there", "it is there")


async def fail() -> None:
    raise OSError("hunter2")


@pytest.fixture
async def base(installation: Path, engine: AsyncEngine, clock: Clock, serve: Serve) -> str:
    settings = common("scope", installation / "scope/settings.toml", {"TALLY_SCOPE_MAX_BODY": "1024"})
    async with engine.begin() as db:
        await db.execute(text("CREATE TABLE note (name VARCHAR(10) PRIMARY KEY)"))
        await db.execute(text("CREATE TABLE orphan (parent VARCHAR(10) REFERENCES note DEFERRABLE INITIALLY DEFERRED)"))
    return await serve(
        build(
            settings,
            [write_note, count_notes, echo, mine, conflict, write_orphan, page],
            engine=engine,
            clients=Clients.load(settings.directory / "clients.toml", settings.issuer, clock),
            statuses={"already-there": 409},
        )
    )


async def ask(method: str, url: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as response:
        return response.status, await response.json(content_type=None), response


async def test_a_request_that_is_answered_was_committed(base: str, engine: AsyncEngine) -> None:
    assert (await ask("PUT", f"{base}/notes/good"))[:2] == (200, {"name": "good"})
    async with reading(engine) as db:
        assert (await db.execute(text("SELECT name FROM note"))).scalars().all() == ["good"]
    assert (await ask("GET", f"{base}/notes"))[1] == 1


async def test_a_commit_that_fails_is_never_answered_with_success(base: str) -> None:
    status, problem, _ = await ask("PUT", f"{base}/orphan")
    assert (status, problem["code"]) == (500, "internal-error")


async def test_a_refusal_is_a_problem_document_and_leaves_nothing(base: str) -> None:
    status, problem, response = await ask("PUT", f"{base}/notes/bad")
    assert (status, response.content_type) == (400, "application/problem+json")
    assert problem == {
        "type": "urn:tallystick:problem:bad-value",
        "title": "bad-value",
        "status": 400,
        "code": "bad-value",
        "detail": "a bad note",
        "hint": "Write a better one.",
        "field": "name",
    }
    assert (await ask("GET", f"{base}/notes"))[1] == 0


async def test_a_bug_says_nothing_of_itself_and_leaves_nothing(base: str) -> None:
    status, problem, _ = await ask("PUT", f"{base}/notes/bug")
    assert (status, problem["code"]) == (500, "internal-error")
    assert "hunter2" not in str(problem)
    assert (await ask("GET", f"{base}/notes"))[1] == 0


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", (404, "not-found")),
        ("DELETE", "/notes", (405, "method-not-allowed")),
        ("GET", "/conflict", (409, "already-there")),
        ("GET", "/mine", (401, "unauthenticated")),
    ],
)
async def test_every_error_has_its_code(base: str, method: str, path: str, expected: tuple[int, str]) -> None:
    status, problem, response = await ask(method, base + path)
    assert (status, problem["code"]) == expected
    assert response.content_type == "application/problem+json"
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_a_parameter_that_cannot_be_read_is_named_and_not_repeated(base: str) -> None:
    status, problem, _ = await ask("GET", f"{base}/page?number=hunter2")
    assert (status, problem["code"], problem["field"]) == (400, "bad-request", "number")
    assert "hunter2" not in str(problem)


async def test_a_body_beyond_the_limit_is_refused_with_and_without_a_length(base: str) -> None:
    async def chunks() -> Any:
        for _ in range(64):
            yield b"x" * 64

    assert (await ask("POST", f"{base}/echo", data=b"x" * 1024))[:2] == (201, 1024)
    for data in (b"x" * 1025, chunks()):
        status, problem, _ = await ask("POST", f"{base}/echo", data=data)
        assert (status, problem["code"]) == (413, "too-large")


async def test_a_caller_is_known_by_its_own_token(base: str, installation: Path) -> None:
    for client, expected in (("orchestrator", 200), ("responder", 403)):
        token = client_token(
            load(installation / client / "client.key", "client"), client, "http://127.0.0.1:8702", START
        )
        status, _, _ = await ask("GET", f"{base}/mine", headers={"Authorization": f"Bearer {token}"})
        assert status == expected


async def test_health_and_the_description_are_public(base: str) -> None:
    for path in ("/livez", "/readyz"):
        assert (await ask("GET", base + path))[:2] == (200, {"status": "ok"})
    assert "/notes/{name}" in (await ask("GET", f"{base}/openapi/openapi.json"))[1]["paths"]


async def test_a_service_that_cannot_work_is_not_ready(
    installation: Path, engine: AsyncEngine, clock: Clock, serve: Serve
) -> None:
    settings = common("scope", installation / "scope/settings.toml", {})
    clients = Clients.load(settings.directory / "clients.toml", settings.issuer, clock)
    base = await serve(build(settings, [], engine=engine, clients=clients, checks={"ledger": fail}))
    status, problem, _ = await ask("GET", f"{base}/readyz")
    assert (status, problem["code"], problem["detail"]) == (503, "not-ready", "ledger does not answer")
    assert (await ask("GET", f"{base}/livez"))[0] == 200
