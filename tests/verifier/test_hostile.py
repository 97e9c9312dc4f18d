"""Bundles that are made to cost: time, memory, or the auditor's overview."""

from io import BytesIO, RawIOBase
from typing import Any

import pytest
from msgspec.structs import replace

from tests.verifier.test_verify import MODEL, TOOL, says
from tests.world import NOW, SECOND, Lane, World
from verifier import admission, findings, replay
from verifier.audit import verify
from verifier.bundle import wrap
from verifier.commitment import call_key
from verifier.disclosure import disclose
from verifier.encoding import canonical
from verifier.fold import Purse
from verifier.grant import Budget, Scope
from verifier.leaf import Begin, Facts, Token
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
    assert list(purse.counted()) == [("tool crm-mcp/get_case", 1, 1)]


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
    monkeypatch.setattr(replay, "MAX_ANSWERS", 25)
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
