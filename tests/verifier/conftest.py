"""Property tests of the verifier are the same on every machine and on every run; a folder with bundles to ask about."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.world import World
from verifier import cli
from verifier.encoding import canonical

Run = Callable[..., tuple[int, str, str]]

settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("fixed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a pin and four bundles: an honest one, a forged one, one cut off, one without a seal."""
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
    """Run the program: exit status, standard output, standard error."""
    assert (folder / "job.tally").exists()

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return call
