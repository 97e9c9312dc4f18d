"""The main job with real processes, as `make demo` plays it: every row of its table has to be good."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from verifier.audit import verify
from verifier.keys import Pin
from verifier.output import text
from verifier.terminal import Paint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, object]], Path]:
    out = tmp_path_factory.mktemp("story") / "out"
    command = [sys.executable, "-m", "examples.demo", "--json", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.stdout, done.stderr
    return json.loads(done.stdout), out


def test_every_step_of_the_story_ends_as_it_has_to(story: tuple[list[dict[str, object]], Path]) -> None:
    rows, _ = story
    assert [row for row in rows if not row["good"]] == []
    assert {row["step"] for row in rows} == set(range(1, 12))


def test_the_story_leaves_bundles_and_pin_behind(story: tuple[list[dict[str, object]], Path]) -> None:
    _, out = story
    left = {path.name for path in out.iterdir()}
    assert left == {
        "pin.json", "other-pin.json", "job.tally", "revoked.tally", "lost.tally",
        "flipped-time.tally", "dropped-receipt.tally", "no-seal.tally", "truncated.tally",
    }  # fmt: skip


def test_the_report_in_the_readme_is_that_of_the_storys_bundle(story: tuple[list[dict[str, object]], Path]) -> None:
    _, out = story
    readme = (ROOT / "README.md").read_text()
    said = next(
        block for block in re.findall(r"```text\n(.*?)```", readme, flags=re.DOTALL) if block.startswith("PASS")
    )
    report = verify(out / "job.tally", Pin.parse((out / "pin.json").read_bytes()))
    first = text.write("demo-out/job.tally", report, Paint(on=False)).split("\n\n")[0] + "\n"
    assert re.sub(r"(job-|sha256:)\S+", r"\1…", first) == said


def test_no_secret_is_left_behind(story: tuple[list[dict[str, object]], Path]) -> None:
    _, out = story
    for path in out.iterdir():
        content = path.read_bytes()
        assert b"_seed" not in content  # as key files have it; base64 writes the four letters now and then
        assert b"Bearer" not in content
