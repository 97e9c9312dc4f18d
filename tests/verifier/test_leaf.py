"""Receipts: one form, harmless text, and a fast encoder that writes what the canonical one writes."""

import hashlib
import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.refusal import refused
from tests.world import NOW, World
from verifier import leaf
from verifier.encoding import MAX_INT, canonical
from verifier.leaf import (
    Begin,
    Close,
    Commitment,
    Counts,
    Deny,
    Echo,
    End,
    Facts,
    Hold,
    Leaf,
    Note,
    Open,
    Parent,
    Reservation,
    Target,
    Token,
    ToolCall,
    Usage,
)

TEXT = st.text("ABCxyz019_.:/-", min_size=1, max_size=64)
COUNT = st.integers(0, MAX_INT)
DIGEST = st.binary(max_size=4).map(lambda data: "sha256:" + hashlib.sha256(data).hexdigest())
COMMITMENT = st.builds(Commitment, n=st.integers(0, 1 << 20), root=DIGEST)
LABELS = st.lists(TEXT, max_size=3).map(tuple)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Leave it out sometimes."""
    return st.none() | strategy


TARGET = st.builds(
    Target,
    model=optional(TEXT),
    operation=optional(TEXT),
    provider=optional(TEXT),
    server=optional(TEXT),
    tool=optional(TEXT),
)
PARENT = st.builds(Parent, call=TEXT, id=TEXT)
FACTS = st.builds(Facts, labels=LABELS)
ECHO = st.builds(Echo, hash=DIGEST, seq=COUNT)
APPROVALS = st.lists(DIGEST, min_size=1, max_size=3).map(tuple)
INHERITED = st.lists(TEXT, min_size=1, max_size=3).map(tuple)
COMMON = {"seq": COUNT, "time": COUNT}
CALL = {"call": TEXT, "jti": TEXT, "req": COMMITMENT, "rule": TEXT, "target": TARGET}
KINDS: dict[type, st.SearchStrategy[Any]] = {
    Open: st.builds(
        Open,
        build=TEXT,
        gateway=TEXT,
        job=TEXT,
        keys=DIGEST,
        keys_version=COUNT,
        lane=TEXT,
        policy=DIGEST,
        revocations=COUNT,
        suite=TEXT,
        **COMMON,
    ),
    Token: st.builds(Token, exp=COUNT, grant=DIGEST, iat=COUNT, jti=TEXT, scope_hash=DIGEST, **COMMON),
    Begin: st.builds(
        Begin,
        approvals=optional(APPROVALS),
        boxes=optional(COMMITMENT),
        counter=optional(COUNT),
        echo=optional(ECHO),
        facts=FACTS,
        hold=optional(DIGEST),
        inherited=optional(INHERITED),
        manifest=optional(DIGEST),
        parent=optional(PARENT),
        reservation=st.builds(Reservation, tokens=optional(COUNT)),
        revocations=COUNT,
        sent=COMMITMENT,
        staleness=COUNT,
        **CALL,
        **COMMON,
    ),
    End: st.builds(
        End,
        boxes=optional(COMMITMENT),
        call=TEXT,
        code=optional(TEXT),
        dlv=optional(COMMITMENT),
        flags=LABELS,
        labels=LABELS,
        model=optional(TEXT),
        recv=optional(COMMITMENT),
        redactions=COUNT,
        screens=LABELS,
        status=st.sampled_from(["ok", "upstream_error", "client_abort", "policy_cut", "lost"]),
        stream=st.sampled_from([None, "complete", "cut"]),
        tool_calls=st.lists(st.builds(ToolCall, id=TEXT, name=TEXT), max_size=3).map(tuple),
        tool_error=st.sampled_from([None, True, False]),
        upstream_id=optional(TEXT),
        usage=optional(st.builds(Usage, input=COUNT, output=COUNT)),
        **COMMON,
    ),
    Deny: st.builds(
        Deny,
        approvals=optional(APPROVALS),
        boxes=optional(COMMITMENT),
        counter=optional(COUNT),
        echo=optional(ECHO),
        hold=optional(DIGEST),
        by=st.sampled_from(["policy", "gateway"]),
        call=TEXT,
        code=TEXT,
        facts=optional(FACTS),
        jti=TEXT,
        manifest=optional(DIGEST),
        parent=optional(PARENT),
        req=optional(COMMITMENT),
        revocations=COUNT,
        rule=optional(TEXT),
        staleness=COUNT,
        target=optional(TARGET),
        **COMMON,
    ),
    Hold: st.builds(
        Hold,
        boxes=optional(COMMITMENT),
        counter=optional(COUNT),
        echo=optional(ECHO),
        facts=FACTS,
        inherited=optional(INHERITED),
        manifest=optional(DIGEST),
        parent=optional(PARENT),
        revocations=COUNT,
        sent=COMMITMENT,
        staleness=COUNT,
        tier=st.sampled_from(["confirm", "human"]),
        **CALL,
        **COMMON,
    ),
    Note: st.builds(Note, code=TEXT, count=optional(COUNT), **COMMON),
    Close: st.builds(
        Close,
        counts=st.builds(Counts, begin=COUNT, deny=COUNT, end=COUNT, note=COUNT, token=COUNT),
        reason=TEXT,
        **COMMON,
    ),
}


def test_every_kind_of_receipt_is_generated_here() -> None:
    assert set(KINDS) == set(get_args(Leaf)) == set(leaf.KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_a_receipt_stand_in_sorted_order(kind: type) -> None:
    parts = [kind, *(part for hint in get_type_hints(kind).values() for part in (hint, *get_args(hint)))]
    for part in parts:
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            names = [field.encode_name for field in msgspec.structs.fields(part)]
            assert names == sorted(names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_encoder_writes_the_canonical_form(kind: type) -> None:
    @settings(max_examples=150)
    @given(KINDS[kind])
    def check(made: Leaf) -> None:
        raw = leaf.encode(made)
        assert raw == canonical(made) == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()
        assert leaf.decode(raw) == made

    check()


STORY = World().story().lanes[0].raws
BEGIN = next(leaf.decode(raw) for raw in STORY if b'"begin"' in raw)
NOTE = Note(code="x", seq=0, time=NOW)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"x", "not-json"),
        (b"\xff", "not-json"),
        (b'{"code":"\xff","kind":"note","seq":0,"time":1}', "not-utf8"),
        (b"{}", "wrong-kind"),
        (b"[]", "wrong-type"),
        (b'{"kind":"open","kind":"note"}', "not-canonical"),
        (b'{"kind":"tea"}', "wrong-kind"),
        (b'{"kind": "tea"}', "not-canonical"),
        (b'{"kind":"note","seq":0,"time":1}', "missing-field"),
        (b'{"code":"x","kind":"note","seq":0,"time":1,"x":1}', "unknown-field"),
        (b'{"code":"x","kind":"note","seq":-1,"time":1}', "bad-value"),
        (b'{"code":"x","kind":"note","seq":1.0,"time":1}', "wrong-type"),
        (b'{"code":"x","kind":"note","seq":"1","time":1}', "wrong-type"),
        (b'{"code":"","kind":"note","seq":0,"time":1}', "bad-value"),
        (b'{"code":"a b","kind":"note","seq":0,"time":1}', "bad-value"),
        (b'{"code":"a\\"b","kind":"note","seq":0,"time":1}', "bad-value"),
        (b'{"code":"a\\\\","kind":"note","seq":0,"time":1}', "bad-value"),
        ('{"code":"é","kind":"note","seq":0,"time":1}'.encode(), "bad-value"),
        (b'{"code":"x","kind":"note","seq":0, "time":1}', "not-canonical"),
        (b'{"kind":"note","code":"x","seq":0,"time":1}', "not-canonical"),
        (b'{"code":"x","count":null,"kind":"note","seq":0,"time":1}', "not-canonical"),
        (b'{"code":"x","code":"x","kind":"note","seq":0,"time":1}', "not-canonical"),
        (b'{"code":"\\u0078","kind":"note","seq":0,"time":1}', "not-canonical"),
        (b'{"code":"' + b"x" * 8192 + b'","kind":"note","seq":0,"time":1}', "too-large"),
        (b"[" * 8000, "too-deep"),
        (b'{"kind":"note","code":' + b"[" * 4000 + b"]" * 4000 + b"}", "too-deep"),
    ],
)
def test_a_line_that_is_no_receipt_is_refused_by_name(raw: bytes, code: str) -> None:
    for _ in range(2):  # what was seen before is refused again
        with refused(code):
            leaf.decode(raw)


@pytest.mark.parametrize("depth", [31, 32, 33, 500, 950, 1000, 2000, 4000])
def test_a_receipt_of_any_depth_is_refused_and_nothing_else_happens(depth: int) -> None:
    with pytest.raises(leaf.Refused):
        leaf.decode(b"[" * depth + b"]" * depth)
    with pytest.raises(leaf.Refused):
        leaf.decode(b'{"a":' * depth + b"1" + b"}" * depth)


def _digests_of(value: Any) -> list[str]:
    return [
        field for field in ("grant", "hold", "keys", "manifest", "policy", "scope_hash") if getattr(value, field, None)
    ]


@pytest.mark.parametrize("bad", ["sha256:" + "A" * 64, "sha512:" + "a" * 64, "a" * 71])
@pytest.mark.parametrize("raw", STORY)
def test_a_digest_in_a_receipt_is_a_digest(raw: bytes, bad: str) -> None:
    made = leaf.decode(raw)
    for name in _digests_of(made):
        with refused("bad-value"):
            leaf.encode(replace(made, **{name: bad}))


@pytest.mark.parametrize(
    "changes",
    [
        {"req": Commitment(n=0, root="x" * 71)},
        {"sent": Commitment(n=0, root="sha256:" + "g" * 64)},
        {"echo": Echo(hash="y" * 71, seq=0)},
        {"hold": "z" * 71},
        {"boxes": Commitment(n=1, root="w" * 71)},
        {"req": Commitment(n=0, root="sha256:")},
    ],
)
def test_a_commitment_or_echo_in_a_receipt_is_a_digest(changes: dict[str, Any]) -> None:
    with refused("bad-value"):
        leaf.encode(replace(BEGIN, **changes))


@pytest.mark.parametrize("raw", STORY)
def test_what_any_receipt_says_of_its_boxes_is_a_digest(raw: bytes) -> None:
    made = leaf.decode(raw)
    if isinstance(made, Begin | End | Deny):
        said = replace(made, boxes=Commitment(n=1, root="sha256:" + "0" * 64))
        assert leaf.decode(leaf.encode(said)) == said
        with refused("bad-value"):
            leaf.encode(replace(made, boxes=Commitment(n=1, root="sha256:" + "G" * 64)))


def test_a_receipt_that_is_too_large_or_harmful_is_not_written() -> None:
    with refused("too-large"):
        leaf.encode(replace(BEGIN, facts=Facts(labels=["x" * 64] * 150)))
    for text in ("a b", 'a"b', "a\nb", "é", "", "x" * 65):
        with refused("bad-value"):
            leaf.encode(replace(NOTE, code=text))


def test_what_is_remembered_of_harmless_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf, "_MAX_SKELETONS", 2)
    monkeypatch.setattr(leaf, "_skeletons", set())
    for count in range(5):
        leaf.encode(replace(BEGIN, facts=Facts(labels=["x"] * count)))
    assert len(leaf._skeletons) == 2


def test_a_receipt_is_named_by_its_leaf_hash() -> None:
    assert leaf.leaf_digest(b"x") == "sha256:" + hashlib.sha256(b"\0x").hexdigest()
