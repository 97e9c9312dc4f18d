"""Bundles that are made to cost: time, memory, or the auditor's overview."""

from decimal import Decimal
from io import BytesIO, RawIOBase
from typing import Any

import pytest
from msgspec.structs import replace

from tests.verifier.test_verify import MODEL, TOOL, says
from tests.world import NOW, SECOND, Lane, World
from verifier import admission, cutoffs, findings, grammar, leaf, narrowed, replay
from verifier.audit import verify
from verifier.bundle import wrap
from verifier.commitment import call_key
from verifier.conditions import Partial
from verifier.decision import Call, ToolTarget
from verifier.disclosure import disclose
from verifier.encoding import canonical
from verifier.fold import Purse
from verifier.grant import Budget, Scope
from verifier.leaf import MAX_LABELS, Begin, Facts, Token
from verifier.manifest import Manifest
from verifier.policy import DataClasses
from verifier.refused import Refused
from verifier.report import Report
from verifier.seal import Mark

ZERO = "sha256:" + "0" * 64


class Drip(RawIOBase):
    """A stream that gives a little at a time."""

    def __init__(self, raw: bytes, size: int) -> None:
        """Take all of it."""
        self.inner, self.size = BytesIO(raw), size

    def readable(self) -> bool:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Say that it can be read."""
        return True

    def readinto(self, room: memoryview) -> int:  # type: ignore[override, explicit-override] # a buffer is asked for
        """Give a few bytes."""
        data = self.inner.read(min(self.size, len(room)))
        room[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_bundle_that_arrives_in_pieces_is_judged_as_a_whole_one(size: int) -> None:
    world = World().story()
    raw = world.bundle()
    assert verify(Drip(raw, size), world.pin()) == world.verify(raw)  # type: ignore[arg-type] # raw, and still a stream
    assert verify(Drip(raw[:-1], size), world.pin()) == world.verify(raw[:-1])  # type: ignore[arg-type]


def test_a_long_line_in_small_pieces_is_put_together_once() -> None:
    report = verify(Drip(b"a" * 1_500_000, 1), World().pin())  # type: ignore[arg-type]
    says(report, "truncated", 1)


def test_a_document_that_its_line_does_not_close_hides_nothing() -> None:
    world = World().story()
    raw = world.bundle(world.documents(None))
    report = world.verify(raw.replace(b'{"manifest":', b'{"manifest":}x\n{"manifest":', 1))
    says(report, "not-json", 1, line=4)
    says(report, "no-seal", 5)


def test_a_malformed_receipt_at_a_mark_moves_nothing_out_of_the_marks() -> None:
    world = World()
    lane = world.lane()
    lane.model("call-1")
    lane.time += 3600 * SECOND
    lane.model("call-2")
    lane.close()
    sealed = world.sealed()
    marks = [Mark(time=NOW + SECOND, size=0), Mark(time=NOW + 2 * SECOND, size=4)]
    honest = world.documents(replace(sealed, lanes=[replace(sealed.lanes[0], marks=marks)]))
    lane.raws[4] = lane.raws[4].replace(b'"kind":"begin"', b'"kind":"other"')
    report = world.verify(world.bundle(honest))
    says(report, "wrong-kind", 7, seq=4)
    assert "outside-marks" not in {each.code for each in report.findings}


def _shown(lane: Lane, call: str, seq: int) -> None:
    made = disclose(call_key(lane.lane_key, call, "sent"), [f"{call} sent".encode()], 0, "sent")
    lane.behind[seq] = [wrap("disclosure", canonical(made))]


@pytest.mark.parametrize("places", [findings.MAX_PLACES, 1])
def test_a_receipt_that_is_named_late_is_named_with_its_own_line(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_PLACES", places)
    world = World()
    lane = world.lane()
    _shown(lane, "call-1", lane.begin("call-1", MODEL).seq)
    open_one = lane.begin("call-2", MODEL).seq
    lane.end("call-1", model="small-1")
    _shown(lane, "call-3", lane.begin("call-3", MODEL).seq)
    lane.end("call-3", model="small-1")
    lane.close()
    raw = world.bundle()
    at = raw.split(b"\n").index(lane.raws[open_one]) + 1
    says(world.verify(raw), "no-end", 7, seq=open_one, line=at if places > 1 else None)


def test_approvals_that_are_not_there_are_named_and_forgotten() -> None:
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2", hold=ZERO, approvals=(ZERO,))
    lane.close()
    says(world.verify(), "missing-document", 11)


def test_tools_without_a_limit_are_not_counted() -> None:
    world = World(policy={"budgets": {"per_tool": {"crm-mcp/get_case": 1}}})
    lane = world.lane()
    begun = lane.begin("call-1", TOOL)
    assert isinstance(begun, Begin)
    purse = Purse((world.policy,), Budget(), NOW)
    for tool in ("get_case", "search_customer"):
        purse.begin(replace(begun, target=replace(TOOL, tool=tool)))
    assert list(purse.counted()) == [("calls by tool crm-mcp/get_case", 1, 1)]


def test_what_is_remembered_of_decisions_has_a_bound_in_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rules that look at undisclosed arguments stay possible for every call."""
    rule = {
        "kind": "mcp",
        "server": "crm-mcp",
        "tools": ["*"],
        "when": [{"attr": "args.x", "op": "exists", "value": True}],
    }

    def play() -> Report:
        world = World(policy={"allowed_tools": [rule] * 20})
        lane = world.lane()
        for number in range(12):
            lane.model(f"model-{number}", "get_case")
            labels = ("customer_provided", *(("internal",) if number % 2 else ()))
            lane.tool(f"call-{number}", facts=Facts(labels=labels))
        lane.close()
        return world.verify()

    wanted = play()
    assert wanted.verdict == "PASS"
    for module in (replay, narrowed):
        monkeypatch.setattr(module, "MAX_ANSWERS", 25)
        assert play() == wanted


def test_the_scope_of_a_grant_is_hashed_once_for_all_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    lane = world.lane()
    for number in range(5):
        lane.write(
            lambda seq, time, jti=f"token-9{number}": Token(
                exp=world.exp, grant=world.grant_digest, iat=world.iat, jti=jti,
                scope_hash=world.grant.scope.hash(), seq=seq, time=time,
            )
        )  # fmt: skip
    lane.close()
    raw = world.bundle(world.documents(None))
    hashed: list[Any] = []
    whole = Scope.hash
    monkeypatch.setattr(Scope, "hash", lambda scope: hashed.append(scope) or whole(scope))
    says(world.verify(raw), "no-seal", 5)
    assert len(hashed) == 1


def test_tools_of_many_grants_under_many_rules_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World().story()
    policy, tools = world.policy, len(world.grant.scope.tools)
    cost = sum(len(rule.tools) + len(rule.when) + 1 for rule in (*policy.allowed_tools, *policy.denied_tools))
    narrower = replace(world.grant, parent=world.grant_digest, issued_at=NOW + 1, expires=world.grant.expires - 1)
    world.narrower.append(narrower)
    monkeypatch.setattr(admission, "MAX_ASKED", tools * cost)
    assert world.verify().verdict == "PASS"  # the same agent's tools are asked once
    monkeypatch.setattr(admission, "MAX_ASKED", tools * cost - 1)
    says(world.verify(), "too-large", 4, field="tools")


WORDS = [f"label_{number:02}" for number in range(MAX_LABELS)]


def _labelled(count: int, lanes: int = 1, **policy: Any) -> World:
    """Play calls of one model that nothing but their labels tells apart."""
    world = World(policy={"data_classes": {"allow": ["*"], "deny": ["z*"], "on_violation": "block"}} | policy)
    for number in range(lanes):
        lane = world.lane(f"lane-{number + 1}")
        for call in range(count):
            lane.begin(f"call-{call}", MODEL, facts=Facts(labels=(WORDS[call],)))
            lane.end(f"call-{call}", model="small-1")
        lane.close()
    return world


def test_the_rules_are_asked_once_for_calls_that_only_labels_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    whole = narrowed.possible
    monkeypatch.setattr(narrowed, "possible", lambda chain, call: asked.append(chain) or whole(chain, call))
    assert _labelled(20, lanes=2).verify().verdict == "PASS"
    assert len(asked) == 1
    assert not asked[0][0].allowed_tools  # a model's call asks no rule over tools


def test_each_label_is_held_against_the_policies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    whole = DataClasses.denies

    def denies(classes: DataClasses, label: str) -> bool:
        if classes.deny == ["z*"]:
            asked.append(label)
        return whole(classes, label)

    monkeypatch.setattr(DataClasses, "denies", denies)
    world = World(policy={"data_classes": {"allow": ["*"], "deny": ["z*"], "on_violation": "block"}})
    lane = world.lane()
    for number in range(1, 11):
        lane.begin(f"call-{number}", MODEL, facts=Facts(labels=tuple(WORDS[:number])))
        lane.end(f"call-{number}", model="small-1")
    lane.deny("call-11", MODEL, code="data-class", rule="data_classes", facts=Facts(labels=(WORDS[0], "zz")))
    lane.close()
    asked.clear()  # what expanding the grant had asked, as step 4 asks of the manifest's labels
    assert world.verify().verdict == "PASS"
    assert [each for each in asked if each != "customer_provided"] == [*WORDS[:10], "zz"]


def test_what_replay_compares_has_a_bound_for_all_lanes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _labelled(3, lanes=2)
    rule = world.policy.model_egress.models[0]
    naming = sum(2 + len(each.tools) for each in (*world.policy.allowed_tools, *world.policy.denied_tools)) + sum(
        1 + len(each.models) + len(each.operations) for each in world.policy.model_egress.models
    )
    once = 1 + (1 + len(rule.models) + len(rule.operations)) + len(world.policy.egress.hosts) + 1
    spent = naming + once + 3 * 2  # and three labels, each held against two globs
    monkeypatch.setattr(narrowed, "MAX_OWN", 0)
    monkeypatch.setattr(narrowed, "MAX_SHARED", spent)
    assert world.verify().verdict == "PASS"
    monkeypatch.setattr(narrowed, "MAX_SHARED", spent - 1)
    report = world.verify()
    says(report, "too-large", 9, lane="lane-1", field="rule")
    assert report.verdict == "MALFORMED"
    assert [each.code for each in report.findings] == ["too-large"]  # once, and nothing after it is replayed
    assert report.totals.replayed == 2
    monkeypatch.setattr(narrowed, "MAX_OWN", naming + once + 2)
    assert world.verify().verdict == "PASS"  # each call has so much for itself


@pytest.mark.parametrize(
    ("condition", "more"),
    [
        ({"attr": "time.now", "op": "in", "value": [*range(199), NOW]}, 200),
        ({"attr": "gateway.url", "op": "host_in", "value": ["a.example"] * 10}, 80),
        ({"attr": "data.labels", "op": "in", "value": [*WORDS[:10]]}, 20),
    ],
)
def test_conditions_count_as_many_as_they_compare(
    condition: dict[str, Any], more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    whole = narrowed.Narrowed._pay
    monkeypatch.setattr(narrowed.Narrowed, "_pay", lambda self, cost: spent.append(cost) or whole(self, cost))
    counts = []
    for when in ([], [condition]):
        rule = {"provider": "openrouter_via_fal", "models": ["small-1"], "operations": ["*"], "when": when}
        spent.clear()
        _labelled(1, model_egress={"require_proxy_receipts": False, "models": [rule]}).verify()
        counts.append(spent[-1])
    assert counts[1] - counts[0] == more


def test_disclosed_arguments_count_as_many_as_are_read() -> None:
    rule = {
        "kind": "mcp", "server": "*", "tools": ["*"],
        "when": [{"attr": "args.to", "op": "email_domain_in", "value": ["a.example", "b.example"]}],
    }  # fmt: skip
    policy = World(policy={"allowed_tools": [rule]}).policy
    subject = admission.subject_of(World().grant.scope)
    target = ToolTarget("crm-mcp", "get_case", "read", "internal", "crm.example")
    for value, count in (("a@a.example", 1), (["a@a.example"] * 5, 5), ("a" * 8192, 3), (7, 1)):
        ask = narrowed.Narrowed((policy,))
        ask._shared = 0
        call = Call(subject=subject, target=target, token_ttl=0, time=NOW, arguments=Partial({"to": value}))
        spent: list[int] = []
        ask._pay = spent.append  # type: ignore[method-assign, assignment]
        assert ask.possible(call, None) is not None
        assert spent[-1] == count * 2 * 8


def test_a_receipt_has_so_many_labels_and_no_more() -> None:
    made = World().lane().begin("call-1", MODEL)
    assert isinstance(made, Begin)
    most = replace(made, facts=Facts(labels=tuple(WORDS)))
    assert leaf.decode(canonical(most)) == most
    with pytest.raises(Refused) as refused:
        leaf.decode(canonical(replace(made, facts=Facts(labels=(*WORDS, "more")))))
    assert (refused.value.code, refused.value.field) == ("bad-value", "facts.data.labels")


def test_a_manifests_tool_has_so_many_labels_and_no_more() -> None:
    manifest = World().manifest
    for labels in (WORDS, [*WORDS, "more"]):
        tools = [replace(manifest.tools[0], data_classes=labels)]
        raw = canonical(replace(manifest, tools=tools))
        if len(labels) <= MAX_LABELS:
            assert Manifest.parse(raw).tools == tools
            continue
        with pytest.raises(Refused) as refused:
            Manifest.parse(raw)
        assert refused.value.code == "bad-value"


def test_revocations_are_looked_up_and_never_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five lookups a call, whatever was revoked, and one grant's own once: not each revocation for each call."""
    world = World()
    for number in range(50):
        world.revoke(("agent", "jti", "tool")[number % 3], f"other-{number}", NOW + SECOND)
    narrower = replace(world.grant, parent=world.grant_digest, issued_at=NOW + 1)
    world.narrower.append(narrower)
    lane = world.lane()
    for number in range(40):
        lane.begin(f"call-{number}", MODEL, revocations=1 << 40)
        lane.end(f"call-{number}", model="small-1")
    lane.close()
    asked: list[Any] = []
    whole = cutoffs.Cutoff.lowest
    monkeypatch.setattr(cutoffs.Cutoff, "lowest", lambda self, other: asked.append(self) or whole(self, other))
    says(world.verify(world.bundle(world.documents(None))), "no-seal", 5)
    assert len(asked) <= 50 + 5 + 40 * 4


def test_of_several_revocations_of_one_target_the_lowest_counts() -> None:
    world = World()
    lane = world.lane()
    world.revoke("agent", "agent-1", NOW + 900 * SECOND)
    world.revoke("model", "openrouter_via_fal/small-1", NOW + 900 * SECOND)
    world.revoke("model", "openrouter_via_fal/small-1", NOW + 900 * SECOND)
    for number, seen in enumerate((0, 1, 2, 3)):
        lane.begin(f"call-{number}", MODEL, revocations=seen)
        lane.end(f"call-{number}", model="small-1")
    lane.close()
    late = [each for each in world.verify().findings if each.code == "after-revocation"]
    assert [(each.seq, each.why.split()[3]) for each in late] == [(4, "1"), (6, "1"), (8, "1")]


def test_a_number_of_very_many_digits_is_none_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 10**34 - 1
    assert (grammar.number(most), grammar.number(most + 1), grammar.number(Decimal(most + 1))) == (most, None, None)
    huge = Decimal("1." + "3" * 100_000)
    monkeypatch.setattr(grammar, "MAX_DIGITS", 1 << 20)
    assert grammar.number(Decimal(most + 1)) == most + 1
    assert (grammar.number(1 << 14_000), grammar.number(-(1 << 14_000)), grammar.number(huge)) == (None, None, None)
