"""Publishing a policy: what an auditor would refuse is refused, what is published is frozen."""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from service import keystore
from tests.controls.conftest import AUTHOR, DRAFT, World, WorldOf, address
from verifier.documents import open_policy
from verifier.encoding import b64, canonical
from verifier.envelope import Envelope, seal_up
from verifier.keys import KeyList
from verifier.policy import DAY
from verifier.signing import KeyPair


async def test_a_published_policy_comes_back_byte_for_byte(world: World) -> None:
    published = await world.publish(world.policy())
    assert published.status == 201
    found = await world.ask("GET", f"/policies/{address(published.body)}")
    assert (found.status, found.body) == (200, published.body)


async def test_a_published_policy_carries_the_authors_and_the_registrys_signatures(world: World) -> None:
    raw = world.policy()
    frozen = (await world.publish(raw)).body
    assert open_policy(world.trust, frozen, world.clock()).value.issuer == AUTHOR
    sent, kept = Envelope.parse(raw, "policy"), Envelope.parse(frozen, "policy")
    assert kept.payload == sent.payload
    assert len(kept.signatures) == len(sent.signatures) + 2 == 4
    assert {each.keyid for each in sent.signatures} < {each.keyid for each in kept.signatures}


async def test_publishing_again_answers_with_the_frozen_envelope(world: World) -> None:
    raw = world.policy()
    first = await world.publish(raw)
    again = [await world.publish(raw), await world.publish(first.body), await world.publish(world.policy())]
    assert [each.status for each in again] == [200, 200, 200]
    assert {each.body for each in again} == {first.body}
    assert address(raw) == address(first.body)


async def test_publishing_again_works_when_the_policy_has_ended(world: World) -> None:
    raw = world.policy()
    first = await world.publish(raw)
    world.clock.pass_seconds(91 * 86_400)
    again = await world.publish(raw)
    assert (again.status, again.body) == (200, first.body)


async def refused(world: World, raw: bytes, code: str, status: int = 400, at: str | None = None) -> None:
    """Publish what must be refused, and find that nothing of it was stored."""
    answer = await world.publish(raw, at or GOOD_DIGEST)
    assert (answer.status, answer.code) == (status, code)
    assert (await world.ask("GET", "/policies", "auditor")).json == {"items": []}
    assert (await world.publish(world.policy())).status == 201


GOOD_DIGEST = "sha256:" + "0" * 64


def tampered(raw: bytes, **fields: Any) -> bytes:
    """Change an envelope without signing it again."""
    return canonical({**msgspec.json.decode(raw), **fields})


async def test_a_payload_that_was_changed_is_refused(world: World) -> None:
    other = Envelope.parse(world.policy(policy_name="other"), "policy")
    raw = tampered(world.policy(), payload=other.payload)
    await refused(world, raw, "bad-signature", at=address(raw))


async def test_a_forged_signature_is_refused(world: World) -> None:
    raw = world.policy()
    forged = [{"keyid": each.keyid, "sig": b64(bytes(64))} for each in Envelope.parse(raw, "policy").signatures]
    await refused(world, tampered(raw, signatures=forged), "bad-signature", at=address(raw))


async def test_one_of_two_signatures_stripped_is_refused(world: World) -> None:
    raw = world.policy()
    for kept in msgspec.json.decode(raw)["signatures"]:
        answer = await world.publish(tampered(raw, signatures=[kept]))
        assert (answer.status, answer.code) == (400, "missing-signature")
    await refused(world, tampered(raw, signatures=[]), "missing-signature", at=address(raw))


async def test_a_key_that_no_list_names_is_refused(world: World) -> None:
    raw = world.policy(KeyPair(b"x" * 32, b"y" * 32))
    await refused(world, raw, "unknown-signer", at=address(raw))


async def test_a_key_for_another_use_is_refused(world: World) -> None:
    raw = world.policy(world.registrar)
    await refused(world, raw, "wrong-use", at=address(raw))


async def test_a_policy_in_somebody_elses_name_is_refused(world: World) -> None:
    raw = world.policy(issuer="other.author")
    await refused(world, raw, "wrong-owner", at=address(raw))


async def test_an_authors_key_that_has_ended_is_refused(world: World) -> None:
    world.clock.pass_seconds(366 * 86_400)
    answer = await world.publish(world.policy())
    assert (answer.status, answer.code) == (400, "key-not-valid")


async def test_another_address_than_the_payloads_digest_is_refused(world: World) -> None:
    await refused(world, world.policy(), "wrong-digest")


async def test_an_address_that_is_no_digest_is_refused(world: World) -> None:
    await refused(world, world.policy(), "bad-request", at="sha256:0")


async def test_a_policy_that_has_ended_is_refused(world: World) -> None:
    now = world.clock()
    raw = world.policy(valid_from=now - 2 * DAY, valid_until=now - DAY)
    await refused(world, raw, "policy-not-valid", at=address(raw))


async def test_a_policy_that_has_not_begun_is_refused(world: World) -> None:
    raw = world.policy(valid_from=world.clock() + DAY)
    await refused(world, raw, "policy-not-valid", at=address(raw))


async def test_a_policy_whose_own_test_does_not_hold_is_refused(world: World) -> None:
    call = {"server": "crm-mcp", "tool": "delete_case"}
    raw = world.policy(tests=[*DRAFT["tests"], {"name": "may delete", "call": call, "expect": "allow"}])
    await refused(world, raw, "policy-test-failed", at=address(raw))


async def test_what_this_version_does_not_decide_is_refused_by_name(world: World) -> None:
    built = msgspec.json.decode(Envelope.parse(world.policy(), "policy").content())
    constraints = built["token_constraints"]
    for fields, named in (
        ({"receipts": {"privacy": "sealed", "auditors": ["auditor"]}}, "sealed"),
        ({"token_constraints": {**constraints, "binding": "mtls"}}, "binding"),
    ):
        answer = await world.publish(world.edited(**fields))
        assert (answer.status, answer.code) == (400, "unsupported")
        assert named in answer.json["detail"]


async def test_bad_bytes_have_their_own_codes(world: World) -> None:
    raw = world.policy()
    for sent, code in (
        (b"", "truncated"),
        (b"policy", "not-json"),
        (raw[:-1], "truncated"),
        (raw + b" ", "not-canonical"),
        (raw.replace(b'{"payload":', b'{"payload":"","payload":', 1), "not-canonical"),
        (tampered(raw, extra=1), "unknown-field"),
        (tampered(raw, payload="QR=="), "non-canonical-base64"),
        (tampered(raw, payload="*"), "bad-base64"),
        (world.manifest(), "wrong-kind"),
        (b"[" * 100_000, "too-deep"),
        (b'"' + b"x" * 500_000 + b'"', "too-large"),
    ):
        answer = await world.publish(sent, GOOD_DIGEST)
        assert answer.code == code
        assert answer.status == (413 if code == "too-large" else 400)


async def test_more_than_the_service_reads_is_refused(world: World) -> None:
    answer = await world.ask("PUT", f"/policies/{GOOD_DIGEST}", "author", data=BytesIO(b" " * (5 << 20)))
    assert (answer.status, answer.code) == (413, "too-large")


async def test_a_serial_that_is_not_higher_is_refused(world: World) -> None:
    assert (await world.publish(world.policy(serial=5))).status == 201
    for serial in (5, 4, 1):
        answer = await world.publish(world.policy(serial=serial, valid_until=world.clock() + DAY))
        assert (answer.status, answer.code) == (409, "stale-serial")
    assert (await world.publish(world.policy(serial=7))).status == 201
    history = await world.ask("GET", "/policies?name=crm-read", "auditor")
    assert [each["serial"] for each in history.json["items"]] == [7, 5]


async def test_serials_of_different_names_do_not_meet(world: World) -> None:
    assert (await world.publish(world.policy(serial=5))).status == 201
    assert (await world.publish(world.policy(serial=1, policy_name="other"))).status == 201


async def test_what_supersedes_names_is_the_newest(world: World) -> None:
    first, second = world.policy(), world.policy(serial=2)
    early = await world.publish(world.policy(serial=1, supersedes=address(first)))
    assert (early.status, early.code) == (409, "wrong-supersedes")
    assert (await world.publish(first)).status == 201
    assert (await world.publish(second)).status == 201
    late = await world.publish(world.policy(serial=3, supersedes=address(first)))
    assert (late.status, late.code) == (409, "wrong-supersedes")
    assert (await world.publish(world.policy(serial=3, supersedes=address(second)))).status == 201


async def test_of_two_who_publish_one_serial_at_once_one_wins(world: World) -> None:
    raws = [world.policy(valid_until=world.clock() + (1 + number) * DAY) for number in range(8)]
    answers = await asyncio.gather(*(world.publish(raw) for raw in raws))
    assert sorted(each.status for each in answers) == [201] + [409] * 7
    assert {each.code for each in answers if each.status == 409} == {"stale-serial"}
    assert len((await world.ask("GET", "/policies", "auditor")).json["items"]) == 1


async def test_serials_published_at_once_are_published_in_order(world: World) -> None:
    raws = [world.policy(serial=serial) for serial in (3, 1, 4, 2, 6, 5)]
    answers = await asyncio.gather(*(world.publish(raw) for raw in raws))
    assert {each.status for each in answers} <= {201, 409}
    serials = [each["serial"] for each in (await world.ask("GET", "/policies", "auditor")).json["items"]]
    assert serials == sorted(set(serials), reverse=True)
    assert len(serials) == sum(each.status == 201 for each in answers)


async def test_one_policy_published_by_many_at_once_is_frozen_once(world: World) -> None:
    raw = world.policy()
    answers = await asyncio.gather(*(world.publish(raw) for _ in range(8)))
    assert sorted(each.status for each in answers) == [200] * 7 + [201]
    assert len({each.body for each in answers}) == 1


async def test_an_author_quorum_is_not_quietly_one(installation: Path, world_of: WorldOf) -> None:
    root = keystore.load(installation / "root/root.key", "root")
    listed = KeyList.parse(Envelope.parse((installation / "keys.json").read_bytes(), "keys").content())
    changed = seal_up("keys", canonical(msgspec.structs.replace(listed, author_quorum={AUTHOR: 2})), root)
    for path in ("keys.json", "controls/keys.json"):
        (installation / path).write_bytes(changed)
    world = await world_of(installation)
    answer = await world.publish(world.policy())
    assert (answer.status, answer.code) == (400, "below-quorum")
