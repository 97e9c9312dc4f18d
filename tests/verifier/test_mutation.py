"""A small bundle, changed everywhere: each bit's byte, each line, each field. What differs from what was signed fails.

Nobody signs again: these are the changes of a thief, a careless copy, a broken disk. What a dishonest gateway or scope
signs anew is in `specs/vectors/bundles/`.
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

import pytest

from tests.conftest import Counted
from tests.world import World
from verifier import checkpoint, signing
from verifier.audit import verify
from verifier.encoding import b64, canonical, unb64

WORLD = World()
LANE = WORLD.lane()
LANE.model("call-1", "get_case")
LANE.tool("call-2")
LANE.close()
WORLD.revoke("agent", "agent-9", LANE.time)
RAW, PIN = WORLD.bundle(), WORLD.pin()
LINES = RAW.splitlines(keepends=True)
STARTS = [sum(map(len, LINES[:number])) for number in range(len(LINES))]


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """Check a signature once that was checked before: the same key, message and signature give the same answer."""
    patch = pytest.MonkeyPatch()
    for name in ("verify_ed25519", "verify_ml_dsa_44"):
        once = lru_cache(maxsize=64)(getattr(signing, name))
        patch.setattr(signing, name, once)
        patch.setattr(checkpoint, name, once)
    yield
    patch.undo()


def passes(raw: bytes) -> bool:
    """Ask for the verdict; anything raised is a failure of the test."""
    report = verify(BytesIO(raw), PIN)
    assert (report.verdict == "PASS") == (report.exit_code == 0) == (not report.findings)
    return report.verdict == "PASS"


def edited(number: int, line: bytes) -> bytes:
    """Replace one line; without it when it is empty."""
    return b"".join([*LINES[:number], line, *LINES[number + 1 :]])


def none_passes(mutants: Iterator[tuple[object, bytes]], counted: Counted) -> None:
    """Try every mutant, say which one passed, and count them."""
    count = 0
    for name, raw in mutants:
        assert raw != RAW, name
        assert not passes(raw), name
        count += 1
    assert count
    counted("mutants of a bundle, none of which passes", count)


def test_the_bundle_itself_passes() -> None:
    assert passes(RAW)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_no_bundle_with_one_bit_of_one_byte_flipped_passes(number: int, counted: Counted) -> None:
    def flipped() -> Iterator[tuple[int, bytes]]:
        for position in range(STARTS[number], STARTS[number] + len(LINES[number])):
            raw = bytearray(RAW)
            raw[position] ^= 1 << position % 8
            yield position, bytes(raw)

    none_passes(flipped(), counted)


def test_no_bundle_without_one_of_its_lines_passes(counted: Counted) -> None:
    none_passes(((number, edited(number, b"")) for number in range(len(LINES))), counted)


def test_no_bundle_with_a_line_doubled_passes(counted: Counted) -> None:
    none_passes(((number, edited(number, LINES[number] * 2)) for number in range(len(LINES))), counted)


def test_no_bundle_with_two_neighbours_swapped_passes(counted: Counted) -> None:
    none_passes(
        (
            (number, b"".join([*LINES[:number], LINES[number + 1], LINES[number], *LINES[number + 2 :]]))
            for number in range(len(LINES) - 1)
        ),
        counted,
    )


def test_no_bundle_cut_off_anywhere_passes(counted: Counted) -> None:
    none_passes(((end, RAW[:end]) for end in range(0, len(RAW), 37)), counted)


def test_no_bundle_with_a_line_of_another_honest_job_passes(counted: Counted) -> None:
    other = World(scope={"agent": "agent-2"}, policy={"serial": 7}).story().bundle().splitlines(keepends=True)
    none_passes(
        (
            ((number, at), edited(number, line))
            for number in range(1, len(LINES))
            for at, line in enumerate(other)
            if line != LINES[number]
        ),
        counted,
    )


# Fields ---------------------------------------------------------------------------------------------------------------

Path = tuple[str | int, ...]
Change = Callable[[dict[str, Any] | list[Any], Any], None]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Name every member of every object and list, at every depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in members:
        yield (*path, name)
        yield from paths(each, (*path, name))


def without(place: Any, name: Any) -> None:
    """Take a field away."""
    del place[name]


def null(place: Any, name: Any) -> None:
    """Leave the field and take its value away."""
    place[name] = None


def other(place: Any, name: Any) -> None:
    """Give a field another value of its own type, most often one that the format allows."""
    value = place[name]
    if isinstance(value, bool):
        place[name] = not value
    elif isinstance(value, int):
        place[name] = value + 1
    elif isinstance(value, str):
        place[name] = value[:-1] + ("1" if value[-1:] == "0" else "0")
    elif isinstance(value, list):
        place[name] = [*value, *value[:1]] or ["x"]
    else:
        place[name] = {**value, "x": 1}


def changed(document: Any, change: Change) -> Iterator[tuple[Path, bytes]]:
    """Change every member of a document, one at a time, and write it canonically again."""
    for path in paths(document):
        again = json.loads(canonical(document))
        place = again
        for name in path[:-1]:
            place = place[name]
        change(place, path[-1])
        yield path, canonical(again)


def fields(change: Change) -> Iterator[tuple[object, bytes]]:
    """Change every field of every line, and every field of the payload inside every envelope."""
    for number, line in enumerate(LINES):
        whole = json.loads(line)
        for path, raw in changed(whole, change):
            yield (number, path), edited(number, raw + b"\n")
        (kind, document), *_ = whole.items()
        if isinstance(document, dict) and "payload" in document:
            for path, payload in changed(json.loads(unb64(document["payload"])), change):
                carried = canonical({kind: {**document, "payload": b64(payload)}})
                yield (number, "payload", path), edited(number, carried + b"\n")


@pytest.mark.parametrize("change", [without, null, other], ids=["removed", "null", "another"])
def test_no_bundle_with_a_field_changed_at_any_depth_passes(change: Change, counted: Counted) -> None:
    none_passes(fields(change), counted)


def test_no_bundle_with_a_key_that_stands_twice_passes(counted: Counted) -> None:
    """Whichever of the two a reader keeps."""

    def doubled() -> Iterator[tuple[object, bytes]]:
        for number, line in enumerate(LINES):
            for at, mark in enumerate(line):
                if mark == ord("{") and line[at + 1 : at + 2] == b'"':
                    key = line[at + 1 : line.index(b":", at) + 1]
                    yield (number, at), edited(number, line[: at + 1] + key + b"0," + line[at + 1 :])

    none_passes(doubled(), counted)
