"""`tally inspect`: show an artefact readable, and believe none of it."""

from argparse import ArgumentParser, Namespace

import msgspec

from verifier import inspection
from verifier.sources import load
from verifier.terminal import say

HELP = """\
Usage: tally inspect FILE [--json]

Show what an artefact says, without believing any of it: a bundle, an envelope, a receipt, a token, a pin, a proof.

Options:
  --json      one JSON object
  -h, --help  show this text

Examples:
  tally inspect job.tally
  tally inspect policy.json --json
"""


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", dest="as_json", action="store_true")


def run(given: Namespace) -> int:
    """Show one artefact."""
    shown = inspection.inspect(load(given.file, 1 << 30))
    say(msgspec.json.encode(shown).decode() if given.as_json else inspection.text(shown))
    return 0
