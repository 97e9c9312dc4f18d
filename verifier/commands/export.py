"""`tally export`: a verified bundle for tools that know nothing of bundles (specs/exports.md)."""

import hashlib
from argparse import ArgumentParser, Namespace
from pathlib import Path

from verifier.attestation import Signer, statement
from verifier.audit import verify
from verifier.bundle import BLOCK
from verifier.codes import Verdict
from verifier.contents import bundle, new_folder
from verifier.encoding import digest
from verifier.keys import Pin
from verifier.notes import MAX_PROOFS, Export
from verifier.private import read_private
from verifier.refused import Refused
from verifier.report import many
from verifier.sources import STDIN, load
from verifier.terminal import complain, moment, plain, say, version

HELP = f"""\
Usage: tally export BUNDLE --pin PIN --key FILE -o DIR [OPTIONS]

Judge a bundle as tally verify does, then write what other tools read: the verdict as a signed in-toto Statement, in
front of the bundle's own envelopes (<name>.intoto.jsonl), and each lane's checkpoint, verifier keys and tlog-proofs
(C2SP). Of a bundle that is MALFORMED or UNTRUSTED nothing is written.

Options:
  --pin PIN         the auditor's pin.json
  --key FILE        an Ed25519 private key in PEM that signs the Statement (tally keygen signer), a file of mode 0600
  -o, --output DIR  a new folder, or an empty one
  --keys FILE       newer key lists, one envelope a line
  --at TIME         judge also at this time, and say so in the Statement (RFC 3339)
  --call ID         prove only this call's end
  --proofs N        prove at most so many ends (default: {MAX_PROOFS})
  -h, --help        show this text

Example:
  tally export job.tally --pin pin.json --key signer.pem -o exported

Exit status: the verdict's, as of tally verify.
"""
MAX_PIN, MAX_KEYS = 1 << 20, 1 << 24


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--pin", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--keys")
    parser.add_argument("--at")
    parser.add_argument("--call")
    parser.add_argument("--proofs", type=int, default=MAX_PROOFS)


def run(given: Namespace) -> int:
    """Judge, then write."""
    if given.bundle == STDIN:
        raise Refused("usage", "standard input can be read once only, an export reads twice")
    pin, signer = load(given.pin, MAX_PIN), Signer.parse(read_private(Path(given.key)))
    at = None if given.at is None else moment(given.at)
    keys = None if given.keys is None else load(given.keys, MAX_KEYS)
    judged, read = hashlib.sha256(), hashlib.sha256()
    with bundle(given.bundle, judged.update) as source:
        report = verify(source, Pin.parse(pin), at, keys=keys)
        name = Path(given.bundle).name.removesuffix(".gz")
        said = f"{report.verdict}  {plain(name)}"
        if Verdict[report.verdict] >= Verdict.UNTRUSTED:
            complain(f"{said}: nothing is exported; tally verify says why")
            return report.exit_code
        while source.read(BLOCK):  # a verdict may come before the end
            pass
    export = Export(proofs=given.proofs, call=given.call)
    files = 1
    with new_folder(Path(given.output)) as folder:
        with bundle(given.bundle, read.update) as source:
            for file in export.files(source):
                (folder / file.name).write_bytes(file.content)
                files += 1
        if read.digest() != judged.digest():
            hint = "Export a file that nobody writes."
            raise Refused("wrong-digest", "the bundle changed while it was read", hint=hint)
        payload = statement(name, judged.hexdigest(), report, pin=digest(pin), keys=keys, version=version(), at=at)
        lines = [signer.seal(payload), *export.envelopes]
        (folder / f"{name.removesuffix('.tally')}.intoto.jsonl").write_bytes(b"\n".join([*lines, b""]))
    for lane in export.skipped:
        complain(f"tally: lane {lane} has no head that these receipts lead to: no checkpoint, no proofs")
    said += f": {files} files in {plain(given.output)}"
    say(f"{said}, {many(len(lines), 'envelope')}, {many(export.proved, 'proof')}")
    return report.exit_code
