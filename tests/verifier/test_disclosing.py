"""`tally disclose`, `open`, `keygen`: what one auditor is shown, and what one can open."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.world import NOW, World
from verifier.box import AuditorKey, seal_box
from verifier.commands import disclose as command
from verifier.commitment import call_key, commit
from verifier.contents import AuditorFile, auditor_key, bundle
from verifier.disclosure import Disclosure, check
from verifier.encoding import b64, canonical
from verifier.keys import Key
from verifier.leaf import Target
from verifier.policy import DAY
from verifier.reveal import BOX, DISCLOSURE, MAX_BEHIND, places

Run = Callable[..., tuple[int, str, str]]
SLICES = [b'{"arguments":{', b'"amount":10.50', b",", b'"to":"a@b.example\\u001b[31m"', b"}}"]
KEY = call_key(bytes(32), "call-2", "sent")
AUDITOR, OTHER = AuditorKey(bytes(range(32))), AuditorKey(bytes(32))


def story(
    *keys: AuditorKey, sent: list[bytes] = SLICES, sealed: list[bytes] | None = None, side: Any = "sent", **given: Any
) -> World:
    """Play a job whose second call has a body that was cut, and perhaps sealed to some keys."""
    world = World(**given)
    lane = world.lane()
    lane.model("call-1", "get_case")
    body = commit(KEY, sent)
    boxes = [seal_box(key.public, body, side, KEY, sealed or sent) for key in sorted(keys, key=lambda each: each.kid)]
    lane.tool("call-2", sent=body, boxes=lane.boxed(*boxes) if boxes else None)
    lane.deny("call-3", Target(server="crm-mcp", tool="http_request"))
    lane.close()
    return world


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    raw = story().bundle()
    Path("job.tally").write_bytes(raw)
    Path("boxed.tally").write_bytes(story(AUDITOR, OTHER).bundle())
    Path("body").write_bytes(b"".join(SLICES))
    for name, content in {
        "key": b64(KEY).encode() + b"\n",
        "header": f"req={b64(bytes(32))},sent={b64(KEY)}".encode(),
        "auditor": canonical(AuditorFile(use="auditor", owner="o", hpke_seed=b64(AUDITOR.seed))),
        "stranger": canonical(AuditorFile(use="auditor", owner="o", hpke_seed=b64(bytes(31) + b"\1"))),
    }.items():
        Path(name).write_bytes(content)
        Path(name).chmod(0o600)
    return tmp_path


def disclose(run: Run, *arguments: str, out: str = "shown.tally", bundle: str = "job.tally") -> tuple[int, str, str]:
    given = ["--call", "call-2", "--side", "sent", "--key-file", "key", "--body", "body", "-o", out]
    return run("disclose", bundle, *given, *arguments)


def behind(path: str) -> list[tuple[str, Disclosure]]:
    """Read what is disclosed, and behind which receipt."""
    with Path(path).open("rb") as file:
        return [(str(place.leaf and place.leaf.kind), each) for place in places(file) for each in place.disclosures]


# Disclosing -----------------------------------------------------------------------------------------------------------


def test_one_argument_is_shown_and_everything_else_stays_as_it_was(run: Run) -> None:
    assert disclose(run, "--argument", "amount")[0] == 0
    assert [(kind, each.index, check(each, commit(KEY, SLICES))) for kind, each in behind("shown.tally")] == [
        ("begin", 1, b'"amount":10.50')
    ]
    lines = Path("shown.tally").read_bytes().splitlines(keepends=True)
    assert b"".join(each for each in lines if not each.startswith(DISCLOSURE)) == Path("job.tally").read_bytes()
    assert Path("shown.tally").stat().st_mode & 0o777 == 0o600


def test_one_slice_or_all_are_shown_in_order_and_none_twice(run: Run) -> None:
    assert disclose(run, "--slice", "3", "--key-file", "header")[0] == 0
    assert disclose(run, "--slice", "1", bundle="shown.tally", out="two.tally")[0] == 0
    assert [each.index for _, each in behind("two.tally")] == [1, 3]
    assert disclose(run, "--all", bundle="two.tally", out="all.tally")[0] == 0
    assert [each.index for _, each in behind("all.tally")] == [0, 1, 2, 3, 4]


def test_disclosures_stand_before_sealed_payloads(run: Run) -> None:
    assert disclose(run, "--slice", "1", bundle="boxed.tally")[0] == 0
    kinds = [line[:6] for line in Path("shown.tally").read_bytes().splitlines() if line.startswith((DISCLOSURE, BOX))]
    assert kinds == [DISCLOSURE[:6], BOX[:6], BOX[:6]]


def test_a_denied_call_and_an_answer_can_be_shown_too(run: Run) -> None:
    for call, side in (("call-3", "req"), ("call-1", "dlv")):
        Path("body").write_bytes(f"{call} {side}".encode())
        Path("other").write_bytes(b64(call_key(bytes(32), call, side)).encode())  # type: ignore[arg-type]
        Path("other").chmod(0o600)
        given = ["--call", call, "--side", side, "--key-file", "other", "--body", "body", "--all"]
        assert run("disclose", "job.tally", *given, "-o", f"{side}.tally")[0] == 0
        assert [kind for kind, _ in behind(f"{side}.tally")] == ["deny" if side == "req" else "end"]


def test_a_held_call_is_shown_behind_its_hold_and_behind_its_begin(run: Run) -> None:
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.hold("call-2", Target(server="crm-mcp", tool="get_case"), sent=commit(KEY, SLICES))
    lane.tool("call-2", sent=commit(KEY, SLICES))
    Path("job.tally").write_bytes(world.bundle())
    assert disclose(run, "--argument", "to")[0] == 0
    assert [(kind, each.index) for kind, each in behind("shown.tally")] == [("hold", 3), ("begin", 3)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--argument", "nothing"], "wrong-disclosure"),
        (["--slice", "5"], "wrong-disclosure"),
        (["--slice=-1"], "wrong-disclosure"),
        (["--all", "--call", "call-9"], "wrong-disclosure"),
        (["--all", "--side", "recv"], "wrong-disclosure"),
        (["--all", "--call", "call-1"], "wrong-disclosure"),
        (["--all", "--body", "job.tally"], "wrong-disclosure"),
        (["--all", "--key-file", "missing"], "no-key"),
        (["--all", "--key-file", "loose"], "loose-mode"),
        (["--all", "--key-file", "short"], "bad-key"),
        (["--all", "--key-file", "auditor"], "bad-base64"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(run: Run, arguments: list[str], code: str) -> None:
    Path("loose").write_bytes(b64(KEY).encode())
    Path("short").write_bytes(b"QQ==")
    Path("short").chmod(0o600)
    before = set(Path().iterdir())
    status, out, err = disclose(run, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"tally: {code}: ")
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--all", "--slice", "1"], ["--all", "--side", "front"], ["--all", "--body", "missing"],
        ["--all", "-o", "missing/shown.tally"],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_64(run: Run, arguments: list[str]) -> None:
    status, _, err = disclose(run, *arguments)
    assert status == 64
    assert err.startswith("tally: usage: ")
    assert disclose(run, "--all", bundle="missing.tally")[0] == 64


def test_nothing_is_overwritten(run: Run) -> None:
    status, _, err = disclose(run, "--all", out="job.tally")
    assert status == 1
    assert err.startswith("tally: not-empty: ")
    assert Path("job.tally").read_bytes() == story().bundle()


def test_a_body_that_was_not_cut_has_no_argument(run: Run) -> None:
    Path("body").write_bytes(b"call-2 req")
    Path("key").write_bytes(b64(call_key(bytes(32), "call-2", "req")).encode())
    assert "no argument" in disclose(run, "--side", "req", "--argument", "amount")[2]


def test_a_body_beyond_the_limit_is_not_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_BODY", 3)
    assert disclose(run, "--all")[2].startswith("tally: too-large: ")


def test_a_bundle_with_too_much_behind_one_receipt_is_not_read(run: Run) -> None:
    line = BOX + canonical(seal_box(AUDITOR.public, commit(KEY, SLICES), "sent", KEY, [bytes(1 << 20)])) + b"}\n"
    raw = Path("boxed.tally").read_bytes()
    Path("huge.tally").write_bytes(raw.replace(BOX, line * (MAX_BEHIND // len(line) + 1) + BOX, 1))
    status, _, err = disclose(run, "--all", bundle="huge.tally")
    assert (status, err.split(":")[1]) == (1, " too-large")
    assert not Path("shown.tally").exists()


def test_a_packed_bundle_is_read_and_a_folder_of_many_is_not(run: Run) -> None:
    Path("packed.tally.gz").write_bytes(gzip.compress(Path("job.tally").read_bytes()))
    assert disclose(run, "--all", bundle="packed.tally.gz")[0] == 0
    assert disclose(run, "--all", bundle=".", out="other.tally")[:2] == (64, "")
    assert disclose(run, "--all", bundle="/proc/self/mem", out="other.tally")[:2] == (64, "")


def test_a_reader_that_leaves_is_no_trouble_with_the_bundle(folder: Path) -> None:
    with pytest.raises(BrokenPipeError), bundle(str(folder / "job.tally")):
        raise BrokenPipeError


# Opening --------------------------------------------------------------------------------------------------------------


def test_an_auditor_opens_what_is_sealed_to_it_and_the_rest_is_named(run: Run) -> None:
    status, out, _ = run("open", "boxed.tally", "--key", "auditor")
    assert status == 0
    assert "call-2 sent (lane lane-1, receipt 4): 59 bytes in 5 slices" in out
    assert '"amount":10.50' in out
    assert f"wrong-recipient: sealed to key {OTHER.kid}" in out


def test_content_cannot_steer_the_terminal(run: Run) -> None:
    hostile = [b"\x1b]0;title\x07\x9b31m\r", "\u202e\n".encode(), b"\xff"]
    Path("hostile.tally").write_bytes(story(AUDITOR, sent=hostile).bundle())
    _, out, _ = run("open", "hostile.tally", "--key", "auditor")
    assert not [each for each in out if not each.isprintable() and each != "\n"]
    assert "\\x1b]0;title\\x07" in out
    assert "\\u202e" in out


def test_payloads_come_out_as_json(run: Run) -> None:
    status, out, _ = run("open", "boxed.tally", "--key", "auditor", "--json", "--call", "call-2")
    found = {each["auditor"]: each for each in map(json.loads, out.splitlines())}
    assert status == 0
    assert found[AUDITOR.kid]["slices"] == [b64(each) for each in SLICES]
    assert (found[AUDITOR.kid]["refused"], found[OTHER.kid]["refused"]) == (None, "wrong-recipient")
    assert run("open", "boxed.tally", "--key", "auditor", "--call", "call-1")[:2] == (3, "")


def test_bodies_are_written_into_private_files_and_none_is_overwritten(run: Run) -> None:
    status, out, _ = run("open", "boxed.tally", "--key", "auditor", "-o", "bodies")
    assert status == 0
    assert "amount" not in out
    assert Path("bodies/lane-1-4-sent").read_bytes() == b"".join(SLICES)
    assert Path("bodies/lane-1-4-sent").stat().st_mode & 0o777 == 0o600
    assert run("open", "boxed.tally", "--key", "auditor", "-o", "bodies")[2].startswith("tally: not-empty: ")
    assert run("open", "boxed.tally", "--key", "auditor", "-o", "key")[0] == 64


def test_a_bundle_without_a_payload_for_the_key_is_said(run: Run) -> None:
    for name in ("boxed.tally", "job.tally"):
        status, _, err = run("open", name, "--key", "stranger")
        assert status == 3
        assert err.startswith("tally: wrong-recipient: nothing in this bundle is sealed to this key\nhint: ")


@pytest.mark.parametrize("bent", ["other body", "other side", "moved"])
def test_a_payload_that_does_not_fit_its_receipt_is_named(run: Run, bent: str) -> None:
    if bent == "other body":
        raw = story(AUDITOR, sealed=SLICES[:3]).bundle()
    elif bent == "other side":
        raw = story(AUDITOR, side="dlv").bundle()
    else:
        lines = story(AUDITOR).bundle().splitlines(keepends=True)
        at = next(at for at, line in enumerate(lines) if line.startswith(BOX))
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        raw = b"".join(lines)
    Path("bent.tally").write_bytes(raw)
    status, out, _ = run("open", "bent.tally", "--key", "auditor")
    assert status == 1
    assert "wrong-box" in out


@pytest.mark.parametrize("content", [b"", b"{}", b'{"use":"auditor","owner":"o","hpke_seed":"QQ=="}', b"x" * 5000])
def test_a_file_that_is_no_auditors_key_is_refused(run: Run, content: bytes) -> None:
    Path("auditor").write_bytes(content)
    assert run("open", "boxed.tally", "--key", "auditor")[2].startswith("tally: bad-key: ")


# Keys -----------------------------------------------------------------------------------------------------------------


def test_an_auditors_key_is_made_private_and_its_public_half_is_said(run: Run) -> None:
    status, out, _ = run("keygen", "auditor", "--owner", "auditor-1", "-o", "new")
    made = auditor_key(Path("new").read_bytes())
    assert status == 0
    assert json.loads(out) == {"hpke": b64(made.public), "kid": made.kid, "owner": "auditor-1", "use": "auditor"}
    assert Path("new").stat().st_mode & 0o777 == 0o600
    assert run("keygen", "auditor", "--owner", "auditor-1", "-o", "new")[2].startswith("tally: not-empty: ")
    assert run("keygen", "auditor", "--owner", "auditor-1", "-o", "no/new")[0] == 64
    assert run("keygen", "auditor", "-o", "newer")[0] == 64


def test_a_signers_key_is_pem(run: Run) -> None:
    status, out, _ = run("keygen", "signer", "-o", "signer.pem")
    assert status == 0
    assert load_pem_private_key(Path("signer.pem").read_bytes(), None)
    assert out.startswith("-----BEGIN PUBLIC KEY-----\n")


# Judged afterwards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "shown", "status"), [("100", 0, 0), ("10", 1, 1)])
def test_what_is_disclosed_is_replayed(run: Run, most: str, shown: int, status: int) -> None:
    condition = {"attr": "args.amount", "op": "le", "value": most}
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "when": [condition]}
    world = story(policy={"allowed_tools": [rule]})
    Path("job.tally").write_bytes(world.bundle())
    Path("pin.json").write_bytes(canonical(world.pin()))
    assert run("verify", "job.tally", "--pin", "pin.json")[0] == 0
    assert disclose(run, "--argument", "to")[0] == 0
    assert run("verify", "shown.tally", "--pin", "pin.json")[0] == 0
    assert disclose(run, "--argument", "amount", out="amount.tally")[0] == 0
    found, out, _ = run("verify", "amount.tally", "--pin", "pin.json", "--json")
    report = json.loads(out)
    assert found == status
    assert [each["code"] for each in report["findings"]] == ["wrong-decision"] * shown
    assert (
        report["totals"]["replayed_fully"]
        == 1 + json.loads(run("verify", "job.tally", "--pin", "pin.json", "--json")[1])["totals"]["replayed_fully"]
    )


def test_a_bundle_with_sealed_payloads_passes_and_opens(run: Run) -> None:
    listed = Key(
        kid=AUDITOR.kid, use="auditor", owner="auditor-1", hpke=b64(AUDITOR.public),
        not_before=NOW - DAY, not_after=NOW + DAY,
    )  # fmt: skip
    world = story(
        AUDITOR,
        policy={"receipts": {"privacy": "hash_only", "auditors": ["auditor-1"]}},
        keys=[*World().listed.keys, listed],
    )
    Path("boxed.tally").write_bytes(world.bundle())
    Path("pin.json").write_bytes(canonical(world.pin()))
    assert disclose(run, "--all", bundle="boxed.tally")[0] == 0
    status, out, _ = run("verify", "shown.tally", "--pin", "pin.json")
    assert status == 0
    assert "What is in 1 sealed payload: none was opened" in out
    assert run("open", "shown.tally", "--key", "auditor")[0] == 0
