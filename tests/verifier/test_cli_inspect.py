"""`tally inspect`: every artefact readable, nothing believed, nothing shown that opens something."""

import base64
import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from tests.verifier.conftest import Run
from tests.world import NOW, World, pair
from verifier import inspection
from verifier.checkpoint import proof
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.inspection import inspect
from verifier.output import description


def test_a_bundle_is_counted_and_shown_line_by_line(run: Run) -> None:
    status, out, _ = run("inspect", "job.tally")
    assert status == 0
    assert out.startswith("bundle (nothing here was verified)\n  lines     19\n")
    assert "  lane-1  7     12\n" in out
    assert "signed seal      job-1, complete, 1 lane, closed 2026-09-21T14:13:23.012000Z\n" in out
    assert "  12    receipt begin    call-2, crm-mcp/get_case, allow-1\n" in out


def test_json_stands_beside_it(run: Run) -> None:
    status, out, _ = run("inspect", "job.tally", "--json")
    shown = json.loads(out)
    assert (status, shown["artefact"], shown["lines"]) == (0, "bundle", 19)
    assert shown["lanes"] == [{"lane": "lane-1", "line": 7, "receipts": 12}]
    assert shown["kinds"]["receipt"] == 12


def test_of_a_long_bundle_only_the_beginning_is_shown_and_everything_counted(run: Run, folder: Path) -> None:
    honest = (folder / "job.tally").read_bytes()
    (folder / "long.tally").write_bytes(honest + honest.splitlines(True)[-1] * 2000)
    _, out, _ = run("inspect", "long.tally", "--json")
    shown = json.loads(out)
    assert (shown["lines"], len(shown["shown"]), shown["lanes"][0]["receipts"]) == (2019, 1000, 2012)
    assert run("inspect", "long.tally")[1].endswith("  and 1019 more lines\n")


def test_lines_that_are_too_many_bytes_or_lanes_are_counted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(inspection, "MAX_SHOWN_BYTES", 9000)
    monkeypatch.setattr(inspection, "MAX_LANES", 1)
    head = next(x for x in (folder / "job.tally").read_bytes().splitlines(True) if x.startswith(b'{"head":'))
    shown = inspect(io.BytesIO((folder / "job.tally").read_bytes() + head * 3 + b'{"box":{}}\n'))
    assert shown["lines"] == 23
    assert len(shown["shown"]) < 19
    assert (len(shown["lanes"]), shown["kinds"]["head"], shown["kinds"]["box"]) == (1, 4, 1)


def test_a_bundle_that_ends_early_or_holds_nonsense_is_shown_as_far_as_it_goes(run: Run, folder: Path) -> None:
    honest = (folder / "job.tally").read_bytes()
    (folder / "odd.tally").write_bytes(honest.replace(b'{"policy":{', b'{"policy":}', 1) + b'{"kind"')
    status, out, _ = run("inspect", "odd.tally")
    assert status == 0
    assert "unreadable       not-json: no artefact that tally knows: not JSON\n" in out
    assert "stopped   truncated: the last line does not end in a newline\n" in out


def test_gzip_and_standard_input_are_read(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress((folder / "job.tally").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed))))
    assert run("inspect", "-")[1].startswith("bundle")


def artefacts() -> dict[str, bytes]:
    """One of every kind."""
    world = World().story()
    lane = world.lanes[0]
    whole = proof(lane.raws[0], 0, [], lane.head())
    report = {"file": "x", "verdict": "PASS", "findings": [], "totals": {"lanes": 1}, "job": None}
    side = {"content": "eA==", "index": 1, "path": [], "salt": "eA==", "side": "req"}
    return {
        "pin": canonical(world.pin()),
        "signed policy": seal_up("policy", world.policy_payload, pair("author")),
        "signed grant": b'{"grant":' + seal_up("grant", world.grant_payload, pair("grant")) + b"}",
        "receipt open": lane.raws[0] + b"\n",
        "receipt close": lane.raws[-1],
        "token": b"eyJhbGciOiJFZERTQSJ9.eyJqdGkiOiJ0b2tlbi0xIn0.c2lnbmF0dXJl",
        "tlog-proof": whole.encode(),
        "checkpoint": lane.head().encode(),
        "head": canonical({"head": {"lane": "lane-1", "note": lane.head()}}),
        "header": b'{"header":{"job":"job-1"}}'.replace(b'{"header":', b' {"header":'),
        "disclosure": canonical({"disclosure": side}),
        "box": canonical({"auditor": "a", "ciphertext": "eA==", "side": "sent"}),
        "report": canonical(report),
        "policy draft": b'{"wpc_version":"v1","policy_name":"a","budgets":{"cost_nano_usd":1500000000},"x":[[1],{}]}',
        "JSON object": b'{"name":"a draft","list":[1,true,null],"none":{},"more":[]}',
        "JSON lines": canonical(report) + b"\n" + canonical(report) + b"\n",
    }


@pytest.mark.parametrize("name", artefacts())
def test_every_artefact_is_known(run: Run, folder: Path, name: str) -> None:
    (folder / "artefact").write_bytes(artefacts()[name])
    status, out, err = run("inspect", "artefact")
    assert (status, err, out.partition(" (nothing here was verified)\n")[0]) == (0, "", name)
    assert json.loads(run("inspect", "artefact", "--json")[1])["artefact"] == name


def test_a_proof_is_read_as_it_comes_in_a_header_and_says_of_which_tree(run: Run, folder: Path) -> None:
    (folder / "artefact").write_bytes(base64.b64encode(artefacts()["tlog-proof"]))
    _, out, _ = run("inspect", "artefact")
    assert "tree.origin" in out
    assert "extra.artefact" in out
    lane = World().story().lanes[0]
    (folder / "artefact").write_bytes(canonical({"log": proof(b"sha256:00", 0, [], lane.head())}))
    assert json.loads(run("inspect", "artefact", "--json")[1])["extra"] == "sha256:00"


def test_what_opens_something_is_not_shown(run: Run, folder: Path) -> None:
    (folder / "artefact").write_bytes(artefacts()["token"])
    assert "c2lnbmF0dXJl" not in run("inspect", "artefact")[1]
    (folder / "artefact").write_bytes(b'{"ed25519_seed":"c2VjcmV0","list":[{"hpke_seed":"c2VjcmV0"}]}')
    for option in ([], ["--json"]):
        out = run("inspect", "artefact", *option)[1]
        assert "c2VjcmV0" not in out
        assert "(left out)" in out


def test_times_and_money_are_written_in_words() -> None:
    said = description.write(
        {"artefact": "x", "value": {"expires": NOW, "exp": NOW // 10**6, "cost_nano_usd": 15 * 10**8}}
    )
    assert "2026-09-21T14:13:20Z" in said.splitlines()[1]
    assert "2026-09-21T14:13:20Z" in said.splitlines()[2]
    assert said.endswith("$1.500000000")


def test_long_text_and_many_rows_are_shortened() -> None:
    said = description.write({"artefact": "x", "value": {"a": "b" * 1000, **{str(n): n for n in range(500)}}})
    assert "(1000 characters)" in said
    assert said.endswith("and 101 more rows: --json shows all")


@pytest.mark.parametrize("content", [b"[1]", b"\0\1", b"a.b!.c", b"", b"x" * 100, b"x" * 5_000_000])
def test_what_is_no_artefact_is_refused(run: Run, folder: Path, content: bytes) -> None:
    (folder / "artefact").write_bytes(content)
    status, out, err = run("inspect", "artefact")
    assert (status, out) == (1, "")
    assert err.startswith("tally: ")
    assert "Traceback" not in err


def test_a_folder_and_half_a_character_are_refused(run: Run, folder: Path) -> None:
    assert run("inspect", ".")[0] == 64
    (folder / "artefact").write_bytes(b'{"receipt":1,"kind":"\\ud800","seq":1}')
    assert run("inspect", "artefact")[0] == 1


def test_a_line_says_nothing_where_fields_are_missing() -> None:
    assert description.says({"artefact": "signed seal", "payload": {"lanes": 3, "job": "j"}}) == "j"
    assert description.says({"artefact": "signed keys", "payload": {"version": 1, "keys": []}}) == "version 1"
