"""`tally open`: what is sealed to an auditor's key, held against its receipts (specs/disclosures.md §5)."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from verifier.codes import CODES, Verdict
from verifier.contents import auditor_key, bundle, make_folder, printable, write_secret
from verifier.encoding import b64
from verifier.private import read_private
from verifier.reveal import Opened, opened
from verifier.terminal import complain, say

HELP = """\
Usage: tally open BUNDLE --key FILE [--call ID] [--json | -o DIR]

Open the payloads that are sealed to an auditor's key; each is held against its receipt's commitment. The receipts
themselves are what tally verify judges. A payload for another key is named and passed over.

Options:
  --key FILE        the auditor's private key (tally keygen auditor), a file of mode 0600
  --call ID         only this call's payloads
  --json            one JSON object a payload and line, slices in base64
  -o, --output DIR  write each body into a new file there, and show none
  -h, --help        show this text

Examples:
  tally open job.tally --key auditor.key
  tally open job.tally --key auditor.key --call ID --json

Exit status: 0, 1 when a payload does not fit its receipt, 3 when nothing is sealed to this key, 64 usage.
"""


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--key", required=True)
    parser.add_argument("--call")
    parser.add_argument("--json", dest="as_json", action="store_true")
    parser.add_argument("-o", "--output")


def run(given: Namespace) -> int:
    """Open what can be opened, and name the rest."""
    key = auditor_key(read_private(Path(given.key)))
    folder = Path(given.output) if given.output else None
    if folder is not None:
        make_folder(folder)
    codes: set[str | None] = set()
    with bundle(given.bundle) as source:
        for each in opened(source, key, given.call):
            codes.add(each.refused)
            if folder is not None and each.refused is None:
                write_secret(folder / f"{each.lane}-{each.seq}-{each.side}", b"".join(each.slices))
            say(_json(each) if given.as_json else _text(each, shown=folder is None))
    if codes - {None, "wrong-recipient"}:
        return Verdict.FAIL.exit_code
    if None not in codes:
        complain("tally: wrong-recipient: nothing in this bundle is sealed to this key")
        complain(f"hint: {CODES['wrong-recipient'].hint}")
        return Verdict.INCOMPLETE.exit_code
    return 0


def _text(each: Opened, *, shown: bool) -> str:
    place = f"{each.call} {each.side} (lane {each.lane}, receipt {each.seq})"
    if each.refused is not None:
        return f"{place}: {each.refused}: {each.why}"
    size = sum(map(len, each.slices))
    said = f"{place}: {size} bytes in {len(each.slices)} slices, as the receipt commits to"
    return f"{said}\n{printable(b''.join(each.slices))}" if shown else said


def _json(each: Opened) -> str:
    body = {"slices": [b64(part) for part in each.slices]} if each.refused is None else {"why": each.why}
    place = {name: getattr(each, name) for name in ("auditor", "call", "lane", "refused", "seq", "side")}
    return msgspec.json.encode(place | body, order="sorted").decode()
