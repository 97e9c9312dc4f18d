"""`tally verify` over folders, patterns, standard input and gzip, in one process and in many."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.verifier.conftest import Run
from tests.world import NOW, World, pair
from verifier import judging, progress
from verifier.checkpoint import proof
from verifier.encoding import b64, canonical
from verifier.envelope import seal_up
from verifier.merkle import inclusion_proof, leaf_hash
from verifier.refused import Refused
from verifier.sources import Unpacked, Watched, expand

PIN = ("--pin", "pin.json")


def files(out: str) -> list[str]:
    return [json.loads(line)["file"] for line in out.splitlines()]


@pytest.fixture
def tree(folder: Path) -> Path:
    """Bundles in folders, one packed, one behind a link that leads out and one behind a link that stays."""
    whole = (folder / "job.tally").read_bytes()
    (folder / "all" / "deep").mkdir(parents=True)
    (folder / "all" / "b.tally").write_bytes(whole)
    (folder / "all" / "deep" / "a.tally.gz").write_bytes(gzip.compress(whole))
    (folder / "all" / "notes.txt").write_text("no bundle")
    (folder / "all" / "out.tally").symlink_to(folder / "job.tally")
    (folder / "all" / "stays.tally").symlink_to(folder / "all" / "b.tally")
    (folder / "all" / "gone.tally").symlink_to(folder / "all" / "nowhere")
    return folder


def test_a_folder_is_every_bundle_below_it_in_order_and_no_link_leads_out(run: Run, tree: Path) -> None:
    assert (tree / "all").is_dir()
    status, out, err = run("verify", "all", *PIN, "--json")
    assert (status, files(out)) == (0, ["all/b.tally", "all/deep/a.tally.gz"])
    assert err == "tally: skipped all/out.tally: the link leads out of its folder\n"


def test_what_two_arguments_name_is_judged_once(run: Run, tree: Path) -> None:
    assert (tree / "all").is_dir()
    _, out, _ = run("verify", "all/b.tally", "all", "all/o*.tally", *PIN, "--json")
    assert files(out) == ["all/b.tally", "all/deep/a.tally.gz", "all/out.tally"]


@pytest.mark.parametrize("argument", ["empty", "no*.tally", "nothing.tally"])
def test_an_argument_that_names_nothing_is_a_usage_error(run: Run, folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    status, out, err = run("verify", "job.tally", argument, *PIN)
    assert (status, out) == (64, "")
    assert err.startswith("tally: usage: ")


def test_a_name_with_a_star_in_it_is_a_name(run: Run, folder: Path) -> None:
    (folder / "odd*.tally").write_bytes((folder / "job.tally").read_bytes())
    assert files(run("verify", "odd*.tally", *PIN, "--json")[1]) == ["odd*.tally"]


def test_a_name_that_is_no_text_is_said_as_well_as_it_can_be(run: Run, folder: Path) -> None:
    name = os.fsdecode(b"a\xff\x1b.tally")
    (folder / name).write_bytes((folder / "job.tally").read_bytes())
    assert files(run("verify", name, *PIN, "--json")[1]) == ["a\ufffd\x1b.tally"]
    assert run("verify", name, *PIN)[1].startswith("PASS  a\ufffd?.tally\n")


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read_packed_or_not(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, pack: type[bytes]
) -> None:
    stdin(monkeypatch, pack((folder / "job.tally").read_bytes()))
    status, out, _ = run("verify", "-", *PIN)
    assert (status, out.splitlines()[0]) == (0, "PASS  -")


def packed_cases() -> dict[str, tuple[bytes, str]]:
    """Gzip that must be refused, with the code."""
    line = gzip.compress(b"{}\n" * 1000)
    return {
        "truncated": (line[:-10], "truncated"),
        "nothing behind its header": (line[:10], "truncated"),
        "one byte changed": (line[:14] + bytes([line[14] ^ 255]) + line[15:], "not-json"),
        "its sum changed": (line[:-6] + b"\0" + line[-5:], "not-json"),
        "something behind it": (line + b"tail", "not-json"),
        "something that begins as gzip behind it": (line + b"\x1f\x8b\x08tail", "not-json"),
        "a bomb of one line": (gzip.compress(b"a" * (1 << 24)), "too-large"),
        "a bomb of many lines": (gzip.compress((b"x" * 4095 + b"\n") * (1 << 11)), "too-large"),
        "a bomb of empty parts": (gzip.compress(b"") * 300_000, "too-large"),
    }


@pytest.mark.parametrize("name", packed_cases())
def test_damaged_or_hostile_gzip_is_refused_by_code(run: Run, folder: Path, name: str) -> None:
    content, code = packed_cases()[name]
    (folder / "odd.tally.gz").write_bytes(content)
    status, out, _ = run("verify", "odd.tally.gz", *PIN, "--json", "--max-bytes", str(1 << 22))
    assert status == 2
    assert code in {each["code"] for each in json.loads(out)["findings"]}


def test_gzip_in_several_parts_is_one_bundle(run: Run, folder: Path) -> None:
    whole = (folder / "job.tally").read_bytes()
    (folder / "parts.tally.gz").write_bytes(
        gzip.compress(whole[:5000]) + gzip.compress(b"") + gzip.compress(whole[5000:])
    )
    assert run("verify", "parts.tally.gz", *PIN)[0] == 0


def test_unpacking_never_holds_more_than_was_asked_for() -> None:
    stream = Unpacked(io.BufferedReader(io.BytesIO(gzip.compress(bytes(1 << 22)))), 1 << 20)
    assert stream.readable()
    assert Watched(stream, ()).readable()
    assert {len(stream.read(1000) or b"") for _ in range(100)} == {1000}


def test_many_bundles_are_judged_in_processes_and_reported_in_order(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "FEW", 1)
    stdin(monkeypatch, (folder / "job.tally").read_bytes())
    names = ["job.tally", "forged.tally", "-", "open.tally", "cut.tally"]
    status, out, _ = run("verify", *names, *PIN, "--json", "--jobs", "2")
    assert (status, files(out)) == (2, names)
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == [
        "PASS", "FAIL", "PASS", "INCOMPLETE", "MALFORMED",
    ]  # fmt: skip


def test_one_job_at_a_time_gives_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FEW", 1)
    names = ["job.tally", "forged.tally", "open.tally"]
    one, two = (run("verify", *names, *PIN, "--jobs", jobs) for jobs in ("1", "2"))
    assert one == two
    assert one[1].endswith("3 bundles: 1 FAIL, 1 INCOMPLETE, 1 PASS\n")


def test_a_process_that_is_ended_from_outside_is_no_verdict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FEW", 1)
    monkeypatch.setattr(judging, "_IN_A_WORKER", (os._exit, (9,)))
    status, _, err = run("verify", "job.tally", "open.tally", *PIN, "--jobs", "2")
    assert status == 70
    assert err.startswith("tally: worker-died: ")


def test_a_bundle_that_cannot_be_read_hides_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(self: Path, *arguments: object, **named: object) -> object:
        if self.name == "open.tally":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    status, out, err = run("verify", "open.tally", "job.tally", *PIN)
    assert status == 64
    assert out.startswith("PASS  job.tally\n") or "\nPASS  job.tally\n" in out
    assert out.endswith("2 bundles: 1 UNREAD, 1 PASS\n")
    assert err == "tally: usage: cannot read open.tally: Permission denied\n"
    assert 'message="cannot read open.tally: Permission denied"' in run("verify", "open.tally", *PIN, "--junit")[1]
    sarif = json.loads(run("verify", "open.tally", *PIN, "--sarif")[1])
    assert sarif["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert "UNREAD" in run("verify", "open.tally", *PIN, "--html")[1]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_when_it_takes_more_than_a_moment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MOMENT", 1)
    monkeypatch.setattr(progress, "STEP", 1)
    monkeypatch.setenv("TERM", "xterm")
    drawn = Terminal()
    monkeypatch.setattr(sys, "stderr", drawn)
    status, out, _ = run("verify", "job.tally", "open.tally", *PIN, "--json")
    assert (status, files(out)) == (3, ["job.tally", "open.tally"])
    assert "kB" in drawn.getvalue()
    assert "findings" not in drawn.getvalue()
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    monkeypatch.setenv("TERM", "dumb")
    assert run("verify", "job.tally", *PIN)[0] == 0
    assert quiet.getvalue() == ""


def test_colour_is_for_terminals_and_not_where_it_is_unwanted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("verify", "forged.tally", *PIN)[1].startswith("\x1b[1m\x1b[31mFAIL\x1b[0m  forged.tally\n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("verify", "forged.tally", *PIN)[1].startswith("FAIL  forged.tally\n")


def test_a_reader_that_stops_reading_ends_the_program_quietly(folder: Path) -> None:
    program = f"{sys.executable} -m verifier verify job.tally --pin pin.json"
    root = Path(__file__).parent.parent.parent
    environment = dict(os.environ) | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    script = f"({program}; echo status $? >&2) | true"
    command = ["sh", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--jobs", "-1"], ["--max-bytes", "0"], ["--json", "--html"], ["-o", "no/such/folder/x"], ["-o", "job.tally"]],
)
def test_options_that_make_no_sense_are_refused(run: Run, folder: Path, arguments: list[str]) -> None:
    before = (folder / "job.tally").read_bytes()
    status, _, err = run("verify", "job.tally", *PIN, *arguments)
    assert status == 64
    assert err.startswith("tally: usage: ")
    assert (folder / "job.tally").read_bytes() == before


def test_the_output_is_written_whole_and_standard_output_says_what_came_of_each(run: Run, folder: Path) -> None:
    (folder / "report").write_text("earlier")
    status, out, _ = run("verify", "job.tally", "open.tally", *PIN, "--json", "-o", "report")
    assert (status, out) == (3, "PASS  job.tally\nINCOMPLETE  open.tally\n")
    assert files((folder / "report").read_text()) == ["job.tally", "open.tally"]
    assert run("verify", "job.tally", *PIN, "-o", "report")[0] == 0
    assert (folder / "report").read_text().startswith("PASS  job.tally\n")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_what_is_no_plain_file_is_written_to_and_never_replaced(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "target").write_text("earlier")
    (folder / "link").symlink_to(folder / "target")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("verify", "job.tally", *PIN, "-o", "pipe")[0] == 0
        assert os.read(reader, 1 << 16).startswith(b"PASS  job.tally\n")
    finally:
        os.close(reader)
    assert (folder / "pipe").is_fifo()
    assert run("verify", "job.tally", *PIN, "-o", "link")[0] == 0
    assert (folder / "link").is_symlink()
    assert (folder / "target").read_text().startswith("PASS  job.tally\n")


def test_a_pin_that_is_far_too_large_is_not_read(run: Run, folder: Path) -> None:
    (folder / "pin.json").write_bytes(b" " * (1 << 21))
    status, _, err = run("verify", "job.tally", *PIN)
    assert status == 1
    assert err.startswith("tally: too-large: ")


def test_nothing_to_judge_is_refused_where_it_is_asked() -> None:
    with pytest.raises(Refused):
        expand(["/nowhere/at/all"])
    assert judging.usable_cores() >= 1


# More than one bundle, and more than one key list -------------------------------------------------------------------


def family(folder: Path) -> World:
    """Write a parent and its child into the folder, and one bundle that has nothing to do with them."""
    parent = World(policy={"token_constraints": {"max_delegation_depth": 1}})
    child = parent.delegate().story()
    (folder / "children").mkdir()
    (folder / "children" / "child.tally").write_bytes(child.bundle())
    (folder / "parent.tally").write_bytes(parent.story().bundle())
    return parent


def test_a_parent_is_judged_with_its_children_and_reported_in_its_place(run: Run, folder: Path) -> None:
    family(folder)
    status, out, _ = run("verify", "job.tally", "parent.tally", "children", *PIN, "--json")
    assert status == 0
    assert files(out) == ["job.tally", "parent.tally", "children/child.tally"]
    status, out, _ = run("verify", "parent.tally", *PIN, "--json")
    assert (status, [each["code"] for each in json.loads(out)["findings"]]) == (3, ["missing-child"])


def test_a_child_that_does_not_pass_fails_its_parent_in_every_form(run: Run, folder: Path) -> None:
    family(folder)
    path = folder / "children" / "child.tally"
    path.write_bytes(path.read_bytes().replace(b'"rule":"allow-1"', b'"rule":"allow-2"', 1))
    status, out, _ = run("verify", "children", "parent.tally", *PIN)
    assert status == 1
    assert "parent.tally: FAIL wrong-child (step 12, field children.job-2): children/child.tally: " in out
    assert run("verify", "parent.tally", "children", *PIN, "-o", "x")[1] == (
        "FAIL  parent.tally\nFAIL  children/child.tally\n"
    )


def test_files_whose_names_are_written_alike_are_all_judged(run: Run, folder: Path) -> None:
    family(folder)
    (folder / "children" / "child.tally").rename(folder / os.fsdecode(b"\xff.tally"))
    (folder / os.fsdecode(b"\xfe.tally")).write_bytes((folder / "forged.tally").read_bytes())
    names = [os.fsdecode(b"\xfe.tally"), os.fsdecode(b"\xff.tally")]
    _, out, _ = run("verify", "parent.tally", *names, *PIN, "--json")
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["PASS", "FAIL", "PASS"]


def test_an_empty_file_of_newer_key_lists_is_a_usage_error(run: Run, folder: Path) -> None:
    (folder / "none.json").write_bytes(b"\n")
    status, _, err = run("verify", "job.tally", *PIN, "--keys", "none.json")
    assert (status, err.splitlines()[0]) == (64, "tally: usage: none.json is empty")


def test_newer_key_lists_say_what_became_of_the_keys(run: Run, folder: Path) -> None:
    listed = World().listed
    for name, reason in (("newer.json", None), ("revoked.json", "compromise")):
        keys = [
            replace(each, revoked_at=NOW, reason=reason) if each.use == "seal" and reason else each
            for each in listed.keys
        ]
        payload = canonical(replace(listed, version=listed.version + 1, keys=keys))
        (folder / name).write_bytes(seal_up("keys", payload, pair("root")) + b"\n")
    assert run("verify", "job.tally", *PIN, "--keys", "newer.json")[0] == 0
    status, out, _ = run("verify", "job.tally", *PIN, "--keys", "revoked.json")
    assert status == 4
    assert "UNTRUSTED key-revoked" in out
    assert run("verify", "job.tally", *PIN, "--keys", "nothing.json")[0] == 64
    assert run("verify", "job.tally", *PIN, "--keys", "newer.json", "-o", "newer.json")[0] == 64


def test_what_clients_kept_is_looked_for_in_the_bundle_of_its_job(run: Run, folder: Path) -> None:
    parent = family(folder)
    lane = parent.lanes[0]
    (folder / "kept" / "deep").mkdir(parents=True)
    path = inclusion_proof([leaf_hash(raw) for raw in lane.raws], 3)
    last = proof(lane.raws[3], 3, path, lane.head())
    (folder / "kept" / "one.proof").write_text(last)
    (folder / "kept" / "deep" / "two.proof").write_text(b64(last.encode()))
    (folder / "kept" / ".hidden").write_text("no proof")
    together = ("parent.tally", "children", "kept-nothing.tally")
    (folder / "kept-nothing.tally").write_bytes(b"no bundle\n")
    assert run("verify", "parent.tally", "children", *PIN, "--receipts", "kept")[0] == 0
    assert run("verify", *together, *PIN, "--receipts", "kept")[0] == 2
    short = b"".join((folder / "parent.tally").read_bytes().splitlines(True)[:-9])
    (folder / "parent.tally").write_bytes(short)
    _, out, _ = run("verify", "parent.tally", *PIN, "--receipts", "kept", "--json")
    assert "omitted" in {each["code"] for each in json.loads(out)["findings"]}


def test_what_is_of_no_bundles_job_is_found_in_each(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "kept").mkdir()
    (folder / "kept" / "odd.proof").write_text("no proof")
    stdin(monkeypatch, (folder / "job.tally").read_bytes())
    status, out, _ = run("verify", "job.tally", "-", *PIN, "--receipts", "kept", "--json")
    assert status != 0
    assert [len(json.loads(line)["findings"]) for line in out.splitlines()] == [1, 1]


@pytest.mark.parametrize("name", ["nowhere", "pin.json", "empty"])
def test_a_folder_of_receipts_that_holds_none_is_a_usage_error(run: Run, folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    assert run("verify", "job.tally", *PIN, "--receipts", name)[0] == 64
