"""`tally diff-bundles`: what differs between two bundles."""

from argparse import ArgumentParser, Namespace

import msgspec

from verifier.bundle import MAX_BYTES
from verifier.comparison import Comparison, Lane, compare
from verifier.refused import Refused
from verifier.report import many
from verifier.sources import one, opened
from verifier.terminal import complain, plain, say, table

HELP = """\
Usage: tally diff-bundles FIRST SECOND [--json]

Say what differs between two bundles, of one job or of two: documents by digest, fields of the seal, lanes, and in each
lane the first receipt that is not the same. Nothing is verified. Both are read as streams; one may be - for standard
input, and either may be gzip.

Options:
  --json         one JSON object
  --max-bytes N  read no more than this of each, unpacked (default: 16 GiB)
  -h, --help     show this text

Examples:
  tally diff-bundles mine.tally theirs.tally
  tally diff-bundles mine.tally theirs.tally --json

Exit status: 0 the same, 1 different, 2 one of them cannot be read as a bundle.
"""
UNREADABLE = 2


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("first", metavar="FIRST")
    parser.add_argument("second", metavar="SECOND")
    parser.add_argument("--json", dest="as_json", action="store_true")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES)


def run(given: Namespace) -> int:
    """Compare two bundles."""
    first, second = one(given.first), one(given.second)
    if first.path is None and second.path is None:
        raise Refused("usage", "only one of the two can be standard input")
    try:
        with opened(first, given.max_bytes) as left, opened(second, given.max_bytes) as right:
            found = compare(left, right, given.max_bytes)
    except Refused as refused:
        complain(f"tally: {plain(refused.code)}: {plain(refused.why)}")
        return UNREADABLE
    say(msgspec.json.encode(found).decode() if given.as_json else _text(found, first.name, second.name))
    return 0 if found.same else 1


def _text(found: Comparison, first: str, second: str) -> str:
    lines = [f"{'same' if found.same else 'different'}  {plain(first)}  {plain(second)}"]
    lines += [f"  {plain(said)}" for said in found.looks]
    if found.documents:
        where = {"first": "only in the first", "second": "only in the second", "both": "in both, not the same envelope"}
        lines += ["", "Documents", *table([[each.kind, each.digest, where[each.where]] for each in found.documents])]
    if found.seal:
        rows = [[each.path, each.first or "(none)", each.second or "(none)"] for each in found.seal]
        lines += ["", "Seal", *table([["field", "first", "second"], *rows])]
    if found.lanes:
        lines += ["", "Lanes", *table([["lane", "first", "second", "what differs"], *map(_row, found.lanes)])]
    if found.same_lanes:
        lines.append(f"  {many(found.same_lanes, 'lane')} the same")
    if found.unlisted:
        lines.append(f"  and {many(found.unlisted, 'more difference')}")
    return "\n".join(lines)


def _row(lane: Lane) -> list[str]:
    counts = ["none" if each is None else str(each) for each in (lane.first, lane.second)]
    if lane.at is None:
        said = "the head, or what stands beside receipts" if lane.beside else "only one has it"
    else:
        said = f"from receipt {lane.at} on" + (f" ({', '.join(lane.fields)})" if lane.fields else "")
    return [lane.lane, *counts, said]
