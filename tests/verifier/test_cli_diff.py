"""`tally diff-bundles`: what differs, where it begins, and what it looks like."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.verifier.conftest import Run
from tests.world import World
from verifier import comparison
from verifier.comparison import compare
from verifier.encoding import canonical


def two_lanes(*tools: str) -> World:
    """A job with two lanes; the second makes these calls."""
    world = World().story()
    lane = world.lane("lane-2")
    for number, tool in enumerate(tools):
        lane.model(f"m{number}", tool)
        lane.tool(f"t{number}", tool)
    lane.close()
    return world


def looks(first: bytes, second: bytes) -> list[str]:
    found = compare(io.BytesIO(first), io.BytesIO(second), 1 << 24)
    assert not found.same
    return found.looks


def test_a_bundle_is_the_same_as_itself(run: Run) -> None:
    status, out, _ = run("diff-bundles", "job.tally", "job.tally")
    assert (status, out) == (
        0,
        "same  job.tally  job.tally\n  The two are the same, line by line.\n  1 lane the same\n",
    )


def test_a_changed_receipt_is_named_with_the_fields_that_differ(run: Run) -> None:
    status, out, _ = run("diff-bundles", "job.tally", "forged.tally")
    assert status == 1
    assert "The receipts themselves differ" in out
    assert "  lane-1  12     12      from receipt 4 on (rule)\n" in out


def test_a_truncated_copy_is_told_from_the_whole_one_by_its_own_seal(run: Run, folder: Path) -> None:
    whole = (folder / "job.tally").read_bytes()
    (folder / "short.tally").write_bytes(b"".join(whole.splitlines(True)[:-3]))
    for arguments, short in ((["short.tally", "job.tally"], "first"), (["job.tally", "short.tally"], "second")):
        status, out, _ = run("diff-bundles", *arguments)
        assert status == 1
        assert f"  The {short} looks like a truncated or earlier copy of" in out
        assert f"  The {short} has fewer receipts than its own seal counts in lane-1: truncated.\n" in out
        assert "from receipt 9 on\n" in out


def test_an_extension_after_the_seal_is_seen() -> None:
    whole = World().story().bundle()
    longer = whole + whole.splitlines(True)[-1]
    assert looks(whole, longer) == [
        "The first looks like a truncated or earlier copy of the second: every receipt that it has is there.",
        "The second has more receipts than its own seal counts in lane-1: extended after the seal.",
    ]


def test_two_jobs_two_seals_and_no_seal(run: Run, folder: Path) -> None:
    world = World()
    world.job = "job-2"
    other = world.story().bundle()
    (folder / "other.tally").write_bytes(other)
    status, out, _ = run("diff-bundles", "job.tally", "other.tally")
    assert status == 1
    assert "  They are bundles of two jobs, job-1 and job-2.\n" in out
    assert "\nSeal\n" in out
    assert "only in the second" in out
    _, out, _ = run("diff-bundles", "job.tally", "open.tally")
    assert "The receipts are the same; the documents before them differ." in out
    assert "The second has no seal." in out


def test_lanes_that_only_one_has_are_named(run: Run, folder: Path) -> None:
    (folder / "two.tally").write_bytes(two_lanes("get_case").bundle())
    assert "  lane-2  none   7       only one has it\n" in run("diff-bundles", "job.tally", "two.tally")[1]
    assert "  lane-2  7      none    only one has it\n" in run("diff-bundles", "two.tally", "job.tally")[1]


def test_each_may_lack_what_the_other_has() -> None:
    lines = two_lanes().bundle().splitlines(True)
    head = next(n for n, line in enumerate(lines) if line.startswith(b'{"head":{"lane":"lane-2"'))
    assert "Each lacks receipts that the other has." in looks(
        b"".join(lines[: head - 1] + lines[head:]), b"".join(lines[:-1])
    )


def test_what_stands_beside_the_receipts_is_compared(run: Run, folder: Path) -> None:
    whole = (folder / "job.tally").read_bytes()
    lines = whole.splitlines(True)
    (folder / "boxed.tally").write_bytes(whole + b'{"box":{"auditor":"a"}}\n')
    _, out, _ = run("diff-bundles", "job.tally", "boxed.tally")
    assert "  The receipts are the same; a head, or what is disclosed or sealed, differs.\n" in out
    assert "the head, or what stands beside receipts" in out
    (folder / "headed.tally").write_bytes(whole.replace(b"gateway.example/tally", b"gateway.example/other"))
    assert "a head" in run("diff-bundles", "job.tally", "headed.tally")[1]
    assert "another order" in looks(whole, b"".join([lines[0], lines[2], lines[1], *lines[3:]]))[0]


def test_another_signature_on_the_same_document_is_seen() -> None:
    world = World().story()
    whole = world.bundle()
    signed = whole.replace(b'"signatures":[{', b'"signatures":[{"keyid":"x","sig":"x"},{', 1)
    found = compare(io.BytesIO(whole), io.BytesIO(signed), 1 << 24)
    assert [(each.kind, each.where) for each in found.documents] == [("keys", "both")]


def test_json_says_the_same(run: Run) -> None:
    status, out, _ = run("diff-bundles", "job.tally", "forged.tally", "--json")
    found = json.loads(out)
    assert (status, found["same"], found["lanes"][0]["at"], found["lanes"][0]["fields"]) == (1, False, 4, ["rule"])


def test_lists_are_bounded_and_the_rest_counted(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_LISTED", 1)
    world = two_lanes("get_case")
    world.job = "job-2"
    for name in ("lane-3", "lane-4", "lane-5"):
        world.lane(name).close()
    (folder / "many.tally").write_bytes(world.bundle())
    out = run("diff-bundles", "job.tally", "many.tally")[1]
    assert "more differences\n" in out
    short = b"".join(x for x in world.bundle().splitlines(True) if not x.startswith(b'{"kind"') and b'"seq":' not in x)
    assert "and 2 more lanes: truncated." in " ".join(looks(short, world.bundle()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"header":[1]}\n',
        b'{"header":{"job":"j"}}\n{"keys":}\n',
        b'{"header":{"job":"j"}\n',
        b'{"header":{"job":"j"}}\n{"keys":{"payload":"!"}}\n',
        b'{"header":{"job":"j"}}\nx',
    ],
)
def test_what_is_no_bundle_is_unreadable(run: Run, folder: Path, content: bytes) -> None:
    (folder / "odd.tally").write_bytes(content)
    status, out, err = run("diff-bundles", "job.tally", "odd.tally")
    assert (status, out) == (2, "")
    assert err.startswith("tally: ")


def test_documents_have_a_limit(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(comparison, "MAX_DOCUMENTS", 1000)
    assert run("diff-bundles", "job.tally", "job.tally")[0] == 2


def test_receipts_that_are_not_json_still_differ() -> None:
    start = canonical({"header": {"job": "j"}}) + b'\n{"log":"x"}\n{"head":{"lane":"l"}}\n'
    found = compare(io.BytesIO(start + b"{x\n"), io.BytesIO(start + b"{y\n"), 1 << 20)
    assert (found.lanes[0].at, found.lanes[0].fields) == (0, [])


def test_standard_input_is_one_of_them(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO((folder / "job.tally").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
    assert run("diff-bundles", "-", "job.tally")[0] == 0
    assert run("diff-bundles", "-", "-")[0] == 64
