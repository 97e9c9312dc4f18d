"""The transcripts of `specs/transcripts/` are what the program says; `python -m tests.transcripts` writes them."""

from pathlib import Path

import pytest

from tests import transcripts


@pytest.mark.parametrize("name", sorted(path.name for path in transcripts.TRANSCRIPTS.glob("*.txt")))
def test_a_transcript_is_what_the_program_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = (transcripts.TRANSCRIPTS / name).read_text(encoding="utf-8")
    assert said.count("\n$ ")
    assert transcripts.play(said) == said
