"""`python -m tests.transcripts`: write the transcripts in `specs/transcripts/` again, as the program answers now.

A transcript is a test and a manual page at once. Its remarks (`#`) and commands (`$`) are written by hand; what stands
between them is what the program says: standard output, standard error, and the exit status where it is not 0. Digests
are shortened, so that a transcript changes when the program says something else and not when a document does.
"""

import gzip
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from msgspec.structs import replace

from tests.world import World, root
from verifier import cli
from verifier.draft import build
from verifier.encoding import canonical

TRANSCRIPTS = Path(__file__).parent.parent / "specs" / "transcripts"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJleHAiOjE3OTAwMDAzMDAsImp0aSI6InRva2VuLTEifQ.c2lnbmF0dXJl"
OPS = b"policy_name: ops\nallowed_tools:\n  - {kind: mcp, RULE}\n"
NOW = 1_790_000_000_000_000
AT_MOST = {"attr": "args.amount", "op": "le", "value": 1000}
TRANSFER = {"id": "transfers", "kind": "mcp", "server": "bank", "tools": ["transfer"], "when": [AT_MOST]}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def furnish(folder: Path) -> None:
    """Put into a folder what the transcripts speak of."""
    world = World().story()
    honest = world.bundle()
    lines = honest.splitlines(keepends=True)
    parent = World(policy={"token_constraints": {"max_delegation_depth": 1}})
    child = parent.delegate().story()
    (folder / "children").mkdir()
    draft = {"policy_name": "payments", "allowed_tools": [TRANSFER]}
    wide = {"policy_name": "payments", "allowed_tools": [{**TRANSFER, "when": [{**AT_MOST, "value": 5000}]}]}
    asked = {"call": {"server": "bank", "tool": "transfer", "arguments": '{"amount": 1200}'}}
    for name, content in {
        "payments-1.policy.json": canonical(build(draft, issuer="security-team", now=NOW)),
        "payments-2.policy.json": canonical(build(wide, issuer="security-team", now=NOW, serial=2)),
        "careless.yaml": OPS.replace(b"RULE", b"server: ops-mcp, tools: [restart, shell]"),
        "wrong.yaml": OPS.replace(b"RULE", b"servers: ops-mcp, tools: [restart]"),
        "surprise.yaml": b"policy_name: ops\nregulated: no\n",
        "call.json": json.dumps(asked).encode(),
        "job.tally": honest,
        "job.tally.gz": gzip.compress(honest, mtime=0),
        "forged.tally": honest.replace(b'"rule":"allow-1"', b'"rule":"allow-2"', 1),
        "short.tally": b"".join(lines[:-3]),
        "open.tally": b"".join(line for line in lines if not line.startswith(b'{"seal":')),
        "parent.tally": parent.story().bundle(),
        "children/child.tally": child.bundle(),
        "pin.json": canonical(world.pin()),
        "other-pin.json": canonical(replace(world.pin(), roots=[root("stranger", "owner-2")])),
        "token.txt": TOKEN.encode(),
        "notes.txt": b"no artefact",
    }.items():
        (folder / name).write_bytes(content)


def play(transcript: str) -> str:
    """Write a transcript with what the program says now, in the folder where we stand."""
    told = [line for line in transcript.splitlines() if line.startswith(("#", "$"))]
    parts: list[str] = []
    for line in told:
        if line.startswith("#"):
            parts += ["", line]
        else:
            parts += [line, *answer(line.removeprefix("$ "))]
    return "\n".join(parts).lstrip("\n") + "\n"


def answer(command: str) -> list[str]:
    """Run one command; `<` gives it a file on standard input."""
    words, _, given = command.partition(" < ")
    out, err, status = io.StringIO(), io.StringIO(), 0
    with standard_input(given), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main(shlex.split(words)[1:])
        except SystemExit as ended:
            status = int(ended.code or 0)
    said = [*out.getvalue().splitlines(), *err.getvalue().splitlines()]
    return [*(_DIGEST.sub("sha256:…", line) for line in said), *([f"[exit {status}]"] if status else [])]


@contextmanager
def standard_input(name: str) -> Iterator[None]:
    """Read a file as standard input."""
    before = sys.stdin
    if name:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(Path(name).read_bytes())))
    try:
        yield
    finally:
        sys.stdin = before


def main() -> None:
    """Write every transcript again."""
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        os.chdir(folder)
        for path in sorted(TRANSCRIPTS.glob("*.txt")):
            path.write_text(play(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
