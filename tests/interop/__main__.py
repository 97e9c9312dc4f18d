"""`make interop`: what tally exports against Go's golang.org/x/mod/sumdb, and Go's notes and proofs against our reader.

Needed are Debian's golang-go and golang-golang-x-mod-dev; nothing is fetched. What is counted must not be none.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from tests.vectors.case import FROZEN
from tests.world import World
from verifier import cli
from verifier.checkpoint import Checkpoint, Proof
from verifier.encoding import b64, canonical, unb64
from verifier.merkle import check_consistency
from verifier.refused import Refused
from verifier.signing import PublicPair

HERE = Path(__file__).parent
GOPATH = Path("/usr/share/gocode")  # where Debian's packages of Go sources put them
MISSING = "tally: make interop needs Go and its x/mod: apt-get install golang-go golang-golang-x-mod-dev"
CALLS = 300


def main() -> int:
    """Check both ways; print how much was checked."""
    if shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/note").is_dir():
        sys.stderr.write(MISSING + "\n")
        return 1
    with TemporaryDirectory() as folder:
        return _both(Path(folder))


def _both(folder: Path) -> int:
    program = folder / "interop"
    settings = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "", "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", program, HERE / "interop.go"], env={**os.environ, **settings}, check=True)
    found = [0, 0, 0]
    for name in _exported(folder):
        done = subprocess.run([program, "check", folder / name], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"tally: {name}: {done.stderr}")
            return 1
        found = [total + int(each) for total, each in zip(found, done.stdout.split(), strict=True)]
    (folder / "go").mkdir()
    subprocess.run([program, "make", folder / "go"], check=True)
    found += _read_back(folder / "go")
    words = ("checkpoints and", "proofs of ours hold in Go, which refused", "changed ones;")
    words += ("checkpoints,", "proofs and", "extensions of Go's hold with us, and we refused", "changed ones")
    sys.stdout.write("interop: " + " ".join(f"{count} {word}" for count, word in zip(found, words, strict=True)) + "\n")
    return 0 if all(found) else 1


def _exported(folder: Path) -> list[str]:
    """Export a short job, a long one, and the frozen bundle."""
    signer = folder / "signer.pem"
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signer.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer.chmod(0o600)
    long = World()
    lane = long.lane()
    for number in range(CALLS):
        lane.model(f"call-{number}", "get_case")
    lane.close()
    (folder / "pin.json").write_bytes(canonical(long.pin()))
    made = {"short": World().story().bundle(), "long": long.bundle(), "frozen": (FROZEN / "job-1.tally").read_bytes()}
    for name, raw in made.items():
        (folder / f"{name}.tally").write_bytes(raw)
        pin = FROZEN / "pin.json" if name == "frozen" else folder / "pin.json"
        arguments = [str(folder / f"{name}.tally"), "--pin", str(pin), "--key", str(signer), "-o", str(folder / name)]
        with redirect_stdout(StringIO()):
            status = cli.own("export", arguments)
        if status:
            raise SystemExit(f"tally: {name} is no bundle that passes")
    return list(made)


def _read_back(folder: Path) -> list[int]:
    """Read what Go made: each checkpoint, record proof and tree proof, as it is and changed."""
    public = unb64((folder / "go.vkey").read_text().strip().split("+", 2)[2])
    pair = PublicPair(ed25519=b64(public[1:]))
    heads: dict[int, Checkpoint] = {}
    checked = extended = refused = 0
    for path in folder.glob("*.checkpoint"):
        head = Checkpoint.parse(path.read_text())
        head.check(pair, closing=False)
        heads[head.size] = head
        refused += _refuses(partial(replace(head, size=head.size + 1).check, pair, closing=False))
    for path in folder.glob("*.tlog-proof"):
        proved = Proof.parse(path.read_text())
        proved.check(pair)
        checked += 1
        refused += _refuses(partial(replace(proved, extra=proved.extra + b" ").check, pair))
    for path in folder.glob("*.extension"):
        first, second = map(int, path.stem.split("-"))
        proof = [unb64(line) for line in path.read_text().splitlines()]
        one, two = heads[first].root, heads[second].root
        check_consistency(first, second, proof, one, two)
        extended += 1
        refused += _refuses(partial(check_consistency, first, second, [*proof, one], one, two))
    return [len(heads), checked, extended, refused]


def _refuses(act: Callable[[], object]) -> int:
    try:
        act()
    except Refused:
        return 1
    raise SystemExit("tally: what was changed is accepted")


if __name__ == "__main__":
    sys.exit(main())
