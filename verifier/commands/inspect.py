"""`tally inspect`: show an artefact readable, and believe none of it."""

from argparse import ArgumentParser, Namespace

import msgspec

from verifier import inspection
from verifier.bundle import MAX_BYTES
from verifier.output import description
from verifier.sources import one, opened
from verifier.terminal import say

HELP = """\
Usage: tally inspect FILE [--json]

Show what an artefact says, without believing any of it: a bundle (read as a stream), a signed document, a key list, a
pin, a receipt, a token (without its signature), a proof, a checkpoint, a disclosure, a box, a report. FILE may be gzip;
- is standard input.

Options:
  --json         one JSON object
  --max-bytes N  read no more than this, unpacked (default: 16 GiB)
  -h, --help     show this text

Examples:
  tally inspect job.tally
  tally inspect policy.json --json
  tally job token job-1 --json | tally inspect -
"""


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", dest="as_json", action="store_true")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES)


def run(given: Namespace) -> int:
    """Show one artefact."""
    with opened(one(given.file), given.max_bytes) as stream:
        shown = inspection.inspect(stream, given.max_bytes)
    say(msgspec.json.encode(shown).decode() if given.as_json else description.write(shown))
    return 0
