"""The clients believe nothing that they fetch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Response, get
from litestar.params import FromPath

from controls.client import ControlsClient, Publisher, ServerRecord, fetch_trust
from service.initialise import Plan, initialise
from tests.conftest import START, Serve, seeded
from tests.controls.conftest import AUTHOR, RECORD, World, address
from verifier.encoding import canonical, parse
from verifier.keys import Pin
from verifier.policy import DAY
from verifier.refused import Refused


def reader(world: World, url: str | None = None) -> ControlsClient:
    """A reader with scope's credential."""
    return ControlsClient(world.session, url or world.url, world.trust, lambda: world.token("scope"))


def publisher(world: World, client: str) -> Publisher:
    """Somebody who publishes."""
    return Publisher(world.session, world.url, lambda: world.token(client))


async def code_of(act: Callable[[], Any]) -> str:
    """Expect a refusal and name it."""
    with pytest.raises(Refused) as caught:
        await act()
    return caught.value.code


async def mirror(serve: Serve, path: str, raw: bytes, status: int = 200) -> str:
    """Serve the same bytes under every name: a registry that lies."""

    @get(path)
    async def same() -> Response[bytes]:
        return Response(raw, status_code=status, media_type="application/json")

    return await serve(Litestar([same], openapi_config=None, logging_config=None))


async def test_what_is_published_is_fetched_and_opened(world: World) -> None:
    published = await publisher(world, "author").publish(world.policy())
    fetched = await reader(world).policy(published.digest, world.clock())
    assert (fetched.raw, fetched.digest, fetched.value.issuer) == (published.raw, published.digest, AUTHOR)
    assert (await reader(world).status(published.digest)).status == "published"
    withdrawn = await publisher(world, "author").withdraw(published.digest, "too wide")
    assert withdrawn == await reader(world).status(published.digest)
    latest = await reader(world).latest("crm-read", world.clock(), AUTHOR)
    assert (latest.policy, latest.withdrawn) == (published.digest, True)


async def test_what_is_approved_is_fetched_and_opened(world: World) -> None:
    record = parse(canonical(RECORD), ServerRecord, limit=1 << 14)
    entry = await publisher(world, "registrar").register("crm-mcp", record)
    approved = await publisher(world, "registrar").approve("crm-mcp", world.manifest())
    newest = await reader(world).approved_manifest("crm-mcp", world.clock())
    assert newest == await reader(world).manifest(approved.digest, world.clock())
    assert (newest.raw, newest.digest) == (approved.raw, approved.digest)
    assert [each.name async for each in reader(world).servers()] == [entry.name]


async def test_every_server_is_walked_through(world: World) -> None:
    for number in range(55):
        await world.register(f"server-{number:02}")
    assert [each.name async for each in reader(world).servers()] == [f"server-{number:02}" for number in range(55)]


async def test_refusals_come_with_the_registrys_code(world: World) -> None:
    nobodys = "sha256:" + "0" * 64
    assert await code_of(lambda: reader(world).policy(nobodys, START)) == "unknown-policy"
    assert await code_of(lambda: reader(world).approved_manifest("none", START)) == "unknown-server"
    assert await code_of(lambda: publisher(world, "registrar").publish(world.policy())) == "forbidden"
    assert (
        await code_of(lambda: ControlsClient(world.session, world.url, world.trust).status(nobodys))
        == "unauthenticated"
    )


async def test_a_policy_that_has_ended_is_not_returned(world: World) -> None:
    digest = (await publisher(world, "author").publish(world.policy())).digest
    client = reader(world)
    assert (await client.policy(digest, world.clock())).digest == digest
    assert await code_of(lambda: client.policy(digest, world.clock() + 91 * DAY)) == "policy-not-valid"


async def test_a_fetched_document_is_asked_for_once(world: World, serve: Serve) -> None:
    published, asked = await publisher(world, "author").publish(world.policy()), []

    @get(f"/policies/{published.digest}")
    async def counting() -> Response[bytes]:
        asked.append(published.digest)
        return Response(published.raw, media_type="application/json")

    client = reader(world, await serve(Litestar([counting], openapi_config=None, logging_config=None)))
    first = await client.policy(published.digest, world.clock())
    assert await client.policy(published.digest, world.clock()) == first
    assert len(asked) == 1


async def test_what_was_fetched_as_one_kind_is_not_given_as_another(world: World) -> None:
    digest = (await publisher(world, "author").publish(world.policy())).digest
    client = reader(world)
    await client.policy(digest, world.clock())
    assert await code_of(lambda: client.manifest(digest, world.clock())) == "unknown-manifest"


async def test_what_is_kept_has_a_bound(world: World, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    published = [await publisher(world, "author").publish(world.policy(serial=serial)) for serial in (1, 2, 3)]
    raws, asked = {each.digest: each.raw for each in published}, list[str]()

    @get("/policies/{digest:str}")
    async def counting(digest: FromPath[str]) -> Response[bytes]:
        asked.append(digest)
        return Response(raws[digest], media_type="application/json")

    monkeypatch.setattr("controls.client.MAX_KEPT_BYTES", 2 * len(published[0].raw))
    client = reader(world, await serve(Litestar([counting], openapi_config=None, logging_config=None)))
    first, second, third = raws
    for digest in (first, second, third, third, second, first):
        await client.policy(digest, world.clock())
    assert asked == [first, second, third, first]


async def test_a_registry_that_answers_with_something_else_is_not_believed(world: World, serve: Serve) -> None:
    asked, other = world.policy(), world.policy(policy_name="other")
    uncountersigned = await mirror(serve, f"/policies/{address(asked)}", asked)
    assert await code_of(lambda: reader(world, uncountersigned).policy(address(asked), START)) == "wrong-use"
    published = (await world.publish(other)).body
    swapped = await mirror(serve, f"/policies/{address(asked)}", published)
    assert await code_of(lambda: reader(world, swapped).policy(address(asked), START)) == "wrong-digest"
    for raw, code in ((b"<html>", "not-json"), (b" " * (5 << 20), "controls-unavailable")):
        broken = await mirror(serve, f"/policies/{address(asked)}", raw)
        assert await code_of(partial(reader(world, broken).policy, address(asked), START)) == code
    failing = await mirror(serve, f"/policies/{address(asked)}", b"oops", 500)
    assert await code_of(lambda: reader(world, failing).policy(address(asked), START)) == "controls-unavailable"
    assert (
        await code_of(lambda: reader(world, "http://127.0.0.1:1").policy(address(asked), START))
        == "controls-unavailable"
    )


async def test_another_servers_manifest_is_not_believed(world: World, serve: Serve) -> None:
    url = await mirror(serve, "/servers/tickets-mcp/manifest", world.manifest())
    assert await code_of(lambda: reader(world, url).approved_manifest("tickets-mcp", START)) == "wrong-server"
    digest = address(world.manifest())
    told = reader(world, await mirror(serve, f"/manifests/{digest}", world.manifest()))
    assert await code_of(lambda: told.approved_manifest("tickets-mcp", START, digest)) == "wrong-server"


async def test_a_registry_that_does_not_say_which_manifests_a_job_gets_opens_none(world: World, serve: Serve) -> None:
    digest = address(world.policy())
    older = await mirror(serve, f"/policies/{digest}/status", canonical({"digest": digest, "status": "published"}))
    assert await code_of(lambda: reader(world, older).status(digest)) == "controls-unavailable"


async def test_a_stale_mirror_shows(world: World, serve: Serve) -> None:
    await world.publish(world.policy())
    old = (await world.ask("GET", "/policies/crm-read/latest", "auditor")).body
    client = reader(world, await mirror(serve, "/policies/crm-read/latest", old))
    assert (await client.latest("crm-read", world.clock())).serial == 1
    assert await code_of(lambda: client.latest("crm-read", world.clock() + 61_000_000)) == "stale-latest"
    renamed = reader(world, await mirror(serve, "/policies/other/latest", old))
    assert await code_of(lambda: renamed.latest("other", world.clock())) == "wrong-policy"


async def test_a_key_list_is_opened_with_ones_own_pin(world: World, tmp_path: Path) -> None:
    assert (await fetch_trust(world.session, world.url, world.pin)).digest == world.trust.digest
    initialise(tmp_path / "another", Plan(), START, seeded("another"))
    other = Pin.parse((tmp_path / "another/pin.json").read_bytes())
    assert await code_of(lambda: fetch_trust(world.session, world.url, other)) == "unknown-root"


async def test_what_is_kept_on_disk_is_read_without_the_registry(world: World, tmp_path: Path) -> None:
    published = await publisher(world, "author").publish(world.policy())
    cache, nowhere = tmp_path / "cache", "http://127.0.0.1:9"
    online = ControlsClient(world.session, world.url, world.trust, cache=cache)
    offline = ControlsClient(world.session, nowhere, world.trust, cache=cache)
    assert await code_of(partial(offline.policy, published.digest, world.clock())) == "controls-unavailable"
    fetched = await online.policy(published.digest, world.clock())
    assert await offline.policy(published.digest, world.clock()) == fetched
    assert [each.stat().st_mode & 0o777 for each in (cache, *cache.iterdir())] == [0o700, 0o600]
    again = ControlsClient(world.session, nowhere, world.trust, cache=cache)
    assert await code_of(partial(again.policy, published.digest, world.clock() + 91 * DAY)) == "policy-not-valid"
    assert len(list(cache.iterdir())) == 1


async def test_a_file_that_is_not_what_it_says_is_never_believed(world: World, tmp_path: Path) -> None:
    first = await publisher(world, "author").publish(world.policy())
    other = await publisher(world, "author").publish(world.policy(policy_name="other"))
    cache = tmp_path / "cache"
    client = partial(ControlsClient, world.session, world.url, world.trust, cache=cache)
    fetched = await client().policy(first.digest, world.clock())
    path = cache / first.digest.replace(":", "-")
    for planted in (b"", b"{}", other.raw, first.raw[:-1], first.raw.replace(b"A", b"B", 1), b"x" * ((1 << 22) + 1)):
        path.write_bytes(planted)
        assert await client().policy(first.digest, world.clock()) == fetched
        assert path.read_bytes() == first.raw
    assert await code_of(partial(client().policy, "sha256:../../etc/passwd", world.clock())) == "bad-value"
