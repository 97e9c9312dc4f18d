"""A token key is replaced while clients of others, with caches of their own, go on reading `/jwks.json`."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from joserfc import jwt as jose
from joserfc.jwk import KeySet
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientError
from typer.testing import CliRunner

from controls.commands import app as registry
from scope.client import RevocationRequest, header_of
from service.app import now
from service.initialise import DAY
from tests.scope.conftest import SECOND, Town

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")


def keys(town: Town, *words: str) -> dict[str, Any]:
    """Run `tally keys` on this installation."""
    result = CliRunner().invoke(registry, ["keys", *words, "--dir", str(town.installation), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    said: dict[str, Any] = json.loads(result.stdout)
    return said


async def token(town: Town, job: str) -> str:
    return (await town.scope().token(job)).access_token


async def listed(town: Town) -> list[str]:
    """Name the keys that scope lists now."""
    return sorted(each["kid"] for each in (await town.ask("GET", "/jwks.json"))[2]["keys"])


async def check(client: PyJWKClient, town: Town, raw: str) -> str:
    """Check a token as PyJWT's own client of key sets does, from its cache where it can; gives the key's id."""
    key = await asyncio.to_thread(client.get_signing_key_from_jwt, raw)
    said = jwt.decode(raw, key, algorithms=["EdDSA"], audience=town.urls.receipts, issuer=town.urls.scope)
    assert said["client_id"] == "orchestrator"
    return str(key.key_id)


def install(town: Town, made: Path) -> None:
    """Put a new key where scope reads it."""
    made.replace(town.installation / "scope/token.key")


async def test_a_token_key_is_replaced_under_clients_with_caches(today: Town) -> None:
    job, old = (await today.open()).job, today.key("scope", "token").kid
    asking = PyJWKClient(f"{today.url}/jwks.json", lifespan=60, cooldown_duration=0)
    before = await token(today, job)
    assert (await check(asking, today, before), await listed(today)) == (old, [old])

    made = today.installation / "scope/token.key.new"
    new = keys(today, "rotate", old, "-o", str(made), "--overlap-days", "1")["kid"]
    await today.restart()  # the new key is told of; the old one signs
    assert await listed(today) == sorted([old, new])
    assert header_of(await token(today, job)).kid == old
    knowing = PyJWKClient(f"{today.url}/jwks.json", lifespan=60)
    assert await check(knowing, today, before) == old

    install(today, made)
    await today.restart()
    after = await token(today, job)
    assert header_of(after).kid == new
    assert await listed(today) == sorted([old, new])
    assert await check(asking, today, before) == old
    assert await check(asking, today, after) == new  # unknown to its cache: it asks once more
    await today.stop()
    assert [await check(knowing, today, raw) for raw in (before, after)] == [old, new]  # it knew before it was used
    await today.restart()
    assert await check(PyJWKClient(f"{today.url}/jwks.json"), today, before) == old
    everything = KeySet.import_key_set((await today.ask("GET", "/jwks.json"))[2])
    for raw in (before, after):
        assert jose.decode(raw, everything, algorithms=["EdDSA"]).claims["txn"] == job
    assert (await today.scope().introspect(before))["active"] is True

    keys(today, "revoke", old, "--reason", "superseded", "--yes")
    await today.restart()
    assert await listed(today) == [new]
    with pytest.raises(PyJWKClientError, match="Unable to find"):
        await check(PyJWKClient(f"{today.url}/jwks.json"), today, before)
    assert await check(PyJWKClient(f"{today.url}/jwks.json"), today, after) == new
    assert await today.scope().introspect(before) == {"active": False}


async def test_a_key_that_ended_is_listed_while_a_token_of_it_may_live(today: Town) -> None:
    old, made = today.key("scope", "token").kid, today.installation / "scope/token.key.new"
    said = keys(today, "rotate", old, "-o", str(made), "--overlap-days", "1")
    install(today, made)
    for after_its_end, expected in ((0, 2), (3599, 2), (3601, 1)):
        await today.restart(lambda late=after_its_end: said["ends"] + late * SECOND)
        assert len(await listed(today)) == expected, after_its_end
    assert await listed(today) == [said["kid"]]
    assert now() < said["ends"] <= now() + DAY


async def test_a_revocation_of_the_key_takes_it_off_at_once(today: Town) -> None:
    kid = today.key("scope", "token").kid
    await today.scope("responder").revoke(RevocationRequest(kind="key", value=kid, reason="incident"))
    assert await listed(today) == []


async def test_a_reader_may_keep_the_keys_for_a_minute(today: Town) -> None:
    status, headers, _ = await today.ask("GET", "/jwks.json")
    assert (status, headers["Cache-Control"]) == (200, "public, max-age=60")
    _, headers, _ = await today.ask("POST", "/token", "orchestrator", data={})
    assert headers["Cache-Control"] == "no-store"
