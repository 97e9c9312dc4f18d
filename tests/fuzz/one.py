"""One target under libFuzzer, in a process of its own: `python -m tests.fuzz.one NAME CORPUS [libFuzzer's options]`."""

import random
import sys

import atheris

with atheris.instrument_imports(include=["verifier", "receipts.tokens"]):
    from tests.fuzz import targets


def main() -> None:
    """Fuzz until a limit is reached or something else than a refusal comes out."""
    name = sys.argv.pop(1)
    target = targets.TARGETS[name]
    target.seeds()
    if target.unsigned:
        targets.believe_signatures()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Bend as the format asks, else as libFuzzer does."""
        dice = random.Random(seed)
        bent = target.bend(data, dice) if dice.random() < 0.7 else atheris.Mutate(data, max_size)
        return bent[:max_size]

    atheris.Setup(sys.argv, target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
