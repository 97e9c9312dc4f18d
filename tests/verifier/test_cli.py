"""`tally verify` and `tally inspect`, as a person and as a script meet them."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.world import World, pair
from verifier import cli
from verifier.encoding import canonical
from verifier.output import text
from verifier.refused import Refused
from verifier.report import MAX_FINDINGS, Report
from verifier.terminal import Paint

Run = Callable[..., tuple[int, str, str]]


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
    status, out, err = run("refuse")
    assert (status, out) == (1, "")
    assert err.startswith("tally: wrong-owner: not yours (at key)\nhint: Compare the pin and the key list ")


@pytest.mark.parametrize(
    ("refused", "hint"),
    [
        (Refused("scope-too-wide", "no"), "hint: Ask for less, or publish a policy that allows it.\n"),
        (Refused("scope-too-wide", "no", hint="Mine."), "hint: Mine.\n"),
        (Refused("of-a-newer-version", "no"), ""),
    ],
    ids=["listed", "its own", "unknown"],
)
def test_a_refusal_says_what_to_do_its_own_word_before_the_listed_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, refused: Refused, hint: str
) -> None:
    def refuse(*_: object) -> int:
        raise refused

    monkeypatch.setattr(cli, "own", refuse)
    assert run("verify") == (1, "", f"tally: {refused.code}: no\n{hint}")


def test_a_file_that_cannot_be_opened_is_a_usage_error_and_no_bug(
    run: Run, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    missing = folder / "nowhere" / "file"
    monkeypatch.setattr(cli, "own", lambda *_: missing.write_text("x"))
    status, out, err = run("verify")
    assert (status, out) == (64, "")
    assert err.startswith(f"tally: usage: {missing}: No such file or directory\nhint: Check the path")


def test_an_error_of_the_system_that_is_of_no_file_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError("of a socket")

    monkeypatch.setattr(cli, "own", fail)
    with pytest.raises(OSError, match="of a socket"):
        cli.main(["verify"])


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (("job", "open"), "hint: tally job open --help\n"),
        (("job", "no-such-command"), "hint: tally job --help\n"),
        (("no-such-command",), "hint: tally --help; commands beyond verify"),
    ],
    ids=["an option is missing", "in a group", "unknown"],
)
def test_what_cannot_be_understood_names_the_help_that_says_more(run: Run, given: tuple[str, ...], hint: str) -> None:
    status, _, err = run(*given)
    assert status == 64
    assert hint in err


@pytest.mark.parametrize(("given", "status"), [((), 64), (("--help",), 0), (("-h",), 0)])
def test_the_base_install_shows_its_own_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], status: int
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    ended, out, _ = run(*given)
    assert ended == status
    assert all(f"  {name}" in out for name in cli.OWN)


def test_the_base_install_says_where_a_services_command_comes_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    ended, out, err = run("policy", "build")
    assert (ended, out) == (64, "")
    assert "No such command 'policy'" in err
    assert "tallystick[services]" in err


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


def test_the_module_is_the_same_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tally", "verify", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("verifier", run_name="__main__")
    assert "tally verify bundles/" in capsys.readouterr().out


def test_a_reader_that_stops_reading_ends_the_program_with_141(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "own", stopped)
    with (tmp_path / "out").open("w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            cli.main(["verify"])
    assert ended.value.code == 141


def test_the_whole_program_lists_our_commands_and_hands_them_their_arguments() -> None:
    program = cli.program()
    assert CliRunner().invoke(program, ["explain", "wrong-root", "--json"]).exit_code == 0
    listed = CliRunner().invoke(program, ["--help"]).stdout
    assert all(name in listed for name in cli.OWN)


@pytest.mark.parametrize("name", cli.OWN)
def test_the_help_of_a_command_names_every_option_and_an_example(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert (status, run(name, "-h")[1]) == (0, out)
    parser = cli.Arguments(prog="x", add_help=False)
    import_module(f"verifier.commands.{cli.OWN[name][0]}").arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert options - set(re.findall(r"--?[a-z-]+", out)) == set()
    assert f"tally {name}" in out.partition("Example")[2]


def test_verifying_a_bundle_loads_nothing_that_is_slow_to_load(folder: Path) -> None:
    program = "import sys; from verifier.cli import main; main(sys.argv[1:])"
    script = f"""
try:
    {program}
finally:
    slow = {{"typer", "rich", "pydantic", "multiprocessing", "concurrent", "importlib.metadata", "difflib", "glob"}}
    slow |= {{"verifier.timeline", "verifier.output.html", "verifier.output.sarif", "verifier.explanation"}}
    print(sorted(slow & set(sys.modules)), file=sys.stderr)
"""
    command = [sys.executable, "-c", script, "verify", "job.tally", "--pin", "pin.json"]
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
