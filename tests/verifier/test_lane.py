"""What a lane holds beside plain calls: holds, what clients add and keep, disclosures, boxes; reading in batches."""

import random
from io import BytesIO
from typing import Any

import pytest

from tests.vectors.bundles import clients, held, shown
from tests.vectors.bundles.make import GET_CASE, MODEL
from tests.vectors.documents import kept as kept_files
from tests.world import SECOND, World
from verifier import attached, bundle, leaf, narrowed, releases
from verifier import clients as seen
from verifier.attached import Attached
from verifier.audit import verify
from verifier.box import commit_boxes
from verifier.bundle import wrap
from verifier.commitment import call_key, commit
from verifier.conditions import UNDISCLOSED
from verifier.disclosure import disclose_each
from verifier.encoding import canonical
from verifier.leaf import decode, decode_many
from verifier.merkle import Tree, leaf_hash
from verifier.refused import Refused
from verifier.report import Report
from verifier.revocation import Target as Revoked

STORY = World().story()
EMPTY = [b'{"arguments":{', b"}}"]


def judged(raw: bytes, **pin: Any) -> Report:
    """Judge a bundle of a world with the usual root."""
    return verify(BytesIO(raw), STORY.pin(**pin))


def codes(report: Report) -> set[str]:
    """Name what was found."""
    return {finding.code for finding in report.findings}


def test_a_released_call_passes_and_counts_its_hold() -> None:
    report = judged(held.waited())
    assert (report.verdict, report.totals.holds, report.totals.calls) == ("PASS", 1, 2)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (held.held_by_policy_and_not_held(), "not-approved"),
        (held.approval_by_stranger(), "wrong-approval"),
        (held.release_twice(), "no-hold"),
        (held.approval_unnamed(), "unnamed-document"),
        (shown.counter_twice(), "counter-used"),
        (shown.counter_left_out(), "counter-gap"),
        (shown.echo_of_another_history(), "bad-echo"),
        (shown.disclosure_of_other_content(), "wrong-disclosure"),
        (shown.disclosure_of_one_name_twice(), "wrong-disclosure"),
        (shown.box_of_answer_left_out(), "missing-box"),
        (shown.box_for_stranger(), "wrong-box"),
        (shown.box_altered(), "wrong-box"),
        (shown.box_left_out(), "missing-box"),
        (shown.box_of_hold_left_out(), "missing-box"),
        (shown.box_of_denial_left_out(), "missing-box"),
        (shown.box_unasked(), "wrong-box"),
        (shown.boxes_counted_wrong(), "wrong-box"),
    ],
)
def test_what_does_not_fit_is_found_by_name(raw: bytes, code: str) -> None:
    assert code in codes(judged(raw))


def test_holds_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "MAX_HELD", 0)
    assert "too-large" in codes(judged(held.waited()))


def test_disclosed_arguments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached, "MAX_ARGUMENTS", 10)
    assert codes(judged(shown.disclosed(1, 3))) == {"too-large"}


def test_disclosures_make_a_replay_full_and_are_counted() -> None:
    dark, partly, fully = (judged(shown.disclosed(*indexes)) for indexes in ((), (1,), (1, 3)))
    assert [each.totals.disclosed for each in (dark, partly, fully)] == [0, 1, 2]
    assert [each.totals.replayed_fully for each in (dark, partly, fully)] == [0, 0, 1]
    assert {each.verdict for each in (dark, partly, fully)} == {"PASS"}


def test_that_a_call_has_no_arguments_only_both_slices_of_what_was_sent_tell() -> None:
    """A disclosure of another side says nothing of them."""
    world, lane, seq = shown.conditioned(EMPTY, when={"attr": "args.query", "op": "exists", "value": False})
    req = disclose_each(call_key(lane.lane_key, "call-2", "req"), [b"call-2 req"], [0], "req")
    sent = shown.shown(lane, 0, 1, body=EMPTY)
    told = {}
    for name, each in {"req": req, "first": [*req, sent[0]], "last": [sent[1]], "both": sent}.items():
        lane.behind[seq] = [wrap("disclosure", canonical(one)) for one in each]
        found = Attached(decode(lane.raws[seq]), {}, ())
        for line in lane.behind[seq]:
            found.add(line)
        told[name] = (found.arguments(), judged(world.bundle()).totals.replayed_fully)
    assert told == {"req": (UNDISCLOSED, 0), "first": (UNDISCLOSED, 0), "last": (UNDISCLOSED, 0), "both": ({}, 1)}


def test_no_bit_of_a_sealed_payload_can_be_changed() -> None:
    lines = shown.every_kind().splitlines(keepends=True)
    boxes = [number for number, line in enumerate(lines) if line.startswith(b'{"box":')]
    assert (len(boxes), judged(b"".join(lines)).verdict) == (6, "PASS")
    for number in boxes:
        for at in range(0, len(lines[number]), 41):
            bent = bytearray(lines[number])
            bent[at] ^= 1 << at % 8
            report = judged(b"".join([*lines[:number], bytes(bent), *lines[number + 1 :]]))
            assert report.verdict in {"FAIL", "MALFORMED"}, (number, at)


def test_no_sealed_payload_can_be_left_out_or_moved() -> None:
    lines = shown.every_kind().splitlines(keepends=True)
    boxes = [number for number, line in enumerate(lines) if line.startswith(b'{"box":')]
    for number in boxes:
        assert "missing-box" in codes(judged(b"".join([*lines[:number], *lines[number + 1 :]])))
        swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
        assert judged(b"".join(swapped)).verdict != "PASS"


def test_a_receipt_commits_to_one_sealed_payload_or_more() -> None:
    world = shown.auditing("hash_only")
    lane = world.lane()
    lane.begin("call-1", MODEL, boxes=commit_boxes([]))
    lane.end("call-1")
    lane.close()
    assert codes(world.verify()) == {"wrong-box"}


def test_an_argument_that_decides_makes_the_replay_full_alone() -> None:
    assert judged(shown.disclosed(3)).totals.replayed_fully == 1


def test_disclosures_change_no_line_of_what_is_found_behind_them() -> None:
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "when": [shown.PREFIX]}
    world = World(policy={"allowed_tools": [rule]})
    lane = world.lane()
    lane.model("call-1", "get_case")
    begun = lane.begin("call-2", GET_CASE, sent=commit(call_key(lane.lane_key, "call-2", "sent"), shown.BODY))
    lane.end("call-2")
    lane.behind[begun.seq] = [wrap("disclosure", canonical(each)) for each in shown.shown(lane, 1, 3)]
    lane.begin("call-3", MODEL, jti="token-9")
    lane.end("call-3")
    lane.close()
    raw = world.bundle()
    finding = judged(raw).findings[0]
    assert finding.line is not None
    assert (finding.code, finding.seq) == ("unknown-token", 6)
    assert b'"call":"call-3"' in raw.splitlines()[finding.line - 1]


@pytest.mark.parametrize("kept", ["answer", "header", "last"])
def test_what_a_client_kept_of_this_job_is_in_it(kept: str) -> None:
    raw = kept_files.KEPT[kept]().raw
    assert verify(BytesIO(kept_files.told().bundle()), STORY.pin(), kept=[(kept, raw)]).verdict == "PASS"


def test_an_answer_that_the_operator_left_out_is_named_by_its_file() -> None:
    raw = kept_files.KEPT["answer"]().raw
    report = verify(BytesIO(clients.retold().bundle()), STORY.pin(), kept=[("answer.proof", raw)])
    assert codes(report) == {"omitted"}
    assert all(finding.step == 14 and "answer.proof" in finding.why for finding in report.findings)


def test_every_head_that_clients_saw_is_rebuilt_whatever_the_batches() -> None:
    world = World()
    lane = world.lane()
    for number in range(40):
        lane.model(f"call-{number}")
    lane.close()
    kept = [
        (f"{seq}-{size}", kept_files.kept(world, seq, size)) for size in range(3, 80, 7) for seq in range(0, size, 5)
    ]
    assert verify(BytesIO(world.bundle()), world.pin(), kept=kept).verdict == "PASS"


def test_a_regulated_job_fails_where_others_are_incomplete() -> None:
    for regulated, verdict in ((False, "INCOMPLETE"), (True, "FAIL")):
        world = World(policy={"regulated": regulated})
        lane = world.lane()
        lane.begin("call-1", MODEL)
        report = judged(world.bundle(world.documents(world.sealed(status="interrupted"))))
        assert report.verdict == verdict
        assert codes(report) >= {"interrupted", "no-answer"}
        assert {finding.verdict for finding in report.findings} == {verdict}


def test_what_ends_a_delegating_grant_ends_the_calls_below_it() -> None:
    parent = World(policy={"token_constraints": {"max_delegation_depth": 1}})
    child = parent.delegate()
    lane = child.lane()
    revoked = child.revoke("agent", "agent-1", lane.time)
    lane.model("call-1")
    lane.begin("call-2", MODEL, revocations=revoked.sequence)
    lane.end("call-2")
    lane.close()
    assert isinstance(revoked.target, Revoked)
    assert "after-revocation" in codes(judged(child.bundle()))


def test_leaves_read_together_are_read_as_each_alone() -> None:
    rng = random.Random(7)
    honest = STORY.lanes[0].raws * 3
    for _ in range(400):
        raws = [bytes(each) for each in rng.sample(honest, rng.randrange(1, 8))]
        for _ in range(rng.randrange(2)):
            at = rng.randrange(len(raws))
            bent = bytearray(raws[at])
            bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(7)
            raws[at] = bytes(bent)
        assert [outcome(each) for each in decode_many(raws)] == [outcome(alone(raw)) for raw in raws]


@pytest.mark.parametrize(
    "lines",
    [
        [b""],
        [b"", b""],
        [b"{}"],
        [b'{"code":"a","kind":"note","seq":2,"time":1},{"code":"b","kind":"note","seq":3,"time":1}', b""],
        [b'{"code":"a","kind":"note","seq":2,', b'"time":1}'],
        [b'{"code":"a","kind":"note","seq":2,"time":1}', b'\xff{"code":"b","kind":"note","seq":3,"time":1}'],
        [b"[" * 100_000],
        [b'{"code":"%s","kind":"note","seq":2,"time":1}' % (b"a" * 9000)],
    ],
)
def test_lines_that_only_together_would_be_leaves_are_none(lines: list[bytes]) -> None:
    found = decode_many(lines)
    assert len(found) == len(lines)
    assert any(isinstance(each, Refused) for each in found)
    assert [outcome(each) for each in found] == [outcome(alone(line)) for line in lines]


def alone(raw: bytes) -> leaf.Leaf | Refused:
    """Read one leaf."""
    try:
        return decode(raw)
    except Refused as refused:
        return refused


def outcome(found: leaf.Leaf | Refused) -> object:
    """Say what came of a line."""
    return (found.code, found.why) if isinstance(found, Refused) else found


def test_a_tree_extended_is_the_tree_appended() -> None:
    hashes = [leaf_hash(bytes([number])) for number in range(70)]
    for cut in range(len(hashes)):
        one, other = Tree(), Tree()
        for each in hashes:
            one.append(each)
        other.extend(hashes[:cut])
        other.extend(hashes[cut:])
        assert (one.size, one.peaks, one.root()) == (other.size, other.peaks, other.root())


def test_batches_end_at_heads_and_blocks_wherever_they_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for name in ("lane-1", "lane-2", "lane-3"):
        lane = world.lane(name)
        for number in range(5):
            lane.model(f"call-{number}")
        lane.close()
        world.lanes[0].time = max(each.time for each in world.lanes)
    raw = world.bundle()
    wanted = world.verify(raw)
    for block in (1, 97, 1000, 4096, 1 << 16):
        monkeypatch.setattr(bundle, "BLOCK", block)
        report = world.verify(raw)
        assert (report.verdict, report.totals, codes(report)) == (wanted.verdict, wanted.totals, codes(wanted))


def test_old_echoes_and_many_receipts_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "WINDOW", 500)
    world = World()
    lane = world.lane()
    first = leaf.leaf_digest(lane.raws[1])
    for number in range(6_000):
        lane.write(lambda seq, time, number=number: leaf.Note(code=f"n-{number}", seq=seq, time=time - 990))  # type: ignore[misc]
        lane.time -= 990
    near = leaf.leaf_digest(lane.raws[-400])
    lane.begin("call-1", MODEL, echo=leaf.Echo(hash=near, seq=len(lane.raws) - 400))
    lane.end("call-1")
    assert world.verify().findings[0].code == "no-close"
    lane.begin("call-2", MODEL, echo=leaf.Echo(hash=first, seq=1))
    lane.end("call-2")
    lane.close()
    assert codes(world.verify()) == {"bad-echo"}
    assert lane.time < world.sealed().closed + SECOND


def test_a_counter_that_comes_too_late_is_used() -> None:
    world = World()
    lane = world.lane()
    for counter in (*range(2, 4100), 1):
        lane.begin(f"call-{counter}", MODEL, counter=counter)
        lane.time -= 990
        lane.end(f"call-{counter}")
        lane.time -= 990
    lane.close()
    assert codes(world.verify()) == {"counter-gap", "counter-used"}


def test_an_answer_with_hidden_text_is_withheld_where_the_policy_blocks_it() -> None:
    for injection, status, found in (
        ("block", "ok", {"wrong-decision"}),
        ("block", "policy_cut", set()),
        ("flag", "ok", set()),
    ):
        world = World(policy={"responses": {"injection": injection}})
        lane = world.lane()
        lane.model("call-1", "get_case")
        lane.begin("call-2", GET_CASE)
        lane.end("call-2", flags=["tag-text"], status=status, code=None if status == "ok" else "injection")
        lane.close()
        assert codes(judged(world.bundle())) == found, (injection, status)


def test_an_answer_that_holds_what_the_policy_denies_is_withheld() -> None:
    classes = {"data_classes": {"allow": ["internal", "customer_provided", "secrets"], "deny": ["secrets"]}}
    for labels, status, found in (
        (["secrets"], "ok", {"wrong-decision"}),
        (["unheard_of"], "ok", {"wrong-decision"}),
        (["secrets"], "policy_cut", set()),
        (["internal"], "ok", set()),
        ([], "ok", set()),
    ):
        world = World(policy=classes)
        lane = world.lane()
        lane.model("call-1", "get_case", "get_case")
        for call in ("call-2", "call-3"):
            lane.begin(call, GET_CASE)
            lane.end(call, labels=labels, status=status, code=None if status == "ok" else "data-class")
        lane.close()
        assert codes(judged(world.bundle())) == found, (labels, status)


def test_labels_that_are_too_many_to_be_asked_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowed, "MAX_SHARED", 100)
    monkeypatch.setattr(narrowed, "MAX_OWN", 100)
    world = World()
    lane = world.lane()
    for call in ("call-1", "call-2"):
        lane.begin(call, MODEL)
        lane.end(call, labels=[f"{call[-1]}_{number}".replace("1_", "a_").replace("2_", "b_") for number in range(64)])
    lane.close()
    found = [(each.code, each.seq) for each in judged(world.bundle()).findings]
    assert found == [("too-large", 3)]
