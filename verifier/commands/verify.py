"""`tally verify`: judge proof bundles, offline."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from verifier.bundle import MAX_BYTES
from verifier.codes import USAGE, Verdict
from verifier.judging import Asked, Judged, judge_all, usable_cores
from verifier.kept import MAX_KEPT
from verifier.keys import Pin
from verifier.output import text
from verifier.progress import Meter
from verifier.refused import Refused
from verifier.report import Report
from verifier.sources import Given, expand, load, load_all
from verifier.terminal import Paint, complain, moment, say, version, wants_colour
from verifier.tree import hold_together

HELP = """\
Usage: tally verify FILE... --pin PIN [OPTIONS]

Judge proof bundles, offline: nothing but the bundles, the pin and what the options name is read, no network, and no
clock unless --at names a time. A FILE is a bundle (<job>.tally, or .tally.gz), a folder (every bundle below it), a
pattern, or - for standard input. A job that delegated is judged together with its child jobs' bundles.

Options:
  --pin PIN          the auditor's pin.json: root keys that you trust, from a channel of your own (required)
  --keys FILE        newer key lists, one envelope a line: what became of the keys since the bundle was written
  --receipts DIR     what clients kept: the proofs in their answers, each of which must lie in the sealed lane
  --at TIME          the key list must also be current at this time (RFC 3339)
  --max-bytes N      read no more than this of one bundle, unpacked (default: 16 GiB)
  --jobs N           judge so many bundles at once (default: one a core)

  --json             one JSON object a bundle and line
  --sarif            SARIF 2.1.0, for code-scanning dashboards
  --junit            JUnit XML, for build servers
  --html             one self-contained page, with a timeline of each job
  -o, --output FILE  write that into FILE; standard output then has one line a bundle

  --explain CODE     say what a code means instead, as tally explain does
  -h, --help         show this text

Examples:
  tally verify job.tally --pin pin.json
  tally verify parent.tally children/ --pin pin.json
  tally verify bundles/ --pin pin.json --sarif -o tally.sarif
  zcat job.tally.gz | tally verify - --pin pin.json --json
  tally verify job.tally --pin pin.json --html -o report.html

Exit status: 0 PASS, 1 FAIL, 2 MALFORMED, 3 INCOMPLETE, 4 UNTRUSTED, 64 usage; of many bundles the worst.
"""
MAX_PIN, MAX_KEYS = 1 << 20, 1 << 24
FORMATS = ("json", "sarif", "junit", "html")


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--pin")
    parser.add_argument("--keys")
    parser.add_argument("--receipts")
    parser.add_argument("--at")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES)
    parser.add_argument("--jobs", type=int, default=0)
    form = parser.add_mutually_exclusive_group()
    for each in FORMATS:
        form.add_argument(f"--{each}", dest="form", action="store_const", const=each, default="text")
    parser.add_argument("-o", "--output")
    parser.add_argument("--explain", metavar="CODE")


def run(given: Namespace) -> int:
    """Judge everything that is named; the exit status is the worst verdict's."""
    if given.explain:
        from verifier.commands import explain  # noqa: PLC0415 - another command

        return explain.show(given.explain, as_json=given.form == "json")
    if not given.files:
        raise Refused("usage", "no bundle is named", hint="tally verify job.tally --pin pin.json")
    if not given.pin:
        raise Refused("usage", "--pin is missing", hint="A bundle proves nothing without root keys that you trust.")
    if given.max_bytes < 1 or given.jobs < 0:
        raise Refused("usage", "--max-bytes and --jobs are positive numbers")
    found = expand(given.files)
    asked = Asked(
        pin=Pin.parse(load(given.pin, MAX_PIN)),
        at=None if given.at is None else moment(given.at),
        keys=None if given.keys is None else _newer(given.keys),
        kept=() if given.receipts is None else load_all(given.receipts, MAX_KEPT),
        max_bytes=given.max_bytes,
        timeline=given.form == "html",
    )
    for link in found.skipped:
        complain(f"tally: skipped {link}: the link leads out of its folder")
    with _output(given, found) as out:
        judged = _judge(found, asked, given, out)
        status = _status(judged)
        if given.form in {"sarif", "junit", "html"}:
            out.write(_document(given.form, judged, status))
    for each in judged:
        if each.unread:
            complain(f"tally: usage: {each.unread}")
    return status


class Output:
    """Where the report goes: a file, or standard output."""

    def __init__(self, path: Path | None) -> None:
        """Collect for a file; pass on to standard output."""
        self.path = path
        self.held: list[str] = []

    def write(self, said: str) -> None:
        """Write some of it."""
        if self.path is None:
            sys.stdout.write(said)
        else:
            self.held.append(said)


def _newer(path: str) -> bytes:
    """Read newer key lists; an empty file is none, and no word that there are none."""
    raw = load(path, MAX_KEYS)
    if not raw.strip():
        raise Refused(
            "usage", f"{path} is empty", hint="Name a file of key lists, one envelope a line, or leave --keys out."
        )
    return raw


@contextmanager
def _output(given: Namespace, found: Given) -> Iterator[Output]:
    """Open the output; a file appears only when it is whole, and never in the place of what was judged."""
    path = Path(given.output) if given.output else None
    read = [given.pin, *([given.keys] if given.keys else ()), *(source.path for source in found.sources if source.path)]
    if path is not None and path.exists() and any(path.samefile(each) for each in read):
        raise Refused("usage", f"{path} is one of the files to read", hint="Name another file for the output.")
    out = Output(path)
    yield out
    if path is not None:
        # A device, a pipe or a link is written to; only a plain file is ever replaced.
        plain = not path.is_symlink() and (path.is_file() or not path.exists())
        written = path.with_name(f".{path.name}.part") if plain else path
        try:
            written.write_text("".join(out.held), encoding="utf-8")
            if plain:
                written.replace(path)
        except OSError as error:
            why = f"cannot write {path}: {error.strerror}"
            raise Refused("usage", why, hint="Name a file in a folder that you may write to.") from error


def _judge(found: Given, asked: Asked, given: Namespace, out: Output) -> list[Judged]:
    """Judge all, and say of each what came of it once that is settled: from the first of a tree on, at the end."""
    kept: list[Judged] = []
    said = 0
    with Meter(sum(source.size for source in found.sources)) as meter:
        for judged in judge_all(found.sources, asked, given.jobs or usable_cores(), meter):
            kept.append(judged)
            while said < len(kept) and not _has_kin(kept[said]):
                meter.hide()
                _say(kept[said], given, out, first=said == 0)
                said += 1
    if said < len(kept):
        hold_together(_by_name(kept))
    for number in range(said, len(kept)):
        _say(kept[number], given, out, first=number == 0)
    if len(kept) > 1 and given.form == "text":
        out.write("\n" + text.tally([text.verdict(each.report) for each in kept]) + "\n")
    return kept


def _has_kin(judged: Judged) -> bool:
    """Tell whether a report may change by the others: it names child jobs, or was delegated itself."""
    report = judged.report
    return report is not None and (bool(report.children) or (report.kin is not None and report.kin.depth > 0))


def _by_name(judged: Sequence[Judged]) -> dict[str, Report]:
    """Name every report; two files whose names are written alike are told apart."""
    found: dict[str, Report] = {}
    for number, name, report in [(number, each.name, each.report) for number, each in enumerate(judged) if each.report]:
        found[name if name not in found else f"{name} (file {number + 1})"] = report
    return found


def _say(judged: Judged, given: Namespace, out: Output, *, first: bool) -> None:
    """Write one bundle's report in the forms that go bundle by bundle."""
    if judged.report is None:
        return
    paint = Paint(on=wants_colour(sys.stdout))
    if given.form == "json":
        out.write(_json(judged))
    elif given.form == "text":
        said = text.write(judged.name, judged.report, paint if out.path is None else Paint(on=False))
        out.write(("" if first else "\n") + said + "\n")
    if out.path is not None:
        say(text.headline(judged.name, judged.report, paint))


def _json(judged: Judged) -> str:
    said: dict[str, Any] = {"file": judged.name, **msgspec.to_builtins(judged.report)}
    return msgspec.json.encode(said).decode() + "\n"


def _document(form: str, judged: Sequence[Judged], status: int) -> str:
    """Write what holds all bundles at once."""
    if form == "sarif":
        from verifier.output import sarif  # noqa: PLC0415 - each form is loaded when it is asked for

        return (
            msgspec.json.format(msgspec.json.encode(sarif.write(judged, version(), status)), indent=1).decode() + "\n"
        )
    if form == "junit":
        from verifier.output import junit  # noqa: PLC0415

        return junit.write(judged)
    from verifier.output import html  # noqa: PLC0415

    return html.write(judged, version())


def _status(judged: Sequence[Judged]) -> int:
    """Take the worst; a bundle that could not even be read is a usage error, whatever the others are."""
    if any(each.report is None for each in judged):
        return USAGE
    return max((Verdict[each.report.verdict] for each in judged if each.report), default=Verdict.PASS).exit_code
