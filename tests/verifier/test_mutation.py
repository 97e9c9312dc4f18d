"""A small bundle, changed everywhere: each byte, each line. Nothing that differs from what was signed may pass."""

from io import BytesIO

import pytest

from tests.world import World
from verifier.audit import verify

WORLD = World()
LANE = WORLD.lane()
LANE.model("call-1", "get_case")
LANE.tool("call-2")
LANE.close()
WORLD.revoke("agent", "agent-9", LANE.time)
RAW, PIN = WORLD.bundle(), WORLD.pin()
LINES = RAW.splitlines(keepends=True)


def passes(raw: bytes) -> bool:
    """Ask for the verdict; anything raised is a failure of the test."""
    report = verify(BytesIO(raw), PIN)
    assert (report.verdict == "PASS") == (report.exit_code == 0) == (not report.findings)
    return report.verdict == "PASS"


def test_the_bundle_itself_passes() -> None:
    assert passes(RAW)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_no_bundle_with_one_bit_of_one_byte_flipped_passes(number: int) -> None:
    start = sum(map(len, LINES[:number]))
    for position in range(start, start + len(LINES[number])):
        raw = bytearray(RAW)
        raw[position] ^= 1 << position % 8
        assert not passes(bytes(raw)), position


def test_no_bundle_without_one_of_its_lines_passes() -> None:
    for number in range(len(LINES)):
        assert not passes(b"".join(LINES[:number] + LINES[number + 1 :])), number


def test_no_bundle_with_a_line_doubled_passes() -> None:
    for number in range(len(LINES)):
        assert not passes(b"".join(LINES[: number + 1] + LINES[number:])), number


def test_no_bundle_with_two_neighbours_swapped_passes() -> None:
    for number in range(len(LINES) - 1):
        lines = [*LINES[:number], LINES[number + 1], LINES[number], *LINES[number + 2 :]]
        assert not passes(b"".join(lines)), number


def test_no_bundle_cut_off_anywhere_passes() -> None:
    for end in range(0, len(RAW), 37):
        assert not passes(RAW[:end]), end


def test_no_bundle_with_a_line_of_another_honest_job_passes() -> None:
    other = World(scope={"agent": "agent-2"}, policy={"serial": 7}).story().bundle().splitlines(keepends=True)
    for number in range(1, len(LINES)):
        for line in other[1:]:
            if line != LINES[number]:
                assert not passes(b"".join([*LINES[:number], line, *LINES[number + 1 :]])), number
