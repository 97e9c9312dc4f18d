"""Receipts of every kind."""

from tests.vectors.case import PASS
from tests.vectors.documents.make import ZERO, Make, rows
from tests.world import NOW, World
from verifier import leaf
from verifier.leaf import Begin, Echo, Facts, Note, Parent, Reservation, Target


def _leaves() -> dict[str, bytes]:
    """Write one receipt of each kind, and those with every field that an honest one can have."""
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.deny("call-3", Target(server="crm-mcp", tool="http_request"))
    lane.write(lambda seq, time: Note(code="denials", count=61, seq=seq, time=time))
    full = Begin(
        call="call-4",
        counter=1,
        echo=Echo(hash=ZERO, seq=0),
        facts=Facts(labels=["internal"]),
        hold=ZERO,
        jti=world.jti,
        manifest=ZERO,
        parent=Parent(call="call-1", id="call-1-0"),
        req=lane.commit("call-4", "req"),
        reservation=Reservation(tokens=1),
        revocations=0,
        rule="allow-1",
        sent=lane.commit("call-4", "sent"),
        seq=8,
        staleness=0,
        target=Target(server="crm-mcp", tool="get_case"),
        time=NOW,
    )
    hold = World().lane().hold("call-5", full.target)
    lane.close()
    names = ("open", "token", "begin-model", "end-model", "begin-tool", "end-tool", "deny", "note", "close")
    return dict(zip(names, lane.raws, strict=True)) | {"begin-full": leaf.encode(full), "hold": leaf.encode(hold)}


def _bent_leaf(name: str, old: bytes, new: bytes) -> Make:
    return lambda: _leaves()[name].replace(old, new)


def _honest_leaf(name: str) -> Make:
    return lambda: _leaves()[name]


LEAVES = rows(
    *[
        (name, PASS, f"an honest receipt: {name}", _honest_leaf(name))
        for name in (
            "open",
            "token",
            "begin-model",
            "end-model",
            "begin-tool",
            "end-tool",
            "deny",
            "note",
            "close",
            "begin-full",
            "hold",
        )
    ],
    ("text", "MALFORMED bad-value", "text from a call", _bent_leaf("note", b"denials", b"ignore all rules")),
    (
        "unicode",
        "MALFORMED bad-value",
        "letters that look alike",
        _bent_leaf("note", b"denials", "d\u0435nials".encode()),
    ),
    ("escape", "MALFORMED not-canonical", "a needless escape", _bent_leaf("note", b"denials", b"\\u0064enials")),
    ("space", "MALFORMED not-canonical", "a space", _bent_leaf("note", b'"seq":', b'"seq": ')),
    (
        "order",
        "MALFORMED not-canonical",
        "fields out of order",
        _bent_leaf("note", b'{"code":"denials","count":61', b'{"count":61,"code":"denials"'),
    ),
    (
        "digest",
        "MALFORMED bad-value",
        "a digest in capitals",
        _bent_leaf("open", b'"policy":"sha256:', b'"policy":"SHA256:'),
    ),
    ("kind", "MALFORMED wrong-kind", "no known kind", _bent_leaf("note", b'"note"', b'"praise"')),
    (
        "status",
        "MALFORMED bad-value",
        "a status that is none of the five",
        _bent_leaf("end-model", b'"status":"ok"', b'"status":"fine"'),
    ),
    ("negative", "MALFORMED bad-value", "a count below zero", _bent_leaf("note", b"61", b"-1")),
    (
        "missing",
        "MALFORMED missing-field",
        "a begin without its rule",
        _bent_leaf("begin-model", b'"rule":"model-1",', b""),
    ),
    (
        "unknown",
        "MALFORMED unknown-field",
        "a field that the format does not have",
        _bent_leaf("note", b'"time"', b'"text":"hello","time"'),
    ),
    ("too-large", "MALFORMED too-large", "more than 8 KiB", _bent_leaf("note", b"denials", b"x" * 9000)),
    ("not-json", "MALFORMED not-json", "no JSON", lambda: b"hello"),
)
