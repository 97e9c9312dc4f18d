"""What a lane adds up to: the purse, the rates, the open calls, and who asked for which tool call."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.world import NOW, SECOND, World
from verifier import leaf
from verifier.decision import Denied, Recency
from verifier.draft import build
from verifier.fold import MAX_RECENT_TOOLS, WINDOW, Fold, ModelCalls, Purse, Recent, matches
from verifier.grant import Budget
from verifier.leaf import Begin, Deny, End, Note, Parent, Reservation, Target, ToolCall, Usage

STORY = [leaf.decode(raw) for raw in World().story().lanes[0].raws]
BEGIN = next(each for each in STORY if isinstance(each, Begin))
END = next(each for each in STORY if isinstance(each, End))
TOOL, MODEL = Target(server="crm", tool="get"), Target(provider="p", model="m", operation="chat.completions")
NO_LIMIT, NOTHING = Budget(), Reservation()


def purse(share: Budget = NO_LIMIT, **draft: Any) -> Purse:
    """Start a purse under a policy with one rule."""
    rule = {"kind": "mcp", "server": "crm", "tools": ["*"], "limits": draft.pop("limits", None)}
    rule = {name: value for name, value in rule.items() if value is not None}
    chain = (build({"policy_name": "p", "allowed_tools": [rule]} | draft, issuer="t", now=NOW),)
    return Purse(chain, share, NOW)


def begin(target: Target = TOOL, time: int = NOW, call: str = "call-1", **changes: Any) -> Begin:
    """Begin some call."""
    return replace(BEGIN, call=call, target=target, time=time, rule="allow-1", parent=None, **changes)


def end(call: str = "call-1", **changes: Any) -> End:
    """End some call."""
    return replace(END, call=call, **({"tool_calls": [], "usage": None} | changes))


@pytest.mark.parametrize(
    ("spend", "code"),
    [
        (purse(Budget(calls=2)), "budget-calls"),
        (purse(limits={"calls_per_job": 2}), "limit-calls"),
        (purse(limits={"calls_per_minute": 2}), "limit-rate"),
        (purse(budgets={"calls_per_minute": 2}), "budget-rate"),
        (purse(budgets={"per_tool": {"crm/get": 2}}), "budget-tool"),
    ],
)
def test_a_limit_of_two_calls_covers_two_calls(spend: Purse, code: str) -> None:
    fold = Fold(spend)
    assert spend.limited
    for number in range(2):
        assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW) is None
        fold.add(begin(call=f"call-{number}"))
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW) == Denied("allow-1", code)


@pytest.mark.parametrize(
    ("spend", "code"),
    [
        (purse(Budget(calls=0)), "budget-calls"),
        (purse(limits={"calls_per_job": 0}), "limit-calls"),
        (purse(limits={"calls_per_minute": 0}), "limit-rate"),
        (purse(budgets={"calls_per_minute": 0}), "budget-rate"),
        (purse(budgets={"per_tool": {"crm/get": 0}}), "budget-tool"),
        (purse(Budget(tokens=0)), "budget-tokens"),
    ],
)
def test_a_limit_of_nothing_covers_nothing(spend: Purse, code: str) -> None:
    assert spend.refusal(("allow-1",), TOOL, Reservation(tokens=1), NOW) == Denied("allow-1", code)


def test_a_purse_without_limits_counts_nothing_and_refuses_nothing() -> None:
    spend = purse()
    assert not spend.limited
    assert spend.refusal(("allow-1",), TOOL, Reservation(tokens=2**62), 2**62) is None


def test_a_limit_of_another_rule_or_tool_is_not_this_ones() -> None:
    spend = purse(limits={"calls_per_job": 1, "calls_per_minute": 1}, budgets={"per_tool": {"crm/put": 1}})
    spend.begin(replace(begin(), rule="other"))
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW) is None


@pytest.mark.parametrize("spend", [purse(limits={"calls_per_minute": 1}), purse(budgets={"calls_per_minute": 1})])
def test_a_rate_is_over_any_minute(spend: Purse) -> None:
    spend.begin(begin())
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW + 60 * SECOND - 1)
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW + 60 * SECOND) is None


def test_time_is_spent_from_the_opening_of_the_job() -> None:
    spend = purse(Budget(wall_seconds=10))
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW + 10 * SECOND) is None
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW + 10 * SECOND + 1) == Denied("allow-1", "budget-time")


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"usage": Usage(input=10, output=20)}, 70),
        ({"usage": None}, 50),
        ({"usage": Usage(input=10, output=20), "status": "lost"}, 50),
        ({"usage": Usage(input=60, output=0)}, 40),
    ],
)
def test_a_reservation_is_replaced_by_what_was_used(changes: dict[str, Any], left: int) -> None:
    fold = Fold(purse(Budget(tokens=100)))
    fold.add(begin(MODEL, reservation=Reservation(tokens=50)))
    assert fold.purse.refusal(("model-1",), MODEL, Reservation(tokens=51), NOW) == Denied("model-1", "budget-tokens")
    fold.add(end(**changes))
    assert fold.purse.refusal(("model-1",), MODEL, Reservation(tokens=left), NOW) is None
    assert fold.purse.refusal(("model-1",), MODEL, Reservation(tokens=left + 1), NOW) == Denied(
        "model-1", "budget-tokens"
    )


def test_what_a_purse_says_is_what_it_spent_whatever_the_order_of_ends() -> None:
    fold = Fold(purse(Budget(calls=100, tokens=10_000)))
    for number in range(6):
        fold.add(begin(MODEL, call=f"call-{number}", reservation=Reservation(tokens=100)))
    for number in (4, 2, 0, 5, 1):
        fold.add(end(f"call-{number}", usage=Usage(input=number, output=1)))
    assert (fold.purse.calls, fold.purse.tokens) == (6, 100 + 12 + 5)
    assert list(fold.open_calls) == ["call-3"]


def asked(*names: str, call: str = "model-1", seq: int = 1) -> End:
    """End a model call that asks for tools."""
    return end(call, seq=seq, tool_calls=[ToolCall(id=f"id-{number}", name=name) for number, name in enumerate(names)])


@pytest.mark.parametrize(
    ("name", "tool", "same"),
    [
        ("get", "get", True),
        ("crm__get", "get", True),
        ("crm.get", "get", True),
        ("crm/get", "get", True),
        ("a__b__get", "get", True),
        ("crm_get", "get", False),
        ("crmget", "get", False),
        ("get", "crm__get", False),
        ("get__x", "get", False),
        ("", "get", False),
        ("GET", "get", False),
        ("a.__get", "get", True),
    ],
)
def test_a_models_name_for_a_tool_is_the_tools_or_ends_in_it(name: str, tool: str, same: bool) -> None:  # noqa: FBT001
    assert matches(name, tool) is same


def test_the_oldest_unused_tool_call_is_found_and_used_once() -> None:
    calls = ModelCalls()
    calls.asked(asked("get", "put", "get"))
    assert calls.find("get", 2) == Parent(call="model-1", id="id-0")
    calls.use(Parent(call="model-1", id="id-0"))
    assert calls.find("get", 2) == Parent(call="model-1", id="id-2")
    assert not calls.answers(Parent(call="model-1", id="id-0"), "get", 2)
    assert not calls.answers(Parent(call="model-1", id="id-1"), "get", 2)
    assert calls.answers(Parent(call="model-1", id="id-1"), "put", 2)
    assert calls.find("delete", 2) is None
    assert not calls.answers(Parent(call="model-2", id="id-1"), "put", 2)


@pytest.mark.parametrize("changes", [{"status": "upstream_error"}, {"tool_error": True}])
def test_a_tool_call_comes_back_only_after_an_error(changes: dict[str, Any]) -> None:
    for bent, free in ((changes, True), ({}, False), ({"status": "lost"}, False), ({"tool_error": False}, False)):
        fold = Fold(purse())
        fold.add(begin(MODEL, call="model-1"))
        fold.add(asked("get"))
        parent = fold.model_calls.find("get", 2)
        assert parent
        fold.add(replace(begin(call="tool-1"), parent=parent))
        fold.add(end("tool-1", **bent))
        assert fold.model_calls.answers(parent, "get", 4) is free


def test_a_model_call_neither_uses_nor_gives_back_a_tool_call() -> None:
    fold = Fold(purse())
    fold.add(begin(MODEL, call="model-1"))
    fold.add(asked("get"))
    parent = Parent(call="model-1", id="id-0")
    fold.add(replace(begin(MODEL, call="model-2"), parent=parent))
    assert fold.model_calls.answers(parent, "get", 3)
    fold.model_calls.use(parent)
    fold.add(end("model-2", status="upstream_error"))
    assert not fold.model_calls.answers(parent, "get", 4)


def test_a_tools_answer_asks_for_nothing() -> None:
    fold = Fold(purse())
    fold.add(begin(call="tool-1"))
    fold.add(asked("get", call="tool-1"))
    assert fold.model_calls.find("get", 2) is None


def test_an_end_without_its_begin_adds_nothing() -> None:
    fold = Fold(purse(Budget(tokens=1)))
    fold.add(asked("get", call="never"))
    fold.add(STORY[0])
    assert fold.model_calls.find("get", 2) is None
    assert fold.purse.tokens == 0


def test_a_tool_call_is_forgotten_after_the_window_and_cannot_come_back() -> None:
    calls = ModelCalls()
    calls.asked(asked("get", seq=1))
    parent = Parent(call="model-1", id="id-0")
    assert calls.answers(parent, "get", WINDOW + 1)
    assert not calls.answers(parent, "get", WINDOW + 2)
    calls.release(parent)
    assert calls.find("get", WINDOW + 2) is None


def test_the_memory_of_model_calls_is_bounded_though_no_tool_is_ever_called() -> None:
    calls = ModelCalls()
    for seq in range(3 * WINDOW):
        calls.asked(asked("get", call=f"model-{seq}", seq=seq))
        calls.asked(asked("get", call="model-again", seq=seq))
    assert len(calls._asked) <= WINDOW + 2
    assert len(calls._free) <= WINDOW + 2


@given(st.lists(st.sampled_from(["ask", "use", "fail"]), max_size=30))
def test_no_order_of_events_answers_a_tool_call_twice(events: list[str]) -> None:
    """A model of the tie: as many answers as questions, and one more for each answer that was an error."""
    fold, questions, answers, failures = Fold(purse()), 0, 0, 0
    for seq, event in enumerate(events):
        if event == "ask":
            fold.add(begin(MODEL, call=f"m-{seq}"))
            fold.add(asked("get", call=f"m-{seq}", seq=seq))
            questions += 1
        elif (parent := fold.model_calls.find("get", seq)) is not None:
            fold.add(replace(begin(call=f"t-{seq}"), parent=parent))
            fold.add(end(f"t-{seq}", tool_error=True if event == "fail" else None))
            answers, failures = answers + 1, failures + (event == "fail")
        assert answers <= questions + failures


def test_what_a_rule_of_an_ancestor_allowed_counts_for_its_limit_too() -> None:
    rule = {"kind": "mcp", "server": "crm", "tools": ["*"]}
    levels = ([rule], [rule | {"limits": {"calls_per_job": 1}}, rule | {"limits": {"calls_per_minute": 1}}])
    chain = tuple(build({"policy_name": "p", "allowed_tools": each}, issuer="t", now=NOW) for each in levels)
    spend = Fold.of(chain, NO_LIMIT, NOW).purse
    assert spend.limited
    spend.begin(begin(inherited=["1/allow-1"]))
    spend.begin(begin(inherited=["1/allow-2"]))
    assert spend.refusal(("allow-1", "1/allow-1"), TOOL, NOTHING, NOW) == Denied("1/allow-1", "limit-calls")
    assert spend.refusal(("allow-1", "1/allow-2"), TOOL, NOTHING, NOW) == Denied("1/allow-2", "limit-rate")
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW) is None


def test_a_budget_is_the_lowest_of_the_chain() -> None:
    budgets = ({"calls_per_minute": 9, "per_tool": {"crm/get": 1}}, {"calls_per_minute": 2})
    chain = tuple(build({"policy_name": "p", "budgets": each}, issuer="t", now=NOW) for each in budgets)
    spend = Fold.of(chain, NO_LIMIT, NOW).purse
    spend.begin(begin())
    assert spend.refusal(("allow-1",), TOOL, NOTHING, NOW) == Denied("allow-1", "budget-tool")
    spend.begin(begin())
    assert spend.refusal(("allow-1",), MODEL, NOTHING, NOW) == Denied("allow-1", "budget-rate")


DENY = Deny(by="gateway", call="call-9", code="no-model-call", jti="j", revocations=0, seq=0, staleness=0, time=NOW)


def test_what_is_recent_is_kept_only_where_a_policy_asks() -> None:
    asks = [{"attr": "recent.calls", "op": "gt", "value": 1}]
    for when, kept in (([], False), (asks, True)):
        rule = {"kind": "mcp", "server": "crm", "tools": ["*"], "when": when}
        chain = (build({"policy_name": "p", "denied_tools": [rule]}, issuer="t", now=NOW),)
        fold = Fold.of(chain, NO_LIMIT, NOW)
        fold.add(begin())
        assert (fold.recent is not None) is kept
        assert fold.recent is None or fold.recent.at(NOW, TOOL) == Recency(1, 0, first_use=False)


def test_what_is_recent_is_six_hundred_seconds_old_at_most() -> None:
    recent = Recent()
    assert recent.at(NOW, TOOL) == Recency(0, 0, first_use=True)
    recent.add(begin(time=NOW))
    recent.add(begin(MODEL, time=NOW + SECOND - 1))
    recent.add(DENY)
    recent.add(Note(code="denials", count=7, seq=0, time=NOW + 599 * SECOND))
    recent.add(Note(code="denials", seq=0, time=NOW + 599 * SECOND))
    recent.add(Note(code="incident", count=7, seq=0, time=NOW + 599 * SECOND))
    recent.add(end())
    assert recent.at(NOW + 600 * SECOND - 1, TOOL) == Recency(2, 8, first_use=False)
    assert recent.at(NOW + 600 * SECOND - 1, Target(server="crm", tool="put")) == Recency(2, 8, first_use=True)
    assert recent.at(NOW + 600 * SECOND - 1, MODEL) == Recency(2, 8, first_use=None)
    assert recent.at(NOW + 600 * SECOND, TOOL) == Recency(0, 7, first_use=True)
    assert recent.at(NOW + 1199 * SECOND, TOOL) == Recency(0, 0, first_use=True)


def test_time_that_runs_backwards_counts_and_forgets_nothing() -> None:
    recent = Recent()
    recent.add(begin(time=NOW))
    recent.add(begin(time=NOW - 900 * SECOND))
    assert recent.at(NOW, TOOL).calls == 2
    assert recent.at(NOW - 900 * SECOND, TOOL).calls == 2


def test_what_is_recent_takes_no_more_room_for_more_calls() -> None:
    recent = Recent()
    for number in range(20_000):
        recent.add(begin(Target(server="crm", tool=f"tool-{number}"), time=NOW + number * SECOND // 10))
    assert len(recent._tools) == MAX_RECENT_TOOLS
    assert len(recent._calls._seconds) <= 600
    assert recent.at(NOW + 1999 * SECOND, TOOL).calls == 6000


@given(st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=60), st.integers(0, 900))
def test_what_is_recent_is_what_a_count_over_all_leaves_says(leaves: list[tuple[int, bool]], later: int) -> None:
    recent = Recent()
    ordered = sorted(leaves)
    for second, denied in ordered:
        recent.add(replace(DENY, time=NOW + second * SECOND) if denied else begin(time=NOW + second * SECOND))
    now = (ordered[-1][0] if ordered else 0) + later
    counted = [denied for second, denied in ordered if now - 600 < second]
    found = recent.at(NOW + now * SECOND, TOOL)
    assert (found.calls, found.denials, found.first_use) == (
        counted.count(False), counted.count(True), not counted.count(False),
    )  # fmt: skip


def test_a_purse_says_what_counts_over_all_lanes_of_a_job() -> None:
    spend = purse(limits={"calls_per_job": 1}, budgets={"per_tool": {"crm/put": 1}})
    assert spend.counts_in_job("allow-1", TOOL) == "limit-calls"
    assert spend.counts_in_job("allow-2", replace(TOOL, server="crm", tool="put")) == "budget-tool"
    assert spend.counts_in_job("allow-2", MODEL) is None
