"""The forms of a report: SARIF, JUnit and HTML hold what their standards ask for, and no document can break out."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.verifier.conftest import Run
from tests.world import NOW, SECOND, World
from verifier.codes import CODES, Verdict
from verifier.grant import Budget
from verifier.judging import Judged
from verifier.output import html, junit, sarif, svg, text
from verifier.report import Report, Totals
from verifier.seal import Child
from verifier.terminal import version
from verifier.timeline import Event, LaneTime, Revoked, Timeline
from verifier.times import words

PIN = ("--pin", "pin.json")
ALL = ("job.tally", "forged.tally", "cut.tally", "open.tally")
HOSTILE = "<script>alert(1)</script>\x1b[2J\x00]]>&\"'\ud800"


def hostile() -> Judged:
    """A report whose every word would break out."""
    report = Report(job=HOSTILE, policy=HOSTILE, status=HOSTILE, proved=[HOSTILE], not_proved=[HOSTILE])
    report.add("wrong-seq", 7, HOSTILE, line=3, lane=HOSTILE, seq=1, place=HOSTILE, hint=HOSTILE)
    report.add("no-seal", 5, HOSTILE)
    lane = LaneTime(lane=HOSTILE, first=NOW, last=NOW + SECOND, receipts=1)
    kinds = ("model", "tool", "deny", "hold", "note")
    events = [
        Event(kind=kind, lane=HOSTILE, seq=1, time=NOW, until=NOW + SECOND, what=HOSTILE, status=HOSTILE)
        for kind in kinds
    ]
    timeline = Timeline(
        lanes=[lane], events=events, revocations=[Revoked(NOW, HOSTILE)], thinned=1, undrawn=2, unread=3
    )
    return Judged(name=HOSTILE, report=report, timeline=timeline)


# SARIF ---------------------------------------------------------------------------------------------------------------


def check_sarif(log: dict[str, Any]) -> None:
    """Check what SARIF 2.1.0 (OASIS) asks of the parts that are used: §3.13, 3.14, 3.19, 3.27, 3.49 and others."""
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    for run in log["runs"]:
        driver = run["tool"]["driver"]
        assert driver["name"]
        assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", driver["semanticVersion"])
        identifiers = [rule["id"] for rule in driver["rules"]]
        assert len(identifiers) == len(set(identifiers))
        for rule in driver["rules"]:
            assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
            assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
            assert rule["shortDescription"]["text"].endswith(".")
        assert run["columnKind"] in {"utf16CodeUnits", "unicodeCodePoints"}
        for invocation in run["invocations"]:
            assert isinstance(invocation["executionSuccessful"], bool)
            assert all(each["message"]["text"] for each in invocation.get("toolExecutionNotifications", ()))
        for artifact in run["artifacts"]:
            assert re.fullmatch(r"[A-Za-z0-9._~:/%@!$&'()*+,;=-]+", artifact["location"]["uri"])
        for result in run["results"]:
            assert identifiers[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] in {"none", "note", "warning", "error"}
            assert result["message"]["text"]
            for location in result["locations"]:
                place = location["physicalLocation"]
                artifact = run["artifacts"][place["artifactLocation"]["index"]]
                assert artifact["location"]["uri"] == place["artifactLocation"]["uri"]
                assert place.get("region", {"startLine": 1})["startLine"] >= 1
                assert all(each["fullyQualifiedName"] for each in location.get("logicalLocations", ()))


def test_sarif_holds_every_finding_with_rule_place_and_help(run: Run) -> None:
    status, out, _ = run("verify", *ALL, *PIN, "--sarif")
    log = json.loads(out)
    check_sarif(log)
    found = log["runs"][0]
    assert [rule["id"] for rule in found["tool"]["driver"]["rules"]] == list(CODES)
    assert found["invocations"] == [{"executionSuccessful": True, "exitCode": status}]
    assert [each["properties"]["verdict"] for each in found["artifacts"]] == ["PASS", "FAIL", "MALFORMED", "INCOMPLETE"]
    decision = next(each for each in found["results"] if each["ruleId"] == "wrong-decision")
    assert decision["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "forged.tally", "index": 1},
                "region": {"startLine": 12},
            },
            "logicalLocations": [{"fullyQualifiedName": "lane-1/4", "kind": "member"}],
        }
    ]
    assert {each["level"] for each in found["results"] if each["ruleId"] == "no-seal"} == {"warning"}


def test_sarif_names_files_as_uris_and_takes_hostile_words() -> None:
    judged = hostile()
    judged.name = judged.name.replace("\ud800", "")
    check_sarif(sarif.write([judged], "1.0.0", 1))
    assert sarif.uri("/a/b c.tally") == "file:///a/b%20c.tally"
    assert sarif.uri("a:b.tally") == "./a%3Ab.tally"
    assert sarif.uri("x/a:b.tally") == "x/a%3Ab.tally"


# JUnit ---------------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_a_bundle_and_counts_them(run: Run) -> None:
    _, out, _ = run("verify", *ALL, *PIN, "--junit")
    suites = ET.fromstring(out)  # noqa: S314 - our own output
    assert (suites.tag, [each.tag for each in suites]) == ("testsuites", ["testsuite"])
    assert {name: suites[0].get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "2", "errors": "1", "skipped": "0",
    }  # fmt: skip
    assert [case.get("name") for case in suites[0]] == list(ALL)
    assert [case[0].tag for case in suites[0]] == ["system-out", "failure", "error", "failure"]
    failure = suites[0][1][0]
    assert failure.get("type") in CODES
    assert "wrong-decision (step 9, line 12" in (failure.text or "")


def test_junit_is_well_formed_whatever_a_document_says() -> None:
    case = ET.fromstring(junit.write([hostile()]))[0][0]  # noqa: S314 - our own output
    assert case.get("name") == "<script>alert(1)</script>?[2J?]]>&\"'?"
    assert "FAIL wrong-seq: " in (case[0].get("message") or "")
    assert "(and 1 more finding)" in (case[0].get("message") or "")


# HTML ----------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects a page's tags and attributes, and checks that they are closed."""

    VOID = frozenset({"meta", "path", "rect", "circle"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(run: Run) -> str:
    return run("verify", *ALL, *PIN, "--html")[1]


def test_the_page_says_verdict_findings_proofs_and_what_was_not_proved(page: str) -> None:
    assert "<h1>4 bundles: 1 MALFORMED, 1 FAIL, 1 INCOMPLETE, 1 PASS</h1>" in page
    assert "<code>wrong-decision</code>" in page
    assert "none was changed, dropped, added or moved since." in page
    assert "That no call went past the gateway" in page
    assert page.count("<svg ") == 4
    assert "Not sealed." in page


def test_the_page_needs_nothing_from_outside_and_its_policy_forbids_it(page: str) -> None:
    read = Page(page)
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & set(read.tags)
    named = {name for name, _ in read.attributes}
    assert not {name for name in named if name.startswith("on")} | named & {"style", "src", "action", "srcset"}
    assert {value for name, value in read.attributes if name == "href"} == {f"#bundle-{n}" for n in range(4)}
    assert "url(" not in page
    assert "@import" not in page
    style = re.search(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert style is not None
    allowed = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = (
        dict(read.attributes)["content"] if False else next(v for n, v in read.attributes if v and "default-src" in v)
    )
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"


def test_no_word_of_a_document_becomes_markup() -> None:
    page = html.write([hostile()], HOSTILE)
    read = Page(page)
    assert "script" not in read.tags
    assert page.encode()
    assert "\x1b" not in page
    assert "Left out of the picture: 1 event, 2 lanes, 3 unreadable lines." in page


def test_a_page_of_one_bundle_has_its_name_in_the_title(run: Run) -> None:
    page = run("verify", "job.tally", *PIN, "--html")[1]
    assert "<title>PASS job.tally · tally verify</title>" in page
    assert "<nav>" not in page
    assert "<p>None.</p>" in page


def test_many_findings_are_folded_and_beyond_a_limit_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report()
    for number in range(20):
        report.add("wrong-seq", 7, f"number {number}")
    assert "<summary>17 more</summary>" in html.write([Judged(name="x", report=report)], "1")
    monkeypatch.setattr(html, "MAX_FINDINGS", 10)
    assert "and 10 more findings: <code>tally verify --json</code>" in html.write(
        [Judged(name="x", report=report)], "1"
    )


def test_a_bundle_without_lanes_has_no_picture() -> None:
    assert "<p>No lane.</p>" in html.write([Judged(name="x", report=Report(), timeline=Timeline())], "1")


# The picture ---------------------------------------------------------------------------------------------------------


def lane(*events: Event, last: int = NOW + 100 * SECOND, marks: list[int] | None = None) -> Timeline:
    made = LaneTime(lane="l", first=NOW, last=last, receipts=9, marks=marks or [])
    return Timeline(lanes=[made], events=list(events), opened=NOW, closed=last)


def call(begin: int, end: int, status: str = "ok", kind: str = "tool") -> Event:
    return Event(
        kind=kind, lane="l", seq=1, time=NOW + begin * SECOND, until=NOW + end * SECOND if end else 0,
        what="crm/get_case", status=status,
    )  # fmt: skip


def test_calls_at_the_same_time_stand_in_rows_and_never_in_more_than_four() -> None:
    drawn = svg.draw(lane(*(call(n, 90 + n) for n in range(6)), call(98, 99)))
    tops = [int(top) for top in re.findall(r'<rect [^>]* y="(\d+)"', drawn)]
    assert sorted(set(tops)) == [22, 41, 60, 79]
    assert tops[-1] == 22


def test_a_call_that_failed_or_has_no_end_looks_otherwise_and_a_short_one_has_no_name_inside() -> None:
    drawn = svg.draw(lane(call(0, 50), call(50, 51, "lost"), call(60, 0, "no end", kind="model")))
    assert re.findall(r'class="call (\w+)"', drawn) == ["tool", "bad", "open"]
    assert drawn.count('<text class="name"') == 2


def test_what_lies_outside_the_receipts_stands_at_the_edge() -> None:
    drawn = svg.draw(lane(call(0, 1), marks=[0, 2**53 - 1]))
    assert 'class="mark" d="M14.0 ' in drawn
    assert 'class="mark" d="M986.0 ' in drawn


@pytest.mark.parametrize(("span", "said"), [(1, "14:13:19.975<"), (1000, "14:12:55<"), (90_000, "2026-09-21 13:35<")])
def test_times_are_as_short_as_the_span_allows(span: int, said: str) -> None:
    drawn = svg.draw(lane(call(0, 1), last=NOW + span * SECOND))
    assert said in drawn


def test_a_lane_without_receipts_can_be_drawn() -> None:
    assert svg.draw(Timeline(lanes=[LaneTime(lane="l")])).startswith("<svg ")


# Small things --------------------------------------------------------------------------------------------------------


def test_times_in_words_never_fail() -> None:
    assert [words(each) for each in (-1, 0, NOW)] == ["1970-01-01T00:00:00Z"] * 2 + ["2026-09-21T14:13:20Z"]
    assert words(2**63).startswith("2255-06-05T")


def test_holds_disclosures_regulation_and_children_are_said_where_there_are_any() -> None:
    said = dict(text.summary(Report()))
    assert said == {"receipts": "0 in 0 lanes: 0 calls, 0 denials, 0 lost", "replayed": "none"}
    child = Child(job="j", grant="sha256:" + "0" * 64, seal="sha256:" + "0" * 64, share=Budget())
    report = Report(totals=Totals(holds=1, disclosed=2), regulated=True, children=[child])
    said = dict(text.summary(report))
    assert said["receipts"].endswith("0 lost, 1 hold, 2 disclosures")
    assert said["regulated"] == "yes: what would be INCOMPLETE fails"
    assert said["children"] == "1 job"


def test_the_worst_verdicts_are_counted_first() -> None:
    assert text.tally([each.name for each in Verdict]) == (
        "5 bundles: 1 MALFORMED, 1 UNTRUSTED, 1 FAIL, 1 INCOMPLETE, 1 PASS"
    )


def test_a_program_that_is_not_installed_has_a_version_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert version() == "0.0.0"


def test_the_page_goes_into_a_file(run: Run, folder: Path) -> None:
    world = World().story()
    world.revoke("jti", "token-9", NOW + 2 * SECOND)
    (folder / "revoked.tally").write_bytes(world.bundle())
    assert run("verify", "revoked.tally", *PIN, "--html", "-o", "page.html")[1].endswith("  revoked.tally\n")
    assert "revoked: jti token-9" in (folder / "page.html").read_text()
