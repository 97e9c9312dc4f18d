"""Chains of key lists: who may issue the next one, what it may say of keys, and what a newer one knows."""

import hashlib
from io import BytesIO
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.verifier.test_verify import only, says
from tests.world import GATEWAY, NOW, SCOPE, SECOND, World, key, pair, root
from verifier import keys
from verifier.audit import verify
from verifier.box import AuditorKey
from verifier.encoding import b64, canonical
from verifier.envelope import seal_up
from verifier.keys import Key, KeyList, Trust
from verifier.policy import DAY

WORLD = World()
FIRST = WORLD.listed
SECOND_ROOTS = [root("root-2", "owner-2"), root("root-3", "owner-3")]


def listed(*changes: dict[str, Any]) -> list[KeyList]:
    """Write a chain of lists, each the former with changes and the next version."""
    chain = [FIRST]
    for each in changes:
        chain.append(replace(chain[-1], **({"version": chain[-1].version + 1} | each)))
    return chain


def signed(each: KeyList, *roots: str) -> bytes:
    return seal_up("keys", canonical(each), *map(pair, roots or ("root",)))


def changed(name: str, **changes: Any) -> list[Key]:
    """Give the keys of the first list, one of them changed."""
    return [replace(each, **changes) if each.kid == pair(name).kid else each for each in FIRST.keys]


def test_a_chain_of_lists_leads_from_the_pinned_roots_to_others() -> None:
    more = [*FIRST.keys, key("new", "seal", SCOPE)]
    one, two, three = listed({"roots": SECOND_ROOTS, "threshold": 2}, {"keys": more})
    raws = [signed(one), signed(two, "root", "root-2", "root-3"), signed(three, "root-2", "root-3")]
    trust = Trust.establish(WORLD.pin(), raws)
    assert (trust.listed, trust.newest) == (three, three)
    assert list(trust.digests) == [1, 2, 3]
    assert trust.digests[3] == trust.digest
    assert pair("new").kid in trust.by_kid


def test_a_first_list_may_carry_the_signatures_of_its_own_new_roots() -> None:
    _, two = listed({"roots": SECOND_ROOTS})
    assert Trust.establish(WORLD.pin(), signed(two, "root", "root-2")).listed == two
    with refused("unknown-root"):
        Trust.establish(WORLD.pin(), signed(two, "root-2", "root-3"))


@pytest.mark.parametrize(
    ("change", "roots", "code"),
    [
        ({"version": 1}, ("root",), "wrong-rotation"),
        ({"version": 3}, ("root",), "wrong-rotation"),
        ({"issuer": "owner-2"}, ("root",), "wrong-rotation"),
        ({"issued_at": FIRST.issued_at - 1}, ("root",), "wrong-rotation"),
        ({"roots": SECOND_ROOTS}, ("root",), "wrong-rotation"),
        ({"roots": SECOND_ROOTS}, ("root-2", "root-3"), "wrong-rotation"),
        ({"roots": SECOND_ROOTS, "threshold": 2}, ("root", "root-2"), "wrong-rotation"),
        ({"roots": SECOND_ROOTS}, ("root", "attacker"), "unknown-signer"),
        ({"keys": FIRST.keys[1:]}, ("root",), "wrong-rotation"),
        ({"keys": changed("grant", use="seal")}, ("root",), "wrong-rotation"),
        ({"keys": changed("grant", owner=GATEWAY)}, ("root",), "wrong-rotation"),
        ({"keys": changed("grant", not_before=NOW - 2 * DAY)}, ("root",), "wrong-rotation"),
        ({"keys": changed("grant", not_after=NOW + 400 * DAY)}, ("root",), "wrong-rotation"),
        ({"expires": 0}, ("root",), "bad-keys"),
    ],
)
def test_a_list_that_does_not_follow_from_the_one_before_it_is_refused(
    change: dict[str, Any], roots: tuple[str, ...], code: str
) -> None:
    one, two = listed(change)
    with refused(code):
        Trust.establish(WORLD.pin(), [signed(one), signed(two, *roots)])


def revoked(time: int, reason: str) -> dict[str, Any]:
    return {"keys": changed("grant", revoked_at=time, reason=reason)}


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        (revoked(NOW, "retired"), revoked(NOW, "retired"), True),
        (revoked(NOW, "retired"), revoked(NOW - 1, "compromise"), True),
        (revoked(NOW, "compromise"), revoked(NOW - 1, "compromise"), True),
        (revoked(NOW, "retired"), {"keys": FIRST.keys}, False),
        (revoked(NOW, "retired"), revoked(NOW + 1, "retired"), False),
        (revoked(NOW, "compromise"), revoked(NOW, "retired"), False),
    ],
)
def test_a_later_list_ends_keys_and_never_revives_one(
    before: dict[str, Any],
    after: dict[str, Any],
    stays: bool,  # noqa: FBT001
) -> None:
    raws = [signed(each) for each in listed(before, after)]
    if stays:
        assert Trust.establish(WORLD.pin(), raws).listed.version == 3
    else:
        with refused("wrong-rotation", "keys"):
            Trust.establish(WORLD.pin(), raws)


def test_a_chain_has_an_end() -> None:
    raws = [signed(each) for each in listed(*({} for _ in range(keys.MAX_LISTS - 1)))]
    assert Trust.establish(WORLD.pin(), raws).listed.version == keys.MAX_LISTS
    with refused("too-large"):
        Trust.establish(WORLD.pin(), raws[:-1], newer=raws[:2])


# A newer list -----------------------------------------------------------------------------------------------------


def test_what_became_of_a_key_is_read_from_the_newest_list() -> None:
    one, two = listed(revoked(NOW, "compromise"))
    trust = Trust.establish(WORLD.pin(), signed(one), newer=[signed(one), signed(two)])
    assert trust.by_kid[pair("grant").kid].reason == "compromise"
    assert next(each for each in trust.listed.keys if each.kid == pair("grant").kid).reason == "compromise"
    assert (trust.listed.version, trust.newest, list(trust.digests)) == (1, two, [1])
    assert trust.digest == Trust.establish(WORLD.pin(), signed(one)).digest


def test_a_key_that_only_a_newer_list_names_signs_nothing_here() -> None:
    one, two = listed({"keys": [*FIRST.keys, key("new", "seal", SCOPE)]})
    assert pair("new").kid not in Trust.establish(WORLD.pin(), signed(one), newer=[signed(two)]).by_kid


def test_a_newer_list_may_be_any_later_one_that_the_pinned_roots_signed() -> None:
    one, _, three = listed({}, revoked(NOW, "retired"))
    assert Trust.establish(WORLD.pin(), signed(one), newer=[signed(three)]).newest == three


@pytest.mark.parametrize(
    ("newer", "roots", "code"),
    [
        (replace(FIRST, version=1, expires=FIRST.expires + 1), ("root",), "wrong-rotation"),
        (replace(FIRST, version=3, keys=FIRST.keys[1:]), ("root",), "wrong-rotation"),
        (replace(FIRST, version=3, roots=SECOND_ROOTS), ("root-2",), "unknown-root"),
        (replace(FIRST, version=2), ("attacker",), "unknown-signer"),
        (replace(FIRST, version=2), (), "missing-signature"),
    ],
)
def test_a_list_that_is_no_newer_one_of_this_installation_is_refused(
    newer: KeyList, roots: tuple[str, ...], code: str
) -> None:
    raw = seal_up("keys", canonical(newer), *map(pair, roots))
    with refused(code):
        Trust.establish(WORLD.pin(), signed(FIRST), newer=[raw])


def test_the_pins_floor_is_for_the_newest_list_known() -> None:
    one, two = listed({})
    pin = WORLD.pin(min_keys_version=2)
    assert Trust.establish(pin, signed(one), newer=[signed(two)]).listed.version == 1
    with refused("old-keys"):
        Trust.establish(pin, signed(one), newer=[signed(one)])


def test_the_newest_list_is_current_at_the_time_that_was_asked_for() -> None:
    one, two = listed({"expires": FIRST.expires + DAY})
    trust = Trust.establish(WORLD.pin(), signed(one), newer=[signed(two)])
    trust.current(FIRST.expires + 1, newest=True)
    with refused("keys-expired"):
        trust.current(FIRST.expires + 1)


# In a bundle ------------------------------------------------------------------------------------------------------


def test_a_job_under_the_last_list_of_a_chain_passes() -> None:
    world = World().rotate("root", "root-2", roots=[root("root-2", "owner-2")])
    assert world.story().verify().verdict == "PASS"
    world = World().rotate(keys=[*FIRST.keys, key("new", "approver", "approver-1")])
    assert world.story().verify().verdict == "PASS"


def test_a_chain_with_a_gap_is_untrusted_where_it_stands() -> None:
    world = World().rotate(version=3).story()
    only(world.verify(), "wrong-rotation", 2, line=3)


def test_a_seal_that_names_a_former_list_of_the_chain_fails() -> None:
    world = World()
    former = Trust.establish(world.pin(), signed(FIRST)).digest
    world.rotate().story()
    only(world.verify(world.bundle(world.documents(world.sealed(keys=former)))), "wrong-keys", 5, field="seal")


def test_a_newer_list_beside_the_bundle_says_which_keys_were_compromised() -> None:
    world = World().story()
    one, two = listed({"keys": changed("seal", revoked_at=NOW + DAY, reason="compromise")})
    newer = signed(one) + b"\n" + signed(two) + b"\n"
    assert world.verify().verdict == "PASS"
    report = verify(BytesIO(world.bundle()), world.pin(), keys=newer)
    says(report, "key-revoked", 5)
    assert report.verdict == "UNTRUSTED"


def test_what_is_wrong_with_the_lists_beside_a_bundle_hides_nothing_of_the_bundle() -> None:
    world = World().story()
    raw = world.bundle(world.documents(None))
    report = verify(BytesIO(raw), world.pin(), keys=b"{}\n")
    says(report, "missing-field", 2, line=None)
    says(report, "no-seal", 5)
    report = verify(BytesIO(raw), world.pin(min_keys_version=2), keys=b"{}\n")
    assert {each.code for each in report.findings} == {"missing-field", "old-keys"}


def test_a_chain_is_refused_at_the_list_where_it_breaks() -> None:
    world = World().rotate(version=3).rotate().rotate().story()
    only(world.verify(), "wrong-rotation", 2, line=3)
    world = World()
    for _ in range(keys.MAX_LISTS):
        world.rotate()
    only(world.verify(), "too-large", 2, line=keys.MAX_LISTS + 2)


# Auditors' keys ---------------------------------------------------------------------------------------------------

AUDITOR = AuditorKey(hashlib.sha256(b"tally test auditor").digest())


def auditor(**changes: Any) -> Key:
    made = Key(
        kid=AUDITOR.kid, use="auditor", owner="auditor-1", hpke=b64(AUDITOR.public),
        not_before=NOW - DAY, not_after=NOW + 365 * DAY,
    )  # fmt: skip
    return replace(made, **changes)


def test_an_auditors_key_encrypts_and_signs_nothing() -> None:
    trust = Trust.establish(WORLD.pin(), signed(replace(FIRST, keys=[*FIRST.keys, auditor()])))
    found = trust.by_kid[AUDITOR.kid]
    assert found.recipient() == AUDITOR.public
    with refused("wrong-use"):
        found.pair()
    with refused("wrong-use"):
        trust.by_kid[pair("grant").kid].recipient()
    forged = seal_up("grant", b"{}", pair("grant")).replace(pair("grant").kid.encode(), AUDITOR.kid.encode())
    with refused("unknown-signer"):
        trust.open(forged, "grant")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (auditor(kid="0" * 32), "bad-keys"),
        (auditor(hpke=b64(AUDITOR.public[1:])), "bad-key"),
        (auditor(hpke=b64(b"\xff" * len(AUDITOR.public))), "bad-key"),
        (auditor(hpke="A"), "bad-base64"),
        (auditor(use="gateway"), "bad-keys"),
        (auditor(ed25519=pair("new").public.ed25519), "bad-keys"),
        (auditor(ml_dsa_44=pair("new").public.ml_dsa_44), "bad-keys"),
        (auditor(not_after=0), "bad-keys"),
    ],
)
def test_an_auditors_key_of_another_form_is_refused(bad: Key, code: str) -> None:
    with refused(code):
        KeyList.parse(canonical(replace(FIRST, keys=[*FIRST.keys, bad])))


def test_an_auditors_key_stands_once() -> None:
    with refused("bad-keys"):
        KeyList.parse(canonical(replace(FIRST, keys=[auditor(), auditor(owner="auditor-2")])))


def test_the_time_of_a_compromise_counts_only_where_somebody_saw_the_document_before() -> None:
    trust = Trust.establish(WORLD.pin(), signed(FIRST))
    bad = key("seal", "seal", SCOPE, revoked_at=NOW + DAY, reason="compromise")
    trust.good_at(bad, NOW, NOW + DAY - SECOND)
    for witnessed in (None, NOW + DAY):
        with refused("key-revoked"):
            trust.good_at(bad, NOW, witnessed)
