"""`tally verify` and `tally inspect`, as a person and as a script meet them."""

import json
import runpy
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from tests.world import World, pair
from verifier import cli
from verifier.checkpoint import proof
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.output import text
from verifier.refused import Refused
from verifier.report import MAX_FINDINGS, Report
from verifier.terminal import Paint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    world = World().story()
    honest = world.bundle()
    (tmp_path / "job.tally").write_bytes(honest)
    (tmp_path / "pin.json").write_bytes(canonical(world.pin()))
    (tmp_path / "forged.tally").write_bytes(honest.replace(b'"rule":"allow-1"', b'"rule":"allow-2"', 1))
    (tmp_path / "cut.tally").write_bytes(honest[:-9])
    (tmp_path / "open.tally").write_bytes(b"".join(x for x in honest.splitlines(True) if not x.startswith(b'{"seal":')))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    assert (folder / "job.tally").exists()

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return call


def test_an_honest_bundle_passes_and_says_what_was_proved_and_what_was_not(run: Run) -> None:
    status, out, _ = run("verify", "job.tally", "--pin", "pin.json")
    assert status == 0
    assert out.startswith("PASS  job.tally\n")
    assert "Proved\n  - Job job-1 ran under policy" in out
    assert "Not proved\n  - " in out
    assert "\x1b" not in out  # colour only on a terminal


def test_a_finding_names_code_step_place_and_what_to_do_next(run: Run) -> None:
    status, out, _ = run("verify", "forged.tally", "--pin", "pin.json")
    assert status == 1
    assert "forged.tally: FAIL wrong-decision (step 9, line 12, lane lane-1, receipt 4, field rule): " in out
    assert "hint: " in out
    assert "Proved\n" not in out.replace("Not proved", "")


@pytest.mark.parametrize(
    ("files", "status"),
    [
        (["job.tally"], 0),
        (["forged.tally"], 1),
        (["cut.tally"], 2),
        (["open.tally"], 3),
        (["job.tally", "open.tally", "forged.tally"], 1),
        (["cut.tally", "forged.tally"], 2),
    ],
)
def test_of_many_files_the_worst_verdict_is_the_exit_status(run: Run, files: list[str], status: int) -> None:
    found, out, _ = run("verify", *files, "--pin", "pin.json", "--json")
    assert found == status
    assert [json.loads(line)["file"] for line in out.splitlines()] == files


def test_a_pin_of_another_root_is_untrusted(run: Run, folder: Path) -> None:
    public = pair("stranger").public
    world = World()
    other = {"roots": [{"owner": "x", "ed25519": public.ed25519, "ml_dsa_44": public.ml_dsa_44}]}
    (folder / "other.json").write_text(json.dumps(json.loads(canonical(world.pin())) | other))
    status, out, _ = run("verify", "job.tally", "--pin", "other.json")
    assert status == 4
    assert "UNTRUSTED unknown-root" in out


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"roots":[],"threshold":1,"suites":["tally-1"]}'])
def test_a_pin_that_cannot_be_used_is_a_usage_error(run: Run, folder: Path, content: bytes) -> None:
    (folder / "bad.json").write_bytes(content)
    status, out, err = run("verify", "job.tally", "--pin", "bad.json")
    assert (status, out) == (64, "")
    assert err.startswith("tally: bad-pin: ")
    assert "hint: " in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "job.tally"],
        ["verify", "missing.tally", "--pin", "pin.json"],
        ["verify", "job.tally", "--pin", "missing.json"],
        ["verify", "job.tally", "--pin", "pin.json", "--at", "yesterday"],
        ["verify", "job.tally", "--pin", "pin.json", "--max-bytes", "many"],
        ["inspect", "missing.tally"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_exits_with_64_and_a_sentence(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (64, "")
    assert err.startswith("tally: usage: ")
    assert "Traceback" not in err


def test_at_judges_the_key_list_at_that_time_with_or_without_an_offset(run: Run) -> None:
    assert run("verify", "job.tally", "--pin", "pin.json", "--at", "2026-09-22T00:00:00Z")[0] == 0
    status, out, _ = run("verify", "job.tally", "--pin", "pin.json", "--at", "2036-01-01T00:00:00")
    assert status == 4
    assert "keys-expired" in out


def test_more_than_max_bytes_is_refused(run: Run) -> None:
    status, out, _ = run("verify", "job.tally", "--pin", "pin.json", "--max-bytes", "1000")
    assert status == 2
    assert "too-large" in out


def test_findings_beyond_the_list_are_counted() -> None:
    report = Report()
    for _ in range(MAX_FINDINGS + 3):
        report.add("wrong-seq", 7, "out of its place")
    said = text.write("x.tally", report, Paint(on=False))
    assert said.count("hint: ") == MAX_FINDINGS
    assert "and 3 more findings" in said


def test_what_a_document_says_does_not_steer_the_terminal(run: Run, folder: Path) -> None:
    honest = (folder / "job.tally").read_bytes()
    (folder / "odd.tally").write_bytes(honest.replace(b'{"header":{"format"', b'{"header":{"\\u001b[2Jformat"', 1))
    _, out, _ = run("verify", "odd.tally", "--pin", "pin.json")
    assert "\x1b" not in out


def test_a_refusal_of_a_service_command_is_one_sentence_and_exit_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Refused("wrong-owner", "not yours", field="key")

    joined = typer.Typer()
    joined.command("refuse")(refuse)
    monkeypatch.setattr(cli, "_join", lambda made: made.registered_commands.extend(joined.registered_commands))
    assert run("refuse") == (1, "", "tally: wrong-owner: not yours (at key)\n")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])
@pytest.mark.parametrize("command", ["verify", "policy"])
def test_an_interrupted_command_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], command: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop if command == "policy" else KeyboardInterrupt

    monkeypatch.setattr(cli, "program", lambda: interrupted)
    monkeypatch.setattr(cli, "own", interrupted)
    monkeypatch.setattr(sys, "argv", ["tally", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


@pytest.mark.parametrize("command", ["verify", "policy"])
def test_a_bug_is_not_dressed_up_as_a_refusal(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "program", lambda: fail)
    monkeypatch.setattr(cli, "own", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([command])


def test_without_the_extra_the_services_commands_are_absent_and_nothing_breaks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = EntryPoint("services", "module_that_is_not_installed:app", "tally.commands")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [missing] if group == "tally.commands" else [])
    status, out, _ = run("--help")
    assert status == 0
    assert "verify" in out


def test_the_help_of_verify_shows_an_example_a_line(run: Run) -> None:
    status, out, _ = run("verify", "--help")
    assert status == 0
    assert "  tally verify bundles/ --pin pin.json --sarif -o tally.sarif\n" in out


# inspect -------------------------------------------------------------------------------------------------------------


def test_inspect_shows_a_bundle_line_by_line_and_says_that_nothing_was_verified(run: Run) -> None:
    status, out, _ = run("inspect", "job.tally")
    assert status == 0
    assert out.startswith("bundle (nothing here was verified)\n")
    assert '"artefact": "signed seal"' in out
    assert '"artefact": "receipt begin"' in out
    assert "2026-09-21T" in out  # times in words


def test_inspect_gives_the_same_as_json(run: Run) -> None:
    status, out, _ = run("inspect", "job.tally", "--json")
    shown = json.loads(out)
    assert (status, shown["artefact"], shown["lines"]) == (0, "bundle", 19)


def test_inspect_shows_only_the_beginning_of_a_long_bundle(run: Run, folder: Path) -> None:
    honest = (folder / "job.tally").read_bytes()
    (folder / "long.tally").write_bytes(honest + honest.splitlines(True)[-1] * 2000)
    _, out, _ = run("inspect", "long.tally", "--json")
    shown = json.loads(out)
    assert (shown["lines"], len(shown["shown"])) == (2019, 1000)


def test_inspect_knows_every_artefact(run: Run, folder: Path) -> None:
    world = World().story()
    lane = world.lanes[0]
    token = "eyJhbGciOiJFZERTQSJ9.eyJqdGkiOiJ0b2tlbi0xIn0.c2lnbmF0dXJl"
    artefacts = {
        "pin": canonical(world.pin()),
        "signed policy": seal_up("policy", world.policy_payload, pair("author")),
        "receipt open": lane.raws[0] + b"\n",
        "token": token.encode(),
        "tlog-proof": proof(lane.raws[0], 0, [], lane.head()).encode(),
        "JSON object": b'{"policy_name":"a draft","list":[1,true]}',
    }
    for name, content in artefacts.items():
        (folder / "artefact").write_bytes(content)
        status, out, _ = run("inspect", "artefact")
        assert (status, out.partition(" (")[0]) == (0, name)
    assert "c2lnbmF0dXJl" not in run("inspect", "artefact")[1]  # a shown token opens nothing


@pytest.mark.parametrize("content", [b"[1]", b"\x00\x01", b"a.b!.c", b"", b"x" * 100])
def test_inspect_refuses_what_is_no_artefact(run: Run, folder: Path, content: bytes) -> None:
    (folder / "artefact").write_bytes(content)
    status, out, err = run("inspect", "artefact")
    assert (status, out) == (1, "")
    assert err.startswith("tally: ")
    assert "Traceback" not in err


def test_the_module_is_the_same_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tally", "verify", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("verifier", run_name="__main__")
    assert "tally verify bundles/" in capsys.readouterr().out
