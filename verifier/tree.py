"""A delegation tree: a parent's report and those of its child jobs, held together (specs/seal.md §3).

A parent's seal names each child by its grant and its seal. Alone it is incomplete (`missing-child`); with its
children's bundles beside it each must be the one that was named, with its share for a purse, and pass.
"""

from collections.abc import Iterator, Mapping

from verifier.codes import Verdict
from verifier.report import Report
from verifier.seal import Child


def hold_together(reports: Mapping[str, Report]) -> None:
    """Settle the children that each report wants by the other reports, in place; the keys name where they come from.

    Deepest jobs first, so that a child's verdict stands before its parent's. A child is one deeper than its parent: no
    job is its own ancestor.
    """
    found: dict[str, list[tuple[str, Report]]] = {}
    for name, report in sorted(reports.items()):
        if report.job is not None:
            found.setdefault(report.job, []).append((name, report))
    parents = _parents(reports)
    for report in sorted(reports.values(), key=_depth, reverse=True):
        for child in report.children:
            given = found.get(child.job, [])
            if given:
                _forget(report, place_of(child))
            for name, other in given:
                for why in _misfits(report, child, other):
                    report.add("wrong-child", 12, f"{name}: {why}", place=place_of(child))
        for name in _disowned(report, parents):
            report.add(
                "wrong-child",
                12,
                f"{name}: the seal of the job that delegated this one does not name it",
                place="parent",
            )
        report.conclude()


def _parents(reports: Mapping[str, Report]) -> dict[str, list[tuple[str, Report]]]:
    """List the finally sealed jobs by their grants, which delegated jobs come from."""
    found: dict[str, list[tuple[str, Report]]] = {}
    for name, report in sorted(reports.items()):
        if report.kin is not None and report.seal is not None and report.status != "interrupted":
            for grant in report.kin.grants:
                found.setdefault(grant, []).append((name, report))
    return found


def _disowned(report: Report, parents: Mapping[str, list[tuple[str, Report]]]) -> list[str]:
    """Name the bundles of the job that delegated this one whose seals do not say so: its share was never taken off."""
    above = parents.get(report.kin.parent or "", []) if report.kin is not None else []
    return [name for name, parent in above if report.job not in {parent.job, *(child.job for child in parent.children)}]


def place_of(child: Child) -> str:
    """Say where a finding about a child stands."""
    return f"children.{child.job}"


def _depth(report: Report) -> int:
    return -1 if report.kin is None else report.kin.depth


def _misfits(report: Report, child: Child, other: Report) -> Iterator[str]:
    """Give every way in which a bundle is not what a parent's seal says of the child."""
    kin, parent = other.kin, report.kin
    if kin is None or parent is None:
        yield "the child's bundle holds no grant that can be used"
        return
    for holds, why in (
        (child.seal in {other.seal, kin.supersedes}, "sealed otherwise than the parent's seal says"),
        (kin.grant == child.grant, "opened by another grant than the parent's seal says"),
        (kin.parent in parent.grants, "not narrowed from a grant of the parent"),
        (kin.depth == parent.depth + 1, f"at depth {kin.depth}, the parent at {parent.depth}"),
        (kin.limits == child.share, "its purse is not the share that the parent gave"),
        (other.verdict == Verdict.PASS.name, f"the child's bundle is {other.verdict}"),
    ):
        if not holds:
            yield why


def _forget(report: Report, place: str) -> None:
    """Take back that a child is missing. A report with more findings than it lists keeps its verdict."""
    kept = [each for each in report.findings if (each.code, each.field) != ("missing-child", place)]
    report.findings[:] = kept
    if not report.unlisted:
        worst = max((Verdict[each.verdict] for each in kept), default=Verdict.PASS)
        report.verdict, report.exit_code = worst.name, worst.exit_code
