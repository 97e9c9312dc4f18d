"""The README says what the program says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from tests.world import World
from verifier import cli
from verifier.codes import USAGE, Verdict
from verifier.encoding import canonical

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_list_of_make_targets_is_what_make_prints() -> None:
    said = next(block for kind, block in BLOCKS if kind == "text" and block.startswith("$ make help"))
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # make may run us
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=alone).stdout
    assert said.removeprefix("$ make help\n") == printed


def test_four_shell_lines_come_first() -> None:
    kind, block = BLOCKS[0]
    assert kind == "sh"
    assert len(block.strip().splitlines()) == 4
    assert "make demo" in block


def test_every_command_that_the_readme_names_exists() -> None:
    program = cli.program()
    named = {words.split("`")[0] for words in re.findall(r"`tally ([a-z][a-z ·-]*)", README)}
    for words in named:
        group, *rest = words.replace("·", " ").split()
        for command in rest or [""]:
            result = CliRunner().invoke(program, [group, *([command] if command else []), "--help"])
            assert result.exit_code == 0, (group, command)


def test_the_exit_statuses_are_the_programs() -> None:
    said = re.search(r"Exit status of\s+`tally verify`: (.*?)\.", README, flags=re.DOTALL)
    assert said is not None
    statuses = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", said[1])}
    assert statuses == {**{verdict.name: verdict.exit_code for verdict in Verdict}, "usage": USAGE}


def test_the_library_call_runs_as_it_stands(tmp_path: Path) -> None:
    world = World().story()
    (tmp_path / "demo-out").mkdir()
    (tmp_path / "demo-out" / "job.tally").write_bytes(world.bundle())
    (tmp_path / "demo-out" / "pin.json").write_bytes(canonical(world.pin()))
    code = next(block for kind, block in BLOCKS if kind == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "PASS 0 []\n"


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
