"""`tally`: the one program. `verify` and `inspect` need only the base install; the services' commands join it.

Exit status of `verify`: 0 PASS, 1 FAIL, 2 MALFORMED, 3 INCOMPLETE, 4 UNTRUSTED, 64 usage; of many files the worst.
"""

import sys
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from verifier import inspection
from verifier.audit import verify as audit
from verifier.bundle import MAX_BYTES
from verifier.codes import USAGE, Verdict
from verifier.keys import Pin
from verifier.refused import Refused
from verifier.report import Finding, Report, many

OWN = frozenset({"verify", "inspect"})
COLOURS = {"PASS": "green", "INCOMPLETE": "yellow", "FAIL": "red", "UNTRUSTED": "red", "MALFORMED": "red"}

app = typer.Typer(
    name="tally", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Signed policy, job-scoped tokens and receipts for AI agents, "
    "and proof bundles that anyone can check offline.",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a file.")]


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="Proof bundles (<job>.tally).", metavar="FILE...")],
    pin: Annotated[Path, typer.Option(help="The auditor's pin.json: root keys you trust, from a channel of your own.")],
    *,
    at: Annotated[
        str | None, typer.Option(help="Also judge the key list at this time (RFC 3339).", metavar="TIME")
    ] = None,
    max_bytes: Annotated[int, typer.Option(help="Refuse to read more than this of one file.")] = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Judge proof bundles, offline: nothing but the bundle and the pin is read, and no clock unless --at names one.

    \b
    Examples:
      tally verify job.tally --pin pin.json
      tally verify *.tally --pin pin.json --json
    """  # noqa: D301 - the backspace itself tells the CLI library to keep these lines
    pinned = Pin.parse(_read(pin))
    moment = None if at is None else _time(at)
    worst = Verdict.PASS
    for path in files:
        try:
            report = audit(path, pinned, moment, max_bytes=max_bytes)
        except OSError as error:
            raise Refused("usage", f"cannot read {path}: {error.strerror}") from error
        worst = max(worst, Verdict[report.verdict])
        _say(
            msgspec.json.encode({"file": str(path), **msgspec.to_builtins(report)}).decode()
            if as_json
            else text(path, report)
        )
    raise typer.Exit(worst.exit_code)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle, envelope, receipt, token, pin or proof.", metavar="FILE")],
    *,
    as_json: Json = False,
) -> None:
    """Show what an artefact says, without believing any of it.

    \b
    Examples:
      tally inspect job.tally
      tally inspect policy.json --json
    """  # noqa: D301 - as above
    shown = inspection.inspect(_read(file))
    _say(msgspec.json.encode(shown).decode() if as_json else inspection.text(shown))


def text(path: Path, report: Report) -> str:
    """Write a report for people."""
    totals = report.totals
    lines = [f"{typer.style(report.verdict, fg=COLOURS[report.verdict], bold=True)}  {path}"]
    lines += [
        f"  {name:9} {value}"
        for name, value in (("job", report.job), ("policy", report.policy), ("sealed", report.status))
        if value
    ]
    counts = (many(totals.calls, "call"), many(totals.denials, "denial"), f"{totals.lost} lost")
    lines.append(f"  receipts  {totals.receipts} in {many(totals.lanes, 'lane')}: {', '.join(counts)}")
    lines.append(f"  replayed  {report.replay}")
    for finding in report.findings:
        lines += _finding(path, finding)
    if report.unlisted:
        lines.append(f"  and {report.unlisted} more findings")
    for title, claims in (("Proved", report.proved), ("Not proved", report.not_proved)):
        lines += ["", title, *(f"  - {claim}" for claim in claims)] if claims else []
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; the only place where an error becomes words and an exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in OWN:
        _join()
    try:
        status = app(given, prog_name="tally", standalone_mode=False)
    except Refused as refused:
        typer.echo(
            f"tally: {_plain(refused.code)}: {_plain(refused.why)}"
            + (f" (at {_plain(refused.field)})" if refused.field else ""),
            err=True,
        )
        if refused.hint:
            typer.echo(f"hint: {_plain(refused.hint)}", err=True)
        sys.exit(USAGE if refused.code in {"usage", "bad-pin"} else 1)
    except typer.Abort:
        sys.exit(130)
    except typer.BadParameter as error:
        sys.exit(_usage(error.format_message()))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_usage(error.format_message()))
    sys.exit(status if isinstance(status, int) else 0)


def _join() -> None:
    """Add the services' commands where their extra is installed."""
    for entry in sorted(entry_points(group="tally.commands"), key=lambda each: each.name):
        try:
            joined = entry.load()
        except ModuleNotFoundError:
            continue  # the base install: the verifier alone
        app.registered_commands += [each for each in joined.registered_commands if each not in app.registered_commands]
        app.registered_groups += [each for each in joined.registered_groups if each not in app.registered_groups]


def _usage(message: str) -> int:
    typer.echo(f"tally: usage: {_plain(message)}", err=True)
    typer.echo("hint: tally --help; commands beyond verify and inspect come with tallystick[services]", err=True)
    return USAGE


def _finding(path: Path, finding: Finding) -> list[str]:
    place = [f"step {finding.step}"]
    place += [
        f"{name} {value}"
        for name, value in (
            ("line", finding.line),
            ("lane", finding.lane),
            ("receipt", finding.seq),
            ("field", finding.field),
        )
        if value is not None
    ]
    said = f"  {path.name}: {finding.verdict} {finding.code} ({_plain(', '.join(place))}): {_plain(finding.why)}"
    return [said, f"      hint: {_plain(finding.hint)}"]


def _plain(said: str) -> str:
    """Keep what a document says from steering the terminal."""
    return "".join(each if each.isprintable() else "?" for each in said)


def _say(said: str) -> None:
    typer.echo(said)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused("usage", f"cannot read {path}: {error.strerror}") from error


def _time(said: str) -> int:
    try:
        moment = datetime.fromisoformat(said)
    except ValueError as error:
        raise Refused("usage", f"--at {said!r} is not a time like 2026-11-21T12:00:00Z") from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)
