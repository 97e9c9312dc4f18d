"""A clock that is stepped: time never goes back, and a jump ahead is not believed at once."""

import pytest

from service.steady import Steady
from tests.conftest import START, Clock
from verifier.refused import Refused

SECOND = 1_000_000


def code(steady: Steady) -> str:
    try:
        steady()
    except Refused as refused:
        return refused.code
    return ""


@pytest.fixture
def counted() -> Clock:
    return Clock(17)


@pytest.fixture
def steady(clock: Clock, counted: Clock) -> Steady:
    return Steady(clock, counted)


def test_time_that_passes_is_told(steady: Steady, clock: Clock, counted: Clock) -> None:
    for seconds in (0, 1, 3600, 86_400 * 365):
        clock.pass_seconds(seconds)
        counted.pass_seconds(seconds)
        assert steady() == clock()


def test_a_clock_that_is_slewed_is_believed(steady: Steady, clock: Clock, counted: Clock) -> None:
    for _ in range(100):
        clock.pass_seconds(11)
        counted.pass_seconds(10)
        assert steady() == clock()


def test_a_small_step_back_is_waited_out(steady: Steady, clock: Clock, counted: Clock) -> None:
    steady()
    clock.pass_seconds(-5)
    assert steady() == START
    clock.pass_seconds(6)
    counted.pass_seconds(1)
    assert steady() == START + SECOND


def test_a_step_back_is_refused_until_time_is_where_it_was(steady: Steady, clock: Clock, counted: Clock) -> None:
    steady()
    clock.pass_seconds(-3600)
    with pytest.raises(Refused, match="3600 s behind") as refused:
        steady()
    assert refused.value.code == "clock-stepped"
    assert "at 2026-11-18T" in refused.value.hint
    for _ in range(3595):
        assert code(steady) == "clock-stepped"
        clock.pass_seconds(1)
        counted.pass_seconds(1)
    assert steady() == START
    clock.pass_seconds(6)
    counted.pass_seconds(6)
    assert steady() == clock() == START + SECOND


def test_a_clock_that_is_set_right_again_goes_on_at_once(steady: Steady, clock: Clock) -> None:
    assert steady() == START
    for jump in (-3600, 3600):
        clock.pass_seconds(jump)
        assert code(steady) == "clock-stepped"
        clock.pass_seconds(-jump)
        assert steady() == START


def test_a_jump_ahead_is_believed_after_a_minute(steady: Steady, clock: Clock, counted: Clock) -> None:
    clock.pass_seconds(3600)
    for _ in range(60):
        with pytest.raises(Refused, match="ahead by 3600 s"):
            steady()
        clock.pass_seconds(1)
        counted.pass_seconds(1)
    assert steady() == clock()
    clock.pass_seconds(3600)
    assert code(steady) == "clock-stepped"


def test_what_was_recorded_by_others_counts(steady: Steady, clock: Clock) -> None:
    steady.learn(START + 5 * SECOND)
    assert steady() == START + 5 * SECOND
    steady.learn(START + 6 * SECOND)
    assert code(steady) == "clock-stepped"
    steady.learn(START)
    clock.pass_seconds(1)
    assert steady() == START + 6 * SECOND
