"""A report as one page: no script, nothing from outside, every word escaped (specs/verification.md §17)."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from verifier.codes import Verdict
from verifier.judging import Judged
from verifier.output import svg
from verifier.output.style import STYLE
from verifier.output.text import place, summary, tally
from verifier.output.text import verdict as verdict_of
from verifier.report import Finding, Report, many
from verifier.terminal import plain
from verifier.timeline import Event, Timeline
from verifier.times import words

MAX_FINDINGS, MAX_PICTURES, SHOWN = 1000, 100, 3
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_LEGEND = (
    ("model", "model call"), ("tool", "tool call"), ("bad", "failed or lost call"),
    ("open", "call without an end"), ("deny", "denial"),
    ("hold", "hold"), ("note", "note"), ("mark", "mark by scope"), ("revoked", "revocation"),
)  # fmt: skip


def write(judged: Sequence[Judged], version: str) -> str:
    """Write the page: the verdicts first, then each bundle."""
    verdicts = [verdict_of(each.report) for each in judged]
    title = tally(verdicts) if len(judged) != 1 else f"{verdicts[0]} {judged[0].name}"
    bundles = "".join(_bundle(number, each) for number, each in enumerate(judged))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_safe(title)} · tally verify</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{_contents(judged, verdicts) if len(judged) > 1 else ""}{bundles}
</main>
<footer>Written by tally {_safe(version)}. This page is a copy of what the verifier said: whoever wants to be sure runs
<code>tally verify</code> on the bundle with a pin of their own.</footer>
</body>
</html>
"""


def _contents(judged: Sequence[Judged], verdicts: Sequence[str]) -> str:
    rows = "".join(
        f'<li>{_badge(verdict)} <a href="#bundle-{number}">{_safe(each.name)}</a></li>'
        for number, (each, verdict) in enumerate(zip(judged, verdicts, strict=True))
    )
    return f"<nav><h1>{_safe(tally(verdicts))}</h1><ol>{rows}</ol></nav>"


def _bundle(number: int, judged: Judged) -> str:
    report = judged.report
    verdict = verdict_of(report)
    head = (
        f'<section id="bundle-{number}" class="{verdict}"><h2>{_badge(verdict)} <span>{_safe(judged.name)}</span></h2>'
    )
    if report is None:
        return f"{head}<p>{_safe(judged.unread)}</p></section>"
    facts = "".join(f"<dt>{name}</dt><dd>{_safe(value)}</dd>" for name, value in summary(report))
    picture = _timeline(judged.timeline) if judged.timeline and number < MAX_PICTURES else ""
    return f"{head}<dl>{facts}</dl>{_findings(report)}{_claims(report)}{picture}</section>"


def _findings(report: Report) -> str:
    """List the findings by code, the worst first: what each code says to do is said once."""
    if not report.findings:
        return "<h3>Findings</h3><p>None.</p>"
    by_code: dict[tuple[int, str, str], list[Finding]] = {}
    for finding in report.findings[:MAX_FINDINGS]:
        by_code.setdefault((-Verdict[finding.verdict], finding.code, finding.hint), []).append(finding)
    total = len(report.findings) + report.unlisted
    left = total - min(len(report.findings), MAX_FINDINGS)
    more = f"<p>and {many(left, 'more finding')}: <code>tally verify --json</code> lists them.</p>" if left else ""
    return f"<h3>{many(total, 'finding')}</h3>{''.join(_code(by_code[each]) for each in sorted(by_code))}{more}"


def _code(found: list[Finding]) -> str:
    first = found[0]
    times = f" <small>{len(found)} times</small>" if len(found) > 1 else ""
    rest = "".join(map(_place, found[SHOWN:]))
    folded = f"<details><summary>{len(found) - SHOWN} more</summary><ul>{rest}</ul></details>" if rest else ""
    return (
        f"<article><h4>{_badge(first.verdict)} <code>{_safe(first.code)}</code>{times}</h4>"
        f"<ul>{''.join(map(_place, found[:SHOWN]))}</ul>{folded}<p class=hint>{_safe(first.hint)}</p></article>"
    )


def _place(finding: Finding) -> str:
    return f"<li>{_safe(finding.why)} <small>({_safe(place(finding))})</small></li>"


def _claims(report: Report) -> str:
    columns = (("Proved", report.proved or ["Nothing: the verdict is not PASS."]), ("Not proved", report.not_proved))
    lists = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{_safe(claim)}</li>' for claim in claims)}</ul></div>"
        for title, claims in columns
    )
    return f"<div class=claims>{lists}</div>"


def _timeline(timeline: Timeline) -> str:
    """Show the picture, a legend, and the same events as a table for whoever cannot see it."""
    if not timeline.lanes:
        return "<h3>Timeline</h3><p>No lane.</p>"
    legend = "".join(f'<li><i class="{kind}"></i>{said}</li>' for kind, said in _LEGEND)
    left_out = [
        said for count, said in (
            (timeline.thinned, many(timeline.thinned, "event")), (timeline.undrawn, many(timeline.undrawn, "lane")),
            (timeline.unread, many(timeline.unread, "unreadable line")),
        ) if count
    ]  # fmt: skip
    note = f" Left out of the picture: {', '.join(left_out)}." if left_out else ""
    sealed = f"Opened {words(timeline.opened)}, sealed {words(timeline.closed)}." if timeline.closed else "Not sealed."
    rows = "".join(map(_event, timeline.events))
    return (
        f"<h3>Timeline</h3><p>What the bundle says happened; whether it is true, the findings say. {sealed}{note}</p>"
        f"<div class=wide tabindex=0>{svg.draw(timeline)}</div><ul class=legend>{legend}</ul>"
        f"<details><summary>{many(len(timeline.events), 'event')} as a table</summary><div class=wide tabindex=0>"
        f"<table><tr><th>time</th><th>lane</th><th>receipt</th><th>kind</th><th>what</th><th>outcome</th></tr>{rows}</table>"
        "</div></details>"
    )


def _event(event: Event) -> str:
    cells = (words(event.time), event.lane, str(event.seq), event.kind, event.what, event.status)
    return f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in cells)}</tr>"


def _badge(verdict: str) -> str:
    return f'<b class="badge {verdict}">{verdict}</b>'


def _safe(said: str) -> str:
    """Escape, and leave out what is no character a person can see."""
    return escape(plain(said))
