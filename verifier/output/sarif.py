"""A report as SARIF 2.1.0 (OASIS), for code-scanning dashboards: one run, one rule a code, one result a finding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from verifier.codes import CODES, Code, Verdict
from verifier.judging import Judged
from verifier.output.text import place
from verifier.report import Finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_INDEX = {code: number for number, code in enumerate(CODES)}


def write(judged: Sequence[Judged], version: str, exit_code: int) -> dict[str, Any]:
    """Write one log with one run over all bundles; a bundle that passed is an artifact without results."""
    driver = {
        "name": "tally",
        "semanticVersion": version,
        "rules": [_rule(code, known) for code, known in CODES.items()],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "utf16CodeUnits",
        "invocations": [_invocation(judged, exit_code)],
        "artifacts": [_artifact(each) for each in judged],
        "results": [
            _result(finding, number, each)
            for number, each in enumerate(judged)
            for finding in (each.report.findings if each.report else ())
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def uri(name: str) -> str:
    """Write a path as a URI reference: absolute ones as file:, every other character escaped as RFC 3986 asks."""
    if Path(name).is_absolute():
        return "file://" + quote(name)
    return "./" + quote(name) if ":" in name.partition("/")[0] else quote(name)


def _rule(code: str, known: Code) -> dict[str, Any]:
    says = known.says[0].upper() + known.says[1:] + "."
    return {
        "id": code,
        "shortDescription": {"text": says},
        "fullDescription": {"text": f"{says} A bundle with this finding is {known.verdict.name}."},
        "help": {"text": known.hint, "markdown": f"{known.hint}\n\nMore: `tally explain {code}`"},
        "defaultConfiguration": {"level": _level(known.verdict)},
        "properties": {"verdict": known.verdict.name, "exitCode": known.verdict.exit_code},
    }


def _level(verdict: Verdict) -> str:
    return "warning" if verdict is Verdict.INCOMPLETE else "error"


def _invocation(judged: Sequence[Judged], exit_code: int) -> dict[str, Any]:
    """Say whether every bundle could be judged; what could not be read is a notification, not a result."""
    unread = [{"level": "error", "message": {"text": each.unread}} for each in judged if each.unread]
    said = {"toolExecutionNotifications": unread} if unread else {}
    return {"executionSuccessful": not unread, "exitCode": exit_code, **said}


def _artifact(judged: Judged) -> dict[str, Any]:
    report = judged.report
    said = {} if report is None else {"verdict": report.verdict, "job": report.job, "policy": report.policy}
    return {
        "location": {"uri": uri(judged.name)},
        "roles": ["analysisTarget"],
        "properties": {name: value for name, value in said.items() if value is not None},
    }


def _result(finding: Finding, artifact: int, judged: Judged) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri(judged.name), "index": artifact},
            **({"region": {"startLine": finding.line}} if finding.line else {}),
        }
    }
    if finding.lane is not None:
        whole = f"{finding.lane}/{finding.seq}" if finding.seq is not None else finding.lane
        location["logicalLocations"] = [{"fullyQualifiedName": whole, "kind": "member"}]
    return {
        "ruleId": finding.code,
        "ruleIndex": _INDEX[finding.code],
        "level": _level(Verdict[finding.verdict]),
        "message": {"text": f"{finding.why} ({place(finding)}). {finding.hint}"},
        "locations": [location],
        "properties": {"step": finding.step, **({"field": finding.field} if finding.field else {})},
    }
