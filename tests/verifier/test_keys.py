"""Pins and key lists: whom we believe, for what, and when."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.world import AUTHOR, GATEWAY, NOW, SCOPE, SECOND, World, key, pair, root
from verifier.encoding import b64, canonical, digest
from verifier.envelope import seal_up
from verifier.keys import KeyList, Pin, Trust, key_list_digest
from verifier.policy import DAY

WORLD = World()
LISTED = WORLD.listed


def pin_text(**changes: Any) -> bytes:
    """Write a pin as a person does, with some fields replaced; None leaves one out."""
    whole = json.loads(canonical(WORLD.pin())) | changes
    return json.dumps({name: value for name, value in whole.items() if value is not None}, indent=2).encode()


ROOT = json.loads(canonical(WORLD.pin()))["roots"][0]


def test_a_pin_that_a_person_wrote_is_read() -> None:
    assert Pin.parse(pin_text()) == WORLD.pin()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" \n",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        pin_text(roots=[]),
        pin_text(roots=None),
        pin_text(threshold=0),
        pin_text(threshold=2),
        pin_text(threshold=None),
        pin_text(suites=[]),
        pin_text(suites=["tally-2"]),
        pin_text(trust_everyone=True),
        pin_text(roots=[ROOT, ROOT]),
        pin_text(roots=[ROOT | {"ed25519": "QQ=="}]),
        pin_text(roots=[ROOT | {"ml_dsa_44": ""}]),
        pin_text(roots=[{"owner": "owner-1", "ed25519": ROOT["ed25519"]}]),
        pin_text(job="a job"),
        pin_text(policy="sha256:1"),
        pin_text(max_skew_seconds=-1),
        pin_text().replace(b"{", b'{"threshold":1,', 1),
        b"[" * 100_000,
        b" " * (1 << 17) + b"{}",
        pin_text() + b" " * (1 << 16),
    ],
)
def test_a_pin_that_is_missing_empty_or_malformed_proves_nothing(raw: bytes) -> None:
    with refused("bad-pin"):
        Pin.parse(raw)


def test_a_threshold_counts_distinct_owners() -> None:
    roots = [json.loads(canonical(root(name, "owner-1"))) for name in ("root", "root-2")]
    with refused("bad-pin"):
        Pin.parse(pin_text(roots=roots, threshold=2))
    two = [root("root", "owner-1"), root("root-2", "owner-2")]
    raw = seal_up("keys", WORLD.keys_payload, pair("root"))
    with refused("unknown-root"):
        Trust.establish(Pin(roots=two, threshold=2, suites=["tally-1"]), raw)
    both = seal_up("keys", WORLD.keys_payload, pair("root"), pair("root-2"))
    assert Trust.establish(Pin(roots=two, threshold=2, suites=["tally-1"]), both).listed == LISTED


def _changed(position: int, **changes: Any) -> KeyList:
    keys = list(LISTED.keys)
    keys[position] = replace(keys[position], **changes)
    return replace(LISTED, keys=keys)


TWICE = replace(LISTED, keys=[*LISTED.keys, key("gateway", "log", GATEWAY)])
ROOT_AS_KEY = replace(LISTED, keys=[*LISTED.keys, key("root", "seal", SCOPE)])
ROOT_TWICE = replace(LISTED, roots=[root("root", "owner-1"), root("root", "owner-2")])


@pytest.mark.parametrize(
    ("listed", "code"),
    [
        (TWICE, "bad-keys"),
        (ROOT_AS_KEY, "bad-keys"),
        (ROOT_TWICE, "bad-keys"),
        (replace(LISTED, expires=LISTED.issued_at), "bad-keys"),
        (replace(LISTED, threshold=2), "bad-keys"),
        (_changed(0, kid="0" * 32), "bad-keys"),
        (_changed(0, ml_dsa_44=None), "bad-keys"),
        (_changed(0, not_after=LISTED.keys[0].not_before), "bad-keys"),
        (_changed(0, revoked_at=NOW), "bad-keys"),
        (_changed(0, reason="compromise"), "bad-keys"),
        (_changed(0, use="auditor"), "bad-keys"),
        (_changed(0, ed25519=None), "bad-keys"),
        (_changed(0, hpke=b64(bytes(1216))), "bad-keys"),
        (_changed(0, use="everything"), "bad-value"),
        (_changed(0, ed25519=b64(bytes(31))), "bad-key"),
        (_changed(0, owner="an owner"), "bad-value"),
        (replace(LISTED, author_quorum={"an owner": 1}), "bad-value"),
        (replace(LISTED, version=0), "bad-value"),
        (replace(LISTED, roots=[]), "bad-value"),
    ],
)
def test_a_key_list_that_contradicts_itself_is_refused(listed: KeyList, code: str) -> None:
    with refused(code):
        Trust.establish(WORLD.pin(), seal_up("keys", canonical(listed), pair("root")))


def test_a_use_that_signs_both_ways_needs_both_halves() -> None:
    half = replace(key("new", "grant", SCOPE), ml_dsa_44=None)
    public = replace(pair("new").public, ml_dsa_44=None)
    listed = replace(LISTED, keys=[replace(half, kid=public.kid())])
    with refused("bad-keys"):
        KeyList.parse(canonical(listed))
    token = replace(listed, keys=[replace(listed.keys[0], use="token")])
    assert KeyList.parse(canonical(token)) == token


def test_a_key_list_by_unknown_roots_is_refused_by_that_name() -> None:
    with refused("unknown-root"):
        Trust.establish(WORLD.pin(), seal_up("keys", WORLD.keys_payload, pair("attacker")))


def test_a_key_list_that_an_unknown_root_signed_too_is_refused() -> None:
    with refused("unknown-signer"):
        Trust.establish(WORLD.pin(), seal_up("keys", WORLD.keys_payload, pair("root"), pair("attacker")))


def test_a_key_list_without_signatures_is_refused() -> None:
    with refused("missing-signature"):
        Trust.establish(WORLD.pin(), seal_up("keys", WORLD.keys_payload))


def test_a_key_list_older_than_the_pin_asks_for_is_refused() -> None:
    raw = seal_up("keys", WORLD.keys_payload, pair("root"))
    assert Trust.establish(WORLD.pin(min_keys_version=1), raw).digest == key_list_digest(raw)
    with refused("old-keys"):
        Trust.establish(WORLD.pin(min_keys_version=2), raw)


def trust(**pin: Any) -> Trust:
    """Believe the world's key list."""
    return Trust.establish(WORLD.pin(**pin), seal_up("keys", WORLD.keys_payload, pair("root")))


def test_a_key_list_is_current_until_it_expires_or_outlives_the_pins_age() -> None:
    trust().current(LISTED.expires)
    with refused("keys-expired"):
        trust().current(LISTED.expires + 1)
    aged = trust(max_keys_age=3600)
    aged.current(LISTED.issued_at + 3600 * SECOND)
    with refused("keys-expired"):
        aged.current(LISTED.issued_at + 3600 * SECOND + 1)


def test_a_signer_has_the_use_the_owner_and_the_time_that_are_asked_for() -> None:
    believed = trust()
    kids = frozenset({pair("author").kid})
    assert believed.signer(kids, "policy", AUTHOR, NOW).kid == pair("author").kid
    assert believed.signer(kids, "policy", None, NOW).kid == pair("author").kid
    with refused("wrong-use"):
        believed.signer(kids, "registry", None, NOW)
    with refused("wrong-owner"):
        believed.signer(kids, "policy", "another-team", NOW)
    with refused("key-not-valid"):
        believed.signer(kids, "policy", AUTHOR, NOW - 2 * DAY)
    with refused("key-not-valid"):
        believed.signer(kids, "policy", AUTHOR, NOW + 366 * DAY)


@pytest.mark.parametrize("reason", ["superseded", "retired"])
def test_a_retired_key_is_good_until_it_was_revoked(reason: str) -> None:
    believed, revoked = trust(), key("author", "policy", AUTHOR, revoked_at=NOW, reason=reason)
    believed.good_at(revoked, NOW - 1)
    with refused("key-revoked"):
        believed.good_at(revoked, NOW)


def test_a_compromised_key_was_never_good() -> None:
    with refused("key-revoked"):
        trust().good_at(key("author", "policy", AUTHOR, revoked_at=NOW, reason="compromise"), NOW - DAY // 2)


def test_a_document_is_opened_by_listed_keys_alone() -> None:
    believed = trust()
    assert believed.open(seal_up("grant", b"{}", pair("grant")), "grant").digest == digest(b"{}")
    with refused("unknown-signer"):
        believed.open(seal_up("grant", b"{}", pair("root")), "grant")
    with refused("unknown-signer"):
        believed.open(seal_up("grant", b"{}", pair("attacker")), "grant")
