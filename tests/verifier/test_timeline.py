"""The recorder of a picture: bounded, evenly thinned, and never in the way."""

from typing import Any

import pytest

from tests.world import NOW, SECOND, World
from verifier import timeline
from verifier.bundle import MAX_LINE
from verifier.encoding import b64, canonical
from verifier.timeline import MAX_CALLS, Recorder, Thinned, Timeline


def recorded(*pieces: bytes) -> Timeline:
    recorder = Recorder()
    for piece in pieces:
        recorder.see(piece)
    return recorder.finish()


def leaf(kind: str, seq: int, **fields: Any) -> bytes:
    return canonical({"kind": kind, "seq": seq, "time": NOW + seq, **fields}) + b"\n"


HEAD = canonical({"head": {"lane": "l", "note": ""}}) + b"\n"


def test_the_story_is_recorded_as_it_is_told_however_the_bytes_come() -> None:
    world = World().story()
    world.revoke("tool", "crm-mcp/get_case", NOW + SECOND)
    raw = world.bundle()
    made = recorded(raw)
    assert [(each.kind, each.what, each.status) for each in made.events] == [
        ("model", "openrouter_via_fal/small-1", "ok"), ("tool", "crm-mcp/get_case", "ok"),
        ("tool", "crm-mcp/search_customer", "ok"), ("deny", "crm-mcp/http_request", "denied-tool"),
        ("model", "openrouter_via_fal/small-1", "ok"),
    ]  # fmt: skip
    lane = made.lanes[0]
    assert (lane.receipts, lane.calls, lane.denials, lane.holds, len(lane.marks)) == (12, 4, 1, 0, 2)
    assert [each.what for each in made.revocations] == ["tool crm-mcp/get_case"]
    assert made.opened == NOW
    assert (made.thinned, made.undrawn, made.unread) == (0, 0, 0)
    assert recorded(*(raw[n : n + 7] for n in range(0, len(raw), 7))) == made


def test_holds_and_notes_and_calls_without_an_end_are_recorded() -> None:
    target = {"server": "s", "tool": "t"}
    made = recorded(
        HEAD,
        leaf("hold", 0, call="c", target=target),
        leaf("note", 1, code="denials"),
        leaf("begin", 2, call="c", target=target),
        leaf("end", 3, call="other", status="ok"),
        b'{"disclosure":{}}\n{"box":{}}\n',
    )
    assert [(each.kind, each.status, each.until) for each in made.events] == [
        ("hold", "", 0),
        ("note", "denials", 0),
        ("tool", "no end", 0),
    ]
    assert made.lanes[0].holds == 1


def test_many_events_are_thinned_evenly_and_counted() -> None:
    calls = (leaf("begin", n, call=f"{n}") + leaf("end", n, call=f"{n}", status="ok") for n in range(5000))
    made = recorded(HEAD, *calls)
    assert len(made.events) <= MAX_CALLS
    assert made.thinned == 5000 - len(made.events)
    gaps = {second.seq - first.seq for first, second in zip(made.events, made.events[1:], strict=False)}
    assert len(gaps) == 1


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 79, 80, 81, 1000])
def test_thinned_things_are_bounded_and_keep_the_first(count: int) -> None:
    few: Thinned[int] = Thinned(10)
    for number in range(count):
        few.add(number)
    assert few.count == count
    assert len(few.kept) <= 10
    assert few.kept[:1] == list(range(count))[:1]
    assert few.thinned == count - len(few.kept)


def test_lanes_and_open_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_LANES", 1)
    monkeypatch.setattr(timeline, "MAX_OPEN", 2)
    begun = [leaf("begin", n, call=f"{n}") for n in range(5)]
    made = recorded(HEAD, *begun, HEAD, leaf("deny", 1))
    assert (len(made.lanes), made.undrawn, len(made.events)) == (1, 1, 2)


def test_what_cannot_be_read_is_left_out_and_counted() -> None:
    seal = {"payload": b64(b'{"opened":-1}')}
    made = recorded(
        b'{"header":{}}\nreceipt before any lane\n',
        b'{"seal":' + canonical(seal) + b'}\n{"revocation":{"payload":"!"}}\n{"policy":]\n',
        b'{"head":{"lane":3}}\n' + HEAD + b"no json\n" + leaf("begin", -1) + b'{"kind":"\xff"}\n',
        b"[" * 100_000 + b"\n",
    )
    assert made.unread == 7
    assert made.events == []


def test_nothing_is_recorded_after_a_line_that_no_bundle_has() -> None:
    made = recorded(HEAD, b"x" * (MAX_LINE + 1), b"\n" + leaf("note", 1))
    assert made.events == []
