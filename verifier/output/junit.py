"""A report as JUnit XML, for build servers: one test case a bundle, all of its findings in one failure."""

from collections.abc import Sequence
from html import escape

from verifier.codes import Verdict
from verifier.judging import Judged
from verifier.output.text import place, summary
from verifier.report import Report, many

_BROKEN = {Verdict.MALFORMED, Verdict.UNTRUSTED}


def write(judged: Sequence[Judged]) -> str:
    """Write one suite: FAIL and INCOMPLETE are failures, MALFORMED, UNTRUSTED and unreadable files are errors."""
    cases = [_case(each) for each in judged]
    failures = sum("<failure " in case for case in cases)
    errors = sum("<error " in case for case in cases)
    counts = f'tests="{len(cases)}" failures="{failures}" errors="{errors}"'
    return "\n".join(
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<testsuites name="tally verify" {counts}>',
            f'<testsuite name="tally verify" {counts} skipped="0">',
            *cases,
            "</testsuite>",
            "</testsuites>",
            "",
        )
    )


def _case(judged: Judged) -> str:
    report = judged.report
    inside = f'<error type="usage" message="{_safe(judged.unread)}"/>' if report is None else _outcome(report)
    job = (report.job if report else None) or "no job"
    return f'<testcase classname="{_safe(job)}" name="{_safe(judged.name)}">{inside}</testcase>'


def _outcome(report: Report) -> str:
    said = "\n".join([f"{report.verdict}", *(f"{title}: {value}" for title, value in summary(report))])
    out = f"<system-out>{_safe(said)}</system-out>"
    if not report.findings:
        return out
    kind = "error" if Verdict[report.verdict] in _BROKEN else "failure"
    worst = max(report.findings, key=lambda each: Verdict[each.verdict])
    more = len(report.findings) + report.unlisted - 1
    message = f"{worst.verdict} {worst.code}: {worst.why}" + (f" (and {many(more, 'more finding')})" if more else "")
    listed = [f"{each.verdict} {each.code} ({place(each)}): {each.why} {each.hint}" for each in report.findings]
    body = "\n".join(listed)
    return f'<{kind} type="{_safe(worst.code)}" message="{_safe(message)}">{_safe(body)}</{kind}>{out}'


def _safe(said: str) -> str:
    """Escape, and leave out what XML 1.0 §2.2 does not know as a character."""
    return escape("".join(each if each.isprintable() or each == "\n" else "?" for each in said))
