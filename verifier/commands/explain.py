"""`tally explain`: what a code means and what to do about it."""

from argparse import ArgumentParser, Namespace

import msgspec

from verifier.explanation import Explanation, explain
from verifier.terminal import say, table

HELP = """\
Usage: tally explain CODE [--json]

Say what a code means, where it can come from, and what to do about it.

Options:
  --json      one JSON object
  -h, --help  show this text

Examples:
  tally explain wrong-root
  tally explain wrong-root --json
"""


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("code", metavar="CODE")
    parser.add_argument("--json", dest="as_json", action="store_true")


def run(given: Namespace) -> int:
    """Explain one code."""
    return show(given.code, as_json=given.as_json)


def show(code: str, *, as_json: bool) -> int:
    """Write an explanation, for people or as JSON."""
    found = explain(code)
    say(msgspec.json.encode(found).decode() if as_json else _text(found))
    return 0


def _text(found: Explanation) -> str:
    rows = [["means", found.meaning]]
    if found.verdict:
        rows.append(["verdict", f"{found.verdict}, exit status {found.exit_code}"])
    if found.verdict:
        steps = ", ".join(f"{step.number} {step.title}" for step in found.steps)
        rows.append(["step", steps or "none: it is found outside of bundles"])
    rows += [[title, said] for title, said in found.columns.items()]
    rows.append(["do", found.action])
    rows += [["specs", f"{step.says} (verification.md §{step.number})"] for step in found.steps if step.says]
    return "\n".join([f"{found.code}  ({found.where})", *table(rows)])
