"""What detectors find, what becomes of it in a call and in an answer, and what never leaves a stream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.detectors import CREDENTIALS, LABELS, PAYMENT, PERSONAL, SECRETS, find, open_end
from receipts.labelling import MAX_REPLACED, Handling, Held, handling, label
from receipts.upstream import PolicyCut
from tests.verifier.test_chain import policy

NOTHING = Handling(frozenset(), frozenset())
REDACT, BLOCK = Handling(frozenset(LABELS), frozenset()), Handling(frozenset(), frozenset(LABELS))
CARD = "4111 1111 1111 1111"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----"
TOKEN = "ghp_" + "a1B2c3D4e5F6" * 3
# Numbers and keys out of documentation, or made up; none of them opens anything.
HITS = [
    (SECRETS, "AKIAIOSFODNN7EXAMPLE"), (SECRETS, TOKEN), (SECRETS, "github_pat_" + "A1b2C3d4" * 4),
    (SECRETS, "glpat-abcdefghij0123456789"), (SECRETS, "xoxb-1234567890-abcdef"),
    (SECRETS, "AIza" + "Sy0-" * 8 + "abc"),
    (SECRETS, "sk_live_" + "4eC39HqLyjWDarjt"), (SECRETS, "sk-proj-abcdEFGH1234ijklMNOP"),
    (SECRETS, "npm_" + "a1B2c3" * 6),
    (SECRETS, KEY), (SECRETS, KEY[:60]),
    (CREDENTIALS, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
    (CREDENTIALS, "postgresql://app:hunter22@db.example/app"), (CREDENTIALS, "Authorization: Basic dXNlcjpwYXNz"),
    (CREDENTIALS, "password=Tr0ub4dor&3"), (CREDENTIALS, '{"api_key": "9f86d081884c7d65"}'),
    (CREDENTIALS, "export DB_PASSWORD=correct-horse"),
    (PAYMENT, CARD), (PAYMENT, "5555555555554444"), (PAYMENT, "378282246310005"), (PAYMENT, "6011111111111117"),
    (PAYMENT, "3530111333300000"), (PAYMENT, "30569309025904"), (PAYMENT, "DE89 3704 0044 0532 0130 00"),
    (PAYMENT, "GB82WEST12345698765432"),
    (PERSONAL, "078-05-1120"), (PERSONAL, "529.982.247-25"), (PERSONAL, "AB 12 34 56 C"),
    (PERSONAL, "11010519491231002X"),
]  # fmt: skip
MISSES = [
    "", "hello", "4111 1111 1111 1112", "1700000000000000", "4111", "9" * 30, "DE88 3704 0044 0532 0130 00",
    "000-12-3456",
    "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "111.111.111-11", "529.982.247-26",
    "11010519491331002X",
    "110105194912310021", "password: ********", "password: <your password here>", "password: ${DB_PASSWORD}",
    "secret: aaaaaaaa",
    "my password is a secret", "password: required", "password: your-password", "https://example.com/a:b@c",
    "AKIAIOSFODNN7EXAMPL", "sk-" + "a" * 30,
]  # fmt: skip


@pytest.mark.parametrize(("named", "text"), HITS)
def test_what_is_there_is_found_and_replaced(named: str, text: str) -> None:
    for around in ("{}", "before {} after", "né {}\n"):
        whole = around.format(text)
        assert {each.label for each in find(whole)} == {named}
        labelled = label({"note": [whole]}, REDACT)
        assert (labelled.labels, labelled.redactions) == ([], 1)
        assert f"[redacted:{named}]" in labelled.value["note"][0]
        assert all(whole[each.start : each.end] not in labelled.value["note"][0] for each in find(whole))


@pytest.mark.parametrize("text", MISSES)
def test_what_only_looks_like_it_is_let_through(text: str) -> None:
    assert find(text) == []


def test_what_cannot_be_replaced_stays_labelled() -> None:
    for value in ({"n": 4111111111111111}, {CARD: 1}, [[4111111111111111]]):
        labelled = label(value, REDACT)
        assert (labelled.value, labelled.labels, labelled.redactions) == (value, [PAYMENT], 0)
    many = " ".join([CARD] * (MAX_REPLACED + 1))
    assert label(many, REDACT).labels == [PAYMENT]
    assert label({"a": True, "b": None, "c": 12}, REDACT) == label({"a": True, "b": None, "c": 12}, NOTHING)


def test_a_member_is_a_credential_by_its_name() -> None:
    given = {"db_password": "correct-horse", "password": "********", "note": "correct-horse"}
    assert label(given, NOTHING).labels == [CREDENTIALS]
    replaced = label(given, REDACT)
    assert replaced.value == {**given, "db_password": "[redacted:credentials]"}
    assert label(replaced.value, BLOCK).labels == []


def test_a_label_is_replaced_only_where_every_policy_that_denies_it_says_so() -> None:
    def classes(way: str, *deny: str) -> dict[str, Any]:
        return {"data_classes": {"deny": list(deny), "on_violation": way}}

    child, parent = policy(**classes("redact", SECRETS, PAYMENT)), policy(**classes("block", SECRETS, PERSONAL))
    assert handling((child,)) == Handling(frozenset({SECRETS, PAYMENT}), frozenset())
    assert handling((child, parent)) == Handling(frozenset({PAYMENT}), frozenset({SECRETS, PERSONAL}))
    assert handling((policy(),)).idle


def fed(handled: Handling, pieces: list[str]) -> tuple[str, bool, set[str]]:
    """Stream pieces; give what came out, whether it was cut, and the labels."""
    held, out, cut = Held(handled), b"", False
    try:
        for piece in pieces:
            for event in held.add(piece.encode(), [{"index": 0, "delta": {"content": piece}}]):
                out += event
        out += b"".join(held.rest())
    except PolicyCut:
        cut = True
    return out.decode(), cut, held.labels


@given(st.sampled_from(HITS), st.data(), st.text("ab cd.\n", max_size=40))
def test_however_a_stream_is_cut_up_nothing_denied_leaves_it(
    hit: tuple[str, str], data: st.DataObject, rest: str
) -> None:
    named, text = hit
    whole = f"see {rest} {text} end"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=20)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    said, cut, labels = fed(BLOCK, pieces)
    assert cut
    assert labels == {named}
    assert text not in said
    # What goes out of it is what everybody knows: a prefix by which its kind is told, or a plain word of its name.
    assert len(said) <= len(f"see {rest} ") + 20
    assert fed(NOTHING, pieces) == (whole, False, {named})


@given(st.lists(st.text(max_size=20), max_size=30))
def test_a_harmless_stream_goes_out_whole_and_in_order(pieces: list[str]) -> None:
    said, cut, labels = fed(BLOCK, pieces)
    assert cut == bool(labels)
    assert cut or said == "".join(pieces)


def test_plain_words_are_not_held() -> None:
    held = Held(BLOCK)
    assert list(held.add(b"1", {"delta": {"content": "hello "}})) == [b"1"]
    assert list(held.add(b"2", {"delta": {"content": "order 4111 11"}})) == []
    assert list(held.add(b"3", {"delta": {"content": " is late"}})) == [b"2", b"3"]
    assert open_end("a" * 5000 + "_") == 5001


def test_channels_of_a_stream_are_told_apart() -> None:
    pieces = [CARD[:9], CARD[9:]]
    held = Held(BLOCK)
    for index, piece in enumerate(pieces):
        list(held.add(b"", [{"index": index, "delta": {"content": piece}}]))
    assert held.labels == set()
    with pytest.raises(PolicyCut, match="payment_instruments"):
        list(held.add(b"", [{"index": 0, "delta": {"content": pieces[1]}}]))


def test_a_long_run_begins_nothing_where_it_was_cut() -> None:
    digits = "9" * 3000 + CARD.replace(" ", "")
    assert fed(BLOCK, [digits[at : at + 7] for at in range(0, len(digits), 7)])[1:] == (False, set())


def test_json_in_a_text_is_looked_through() -> None:
    assert label(json.dumps({"password": "correct-horse"}), NOTHING).labels == [CREDENTIALS]
