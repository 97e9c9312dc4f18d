"""Small bundles, changed everywhere: each byte, each line, each field. What differs from what was signed fails.

Nobody signs again: these are the changes of a thief, a careless copy, a broken disk. What a dishonest gateway or scope
signs anew is in `specs/vectors/bundles/`. What no receipt and no signature asks for may be withheld, and that alone: a
disclosure, which its holder need not make; a log's word; a key list before one that the pinned roots signed too.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

import pytest

from tests.conftest import Counted
from tests.mutants import Whole, plain, rich
from tests.world import World
from verifier import checkpoint, signing, witness
from verifier.audit import verify
from verifier.bundle import ORDER
from verifier.encoding import b64, canonical, unb64

PLAIN, RICH = plain(), rich()
BOTH = pytest.mark.parametrize("whole", [PLAIN, RICH], ids=["plain", "rich"])
UNSIGNED = ("disclosure",)  # each is held against the commitment in its receipt, and nobody has to make one
NIGHTLY = "TALLY_NIGHTLY" in os.environ
# Every line of the plain bundle; of the rich one those of kinds and documents that the plain one does not have.
BITS = [(PLAIN, number) for number in range(len(PLAIN.lines))] + [
    (RICH, number)
    for number in range(len(RICH.lines))
    if RICH.kind(number) not in ("header", "keys", "policy", "manifest", "revocation")
]


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """Check a signature once that was checked before: the same key, message and signature give the same answer."""
    patch = pytest.MonkeyPatch()
    for name in ("verify_ed25519", "verify_ml_dsa_44"):
        once = lru_cache(maxsize=64)(getattr(signing, name))
        for module in (signing, checkpoint, witness):
            patch.setattr(module, name, once)
    yield
    patch.undo()


def passes(whole: Whole, raw: bytes) -> bool:
    """Ask for the verdict; anything raised is a failure of the test."""
    report = verify(BytesIO(raw), whole.pin)
    assert (report.verdict == "PASS") == (report.exit_code == 0) == (not report.findings)
    return report.verdict == "PASS"


Mutants = Iterator[tuple[object, bytes]]


def none_passes(whole: Whole, mutants: Mutants, counted: Counted, withheld: Callable[[object], bool] = bool) -> None:
    """Try every mutant, say which one passed, and count them; `withheld` names those that may pass."""
    count = passed = 0
    for name, raw in mutants:
        assert raw != whole.raw, name
        if passes(whole, raw):
            assert withheld is not bool, name
            assert withheld(name), name
            passed += 1
        count += 1
    assert count
    counted("mutants of a bundle, none of which passes", count - passed)
    if passed:
        counted("mutants of what nobody signed, withheld, which pass", passed)


@BOTH
def test_the_bundle_itself_passes(whole: Whole) -> None:
    assert passes(whole, whole.raw)


def test_the_rich_bundle_holds_a_line_of_every_kind() -> None:
    numbers = range(len(RICH.lines))
    assert {RICH.kind(number) for number in numbers} == {*ORDER, *UNSIGNED, "box", "receipt"}
    kinds = {
        name for name in ("begin", "close", "end", "hold", "open", "token") if f'"kind":"{name}"'.encode() in RICH.raw
    }
    assert len(kinds) == 6


@pytest.mark.parametrize(("whole", "number"), BITS, ids=[f"{whole.kind(number)}-{number}" for whole, number in BITS])
def test_no_bundle_with_one_bit_of_one_byte_flipped_passes(whole: Whole, number: int, counted: Counted) -> None:
    """Of the rich bundle's long base64 every eighth byte, at night each; of a sealed payload always each."""
    sampled = whole is RICH and not NIGHTLY and whole.kind(number) != "box"
    start, line = whole.start(number), whole.lines[number]
    long = [range(*each.span()) for each in re.finditer(rb"[A-Za-z0-9+/=]{200,}", line)]

    def flipped() -> Mutants:
        for at in range(len(line)):
            if sampled and at % 8 and any(at in each for each in long):
                continue
            raw = bytearray(whole.raw)
            raw[start + at] ^= 1 << (start + at) % 8
            yield at, bytes(raw)

    none_passes(whole, flipped(), counted)


@BOTH
def test_no_bundle_without_one_of_its_lines_passes(whole: Whole, counted: Counted) -> None:
    free = [number for number in range(len(whole.lines)) if whole.kind(number) in (*UNSIGNED, "log")]
    free += [1] if whole.kind(2) == "keys" else []
    mutants = ((number, whole.edited(number, b"")) for number in range(len(whole.lines)))
    none_passes(whole, mutants, counted, free.__contains__)


@BOTH
def test_no_bundle_with_a_line_doubled_passes(whole: Whole, counted: Counted) -> None:
    none_passes(
        whole, ((at, whole.edited(at, whole.lines[at] * 2)) for at in range(len(whole.lines))), counted
    )  # fmt: skip


@BOTH
def test_no_bundle_with_two_neighbours_swapped_passes(whole: Whole, counted: Counted) -> None:
    """A disclosure of what was held and begun alike says the same behind either."""

    def swapped() -> Mutants:
        for at in range(len(whole.lines) - 1):
            first, second = whole.lines[at : at + 2]
            yield at, b"".join([*whole.lines[:at], second, first, *whole.lines[at + 2 :]])

    none_passes(whole, swapped(), counted, lambda at: whole.kind(int(str(at)) + 1) in UNSIGNED)


@BOTH
def test_no_bundle_cut_off_anywhere_passes(whole: Whole, counted: Counted) -> None:
    none_passes(whole, ((end, whole.raw[:end]) for end in range(0, len(whole.raw), 37)), counted)


@BOTH
def test_no_bundle_with_a_line_of_another_honest_job_passes(whole: Whole, counted: Counted) -> None:
    """The rich one may begin with another first key list that the same roots signed: its second list judges."""
    other = World(scope={"agent": "agent-2"}, policy={"serial": 7}).story().bundle().splitlines(keepends=True)
    none_passes(
        whole,
        (
            ((number, at), whole.edited(number, line))
            for number in range(1, len(whole.lines))
            for at, line in enumerate(other)
            if line != whole.lines[number]
        ),
        counted,
        lambda name: whole is RICH and name == (1, 1),
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


def fields(whole: Whole, change: Change) -> Mutants:
    """Change every field of every line, and every field of the payload inside every envelope."""
    for number, line in enumerate(whole.lines):
        document = json.loads(line)
        for path, raw in changed(document, change):
            yield (number, path), whole.edited(number, raw + b"\n")
        (kind, inside), *_ = document.items()
        if isinstance(inside, dict) and "payload" in inside:
            for path, payload in changed(json.loads(unb64(inside["payload"])), change):
                carried = canonical({kind: {**inside, "payload": b64(payload)}})
                yield (number, "payload", path), whole.edited(number, carried + b"\n")


@pytest.mark.parametrize("change", [without, null, other], ids=["removed", "null", "another"])
@BOTH
def test_no_bundle_with_a_field_changed_at_any_depth_passes(whole: Whole, change: Change, counted: Counted) -> None:
    none_passes(whole, fields(whole, change), counted)


@BOTH
def test_no_bundle_with_a_key_that_stands_twice_passes(whole: Whole, counted: Counted) -> None:
    """Whichever of the two a reader keeps."""

    def doubled() -> Mutants:
        for number, line in enumerate(whole.lines):
            for at, mark in enumerate(line):
                if mark == ord("{") and line[at + 1 : at + 2] == b'"':
                    key = line[at + 1 : line.index(b":", at) + 1]
                    yield (number, at), whole.edited(number, line[: at + 1] + key + b"0," + line[at + 1 :])

    none_passes(whole, doubled(), counted)
