"""`python -m tests.vectors`: write `specs/vectors/` and `specs/schema/`; with `--check`, only say what would change.

What is frozen is written once, when it is not there; no later version may judge it otherwise.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from msgspec import to_builtins

from tests.vectors.case import FROZEN, SPECS, VECTORS, Case
from tests.vectors.judge import FOLDERS, expected, judge
from tests.vectors.pins import pins
from tests.vectors.places import with_places
from tests.vectors.schema import schemas
from tests.vectors.tables import tables
from tests.world import World
from verifier.box import AuditorKey, seal_box
from verifier.commitment import call_key, commit
from verifier.encoding import canonical

BOX = FROZEN / "box.json"
SUMS, README, ERRORS = VECTORS / "SHA256SUMS", VECTORS / "README.md", SPECS / "errors.md"


def files() -> Iterator[tuple[Path, bytes]]:
    """Make every file but the frozen ones."""
    for name, raw in pins().items():
        yield VECTORS / name, raw
    cases = [(folder, name, judged(folder, make())) for folder, made in FOLDERS.items() for name, make in made.items()]
    for folder, name, case in cases:
        yield VECTORS / folder / name, case.encode()
    yield ERRORS, with_places(ERRORS.read_text(), [(folder, case) for folder, _, case in cases]).encode()
    for name, raw in tables().items():
        yield VECTORS / "tables" / name, raw
    for name, raw in schemas().items():
        yield SPECS / "schema" / name, raw


def judged(folder: str, case: Case) -> Case:
    """Write down where each finding stands; verdict and codes are the author's, and a test holds both together."""
    return replace(case, finds=judge(folder, case).finds)


def freeze() -> None:
    """Write the frozen bundle, its pin and what every version must say of it; never again once it is there."""
    world = World().story()
    lane = world.lane("lane-2")
    lane.model("call-1", "search_customer")
    lane.tool("call-2", "search_customer")
    lane.close()
    raw = world.bundle()
    FROZEN.mkdir(parents=True)
    (FROZEN / "job-1.tally").write_bytes(raw)
    (FROZEN / "pin.json").write_bytes(canonical(world.pin()) + b"\n")
    (FROZEN / "expected.json").write_bytes(expected(world.verify(raw)))


def freeze_box() -> None:
    """Write two sealed payloads with their private key: HPKE draws fresh randomness, so no generator makes them again.

    One holds what the receipt commits to; one, `forged`, was sealed for the same receipt and holds another body.
    """
    key = call_key(bytes(32), "call-1", "sent")
    slices, auditor = [b'{"arguments":{', b'"query":"case-1"', b"}}"], AuditorKey(bytes(range(32)))
    commitment, other = commit(key, slices), [slices[0], b'"query":"case-2"', slices[2]]
    made = {
        "seed": auditor.seed.hex(),
        "public": auditor.public.hex(),
        "commitment": to_builtins(commitment),
        "slices": [each.hex() for each in slices],
        "box": to_builtins(seal_box(auditor.public, commitment, "sent", key, slices)),
        "forged": to_builtins(seal_box(auditor.public, commitment, "sent", key, other)),
    }
    BOX.write_text(json.dumps(made, indent=1) + "\n")


def sums(wanted: dict[Path, bytes]) -> bytes:
    """Write SHA256SUMS over every file of the testkit, the frozen and the written ones among them."""
    kept = {path: path.read_bytes() for path in [README, *FROZEN.iterdir()]}
    made = {path: raw for path, raw in (wanted | kept).items() if path.is_relative_to(VECTORS)}
    lines = [f"{sha256(raw).hexdigest()}  {path.relative_to(VECTORS)}\n" for path, raw in sorted(made.items())]
    return "".join(lines).encode()


def main() -> None:
    """Write, or compare."""
    check = "--check" in sys.argv[1:]
    if not check and not FROZEN.exists():
        freeze()
    if not check and not BOX.exists():
        freeze_box()
    wanted = dict(files())
    wanted[SUMS] = sums(wanted)
    present = {path for folder in (VECTORS, SPECS / "schema") for path in folder.rglob("*") if path.is_file()}
    stale = {path for path in present if path not in wanted and path.parent != FROZEN and path != README}
    present.add(ERRORS)
    changed = {path for path, raw in wanted.items() if path not in present or path.read_bytes() != raw}
    for path in sorted(stale | changed):
        word = "differs" if check else "written" if path in changed else "removed"
        sys.stdout.write(f"{word}: {path.relative_to(SPECS.parent)}\n")
    if check:
        sys.exit(bool(stale | changed))
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    for path in stale:
        path.unlink()


if __name__ == "__main__":
    main()
