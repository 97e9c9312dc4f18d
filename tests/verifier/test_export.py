"""`tally export`: what the tools of others read of a bundle, checked by those tools."""

import gzip
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from msgspec.structs import replace
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from tests.world import World, pair
from verifier import cli
from verifier.checkpoint import ED25519_TYPE, Checkpoint, Proof
from verifier.commands import export as command
from verifier.encoding import canonical, digest, unb64
from verifier.envelope import pae, seal_up
from verifier.leaf import decode
from verifier.notes import Export, verifier_key

Run = Callable[..., tuple[int, str, str]]
PEM = (Encoding.PEM, PrivateFormat.PKCS8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    world = World().story()
    lane = world.lane("lane-2")
    lane.model("call-5", "get_case")
    lane.close()
    raw = world.bundle()
    Path("job.tally").write_bytes(raw)
    Path("pin.json").write_bytes(canonical(world.pin()))
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    for name, pem in {
        "signer.pem": key.private_bytes(*PEM, NoEncryption()),
        "ec.pem": generate_private_key(SECP256R1()).private_bytes(*PEM, NoEncryption()),
        "sealed.pem": key.private_bytes(*PEM, BestAvailableEncryption(b"passphrase")),
        "no.pem": b"nothing",
        "loose.pem": key.private_bytes(*PEM, NoEncryption()),
    }.items():
        Path(name).write_bytes(pem)
        Path(name).chmod(0o644 if name == "loose.pem" else 0o600)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    assert folder.exists()

    def call(*arguments: str, bundle: str = "job.tally", key: str = "signer.pem", out: str = "out") -> Any:
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", bundle, "--pin", "pin.json", "--key", key, "-o", out, *arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def lines(path: str = "out/job.intoto.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def stated() -> dict[str, Any]:
    said: dict[str, Any] = json.loads(unb64(lines()[0]["payload"]))
    return said


# in-toto --------------------------------------------------------------------------------------------------------------


def test_the_statement_is_accepted_by_in_toto_attestation(run: Run) -> None:
    assert run()[0] == 0
    proto = json_format.Parse(unb64(lines()[0]["payload"]), statement_pb2.Statement())
    Statement.copy_from_pb(proto).validate()
    assert lines()[0]["payloadType"] == "application/vnd.in-toto+json"
    assert proto.predicate_type == "urn:tallystick:verification:v1"
    assert (proto.subject[0].name, proto.subject[0].digest["sha256"]) == (
        "job.tally",
        hashlib.sha256(Path("job.tally").read_bytes()).hexdigest(),
    )


def test_the_envelope_is_accepted_by_securesystemslib_under_that_key_alone(run: Run) -> None:
    run()
    key = load_pem_private_key(Path("signer.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    public = SSlibKey.from_crypto(key.public_key())
    envelope = Envelope.from_dict(lines()[0])
    assert envelope.verify([public], 1) == {public.keyid: public}
    with pytest.raises(VerificationError):
        envelope.verify([SSlibKey.from_crypto(Ed25519PrivateKey.generate().public_key())], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([public], 1)


def test_the_statement_says_the_verdict_and_what_it_rests_on(run: Run) -> None:
    assert run("--at", "2026-09-22T00:00:00Z")[0] == 0
    said = stated()["predicate"]
    assert said["verdict"] == "PASS"
    assert said["findings"] == {}
    assert said["pin"] == digest(Path("pin.json").read_bytes())
    assert said["policy"] == World().policy_digest
    assert said["job"] == "job-1"
    assert said["at"] == "2026-09-22T00:00:00Z"
    seal = next(each for each in lines() if "seal" in each["payloadType"])
    assert said["seal"] == digest(unb64(seal["payload"]))


def test_newer_key_lists_are_heard_and_named(run: Run) -> None:
    world = World()
    Path("newer").write_bytes(seal_up("keys", world.keys_payload, pair("root")) + b"\n")
    assert run("--keys", "newer")[0] == 0
    assert stated()["predicate"]["keys"] == digest(Path("newer").read_bytes())
    later = canonical(replace(world.listed, version=2))
    Path("newer").write_bytes(seal_up("keys", later, pair("stranger")) + b"\n")
    assert run("--keys", "newer", out="none")[0] == 4


def test_no_time_is_claimed_that_nobody_named_and_the_export_is_the_same_each_time(run: Run) -> None:
    run(out="one")
    run(out="two")
    one, two = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert "at" not in json.loads(unb64(lines("one/job.intoto.jsonl")[0]["payload"]))["predicate"]


def test_the_bundles_own_envelopes_follow_as_they_are(run: Run) -> None:
    run()
    documents = [line for line in Path("job.tally").read_bytes().splitlines() if b'"payloadType":' in line]
    exported = Path("out/job.intoto.jsonl").read_bytes().splitlines()[1:]
    assert [line.partition(b":")[2][:-1] for line in documents] == exported
    for each in lines()[1:]:
        assert Envelope.from_dict(each).pae() == pae(each["payloadType"], unb64(each["payload"]))


def test_a_failed_bundle_is_exported_with_its_verdict_and_without_heads_that_do_not_hold(run: Run) -> None:
    raw = Path("job.tally").read_bytes()
    Path("job.tally").write_bytes(raw.replace(b'"rule":"allow-1"', b'"rule":"allow-2"', 1))
    status, out, err = run()
    assert status == 1
    assert out.startswith("FAIL  job.tally: ")
    assert "lane lane-1 has no head" in err
    assert stated()["predicate"]["verdict"] == "FAIL"
    assert stated()["predicate"]["findings"]["wrong-root"] == 1
    assert {path.name for path in Path("out").glob("lane-1*")} == set()
    assert Path("out/lane-2.checkpoint").exists()


def test_a_head_that_the_gateway_did_not_sign_is_not_exported(run: Run) -> None:
    lane = World().story().lanes[0]
    raw = Path("job.tally").read_bytes()
    Path("job.tally").write_bytes(raw.replace(canonical(lane.head())[1:-1], canonical(lane.head("registry"))[1:-1]))
    status, _, err = run()
    assert status == 4
    signed = canonical(lane.head())[1:-1]
    line = signed.index(b"lane-1 ", signed.index("—".encode())) + 20
    Path("job.tally").write_bytes(raw.replace(signed, signed[:line] + b"AAAA" + signed[line + 4 :]))
    status, _, err = run()
    assert status == 1
    assert "lane lane-1 has no head" in err


def test_a_verdict_that_comes_before_the_end_is_about_the_whole_file(run: Run) -> None:
    world = World()
    lane = world.lane()
    for number in range(400):
        lane.model(f"call-{number}", "get_case")
    lane.close()
    raw = b"".join(line for line in world.bundle().splitlines(keepends=True) if not line.startswith(b'{"policy":'))
    assert len(raw) > 1 << 18
    Path("job.tally").write_bytes(raw)
    status, _, _ = run("--proofs", "3")
    assert status == 1
    assert stated()["predicate"]["findings"] == {"missing-document": 1}
    assert stated()["subject"][0]["digest"]["sha256"] == hashlib.sha256(raw).hexdigest()
    assert len(list(Path("out").glob("*.tlog-proof"))) == 3


@pytest.mark.parametrize("why", ["MALFORMED", "UNTRUSTED"])
def test_of_a_bundle_that_proves_nothing_nothing_is_written(run: Run, why: str) -> None:
    if why == "MALFORMED":
        Path("job.tally").write_bytes(Path("job.tally").read_bytes()[:-5])
    else:
        public = pair("stranger").public
        other = {"roots": [{"owner": "x", "ed25519": public.ed25519, "ml_dsa_44": public.ml_dsa_44}]}
        Path("pin.json").write_text(json.dumps(json.loads(Path("pin.json").read_text()) | other))
    status, out, err = run()
    assert (status, out) == (2 if why == "MALFORMED" else 4, "")
    assert err.startswith(f"{why}  job.tally: nothing is exported")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("key", "code"),
    [("ec.pem", "bad-key"), ("sealed.pem", "bad-key"), ("no.pem", "bad-key"), ("loose.pem", "loose-mode")],
)
def test_a_key_that_cannot_sign_is_refused(run: Run, key: str, code: str) -> None:
    assert run(key=key)[2].startswith(f"tally: {code}: ")


def test_standard_input_is_not_read_twice_and_a_packed_bundle_is(run: Run) -> None:
    assert run(bundle="-")[0] == 64
    Path("job.tally.gz").write_bytes(gzip.compress(Path("job.tally").read_bytes()))
    assert run(bundle="job.tally.gz")[0] == 0
    assert stated()["subject"][0]["name"] == "job.tally"


def test_a_folder_with_something_in_it_is_left_alone(run: Run) -> None:
    Path("out").mkdir()
    assert run()[0] == 0
    assert run()[2].startswith("tally: not-empty: ")
    assert run(out="no/out")[0] == 64


def test_a_bundle_that_changes_meanwhile_is_not_exported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Export):
        """An export that begins late."""

        def __init__(self, **limits: Any) -> None:
            super().__init__(**limits)
            Path("job.tally").write_bytes(World().story().bundle())

    monkeypatch.setattr(command, "Export", Slow)
    assert run()[2].startswith("tally: wrong-digest: ")
    assert not Path("out").exists()


# C2SP -----------------------------------------------------------------------------------------------------------------


def test_every_end_has_a_proof_that_its_checkpoint_bears(run: Run) -> None:
    assert "5 proofs" in run()[1]
    for name in ("lane-1", "lane-2"):
        note = Path(f"out/{name}.checkpoint").read_text()
        assert note.encode() in Path("job.tally").read_bytes().replace(b"\\n", b"\n")
        proofs = sorted(Path("out").glob(f"{name}-*.tlog-proof"))
        for path in proofs:
            proved = Proof.parse(path.read_text())
            assert proved.note == note
            assert proved.check(pair("gateway").public) == Checkpoint.parse(note)
            assert decode(proved.extra).kind == "end"
        assert len(proofs) == (4 if name == "lane-1" else 1)


def test_verifier_keys_are_written_as_notes_have_them(run: Run) -> None:
    run()
    name, ident, key = Path("out/lane-1.vkey").read_text().strip().split("+", 2)
    assert name == "gateway.example/tally/job-1/lane-1"
    assert unb64(key) == b"\x01" + pair("gateway").raw[0]
    assert ident == hashlib.sha256(f"{name}\n".encode() + unb64(key)).hexdigest()[:8]
    assert unb64(Path("out/lane-1.ml-dsa-44.vkey").read_text().strip().split("+", 2)[2])[0] == 6
    assert verifier_key(name, ED25519_TYPE, pair("gateway").raw[0]) == Path("out/lane-1.vkey").read_bytes()


def test_proofs_are_as_many_as_were_asked_for(run: Run) -> None:
    run("--proofs", "2", out="two")
    run("--call", "call-3", out="one")
    run("--proofs", "0", out="none")
    assert [len(list(Path(name).glob("*.tlog-proof"))) for name in ("two", "one", "none")] == [2, 1, 0]


def test_a_program_that_is_not_installed_has_no_version(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    run()
    assert stated()["predicate"]["verifier"] == {"name": "tallystick", "version": "0.0.0"}
