"""What the registry serves: exact bytes for ever, history, the newest, withdrawals, keys."""

from tests.controls.conftest import AUTHOR, ISSUER, World, address
from verifier.latest import Latest
from verifier.policy import DAY

NOBODYS = "sha256:" + "0" * 64


async def test_a_document_is_kept_for_ever_under_its_digest(world: World) -> None:
    raw = world.policy()
    await world.publish(raw)
    path, tag = f"/policies/{address(raw)}", f'"{address(raw)}"'
    found = await world.ask("GET", path)
    assert found.headers["ETag"] == tag
    assert found.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await world.ask("GET", path, headers={"If-None-Match": condition})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", tag)
    other = await world.ask("GET", path, headers={"If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, found.body)


async def test_what_was_not_published_is_not_found(world: World) -> None:
    for path, code in (
        (f"/policies/{NOBODYS}", "unknown-policy"),
        (f"/manifests/{NOBODYS}", "unknown-manifest"),
        ("/nothing", "not-found"),
    ):
        answer = await world.ask("GET", path)
        assert (answer.status, answer.code) == (404, code)
    for path, code in (
        (f"/policies/{NOBODYS}/status", "unknown-policy"),
        ("/policies/none/latest", "unknown-policy"),
        ("/servers/none", "unknown-server"),
        ("/servers/none/manifest", "unknown-server"),
    ):
        answer = await world.ask("GET", path, "auditor")
        assert (answer.status, answer.code) == (404, code)


async def test_a_question_of_the_wrong_form_is_refused(world: World) -> None:
    for question in ("name=%00", "issuer=%0a", "limit=0", "limit=101", "before=0", "before=x"):
        answer = await world.ask("GET", f"/policies?{question}", "auditor")
        assert (answer.status, answer.code) == (400, "bad-request"), question


async def test_the_history_comes_in_pages_newest_first(world: World) -> None:
    for serial in range(1, 6):
        assert (await world.publish(world.policy(serial=serial))).status == 201
    await world.publish(world.policy(policy_name="other"))
    seen, path = [], "/policies?name=crm-read&limit=2"
    while path:
        page = (await world.ask("GET", path, "auditor")).json
        seen += page["items"]
        path = f"/policies?name=crm-read&limit=2&before={page['next']}" if "next" in page else ""
    assert [each["serial"] for each in seen] == [5, 4, 3, 2, 1]
    assert {each["name"] for each in seen} == {"crm-read"}
    assert (seen[0]["issuer"], seen[0]["published_by"], seen[0]["published_at"]) == (AUTHOR, "author", world.clock())
    nobody = await world.ask("GET", "/policies?issuer=nobody", "auditor")
    assert nobody.json == {"items": []}


async def test_the_latest_is_signed_by_the_registry_and_says_when(world: World) -> None:
    await world.publish(world.policy())
    await world.publish(raw := world.policy(serial=2))
    world.clock.pass_seconds(7)
    answer = await world.ask("GET", "/policies/crm-read/latest", "orchestrator")
    signed = world.trust.open(answer.body, "latest")
    assert world.trust.signer(signed.kids, "registry", ISSUER, world.clock()).use == "registry"
    said = Latest.parse(signed.payload)
    assert (said.policy, said.serial, said.time, said.withdrawn) == (address(raw), 2, world.clock(), False)
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await world.ask("GET", f"/policies/crm-read/latest?issuer={AUTHOR}", "auditor")).status == 200
    assert (await world.ask("GET", "/policies/crm-read/latest?issuer=nobody", "auditor")).code == "unknown-policy"


async def test_a_withdrawn_policy_says_so_and_still_comes_back(world: World) -> None:
    published = await world.publish(world.policy())
    path = f"/policies/{address(published.body)}"
    assert (await world.ask("GET", f"{path}/status", "scope")).json == {
        "digest": address(published.body),
        "status": "published",
        "manifests": {},
    }
    withdrawn = await world.ask("POST", f"{path}/withdraw", "author", json={"reason": "a rule was too wide"})
    assert withdrawn.status == 200
    assert withdrawn.json["status"] == "withdrawn"
    world.clock.pass_seconds(60)
    again = await world.ask("POST", f"{path}/withdraw", "author", json={"reason": "another"})
    status = await world.ask("GET", f"{path}/status", "scope")
    assert again.json == status.json == withdrawn.json
    assert (status.json["withdrawn_by"], status.json["reason"]) == ("author", "a rule was too wide")
    assert (await world.ask("GET", path)).body == published.body
    latest = Latest.parse(
        world.trust.open((await world.ask("GET", "/policies/crm-read/latest", "scope")).body, "latest").payload
    )
    assert latest.withdrawn
    assert (await world.publish(world.policy(valid_until=world.clock() + DAY))).code == "stale-serial"


async def test_a_withdrawal_needs_a_reason_that_can_be_shown(world: World) -> None:
    raw = world.policy()
    await world.publish(raw)
    path = f"/policies/{address(raw)}/withdraw"
    for sent, code in (
        (b"", "truncated"),
        (b"{}", "missing-field"),
        (b'{"reason":""}', "bad-value"),
        (b'{"reason":"\\u0000"}', "bad-value"),
        (b'{"reason":"\\u001b[2J"}', "bad-value"),
        (b'{"reason":"a","reason":"b"}', "not-canonical"),
        (b'{"reason":"a","by":"me"}', "unknown-field"),
    ):
        answer = await world.ask("POST", path, "author", data=sent)
        assert (answer.status, answer.code) == (400, code)
    assert (
        await world.ask("POST", f"/policies/{NOBODYS}/withdraw", "author", json={"reason": "a"})
    ).code == "unknown-policy"


async def test_the_key_list_is_public_and_exact(world: World) -> None:
    answer = await world.ask("GET", "/keys")
    assert answer.body == (world.installation / "keys.json").read_bytes()
    same = await world.ask("GET", "/keys", headers={"If-None-Match": answer.headers["ETag"]})
    assert same.status == 304
