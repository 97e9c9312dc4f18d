"""A report for people, on a terminal or in a file."""

from collections import Counter
from collections.abc import Sequence

from verifier.codes import Verdict
from verifier.report import Finding, Report, many
from verifier.terminal import BOLD, CYAN, DIM, OF_VERDICT, Paint, plain

UNREAD = "UNREAD"  # in the place of a verdict, for a file that could not be read


def write(name: str, report: Report, paint: Paint) -> str:
    """Write one report: the verdict first, then what was read, every finding, what was proved and what was not."""
    lines = [headline(name, report, paint)]
    lines += [f"  {title:9} {plain(value)}" for title, value in summary(report)]
    for finding in report.findings:
        lines += _finding(name, finding, paint)
    if report.unlisted:
        lines.append(f"  and {report.unlisted} more findings")
    for title, claims in (("Proved", report.proved), ("Not proved", report.not_proved)):
        lines += ["", paint(title, BOLD), *(f"  - {plain(claim)}" for claim in claims)] if claims else []
    return "\n".join(lines)


def verdict(report: Report | None) -> str:
    """Name the verdict, or say that there is none."""
    return UNREAD if report is None else report.verdict


def headline(name: str, report: Report, paint: Paint) -> str:
    """Say the verdict and of what, in one line."""
    return f"{paint(report.verdict, BOLD, OF_VERDICT[report.verdict])}  {plain(name)}"


def summary(report: Report) -> list[tuple[str, str]]:
    """Say in a few lines what was read."""
    totals = report.totals
    counts = [many(totals.calls, "call"), many(totals.denials, "denial"), f"{totals.lost} lost"]
    counts += [many(count, noun) for count, noun in ((totals.holds, "hold"), (totals.disclosed, "disclosure")) if count]
    named = (("job", report.job), ("policy", report.policy), ("sealed", report.status))
    return [
        *((title, value) for title, value in named if value),
        ("receipts", f"{totals.receipts} in {many(totals.lanes, 'lane')}: {', '.join(counts)}"),
        ("replayed", report.replay),
        *([("regulated", "yes: what would be INCOMPLETE fails")] if report.regulated else []),
        *([("children", many(len(report.children), "job"))] if report.children else []),
    ]


def tally(verdicts: Sequence[str]) -> str:
    """Count the verdicts of many bundles, the worst first: `3 bundles: 1 FAIL, 2 PASS`."""
    counts = Counter(verdicts)
    worst_first = [name for name in (UNREAD, *(each.name for each in sorted(Verdict, reverse=True))) if name in counts]
    return f"{many(len(verdicts), 'bundle')}: " + ", ".join(f"{counts[name]} {name}" for name in worst_first)


def place(finding: Finding) -> str:
    """Say where: step, line, lane, receipt, field."""
    found = (("line", finding.line), ("lane", finding.lane), ("receipt", finding.seq), ("field", finding.field))
    return ", ".join([f"step {finding.step}", *(f"{name} {value}" for name, value in found if value is not None)])


def _finding(name: str, finding: Finding, paint: Paint) -> list[str]:
    short = plain(name.rpartition("/")[2])
    what = f"{paint(finding.verdict, OF_VERDICT[finding.verdict])} {paint(finding.code, BOLD)}"
    return [
        f"  {short}: {what} ({plain(place(finding))}): {plain(finding.why)}",
        f"      {paint('hint:', CYAN)} {paint(plain(finding.hint), DIM)}",
    ]
