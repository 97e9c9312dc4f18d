"""`tally disclose`: a bundle written again that shows one slice of one call (specs/disclosures.md §5)."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from verifier.commitment import SIDES
from verifier.contents import bundle, call_key, write_new
from verifier.cut import cut
from verifier.disclosure import Disclosure, argument, disclose_each, members
from verifier.leaf import Commitment
from verifier.private import read_private
from verifier.refused import Refused
from verifier.reveal import disclosed
from verifier.sources import load

HELP = """\
Usage: tally disclose BUNDLE --call ID --side SIDE (--slice N | --argument NAME | --all)
                      --key-file FILE --body FILE -o OUT.tally

Write a bundle again that shows one message or one argument of one call. What was signed stays as it is; nothing is
written when the content does not fit the receipt.

Options:
  --call ID        the call, as its receipts name it (the Tally-Receipt header)
  --side SIDE      req, sent, recv or dlv
  --slice N        show this slice, counted from 0
  --argument NAME  show this top-level argument of a tool call (side sent)
  --all            show every slice
  --key-file FILE  the call key: base64, or the Tally-Call-Keys header; a private file (mode 0600)
  --body FILE      the body of that side, byte for byte
  -o, --output FILE  the new bundle
  -h, --help       show this text

Example:
  tally disclose job.tally --call ID --side sent --argument amount --key-file keys --body sent.json -o shown.tally
"""
MAX_BODY = 1 << 26


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--call", required=True)
    parser.add_argument("--side", required=True, choices=SIDES)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--slice", type=int)
    chosen.add_argument("--argument")
    chosen.add_argument("--all", action="store_true")
    parser.add_argument("--key-file", required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("-o", "--output", required=True)


def run(given: Namespace) -> int:
    """Write the new bundle."""
    key, body = call_key(read_private(Path(given.key_file)), given.side), load(given.body, MAX_BODY)

    def make(commitment: Commitment) -> list[Disclosure]:
        slices = cut(body, key, commitment)
        return disclose_each(key, slices, indexes(slices, given.slice, given.argument), given.side)

    with bundle(given.bundle) as source:
        write_new(Path(given.output), disclosed(source, given.call, given.side, make))
    return 0


def indexes(slices: list[bytes], number: int | None, name: str | None) -> list[int]:
    """Choose slices: one by its number, one by its argument's name, or all."""
    if number is not None:
        return [number]
    if name is None:
        return list(range(len(slices)))
    places = range(1, len(slices) - 1, 2) if members(len(slices)) else ()
    found = [index for index in places if argument(slices[index])[0] == name]
    if not found:
        raise Refused("wrong-disclosure", f"no argument of that body has the name {name[:64]!r}", field="argument")
    return found
