"""Reading by form changes nothing that a report says: every bundle is judged with forms and without, and compared."""

import random
import time
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

import pytest
from msgspec.structs import replace

from tests.conftest import Counted
from tests.vectors.bundles.make import GET_CASE, MODEL
from tests.vectors.case import VECTORS, Case
from tests.vectors.judge import audited
from tests.world import SECOND, Lane, World
from verifier import again, calls, checkpoint, fold, forms, lane, leaf, signing
from verifier.audit import verify
from verifier.forms import MAX_ALIKE, Forms, Known
from verifier.leaf import Begin, Commitment, End, Leaf, Parent, Reservation, ToolCall, Usage
from verifier.merkle import Tree, leaf_hash
from verifier.refused import Refused
from verifier.report import Report

BUNDLES = sorted((VECTORS / "bundles").iterdir())
MANY = 40
LANES = 120


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """Check no signature twice, and learn from every line at once, so that short lanes show much."""
    patch = pytest.MonkeyPatch()
    for name in ("verify_ed25519", "verify_ml_dsa_44"):
        once = lru_cache(maxsize=64)(getattr(signing, name))
        patch.setattr(signing, name, once)
        patch.setattr(checkpoint, name, once)
    patch.setattr(forms, "EVERY", 1)
    patch.setattr(lane, "BATCH", 3)
    yield
    patch.undo()


class Both:
    """Judges a bundle with forms and without; counts the receipts that forms were enough for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.followed = patch, 0
        patch.setattr(lane, "follow", self._follow)

    def _follow(self, *given: Any) -> tuple[int, int]:
        count, begins = again.follow(*given)
        self.followed += count
        return count, begins

    def judge(self, raw: bytes, world: World, **pin: Any) -> Report:
        """Return the one report that both ways give."""
        return self.ask(lambda: verify(BytesIO(raw), world.pin(**pin)))

    def ask(self, judge: Any) -> Report:
        """Compare two reports, whole."""
        with_forms: Report = judge()
        with self.patch.context() as patch:
            patch.setattr(forms, "MAX_FORMS", 0)
            followed = self.followed
            without: Report = judge()
            assert self.followed == followed
        assert with_forms == without
        return with_forms


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Both:
    return Both(monkeypatch)


def chat(lane: Lane, turns: int, start: int = 100) -> None:
    """Work as most jobs do: a model that asks for two tools, and both calls."""
    for turn in range(start, start + turns):
        lane.begin(f"{turn}-a", MODEL)
        asked = [ToolCall(id=f"{turn}-{name}", name=name) for name in ("get_case", "crm-mcp__search_customer")]
        lane.end(f"{turn}-a", model="small-1", tool_calls=asked, usage=Usage(input=10, output=5), upstream_id="up-1")
        lane.tool(f"{turn}-b")
        lane.tool(f"{turn}-c", "search_customer")


def world_of(turns: int, **changes: Any) -> World:
    """Make a job of so many turns."""
    world = World(**changes)
    chat(world.lane(), turns)
    world.lanes[0].close()
    return world


HONEST = world_of(6)


def sealed(raws: list[bytes]) -> bytes:
    """Let gateway and scope sign whatever is in a lane."""
    world = World()
    lane = world.lane()
    lane.raws, lane.tree, lane.closed = raws, Tree(), True
    for raw in raws:
        lane.tree.append(leaf_hash(raw))
    lane.time = HONEST.lanes[0].time
    return world.bundle()


@lru_cache(maxsize=1)
def around() -> list[bytes]:
    """Cut the honest bundle where its receipts stand."""
    return HONEST.bundle().split(b"\n".join(HONEST.lanes[0].raws))


def unsealed(raws: list[bytes]) -> bytes:
    """Put other receipts under the honest signatures: their root is found wrong, and all that is wrong in them too."""
    return b"\n".join(raws).join(around())


def test_forms_are_enough_for_most_of_an_honest_lane(both: Both) -> None:
    report = both.judge(HONEST.bundle(), HONEST)
    assert (report.verdict, report.totals.receipts) == ("PASS", 39)
    assert both.followed > 20


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name)
def test_every_vector_has_the_same_report(path: Any, both: Both) -> None:
    case = Case.parse(path.read_bytes())
    both.ask(lambda: audited(case))


# Bytes ----------------------------------------------------------------------------------------------------------------


def mutants(rng: random.Random, raw: bytes) -> Iterator[bytes]:
    """Change a line: a byte, a byte more or less, a digit moved, two values exchanged."""
    for _ in range(MANY):
        at, to, byte = rng.randrange(len(raw)), rng.randrange(len(raw)), rng.choice(b'09afAFgz_.:/-",{}[] +\n\0\xff')
        yield raw[:at] + bytes([byte]) + raw[at + 1 :]
        yield raw[:at] + bytes([byte]) + raw[at:]
        yield raw[:at] + raw[at + 1 :]
        low, high = sorted((at, to))
        yield raw[:low] + bytes([byte]) + raw[low:high] + raw[high + 1 :]
        yield raw[:low] + raw[low + 1 : high] + bytes([byte]) + raw[high:]


def test_a_line_that_has_a_form_is_a_good_receipt(counted: Counted) -> None:
    """The claim that all rests on: what is read by form would have been read in full, and says the same."""
    rng = random.Random(1)
    raws = HONEST.lanes[0].raws
    learnt = Forms()
    for raw in raws[2:-1]:
        learnt.learn(raw, decoded(raw))
    count = 0
    for raw in raws[2:-1]:
        for changed in mutants(rng, raw):
            known = learnt.read([changed])
            if known.lines[0] is not None:
                agree(known, changed)
                count += changed != raw
    counted("changed receipts that still have a form, each one good", count)


def decoded(raw: bytes) -> Begin | End:
    made = leaf.decode(raw)
    assert isinstance(made, Begin | End)
    return made


def agree(known: Known, raw: bytes) -> None:
    """Compare what was read by form with what is read in full."""
    full = decoded(raw)
    line = known.lines[0]
    assert line is not None
    form, text, number = line
    begins = isinstance(full, Begin)
    assert known.texts[text] == full.call
    assert known.numbers[number] == full.seq
    assert known.numbers[number + 1 + begins] == full.time
    behind = known.texts[text + 1 : text + 1 + form.more]
    if isinstance(full, Begin):
        assert known.numbers[number + 1] == full.staleness
        assert behind == ([full.parent.call, full.parent.id] if full.parent else [])
    else:
        assert behind == [text for each in full.tool_calls for text in (each.id, each.name)]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("seq", b"10", (b"1 ", b"+1", b"01", b"1_", b"-1", b"1.", b"1,")),
        ("time", b"1790000001009000", (b"9990000001009000", b"0790000001009000", b"1e90000001009000")),
    ],
)
def test_a_hole_holds_canonical_integers_alone(field: str, good: bytes, bad: tuple[bytes, ...]) -> None:
    raw = next(raw for raw in HONEST.lanes[0].raws if f'"{field}":'.encode() + good[:1] in raw and b"begin" in raw)
    learnt = Forms()
    learnt.learn(raw, decoded(raw))
    now = str(getattr(decoded(raw), field)).encode()
    key = f'"{field}":'.encode()
    assert learnt.read([raw.replace(key + now, key + good)]).lines != [None]
    for each in bad:
        assert learnt.read([raw.replace(key + now, key + each)]).lines == [None]


def test_mutants_of_receipts_have_the_same_report(both: Both, counted: Counted) -> None:
    rng = random.Random(2)
    raws = HONEST.lanes[0].raws
    count = 0
    for seq in range(8, len(raws) - 1):
        for changed in list(mutants(rng, raws[seq]))[:50]:
            if b"\n" not in changed:
                both.judge(unsealed([*raws[:seq], changed, *raws[seq + 1 :]]), HONEST)
                count += 1
    counted("mutants of receipts, judged the same with forms and without", count)


def test_receipts_in_another_order_have_the_same_report(both: Both) -> None:
    rng = random.Random(3)
    for _ in range(60):
        raws = list(HONEST.lanes[0].raws)
        at, to = rng.randrange(3, len(raws) - 1), rng.randrange(3, len(raws) - 1)
        raws[at], raws[to] = raws[to], raws[at]
        both.judge(unsealed(raws), HONEST)
        both.judge(unsealed([*raws[:at], raws[to], *raws[at:]]), HONEST)
        both.judge(unsealed([*raws[:at], *raws[at + 1 :]]), HONEST)


def test_what_gateway_and_scope_sign_anew_has_the_same_report(both: Both) -> None:
    rng = random.Random(4)
    raws = HONEST.lanes[0].raws
    verdicts = set()
    for _ in range(150):
        seq = rng.randrange(8, len(raws) - 1)
        changed = rng.choice(list(mutants(rng, raws[seq])))
        if b"\n" not in changed:
            verdicts.add(both.judge(sealed([*raws[:seq], changed, *raws[seq + 1 :]]), HONEST).verdict)
    assert verdicts == {"PASS", "FAIL", "MALFORMED"}


# Lanes ----------------------------------------------------------------------------------------------------------------

POLICIES: list[dict[str, Any]] = [
    {},
    {"budgets": {"calls_per_minute": 30}},
    {"model_egress": {"require_proxy_receipts": False, "provider": "openrouter_via_fal"}},
    {"token_constraints": {"max_staleness_seconds": 1}},
]


def strange(rng: random.Random, world: World) -> None:
    """Write a lane in which now and then something is not as it should be."""
    lane, opened, asked = world.lane(), list[str](), [("100-a", "100-get_case", "get_case")]
    chat(lane, 3)

    def bent(made: dict[str, Any], **strange: Any) -> dict[str, Any]:
        return made | {name: value for name, value in strange.items() if rng.random() < 0.06}

    for number in range(200, 240):
        lane.time += rng.choice([0, 0, 0, SECOND, -1000, -2000])
        call = rng.choice([f"{number}-b", f"{number}-b", f"{number}-b", *opened[-1:], "100-b"])
        if rng.random() < 0.5 or not opened:
            parent = Parent(call=(named := rng.choice(asked))[0], id=named[1])
            model = rng.random() < 0.4
            ours = {"parent": parent} if not model and rng.random() < 0.8 else {}
            lane.begin(
                call, MODEL if model else GET_CASE,
                **bent(
                    ours, staleness=rng.choice([0, 10**6, 10**9]),
                    counter=number, jti="token-9", rule="allow-2", parent=parent, revocations=7,
                    reservation=Reservation(tokens=number), sent=Commitment(n=1 << 20, root="sha256:" + "0" * 64),
                ),
            )  # fmt: skip
            opened.append(call)
        else:
            call = rng.choice([*opened, "never"])
            wants = [
                ToolCall(id=f"{number}-{n}", name=rng.choice(["get_case", "x__get_case", "other"])) for n in (0, 1)
            ]
            asked += [(call, each.id, each.name) for each in wants]
            lane.end(
                call,
                **bent(
                    {"tool_calls": wants} if rng.random() < 0.5 else {},
                    status=rng.choice(["lost", "upstream_error", "client_abort"]), tool_error=True, recv=None,
                    usage=Usage(input=1, output=2**53 - 1), upstream_id="up", labels=("internal",),
                ),
            )  # fmt: skip
            if call in opened:
                opened.remove(call)
    if rng.random() < 0.3:
        displace(rng, lane)
    if rng.random() < 0.8:
        lane.close()
    if rng.random() < 0.2:
        chat(lane, 1, 900)


def displace(rng: random.Random, lane: Lane) -> None:
    """Let one receipt bear another number or time than its place."""
    at = rng.randrange(3, len(lane.raws))
    made = leaf.decode(lane.raws[at])
    seq = rng.choice([made.seq, made.seq + 1, made.seq - 1, 2**53 - 1])
    lane.raws[at] = leaf.encode(replace(made, seq=seq, time=made.time + rng.choice([0, -SECOND, 400 * SECOND])))
    lane.tree = Tree()
    lane.tree.extend([leaf_hash(raw) for raw in lane.raws])


def test_any_lane_has_the_same_report(both: Both, counted: Counted) -> None:
    rng = random.Random(5)
    verdicts = set()
    for number in range(LANES):
        world = World(policy=POLICIES[number % len(POLICIES)])
        if number % 7 == 0:
            world.revoke("agent", "agent-1", world.grant.opened + SECOND)
        strange(rng, world)
        verdicts.add(both.judge(world.bundle(), world).verdict)
    assert "FAIL" in verdicts
    assert both.followed > LANES
    counted("random lanes, judged the same with forms and without", LANES)


def test_too_many_calls_at_once_are_found_all_the_same(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_OPEN", 2)
    monkeypatch.setattr(again, "MAX_OPEN", 2)
    world = World()
    lane_ = world.lane()
    chat(lane_, 3)
    for number in range(300, 305):
        lane_.begin(f"{number}-a", MODEL)
    assert "too-large" in {each.code for each in both.judge(world.bundle(), world).findings}


def test_a_tool_call_is_tied_for_a_window_and_no_longer(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "WINDOW", 8)
    world = World()
    lane_ = world.lane()
    chat(lane_, 3)
    for number in range(300, 303):
        lane_.begin(f"{number}-a", MODEL)
        lane_.end(f"{number}-a", tool_calls=[ToolCall(id=f"{number}-0", name="get_case")])
        for idle in range(3):
            lane_.model(f"{number}-{idle}")
        lane_.tool(f"{number}-b")
        lane_.tool(f"{number}-c", parent=Parent(call=f"{number}-a", id=f"{number}-0"))
    lane_.close()
    assert {each.code for each in both.judge(world.bundle(), world).findings} == {"no-model-call"}


def test_one_answer_may_name_a_tool_call_twice(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "WINDOW", 8)
    world = World()
    lane_ = world.lane()
    for number in range(300, 310):
        lane_.begin(f"{number}-a", MODEL)
        lane_.end(f"{number}-a", tool_calls=[ToolCall(id="same", name=name) for name in ("other", "get_case")])
        lane_.tool(f"{number}-b")
    lane_.close()
    assert both.judge(world.bundle(), world).verdict == "PASS"


def test_what_models_ask_for_is_bounded_whatever_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_ASKED", 10)
    asked = fold.ModelCalls()
    for number in range(100):
        asked.ask(f"call-{number}", ["0"], ["get_case"], 7)
    assert not asked.claim(("call-80", "0"), "get_case", 7)
    assert asked.claim(("call-99", "0"), "get_case", 7)


def test_a_form_is_learned_once() -> None:
    raw, made = of_kind("end")
    learnt = Forms()
    for _ in range(MAX_ALIKE + 1):
        learnt.learn(raw, made)
    other = replace(made, screens=("sizd",))
    learnt.learn(leaf.encode(other), other)
    assert learnt.read([leaf.encode(other)]).lines != [None]


# Bounds ---------------------------------------------------------------------------------------------------------------


def of_kind(kind: str) -> tuple[bytes, Begin | End]:
    raw = next(raw for raw in HONEST.lanes[0].raws if f'"kind":"{kind}"'.encode() in raw)
    return raw, decoded(raw)


def test_forms_are_bounded_a_length_and_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = of_kind("end")
    assert isinstance(made, End)
    learnt = Forms()
    for number in range(MAX_ALIKE + 3):
        each = replace(made, screens=(f"screen-{number + 10}",))
        raw = leaf.encode(each)
        learnt.learn(raw, each)
        assert (learnt.read([raw]).lines != [None]) is (number < MAX_ALIKE)
    monkeypatch.setattr(forms, "MAX_FORMS", MAX_ALIKE)
    each = replace(made, screens=("another-length",))
    learnt.learn(leaf.encode(each), each)
    assert learnt.read([leaf.encode(each)]).lines == [None]


def test_a_form_is_learned_when_its_length_came_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "EVERY", 3)
    raw, made = of_kind("end")
    learnt = Forms()
    for seen in range(1, 4):
        learnt.learn(raw, made)
        assert (learnt.read([raw]).lines != [None]) is (seen == 3)


def test_a_number_of_slices_near_its_limit_is_read_in_full() -> None:
    _, made = of_kind("begin")
    many = replace(made, req=Commitment(n=1 << 20, root="sha256:" + "0" * 64))
    learnt = Forms()
    learnt.learn(leaf.encode(many), many)
    assert learnt.read([leaf.encode(many)]).lines == [None]


def test_one_bad_hole_lets_its_batch_be_read_in_full() -> None:
    raw, made = of_kind("begin")
    learnt = Forms()
    learnt.learn(raw, made)
    assert learnt.read([raw]).lines != [None]
    assert learnt.read([raw, raw.replace(b'"seq":', b'"seq":0', 1)[:-2] + b"}"]).lines[1:] == [None]
    hostile = raw.replace(decoded(raw).call.encode(), b'"' * len(decoded(raw).call), 1)
    assert learnt.read([raw, hostile]).lines == [None, None]


def test_hostile_lines_cost_no_more_than_their_number() -> None:
    """A line is compared with at most eight forms, each at fixed places: nothing is searched, nothing goes back."""
    raw, made = of_kind("end")
    learnt = Forms()
    for number in range(MAX_ALIKE):
        each = replace(made, upstream_id=f"{number}" + "a" * 127, screens=tuple(f"{n:064}" for n in range(100)))
        each = replace(each, code=f"code-{number}")
        learnt.learn(leaf.encode(each), each)
        raw = leaf.encode(each)
    hostile = [raw[:-1] + b"~"] * 128
    assert len(raw) > 7000

    def taken(times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            assert learnt.read(hostile).lines == [None] * 128
        return time.process_time() - began

    assert min(taken(8) for _ in range(5)) < 8 * 2.5 * min(taken(1) for _ in range(5))
    assert min(taken(1) for _ in range(5)) / 128 < 0.000_1


def test_a_receipt_that_forms_refuse_is_refused_by_code(both: Both) -> None:
    raws = list(HONEST.lanes[0].raws)
    at = len(raws) - 5
    raws[at] = raws[at].replace(b'"root":"sha256:', b'"root":"sha256:'.upper(), 1)
    report = both.judge(unsealed(raws), HONEST)
    assert isinstance(refused(raws[at]), Refused)
    assert report.verdict == "MALFORMED"


def refused(raw: bytes) -> Leaf | Refused:
    return leaf.decode_many([raw])[0]
