"""Changes of a key list: each next version is one that an auditor who knows the former accepts."""

from pathlib import Path

import pytest

from service import NAMES, key_list, keystore
from service.initialise import DAY, Plan, initialise
from service.key_list import Installed
from tests.conftest import START, Clock, seeded
from verifier.encoding import canonical
from verifier.envelope import Envelope, seal_up
from verifier.keys import Key, KeyList, Pin, Root, Trust
from verifier.refused import Refused
from verifier.signing import SUITE, KeyPair


def root_of(installation: Path) -> KeyPair:
    return keystore.load(installation / "root/root.key", "root")


def new_key(label: str, owner: str = "example.author") -> Key:
    public = keystore.generate("policy", owner, seeded(label)).pair().public
    kid = public.kid()
    return Key(
        kid=kid, use="policy", owner=owner, ed25519=public.ed25519, ml_dsa_44=public.ml_dsa_44,
        not_before=START, not_after=START + 365 * DAY,
    )  # fmt: skip


def change(installation: Path, listed: KeyList, *roots: KeyPair) -> list[str]:
    before = Installed.read(installation)
    key_list.propose(before, listed, START + DAY)
    return key_list.countersign(before, roots or (root_of(installation),))


def refusal(installation: Path, listed: KeyList, *roots: KeyPair) -> str:
    with pytest.raises(Refused) as refused:
        change(installation, listed, *roots)
    return refused.value.code


def test_a_change_is_the_next_version_in_every_place_and_the_old_pin_opens_both(installation: Path) -> None:
    before = Installed.read(installation)
    added = new_key("second")
    assert change(installation, key_list.added(before.listed, added)) == []
    raw = (installation / "keys.json").read_bytes()
    assert all((installation / name / "keys.json").read_bytes() == raw for name in NAMES)
    assert [(installation / name / "keys.json").stat().st_mode & 0o777 for name in ("", *NAMES)] == [0o600] * 4
    after = Trust.establish(before.trust.pin, [before.raw, raw])
    assert (after.listed.version, added.kid in after.by_kid) == (2, True)
    assert Trust.establish(before.trust.pin, raw).listed == after.listed
    assert not (installation / "keys.next.json").exists()


def test_there_is_one_change_at_a_time_and_one_that_waits_can_be_forgotten(installation: Path) -> None:
    before = Installed.read(installation)
    key_list.propose(before, key_list.added(before.listed, new_key("second")), START)
    assert refusal(installation, before.listed) == "change-under-way"
    key_list.drop(installation)
    with pytest.raises(Refused, match="no change waits"):
        key_list.drop(installation)
    with pytest.raises(Refused, match="no change waits"):
        key_list.countersign(before, [root_of(installation)])
    assert change(installation, before.listed) == []


def test_a_key_that_is_no_root_signs_no_list(installation: Path) -> None:
    before = Installed.read(installation)
    author = keystore.load(installation / "author/policy.key", "policy")
    assert refusal(installation, key_list.added(before.listed, new_key("second")), author) == "unknown-root"
    assert Installed.read(installation).listed.version == 1


def test_a_key_ends_and_is_revoked_and_neither_is_taken_back(installation: Path) -> None:
    listed = Installed.read(installation).listed
    key = listed.keys[0]
    end = START + 7 * DAY
    assert change(installation, key_list.ended(listed, key, end)) == []
    listed = Installed.read(installation).listed
    assert Installed.read(installation).key(key.kid[:8]).not_after == end
    for at in (end + 1, key.not_before):
        with pytest.raises(Refused, match="has ended, was revoked, or begins later"):
            key_list.ended(listed, Installed.read(installation).key(key.kid), at)
    assert (
        change(installation, key_list.revoked(listed, Installed.read(installation).key(key.kid), START, "retired"))
        == []
    )
    gone = Installed.read(installation)
    assert (gone.key(key.kid).revoked_at, gone.key(key.kid).reason) == (START, "retired")
    for at, reason in ((START + 1, "retired"), (START + 1, "compromise")):
        with pytest.raises(Refused, match="that stays"):
            key_list.revoked(gone.listed, gone.key(key.kid), at, reason)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="has ended, was revoked"):
        key_list.ended(gone.listed, gone.key(key.kid), end - 1)
    assert change(installation, key_list.revoked(gone.listed, gone.key(key.kid), START, "compromise")) == []
    worse = Installed.read(installation)
    with pytest.raises(Refused, match="that stays"):
        key_list.revoked(worse.listed, worse.key(key.kid), START, "retired")


def test_a_key_is_named_once_and_found_by_eight_digits_or_more(installation: Path) -> None:
    installed = Installed.read(installation)
    with pytest.raises(Refused, match="a key has one use and one owner"):
        key_list.added(installed.listed, installed.listed.keys[0])
    for kid in ("", installed.listed.keys[0].kid[:7], "0" * 32):
        with pytest.raises(Refused, match="no single key"):
            installed.key(kid)


def test_a_quorum_that_the_owner_cannot_reach_is_refused(installation: Path) -> None:
    listed = Installed.read(installation).listed
    with pytest.raises(Refused, match="has 1 keys that sign policies, not 2"):
        key_list.with_quorum(listed, "example.author", 2)
    both = key_list.added(listed, new_key("second"))
    assert change(installation, key_list.with_quorum(both, "example.author", 2)) == []
    assert Installed.read(installation).listed.author_quorum == {"example.author": 2}


def test_a_list_of_two_roots_waits_for_the_second(tmp_path: Path, clock: Clock) -> None:
    installation = tmp_path / "new"
    initialise(installation, Plan(), clock(), seeded("two roots"))
    roots = [root_of(installation), keystore.generate("root", "other", seeded("other root")).pair()]
    public = [
        Root(owner=owner, ed25519=pair.public.ed25519, ml_dsa_44=pair.public.ml_dsa_44 or "")
        for owner, pair in zip(("example", "other"), roots, strict=True)
    ]
    first = Envelope.parse((installation / "keys.json").read_bytes(), "keys").content()
    listed = KeyList.parse(first)
    listed = KeyList(
        **{**{name: getattr(listed, name) for name in listed.__struct_fields__}, "roots": public, "threshold": 2}
    )
    (installation / "keys.json").write_bytes(seal_up("keys", canonical(listed), *roots))
    (installation / "pin.json").write_bytes(canonical(Pin(roots=public, threshold=2, suites=[SUITE])))
    before = Installed.read(installation)
    key_list.propose(before, key_list.added(before.listed, new_key("second")), START + DAY)
    assert key_list.countersign(before, []) == ["example", "other"]
    assert key_list.countersign(before, roots[:1]) == ["other"]
    assert Installed.read(installation).listed.version == 1
    assert key_list.countersign(before, roots[1:]) == []
    assert Installed.read(installation).listed.version == 2


def test_a_list_that_was_put_in_some_places_only_is_put_in_all_by_signing_again(installation: Path) -> None:
    before = Installed.read(installation)
    path = key_list.propose(before, key_list.added(before.listed, new_key("second")), START + DAY)
    signed = Envelope.parse(path.read_bytes(), "keys").signed_by("keys", root_of(installation)).encode()
    path.write_bytes(signed)
    (installation / "scope/keys.json").write_bytes(signed)
    assert key_list.countersign(before, []) == []
    assert all((installation / name / "keys.json").read_bytes() == signed for name in ("", *NAMES))


def test_without_an_installation_there_is_nothing_to_change(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        Installed.read(tmp_path)
