"""Conditions: four answers, and failing closed both ways."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.conditions import UNDISCLOSED, Partial, Truth, evaluate, glob_matches, holds
from verifier.grammar import number
from verifier.rules import Condition

T, F, M, U = Truth.TRUE, Truth.FALSE, Truth.MISSING, Truth.UNDISCLOSED


def judge(op: str, value: Any, wanted: Any) -> Truth:
    """Evaluate one operator on one argument."""
    return evaluate(Condition(attr="args.x", op=op, value=wanted), {"args": {"x": value}})


@pytest.mark.parametrize(
    ("op", "value", "wanted", "truth"),
    [
        ("eq", "a", "a", T),
        ("eq", "a", "A", F),
        ("eq", 1, 1, T),
        ("eq", Decimal("1.0"), 1, T),
        ("eq", 1, "1.0", T),
        ("eq", "1", 1, M),
        ("eq", True, True, T),
        ("eq", True, False, F),
        ("eq", True, 1, M),
        ("eq", 1, True, M),
        ("eq", "true", True, M),
        ("eq", None, "a", M),
        ("eq", ["a"], "a", M),
        ("eq", {}, "a", M),
        ("eq", 1, "a", M),
        ("ne", "a", "b", T),
        ("ne", "a", "a", F),
        ("ne", None, "a", M),
        ("ne", 1, "a", M),
        ("in", "a", ["a", "b"], T),
        ("in", "c", ["a", "b"], F),
        ("in", 1, ["a", 1], T),
        ("in", 1, ["a"], M),
        ("in", None, ["a"], M),
        ("in", "a", [], M),
        ("not_in", "c", ["a"], T),
        ("not_in", "a", ["a"], F),
        ("not_in", None, ["a"], M),
        ("lt", 1, 2, T),
        ("lt", 2, 2, F),
        ("le", 2, 2, T),
        ("gt", Decimal("2.5"), "2.4", T),
        ("ge", 2, 3, F),
        ("lt", "1", 2, M),
        ("lt", 1, "x", M),
        ("lt", True, 2, M),
        ("lt", None, 2, M),
        ("lt", 1, True, M),
        ("between", 2, [1, 2], T),
        ("between", 3, [1, 2], F),
        ("between", "2", [1, 2], M),
        ("between", 2, [1, "x"], M),
        ("prefix", "abc", "ab", T),
        ("prefix", "abc", "bc", F),
        ("prefix", 1, "1", M),
        ("suffix", "abc", "bc", T),
        ("suffix", "abc", "ab", F),
        ("suffix", None, "", M),
        ("glob", "abc", "a*c", T),
        ("glob", "abd", "a*c", F),
        ("glob", ["abc"], "a*c", M),
        ("exists", None, True, T),
        ("exists", 1, False, F),
    ],
)
def test_an_operator_says_true_false_or_missing(op: str, value: Any, wanted: Any, truth: Truth) -> None:
    assert judge(op, value, wanted) is truth


def test_an_absent_argument_is_missing_and_does_not_exist() -> None:
    for args in ({}, {"x": "text"}, {"x": []}):
        assert evaluate(Condition(attr="args.x.y", op="eq", value=1), {"args": args}) is M
        assert evaluate(Condition(attr="args.x.y", op="exists", value=True), {"args": args}) is F
        assert evaluate(Condition(attr="args.x.y", op="exists", value=False), {"args": args}) is T
    assert evaluate(Condition(attr="args.x", op="eq", value=1), {}) is M
    assert evaluate(Condition(attr="tool.name", op="eq", value="x"), {}) is M
    assert evaluate(Condition(attr="args.x.y", op="eq", value=1), {"args": {"x": {"y": 1}}}) is T


def test_an_undisclosed_argument_is_undisclosed_for_every_operator() -> None:
    for op, value in (("eq", 1), ("ne", 1), ("in", [1]), ("exists", True), ("lt", 1), ("between", [1, 2])):
        assert evaluate(Condition(attr="args.x.y", op=op, value=value), {"args": UNDISCLOSED}) is U


def test_labels_are_among_a_set_when_one_of_them_is() -> None:
    def labels(op: str, *found: str) -> Truth:
        return evaluate(Condition(attr="data.labels", op=op, value=["secrets"]), {"data.labels": found})

    assert [labels("in", "internal", "secrets"), labels("in", "internal"), labels("in")] == [T, F, F]
    assert [labels("not_in", "internal", "secrets"), labels("not_in", "internal"), labels("not_in")] == [F, T, T]


def test_of_arguments_in_part_a_name_that_is_not_known_is_undisclosed() -> None:
    known = {"args": Partial({"x": {"y": 1}, "z": None})}
    for attr, truth in (("args.x.y", T), ("args.x.a", M), ("args.z", M), ("args.a", U), ("args.a.x", U)):
        assert evaluate(Condition(attr=attr, op="eq", value=1), known) is truth
    assert evaluate(Condition(attr="args.x.a", op="exists", value=False), known) is T
    assert evaluate(Condition(attr="args.a", op="exists", value=False), known) is U


@pytest.mark.parametrize(
    ("attr", "offset", "value"),
    [
        ("time.hour", "+00:00", 13),
        ("time.hour", "+01:30", 14),
        ("time.hour", "-14:00", 23),
        ("time.minute_of_day", "+00:00", 13 * 60 + 13),
        ("time.minute_of_day", "+10:47", 0),
        ("time.weekday", "+00:00", 1),
        ("time.weekday", "+10:46", 1),
        ("time.weekday", "+10:47", 2),
        ("time.weekday", "-14:00", 7),
    ],
)
def test_the_clock_is_read_at_an_offset(attr: str, offset: str, value: int) -> None:
    monday = 1_789_996_439_999_999  # 2026-09-21T13:13:59.999999Z
    condition = Condition(attr=attr, op="eq", value=value, offset=offset)
    assert evaluate(condition, {"time.now": monday}) is T
    assert evaluate(condition, {"time.now": UNDISCLOSED}) is U
    assert evaluate(condition, {}) is M


def test_an_age_is_counted_in_whole_seconds_from_a_claim() -> None:
    def age(claim: Any, now: Any, least: int) -> Truth:
        return evaluate(Condition(attr="age.mfa_at", op="ge", value=least), {"user.mfa_at": claim, "time.now": now})

    assert [age(100, 160_999_999, 60), age(100, 160_999_999, 61), age(100, 99_999_999, 0)] == [T, F, M]
    assert [age(True, 160_000_000, 0), age("100", 160_000_000, 0), age(None, UNDISCLOSED, 0)] == [M, M, M]
    assert age(100, UNDISCLOSED, 0) is U
    assert evaluate(Condition(attr="age.mfa_at", op="ge", value=0), {"user.mfa_at": 100}) is M


@given(st.integers(0, 2**53 - 1), st.integers(-14 * 60, 14 * 60))
def test_the_clock_is_that_of_the_calendar(time: int, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    there = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)
    there = there.astimezone(zone)
    sign, ahead = "-" if minutes < 0 else "+", abs(minutes)
    offset = f"{sign}{ahead // 60:02}:{ahead % 60:02}"
    for attr, value in (
        ("time.hour", there.hour),
        ("time.minute_of_day", there.hour * 60 + there.minute),
        ("time.weekday", there.isoweekday()),
    ):
        assert evaluate(Condition(attr=attr, op="eq", value=value, offset=offset), {"time.now": time}) is T


def test_a_value_that_nobody_checked_makes_a_condition_missing_and_nothing_worse() -> None:
    for attr, op, value, given_ in (
        ("args.x", "subpath_of", "srv", "/srv"),
        ("args.x", "lt", "a", 1),
        ("args.x", "between", ["a", 1], 1),
    ):
        assert evaluate(Condition(attr=attr, op=op, value=value), {"args": {"x": given_}}) is M  # type: ignore[arg-type]
    assert evaluate(Condition(attr="time.hour", op="eq", value=1, offset="+99:00"), {"time.now": 0}) is M


ATTRIBUTES = {"job.type": "a", "args": UNDISCLOSED}
KNOWN = {
    T: Condition(attr="job.type", op="eq", value="a"),
    F: Condition(attr="job.type", op="eq", value="b"),
    M: Condition(attr="tool.name", op="eq", value="a"),
    U: Condition(attr="args.x", op="eq", value=1),
}


@given(st.lists(st.sampled_from(list(Truth))))
def test_a_list_is_false_when_one_is_and_true_when_all_are(truths: list[Truth]) -> None:
    conditions = [KNOWN[each] for each in truths]
    for denies in (False, True):
        truth = holds(conditions, ATTRIBUTES, denies=denies)
        assert (truth is F) == (F in truths)
        assert (truth is T) == (set(truths) <= {T})


def test_beside_a_missing_fact_an_undisclosed_one_can_save_from_a_denial_but_not_allow() -> None:
    both = [KNOWN[M], KNOWN[U]]
    assert holds(both, ATTRIBUTES) is M
    assert holds(both, ATTRIBUTES, denies=True) is U


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (1, Decimal(1)),
        ("1.50", Decimal("1.5")),
        ("-2e3", Decimal(-2000)),
        (Decimal("0.1"), Decimal("0.1")),
        ("9" * 34, Decimal("9" * 34)),
        ("9" * 35, None),
        (10**40, None),
        ("1e40", None),
        ("1e-40", None),
        ("1_000", None),
        (" 1", None),
        ("+1", None),
        ("01", None),
        ("1.", None),
        (".5", None),
        ("\u0661", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e99999999999999999999", None),
        ("", None),
        (True, None),
        (None, None),
        (1.5, None),
        ([], None),
        (Decimal("NaN"), None),
        (Decimal("Infinity"), None),
    ],
)
def test_a_number_is_an_exact_decimal_of_at_most_34_digits(value: object, exact: Decimal | None) -> None:
    assert number(value) == exact


@given(st.text("ab*/", max_size=8), st.text("ab/*\n", max_size=12))
def test_a_glob_matches_what_its_regular_expression_matches(pattern: str, text: str) -> None:
    expression = "".join(".*" if each == "*" else re.escape(each) for each in pattern)
    assert glob_matches(pattern, text) == bool(re.fullmatch(expression, text, re.DOTALL))


def test_a_glob_with_many_stars_takes_no_exponential_time() -> None:
    assert not glob_matches("*a" * 60 + "b", "a" * 100_000)
