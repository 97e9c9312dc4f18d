"""The targets of `make fuzz`, for a moment and from a fixed seed, so that they do not rot between two long runs."""

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import Counted
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS
from tests.vectors.case import SPECS
from verifier import checkpoint, signing, witness

RUNS = 400


@pytest.fixture
def unsigned() -> Iterator[None]:
    """Take every signature for good, and take that back."""
    patch = pytest.MonkeyPatch()
    for module in (signing, checkpoint, witness):
        for name in ("verify_ed25519", "verify_ml_dsa_44"):
            patch.setattr(module, name, getattr(module, name))
    targets.believe_signatures()
    yield
    patch.undo()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.usefixtures("unsigned")
def test_a_target_finds_nothing_but_refusals_in_its_seeds_and_what_is_near_them(name: str, counted: Counted) -> None:
    target, dice = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    for raw in seeds:
        target(raw)
    for _ in range(RUNS):
        target(target.bend(dice.choice(seeds), dice))
    counted("inputs near the fuzzers' seeds, nothing but refusals", len(seeds) + RUNS)


def test_a_target_does_not_hide_what_is_no_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        targets.Target(lambda _: 1 // 0, list)(b"")  # type: ignore[arg-type, return-value]
    with pytest.raises(AssertionError, match="no public code"):
        targets.Target(TARGETS["leaf"].read, list, codes=frozenset())(b"")


def test_the_fuzzer_itself_runs(counted: Counted) -> None:
    """Under libFuzzer, with the verifier instrumented, as `make fuzz` does it."""
    pytest.importorskip("atheris", reason="atheris is not made for this Python")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "leaf"], cwd=SPECS.parent, capture_output=True, text=True, check=False,
        env={"FUZZ_RUNS": "3000", "FUZZ_SEED": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "only refusals" in done.stdout
    counted("executions of the coverage-guided fuzzer", 3000)
