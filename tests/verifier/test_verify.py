"""The audit step by step: one thing bent, and what the report says of it: verdict, code, step, place."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.world import GATEWAY, NOW, SCHEMA, SECOND, Lane, World, key, pair, root
from verifier import audit, bundle, calls, seal, tokens
from verifier.audit import verify
from verifier.checkpoint import sign_head
from verifier.codes import CODES
from verifier.encoding import canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Budget
from verifier.leaf import Echo, Facts, Note, Parent, Reservation, Target, ToolCall, Usage, decode
from verifier.manifest import Tool
from verifier.merkle import leaf_hash
from verifier.policy import DAY
from verifier.report import MAX_FINDINGS, Report
from verifier.seal import Mark

ZERO = "sha256:" + "0" * 64
TOOL = Target(server="crm-mcp", tool="get_case")
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")


def says(report: Report, code: str, step: int, **place: Any) -> None:
    """Check that the report has this finding at this step and place, and a verdict at least as bad."""
    found = [each for each in report.findings if each.code == code and each.step == step]
    assert found, [(each.code, each.step, each.why) for each in report.findings]
    for name, value in place.items():
        assert value in [getattr(each, name) for each in found], found
    assert all(each.hint and each.why for each in found)
    assert report.verdict == max(CODES[each.code].verdict for each in report.findings).name
    assert report.proved == []


def only(report: Report, code: str, step: int, **place: Any) -> None:
    """Check that this is the one thing that the report finds."""
    says(report, code, step, **place)
    assert {each.code for each in report.findings} == {code}


def sealed(world: World, **changes: Any) -> Report:
    """Verify a world whose seal says something else."""
    return world.verify(world.bundle(world.documents(world.sealed(**changes))))


def laned(world: World, **changes: Any) -> Report:
    """Verify a world whose seal says something else of the first lane."""
    first, *rest = world.sealed().lanes
    return sealed(world, lanes=[replace(first, **changes), *rest])


def with_documents(world: World, **changes: Any) -> Report:
    """Verify a world with other documents."""
    return world.verify(world.bundle(replace(world.documents(world.sealed()), **changes)))


def test_an_honest_job_passes_and_the_report_says_what_that_proves() -> None:
    report = World().story().verify()
    assert (report.verdict, report.exit_code, report.findings) == ("PASS", 0, [])
    assert (report.job, report.status, report.replay) == ("job-1", "complete", "partial (3 of 5)")
    assert (report.totals.lanes, report.totals.calls, report.totals.denials, report.totals.lost) == (1, 4, 1, 0)
    assert len(report.proved) == 5
    assert len(report.not_proved) == 4


def test_a_job_without_calls_passes_and_says_so() -> None:
    report = World().verify()
    assert (report.verdict, report.totals.lanes, report.replay) == ("PASS", 0, "none")
    assert "0 calls recorded." in report.proved


def test_many_lanes_pass() -> None:
    world = World()
    for name in ("lane-2", "lane-1", "lane-3"):
        lane = world.lane(name)
        lane.model("call-1", "get_case")
        lane.tool("call-2")
        lane.close()
    report = world.verify()
    assert (report.verdict, report.totals.lanes, report.totals.calls) == ("PASS", 3, 6)


def test_a_file_is_verified_by_its_path(tmp_path: Path) -> None:
    world = World().story()
    (tmp_path / "job.tally").write_bytes(world.bundle())
    assert (
        verify(tmp_path / "job.tally", world.pin())
        == verify(str(tmp_path / "job.tally"), world.pin())
        == world.verify()
    )
    with pytest.raises(OSError, match="missing"):
        verify(tmp_path / "missing", world.pin())


# Step 1: read within limits -------------------------------------------------------------------------------------------

STORY = World().story()
HONEST = STORY.bundle()
LINES = HONEST.splitlines(keepends=True)
HEAD = next(number for number, line in enumerate(LINES) if line.startswith(b'{"head":'))


@pytest.mark.parametrize(
    ("raw", "code", "line"),
    [
        (b"", "missing-line", 1),
        (b"\n", "missing-line", 1),
        (b"{}\n", "missing-line", 1),
        (HONEST[len(LINES[0]) :], "missing-line", 1),
        (b"".join([b'{"header":{}}\n', *LINES[1:]]), "missing-field", 1),
        (b"".join([b'{"header":{}\n', *LINES[1:]]), "truncated", 1),
        (b"".join([b'{"header":\n', *LINES[1:]]), "not-json", 1),
        (HONEST.replace(b"tallystick-bundle/1", b"tallystick-bundle/2", 1), "bad-value", 1),
        (HONEST.replace(b'"job":"job-1"', b'"job": "job-1"', 1), "not-canonical", 1),
        (HONEST.replace(b'"suite":"tally-1"', b'"suite":"tally-9"', 1), "wrong-suite", 1),
        (HONEST[:-1], "truncated", len(LINES)),
        (HONEST + b'{"code":"x"', "truncated", len(LINES) + 1),
        (b"".join([*LINES[:2], b"x\n", *LINES[2:]]), "bad-line", 3),
        (b"".join([*LINES[:2], LINES[3], LINES[2], *LINES[4:]]), "bad-line", 4),
        (b"".join([*LINES[:2], LINES[2][:-2] + b"]\n", *LINES[3:]]), "not-json", 3),
        (b"".join([*LINES[:2], b"x" * (1 << 21) + b"x\n", *LINES[2:]]), "bad-line", 3),
        (b"".join([*LINES[:2], b"x" * (1 << 22)]), "too-large", None),
        (b"".join([*LINES[: HEAD + 2], b"x" * (1 << 22) + b"\n", *LINES[HEAD + 2 :]]), "too-large", None),
        (b"".join([*LINES[: HEAD + 2], b"x" * (1 << 15) + b"\n", *LINES[HEAD + 2 :]]), "too-large", None),
    ],
)
def test_a_file_that_is_no_bundle_is_malformed_or_untrusted_at_its_line(
    raw: bytes, code: str, line: int | None
) -> None:
    report = STORY.verify(raw)
    says(report, code, 1 if line is not None else report.findings[0].step, **({} if line is None else {"line": line}))
    assert report.verdict in {"MALFORMED", "UNTRUSTED"}


def test_a_bundle_in_a_suite_that_only_the_pin_knows_does_not_pass() -> None:
    raw = HONEST.replace(b'"suite":"tally-1"', b'"suite":"tally-9"', 1)
    says(STORY.verify(raw, suites=["tally-1", "tally-9"]), "wrong-suite", 1, line=1)


def test_the_limits_of_the_command_line_hold() -> None:
    report = verify(io.BytesIO(HONEST), STORY.pin(), max_bytes=len(HONEST) - 1)
    says(report, "too-large", 1)
    assert verify(io.BytesIO(HONEST), STORY.pin(), max_bytes=len(HONEST)).verdict == "PASS"
    says(verify(io.BytesIO(HONEST), STORY.pin(), max_bytes=10), "too-large", 1)
    endless = verify(io.BytesIO(b"x" * (1 << 23)), STORY.pin(), max_bytes=1 << 22)
    says(endless, "too-large", 1)


@pytest.mark.parametrize(
    ("module", "limit", "step"), [(audit, "MAX_LANES", 1), (tokens, "MAX_TOKENS", 8), (calls, "MAX_OPEN", 7)]
)
def test_what_an_audit_keeps_in_memory_is_bounded(
    module: Any, limit: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 0)
    says(STORY.verify(HONEST), "too-large", step)


def test_documents_before_the_lanes_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_DOCUMENTS", 10_000)
    says(STORY.verify(HONEST), "too-large", 1)


@pytest.mark.parametrize(("line", "step"), [(b'{"approval":{}}\n', 11), (b'{"log":{}}\n', 5)])
def test_an_approval_or_a_logs_proof_that_cannot_be_read_is_malformed(line: bytes, step: int) -> None:
    place = next(number for number, each in enumerate(LINES) if each.startswith(b'{"seal":'))
    before = place if step == 11 else place + 1
    report = STORY.verify(b"".join([*LINES[:before], line, *LINES[before:]]))
    says(report, "missing-field" if step == 11 else "wrong-type", step, line=before + 1)
    assert len(report.findings) == 1


# Step 2: pin and key list ---------------------------------------------------------------------------------------------


def test_a_bundle_without_a_key_list_is_malformed() -> None:
    only(STORY.verify(b"".join([LINES[0], *LINES[2:]])), "missing-line", 2)


def test_a_key_list_that_stands_twice_is_no_chain() -> None:
    only(STORY.verify(b"".join([*LINES[:2], LINES[1], *LINES[2:]])), "wrong-rotation", 2, line=3)


def test_a_key_list_of_other_roots_is_untrusted() -> None:
    report = STORY.verify(HONEST, roots=[root("another", "owner-1")])
    only(report, "unknown-root", 2, line=2)
    assert (report.verdict, report.exit_code) == ("UNTRUSTED", 4)


def test_a_key_list_that_the_pin_finds_too_old_is_untrusted() -> None:
    only(STORY.verify(HONEST, min_keys_version=2), "old-keys", 2, line=2)
    only(STORY.verify(HONEST, max_keys_age=60), "keys-expired", 2)


def test_a_key_list_that_had_expired_at_the_seal_is_untrusted() -> None:
    only(World(listed={"expires": NOW + SECOND}).story().verify(), "keys-expired", 2)
    world = World(listed={"expires": NOW + SECOND}).story()
    report = world.verify(world.bundle(world.documents(None)))
    says(report, "keys-expired", 2)


def test_the_time_that_was_asked_for_counts_as_well() -> None:
    world = World().story()
    assert verify(io.BytesIO(world.bundle()), world.pin(), world.listed.expires).verdict == "PASS"
    only(verify(io.BytesIO(world.bundle()), world.pin(), world.listed.expires + 1), "keys-expired", 2)


# Step 3: policies and manifests ---------------------------------------------------------------------------------------


def test_a_bundle_without_its_policy_fails() -> None:
    only(with_documents(World().story(), policies=[]), "missing-document", 3, field="policy")


def test_a_bundle_without_its_manifest_fails() -> None:
    says(with_documents(World().story(), manifests=[]), "missing-document", 3, field="manifest")


@pytest.mark.parametrize(
    ("signers", "code", "verdict"),
    [
        (["author"], "wrong-use", "UNTRUSTED"),
        (["registry"], "wrong-use", "UNTRUSTED"),
        (["attacker", "registry"], "unknown-signer", "UNTRUSTED"),
        ([], "missing-signature", "FAIL"),
    ],
)
def test_a_policy_without_its_author_and_the_registry_is_refused(signers: list[str], code: str, verdict: str) -> None:
    world = World().story()
    report = with_documents(world, policies=[seal_up("policy", world.policy_payload, *map(pair, signers))])
    says(report, code, 3, line=3)
    assert report.verdict == verdict


def test_a_policy_that_was_not_in_force_when_the_job_opened_is_refused() -> None:
    says(World(policy={"valid_until": NOW}).story().verify(), "policy-not-valid", 3, line=3)
    says(
        World(policy={"valid_from": NOW + 1, "valid_until": NOW + DAY}).story().verify(), "policy-not-valid", 3, line=3
    )


def test_a_policy_or_manifest_that_nothing_names_is_malformed() -> None:
    world, other = World().story(), World(policy={"serial": 2}, tools=[World().manifest.tools[1]])
    policies, manifests = world.documents(None).policies, world.documents(None).manifests
    report = with_documents(world, policies=policies + other.documents(None).policies)
    only(report, "unnamed-document", 3, field="policy")
    assert report.verdict == "MALFORMED"
    only(
        with_documents(world, manifests=manifests + other.documents(None).manifests),
        "unnamed-document",
        3,
        field="manifest",
    )


def test_a_document_that_stands_twice_is_malformed() -> None:
    world = World().story()
    documents = world.documents(world.sealed())
    for field in ("policies", "manifests", "grants"):
        only(with_documents(world, **{field: getattr(documents, field) * 2}), "bad-line", 1)
    only(STORY.verify(HONEST.replace(LINES[HEAD - 1], LINES[HEAD - 1] * 2)), "bad-line", 1, line=HEAD + 1)


# Step 4: grants -------------------------------------------------------------------------------------------------------


def test_a_bundle_without_a_grant_fails() -> None:
    only(with_documents(World().story(), grants=[]), "missing-document", 4, field="grant")


def test_a_grant_signed_by_a_stranger_is_untrusted() -> None:
    world = World().story()
    says(with_documents(world, grants=[seal_up("grant", world.grant_payload, pair("attacker"))]), "unknown-signer", 4)


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ({"tools": ["mcp:crm-mcp/http_request"]}, "scope-too-wide"),
        ({"models": ["openai/*"]}, "scope-too-wide"),
        ({"manifests": {}, "tools": []}, None),
        ({"manifests": {"crm-mcp": ZERO}}, "unknown-server"),
    ],
)
def test_a_grant_outside_its_policy_fails(scope: dict[str, Any], code: str | None) -> None:
    report = World(scope=scope).verify()
    says(report, code or "unnamed-document", 4 if code else 3)


def test_a_grant_for_somebody_whom_the_policy_does_not_admit_fails() -> None:
    only(World(policy={"jobs": {"agents": ["agent-2"]}}).story().verify(), "not-admitted", 4, field="jobs.agents")


def test_a_grant_that_outlives_its_policy_fails() -> None:
    only(World(grant={"expires": NOW + 365 * DAY}).story().verify(), "wrong-grant", 4, field="expires")


def test_a_manifest_pinned_for_another_server_fails() -> None:
    world = World(scope={"tools": []})
    moved = replace(world.manifest, server="tickets-mcp")
    world.manifest, world.manifest_payload = moved, canonical(moved)
    world.grant = replace(
        world.grant, scope=replace(world.grant.scope, manifests={"crm-mcp": digest(canonical(moved))})
    )
    world.grant_payload = canonical(world.grant)
    world.grant_digest = digest(world.grant_payload)
    only(world.verify(), "wrong-manifest", 4, field="manifests")


def second_grant(world: World, **changes: Any) -> Report:
    """Verify a world with a second grant of the same job."""
    scope = replace(world.grant.scope, tools=[], **{name: each for name, each in changes.items() if name != "opened"})
    times = {name: each for name, each in changes.items() if name == "opened"}
    other = replace(world.grant, scope=scope, issued_at=world.grant.issued_at + 1, parent=world.grant_digest, **times)
    names = [world.grant_digest, digest(canonical(other))]
    documents = world.documents(world.sealed(grants=names))
    signed = seal_up("grant", canonical(other), pair("grant"))
    return world.verify(world.bundle(replace(documents, grants=[*documents.grants, signed])))


def test_a_job_may_have_two_grants() -> None:
    assert second_grant(World().story()).verdict == "PASS"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": ZERO}, "wrong-policy"),
        ({"audience": "https://other.example"}, "wrong-grant"),
        ({"opened": NOW - 1}, "wrong-grant"),
        ({"limits": Budget(calls=1)}, "wrong-grant"),
    ],
)
def test_two_grants_of_a_job_agree(changes: dict[str, Any], code: str) -> None:
    only(second_grant(World().story(), **changes), code, 4, field="grant")


# Step 5: the seal -----------------------------------------------------------------------------------------------------


def test_a_job_without_a_seal_is_incomplete_whatever_else_it_shows() -> None:
    world = World().story()
    report = world.verify(world.bundle(world.documents(None)))
    only(report, "no-seal", 5, field="seal")
    assert (report.verdict, report.exit_code) == ("INCOMPLETE", 3)


def test_a_job_still_open_without_a_seal_says_that_its_lane_was_cut() -> None:
    world = World()
    lane = world.lane()
    lane.begin("call-1", MODEL)
    report = world.verify(world.bundle(world.documents(None)))
    assert {each.code for each in report.findings} == {"no-seal", "interrupted", "no-answer"}
    assert report.verdict == "INCOMPLETE"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": ZERO}, "wrong-policy"),
        ({"keys": ZERO}, "wrong-keys"),
        ({"opened": NOW - 1}, "wrong-grant"),
        ({"grants": []}, "unnamed-document"),
        ({"grants": [ZERO]}, "missing-document"),
        ({"revocations": [ZERO]}, "missing-document"),
        ({"status": "revoked"}, "missing-document"),
        ({"status": "interrupted"}, "interrupted"),
    ],
)
def test_a_seal_that_names_something_else_is_found(changes: dict[str, Any], code: str) -> None:
    says(sealed(World().story(), **changes), code, 5)


def test_a_seal_of_another_job_fails() -> None:
    world = World().story()
    lane = replace(world.sealed().lanes[0], origin=seal.origin(GATEWAY, "job-2", "lane-1"))
    says(sealed(world, job="job-2", lanes=[lane]), "wrong-job", 5, field="seal")


def test_a_seal_by_another_scope_than_the_grants_fails() -> None:
    other = "https://scope2.example"
    world = World(keys=[*World().listed.keys, key("seal-2", "seal", other)]).story()
    raw = seal_up("seal", canonical(world.sealed(iss=other)), pair("seal-2"))
    only(with_documents(world, seal=raw), "wrong-issuer", 5, field="seal")


def test_a_revocation_by_another_scope_than_the_seals_fails() -> None:
    other = "https://scope2.example"
    world = World(keys=[*World().listed.keys, key("revocation-2", "revocation", other)]).story()
    made = replace(world.revoke("agent", "agent-9", NOW), iss=other)
    world.revocations = [made]
    raw = seal_up("revocation", canonical(made), pair("revocation-2"))
    only(with_documents(world, revocations=[raw]), "wrong-issuer", 5, field="revocation")


def test_a_revocation_that_the_seal_does_not_name_is_malformed() -> None:
    world = World().story()
    made = world.revoke("agent", "agent-9", NOW)
    only(sealed(world, revocations=[]), "unnamed-document", 5, field="revocation")
    says(
        with_documents(world, revocations=[seal_up("revocation", canonical(made), pair("attacker"))]),
        "unknown-signer",
        10,
    )


def test_a_seal_signed_by_the_gateway_is_untrusted() -> None:
    world = World().story()
    report = with_documents(world, seal=seal_up("seal", canonical(world.sealed()), pair("gateway")))
    says(report, "wrong-use", 5)
    assert report.verdict == "UNTRUSTED"


def test_a_seal_by_a_key_that_was_compromised_is_untrusted() -> None:
    keys = [
        replace(each, revoked_at=NOW + 365 * DAY, reason="compromise") if each.use == "seal" else each
        for each in World().listed.keys
    ]
    says(World(keys=keys).story().verify(), "key-revoked", 5)


@pytest.mark.parametrize(
    "pin", [{"job": "job-2"}, {"policy": ZERO}, {"gateway": "https://other.example"}], ids=["job", "policy", "gateway"]
)
def test_a_job_that_the_pin_does_not_expect_fails(pin: dict[str, Any]) -> None:
    only(World().story().verify(**pin), "not-expected", 5, field=next(iter(pin)))


def test_a_job_that_the_pin_expects_passes() -> None:
    world = World().story()
    assert world.verify(job="job-1", policy=world.policy_digest, gateway=GATEWAY).verdict == "PASS"


# Step 6: lanes --------------------------------------------------------------------------------------------------------


def test_a_sealed_lane_that_is_not_in_the_bundle_fails() -> None:
    world = World().story()
    world.lane("lane-2").close()
    report = world.verify(b"".join([*world.bundle().partition(b'{"head":{"lane":"lane-2"')[:1]]))
    only(report, "missing-lane", 6, lane="lane-2")


def test_a_lane_that_the_seal_does_not_name_fails() -> None:
    world = World().story()
    says(sealed(world, lanes=[]), "unsealed-lane", 6, lane="lane-1", line=HEAD + 1)


def test_two_lanes_in_another_order_or_twice_are_malformed() -> None:
    world = World().story()
    world.lane("lane-2").close()
    start, head, rest = world.bundle().partition(b'{"head":{"lane":"lane-2"')
    first, second = start[start.index(b'{"head":') :], head + rest
    documents = start[: start.index(b'{"head":')]
    only(world.verify(documents + second + first), "bad-line", 1, lane="lane-1")
    only(world.verify(documents + first + second + second), "bad-line", 1, lane="lane-2")


@pytest.mark.parametrize("raw", [b'{"head":{}}', b'{"head":', b'{"head":{"lane":"lane-1","note":1}}'])
def test_a_head_that_cannot_be_read_is_refused_and_its_receipts_with_it(raw: bytes) -> None:
    report = STORY.verify(b"".join([*LINES[:HEAD], raw + b"\n", *LINES[HEAD + 1 :]]))
    assert report.verdict == "MALFORMED"
    assert {"unsealed-lane", "missing-lane"} < {each.code for each in report.findings}
    assert report.findings[0].step == 6
    assert report.findings[0].line == HEAD + 1


def with_head(world: World, note: str) -> Report:
    """Verify a world whose lane bears another head."""
    lanes = [bundle.Lane(lane.name, note, lane.raws) for lane in world.lanes]
    return world.verify(b"".join(bundle.write(world.documents(world.sealed()), lanes)))


def heads() -> list[tuple[str, str]]:
    """Make heads that are not the sealed one."""
    lane = World().story().lanes[0]
    size, tree, closing = len(lane.raws), lane.tree.root(), lane.time // SECOND
    name = seal.origin(GATEWAY, "job-1", "lane-1")
    gateway, other = pair("gateway"), pair("attacker")
    honest = lane.head()
    return [
        ("", "bad-checkpoint"),
        (sign_head(gateway, name, size, tree), "missing-signature"),
        (sign_head(other, name, size, tree, closing_at=closing), "unknown-signer"),
        (sign_head(gateway, name, size + 1, tree, closing_at=closing), "wrong-head"),
        (sign_head(gateway, name, size, bytes(32), closing_at=closing), "wrong-head"),
        (sign_head(gateway, seal.origin(GATEWAY, "job-2", "lane-1"), size, tree, closing_at=closing), "wrong-head"),
        (sign_head(gateway, name, size, tree, closing_at=closing - 60), "wrong-head"),
        (sign_head(gateway, name, size, tree, closing_at=closing + 60), "wrong-head"),
        (honest.replace("job-1/lane-1", "job-1/lane-2"), "unknown-signer wrong-head"),
        (honest + honest.splitlines()[-1] + "\n", "missing-signature"),
    ]


@pytest.mark.parametrize(("note", "code"), heads())
def test_another_head_than_the_sealed_one_is_refused(note: str, code: str) -> None:
    report = with_head(World().story(), note)
    assert sorted(finding.code for finding in report.findings) == code.split()
    assert {(finding.step, finding.lane, finding.line) for finding in report.findings} == {(6, "lane-1", HEAD + 1)}


def test_the_lines_of_a_head_have_one_order() -> None:
    text, gap, tail = World().story().lanes[0].head().rpartition("\n\n")
    first, second = tail.splitlines(keepends=True)
    only(with_head(World().story(), text + gap + second + first), "missing-signature", 6)


def test_a_seal_that_names_another_gateway_or_key_for_a_lane_fails() -> None:
    world = World().story()
    other = "https://other.example"
    says(laned(world, gateway=other, origin=seal.origin(other, "job-1", "lane-1")), "wrong-gateway", 6, lane="lane-1")
    only(laned(world, kid="0" * 32), "unknown-signer", 6, lane="lane-1")


def test_a_gateways_key_that_was_revoked_before_the_seal_does_not_sign_heads() -> None:
    for changes in ({"revoked_at": NOW, "reason": "retired"}, {"not_after": NOW}):
        keys = [replace(each, **changes) if each.use == "gateway" else each for each in World().listed.keys]
        code = "key-revoked" if "reason" in changes else "key-not-valid"
        only(World(keys=keys).story().verify(), code, 6, lane="lane-1")


def test_a_gateway_with_two_keys_may_use_either_when_no_seal_names_one() -> None:
    keys = [*World().listed.keys, key("gateway-2", "gateway", GATEWAY)]
    world = World(keys=keys[::-1]).story()
    only(world.verify(world.bundle(world.documents(None))), "no-seal", 5)


@pytest.mark.parametrize("change", ["drop", "add", "note"])
def test_without_a_seal_the_receipts_are_held_against_the_head(change: str) -> None:
    world = World().story()
    raw = world.bundle(world.documents(None)).splitlines(keepends=True)
    bent = {"drop": raw[:-1], "add": [*raw, raw[-1]], "note": [*raw[:-1], raw[-1].replace(b"closed", b"closer")]}[
        change
    ]
    says(world.verify(b"".join(bent)), "wrong-root" if change == "note" else "wrong-size", 6, lane="lane-1")


def test_a_lane_sealed_as_complete_has_a_close() -> None:
    world = World()
    world.lane().model("call-1")
    only(world.verify(), "no-close", 6, lane="lane-1")
    report = sealed(world, status="interrupted")
    assert {each.code for each in report.findings} == {"interrupted"}
    assert report.verdict == "INCOMPLETE"


def test_a_registered_lane_without_receipts_is_interrupted() -> None:
    world = World()
    lane = world.lane()
    lane.raws, lane.tree = [], type(lane.tree)()
    registered = [replace(each, tokens=[]) for each in world.sealed().lanes]
    only(sealed(world, status="interrupted", lanes=registered), "interrupted", 12, lane="lane-1")


# Step 7: receipts -----------------------------------------------------------------------------------------------------


def receipts(play: Callable[[Lane], Any], *, close: bool = True, **documents: Any) -> Report:
    """Verify a job whose gateway signs whatever `play` writes."""
    world = World(**documents)
    lane = world.lane()
    play(lane)
    if close:
        lane.close()
    return world.verify()


def raw_receipt(lane: Lane, raw: bytes) -> None:
    """Append bytes that no honest gateway would write."""
    lane.raws.append(raw)
    lane.tree.append(leaf_hash(raw))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "truncated"),
        (b"{}", "wrong-kind"),
        (b'{"code":"a b","kind":"note","seq":2,"time":1}', "bad-value"),
        (b'{"code":"x","kind":"note","seq":2,"time":1,"z":1}', "unknown-field"),
        (b'{"code":"x","code":"x","kind":"note","seq":2,"time":1}', "not-canonical"),
        (b"x" * 9000, "too-large"),
        (b"\xff", "not-json"),
    ],
)
def test_a_receipt_that_cannot_be_read_is_found_although_the_gateway_signed_it(raw: bytes, code: str) -> None:
    report = receipts(lambda lane: raw_receipt(lane, raw))
    says(report, code, 7, lane="lane-1", seq=2, line=HEAD + 4)
    assert report.verdict == "MALFORMED"


@pytest.mark.parametrize(
    ("play", "code", "step", "seq"),
    [
        (
            lambda lane: lane.write(lambda seq, time: Note(code="x", seq=seq + 1, time=time)),
            "wrong-seq",
            7,
            2,
        ),
        (lambda lane: lane.write(lambda seq, _: Note(code="x", seq=seq, time=NOW)), "wrong-time", 7, 2),
        (
            lambda lane: (lane.close(), lane.write(lambda seq, time: Note(code="x", seq=seq, time=time))),
            "wrong-order",
            7,
            3,
        ),
        (
            lambda lane: (lane.begin("call-1", MODEL), lane.begin("call-1", MODEL), lane.end("call-1")),
            "wrong-order",
            7,
            3,
        ),
        (lambda lane: (lane.begin("call-1", MODEL), lane.end("call-1"), lane.end("call-1")), "no-begin", 7, 4),
        (lambda lane: lane.begin("call-1", MODEL), "no-end", 7, 2),
        (lambda lane: (lane.begin("call-1", MODEL), lane.end("call-1", recv=None)), "bad-end", 7, 3),
        (lambda lane: (lane.begin("call-1", MODEL), lane.end("call-1", status="lost", recv=None)), "bad-end", 7, 3),
        (
            lambda lane: (lane.begin("call-1", MODEL), lane.end("call-1", status="lost", recv=None, dlv=None)),
            "lost-call",
            12,
            3,
        ),
        (
            lambda lane: (
                lane.model("call-1", "get_case"),
                lane.begin("call-2", TOOL),
                lane.end("call-2", tool_calls=[ToolCall(id="x", name="get_case")]),
            ),
            "bad-end",
            7,
            5,
        ),
    ],
)
def test_receipts_out_of_place_or_without_their_pair_are_found(
    play: Callable[[Lane], Any], code: str, step: int, seq: int
) -> None:
    says(receipts(play), code, step, lane="lane-1", seq=seq, line=HEAD + 2 + seq)


def test_a_note_claims_nothing_and_passes() -> None:
    assert receipts(lambda lane: lane.write(lambda seq, time: Note(code="x", seq=seq, time=time))).verdict == "PASS"


def test_a_close_that_counts_other_receipts_than_there_are_fails() -> None:
    def play(lane: Lane) -> None:
        lane.kinds["begin"] = 7

    only(receipts(play), "wrong-counts", 7, field="counts")


def test_a_lane_begins_with_open_and_has_one() -> None:
    def play(lane: Lane) -> None:
        lane.write(lambda seq, time: replace(_opening(lane), seq=seq, time=time))

    only(receipts(play), "wrong-order", 7, seq=2)


def _opening(lane: Lane) -> Any:
    return decode(lane.raws[0])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"job": "job-2"}, "wrong-job"),
        ({"lane": "lane-2"}, "wrong-order"),
        ({"policy": ZERO}, "wrong-policy"),
        ({"gateway": "https://other.example"}, "wrong-gateway"),
        ({"suite": "tally-9"}, "wrong-suite"),
        ({"keys": ZERO}, "wrong-keys"),
        ({"keys_version": 2}, "wrong-keys"),
    ],
)
def test_the_first_receipt_agrees_with_the_signed_documents(changes: dict[str, Any], code: str) -> None:
    world = World()
    lane = world.lane()
    first, raws, lane.raws, lane.tree = _opening(lane), lane.raws, [], type(lane.tree)()
    lane.time -= 2000
    lane.write(lambda seq, time: replace(first, seq=seq, time=time, **changes))
    raw_receipt(lane, raws[1])
    lane.time += 1000
    lane.close()
    only(world.verify(), code, 7, seq=0, line=HEAD + 2)


def test_an_older_key_list_at_the_lanes_beginning_is_fine() -> None:
    world = World(listed={"version": 3})
    lane = world.lane()
    first, raws, lane.raws, lane.tree = _opening(lane), lane.raws, [], type(lane.tree)()
    lane.time -= 2000
    lane.write(lambda seq, time: replace(first, seq=seq, time=time, keys=ZERO, keys_version=2))
    raw_receipt(lane, raws[1])
    lane.time += 1000
    lane.close()
    assert world.verify().verdict == "PASS"


# Step 8: bindings -----------------------------------------------------------------------------------------------------


def retoken(lane: Lane, **changes: Any) -> None:
    """Write a second token receipt that says something else."""
    token = decode(lane.raws[1])
    lane.write(lambda seq, time: replace(token, seq=seq, time=time, **changes))


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"grant": ZERO}, "missing-document unknown-token wrong-grant"),
        ({"jti": "token-2"}, "unknown-token"),
        ({"exp": NOW // SECOND + 301}, "unknown-token wrong-grant"),
        ({"iat": NOW // SECOND + 1}, "unknown-token wrong-grant"),
        ({"scope_hash": ZERO}, "wrong-grant wrong-scope"),
        ({"jti": "token-2", "exp": NOW // SECOND + 3601}, "unknown-token wrong-grant"),
        ({}, "wrong-grant"),
    ],
)
def test_a_token_receipt_agrees_with_seal_and_grant_and_every_finding_is_listed(
    changes: dict[str, Any], codes: str
) -> None:
    report = receipts(lambda lane: retoken(lane, **changes))
    assert sorted(finding.code for finding in report.findings) == codes.split()
    assert {(finding.step, finding.seq) for finding in report.findings} == {(8, 2)}


@pytest.mark.parametrize("changes", [{"exp": NOW // SECOND + 3601}, {"iat": NOW // SECOND - 2}])
def test_a_token_lives_inside_its_grant_although_scope_sealed_it(changes: dict[str, int]) -> None:
    world = World()
    world.iat, world.exp = changes.get("iat", world.iat), changes.get("exp", world.exp)
    world.lane().close()
    only(world.verify(), "wrong-grant", 8, seq=1)


@pytest.mark.parametrize(
    ("changes", "code", "step"),
    [
        ({"jti": "token-2"}, "unknown-token", 8),
        ({"target": Target(server="crm-mcp")}, "wrong-target", 8),
        ({"target": Target()}, "wrong-target", 8),
        ({"target": replace(MODEL, tool="get_case")}, "wrong-target", 8),
        ({"target": replace(TOOL, model="small-1")}, "wrong-target", 8),
        ({"target": replace(TOOL, tool="no_such_tool")}, "wrong-target", 8),
        ({"target": replace(TOOL, tool="export_customers")}, "wrong-target", 8),
        ({"target": replace(MODEL, provider="openai")}, "wrong-target", 8),
        ({"target": replace(TOOL, server="tickets-mcp")}, "wrong-manifest", 8),
        ({"manifest": None}, "wrong-manifest", 8),
        ({"manifest": ZERO}, "wrong-manifest", 8),
        ({"rule": "allow-2"}, "wrong-decision", 9),
        ({"rule": "default"}, "wrong-decision", 9),
        ({"staleness": 5 * SECOND + 1}, "stale-revocations", 10),
        ({"parent": None}, "no-model-call", 12),
        ({"parent": Parent(call="call-0", id="x")}, "no-model-call", 12),
        ({"echo": Echo(hash=ZERO, seq=0)}, "bad-echo", 14),
    ],
)
def test_a_call_that_grant_manifest_or_policy_do_not_carry_is_found(
    changes: dict[str, Any], code: str, step: int
) -> None:
    def play(lane: Lane) -> None:
        lane.model("call-1", "get_case", "export_customers", "no_such_tool")
        lane.begin("call-2", **({"target": TOOL} | changes))
        lane.end("call-2")

    only(receipts(play), code, step, lane="lane-1", seq=4, line=HEAD + 6)


@pytest.mark.parametrize(
    "labels", [[], ["other"], ["customer_provided", "a"], ["customer_provided", "customer_provided"]]
)
def test_labels_that_contradict_the_manifest_are_found(labels: list[str]) -> None:
    def play(lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2", facts=Facts(labels=labels))

    only(receipts(play), "wrong-facts", 9, seq=4)


def test_a_call_outside_its_tokens_time_is_found() -> None:
    def late(lane: Lane) -> None:
        lane.time = NOW + 301 * SECOND
        lane.model("call-1")

    only(receipts(late), "outside-token", 8, seq=2)
    world = World()
    world.iat = NOW // SECOND + 20
    world.lane().model("call-1")
    world.lanes[0].close()
    only(world.verify(), "outside-token", 8, seq=2)


def test_a_call_of_a_tool_outside_the_grant_is_not_excused_by_a_denial_of_it() -> None:
    """A denial may name any tool of the manifest; what was decided of it says nothing of a call."""
    when = [{"attr": "args.x", "op": "eq", "value": 1}]
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case", "search_customer"], "when": when}
    target = Target(server="crm-mcp", tool="search_customer")

    def play(lane: Lane) -> None:
        lane.deny("call-0", target, rule="default", code="not-allowed")
        lane.model("call-1", "search_customer")
        lane.tool("call-2", "search_customer")

    report = receipts(play, policy={"allowed_tools": [rule]}, scope={"tools": ["mcp:crm-mcp/get_case"]})
    only(report, "wrong-target", 8, seq=5)


# Step 9: decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rule": "deny-2"}, "wrong-decision"),
        ({"rule": None}, "wrong-decision"),
        ({"code": "not-allowed"}, "wrong-decision"),
        ({"code": "budget-calls"}, "wrong-decision"),
        ({"target": TOOL}, "wrong-decision"),
        ({"target": None}, "wrong-target"),
        ({"jti": "token-2"}, "unknown-token"),
    ],
)
def test_a_denial_that_the_policy_cannot_give_is_found(changes: dict[str, Any], code: str) -> None:
    bent = {"target": Target(server="crm-mcp", tool="http_request")} | changes
    report = receipts(lambda lane: lane.deny("call-1", **bent))
    only(report, code, 9 if code == "wrong-decision" else 8, seq=2)


def test_a_denial_by_the_gateways_own_checks_is_not_replayed() -> None:
    def play(lane: Lane) -> None:
        lane.deny("call-1", None, by="gateway", code="unknown-argument", facts=None, rule=None)
        lane.deny("call-2", MODEL, code="hosted-tool", rule="model-1")

    report = receipts(play)
    assert (report.verdict, report.totals.denials, report.totals.replayed) == ("PASS", 2, 1)


def test_a_denial_without_labels_is_replayed_without_labels() -> None:
    report = receipts(lambda lane: lane.deny("call-1", Target(server="crm-mcp", tool="http_request"), facts=None))
    assert report.verdict == "PASS"


def test_a_token_longer_than_the_policy_allows_carries_no_call() -> None:
    world = World()
    world.exp = world.iat + 901
    world.lane().model("call-1")
    world.lanes[0].close()
    only(world.verify(), "wrong-decision", 9, seq=2)


def test_a_decision_that_depends_on_the_time_is_replayed_at_the_time_of_the_call() -> None:
    def report(until: int) -> Report:
        when = [{"attr": "time.now", "op": "lt", "value": until}]
        model = {"provider": "openrouter_via_fal", "models": [{"when": when}]}
        return receipts(lambda lane: (lane.model("call-1"), lane.model("call-2")), policy={"model_egress": model})

    assert report(NOW + DAY).verdict == "PASS"
    only(report(NOW + SECOND + 4000), "wrong-decision", 9, seq=4)


LIMITS = {"scope": {"limits": Budget(calls=1, tokens=100)}}


def test_a_call_beyond_the_share_is_found_and_its_denial_is_right() -> None:
    def spend(lane: Lane, calls: int) -> None:
        for number in range(calls):
            lane.begin(f"call-{number}", MODEL, reservation=Reservation(tokens=10))
            lane.end(f"call-{number}", usage=Usage(input=1, output=1))

    assert receipts(lambda lane: spend(lane, 1), **LIMITS).verdict == "PASS"
    says(receipts(lambda lane: spend(lane, 2), **LIMITS), "over-budget", 9, seq=4)

    def denied(lane: Lane) -> None:
        spend(lane, 1)
        lane.deny("call-9", MODEL, code="budget-calls", rule="model-1")

    assert receipts(denied, **LIMITS).verdict == "PASS"
    only(
        receipts(lambda lane: lane.deny("call-9", MODEL, code="budget-calls", rule="model-1"), **LIMITS),
        "wrong-decision",
        9,
        seq=2,
    )


def test_a_denial_for_want_of_tokens_is_right_when_some_reservation_would_not_fit() -> None:
    play: Callable[[Lane], Any] = lambda lane: lane.deny("call-9", MODEL, code="budget-tokens", rule="model-1")  # noqa: E731
    assert receipts(play, **LIMITS).verdict == "PASS"
    only(receipts(play), "wrong-decision", 9, seq=2)


def test_a_model_call_reserves_from_a_limited_share() -> None:
    only(receipts(lambda lane: lane.model("call-1"), **LIMITS), "over-budget", 9, seq=2, field="reservation")


def test_a_lanes_share_is_never_more_than_the_grants_purse() -> None:
    world = World(**LIMITS)
    world.lane().close()
    for share in (Budget(), Budget(calls=2, tokens=100), Budget(calls=1)):
        only(laned(world, share=share), "over-budget", 9, lane="lane-1", field="share")


def test_many_lanes_do_not_multiply_the_jobs_purse() -> None:
    world = World(scope={"limits": Budget(calls=2, tokens=100)})
    for name in ("lane-1", "lane-2"):
        lane = world.lane(name)
        for number in range(2):
            lane.begin(f"call-{number}", MODEL, reservation=Reservation(tokens=40))
            lane.end(f"call-{number}", usage=Usage(input=20, output=10))
        lane.close()
    only(world.verify(), "over-budget", 9, field="limits")


def test_a_full_replay_is_what_a_pin_may_ask_for() -> None:
    only(World().story().verify(require_full_replay=True), "partial-replay", 9)
    assert receipts(lambda lane: lane.deny("call-1", Target(server="crm-mcp", tool="http_request"))).replay == "full"


# Step 10: time and revocation -----------------------------------------------------------------------------------------


def marked(world: World, *marks: tuple[float, int]) -> Report:
    """Verify a world whose lane has these marks: seconds after NOW, size."""
    made = [Mark(time=NOW + int(time * SECOND), size=size) for time, size in marks]
    honest = world.sealed()
    closed = max(honest.closed, made[-1].time)
    return sealed(world, lanes=[replace(honest.lanes[0], marks=made)], closed=closed)


def test_receipts_between_their_marks_pass() -> None:
    world = World().story()
    assert marked(world, (1, 0), (1.005, 5), (2, 12)).verdict == "PASS"


@pytest.mark.parametrize(
    ("marks", "seq"), [(((1, 0), (60, 1), (70, 12)), 1), (((-30, 12),), 0), (((20, 0), (30, 12)), 0)]
)
def test_a_receipt_outside_the_marks_around_it_is_found(marks: tuple[tuple[int, int], ...], seq: int) -> None:
    says(marked(World().story(), *marks), "outside-marks", 10, lane="lane-1", seq=seq)


def test_a_receipt_after_the_seal_is_found() -> None:
    world = World().story()
    lanes = [replace(world.sealed().lanes[0], marks=[Mark(time=NOW - 10 * SECOND, size=0)])]
    says(sealed(world, closed=NOW - 9 * SECOND, opened=NOW - 10 * SECOND, lanes=lanes), "outside-marks", 10, seq=0)
    says(sealed(world, closed=NOW), "bad-seal", 5)


def test_the_pins_skew_decides_how_far_clocks_may_differ() -> None:
    world = World().story()
    lanes = [replace(world.sealed().lanes[0], marks=[Mark(time=NOW - 2 * SECOND, size=12)])]
    raw = world.bundle(world.documents(world.sealed(lanes=lanes)))
    assert world.verify(raw, max_skew_seconds=5).verdict == "PASS"
    only(world.verify(raw, max_skew_seconds=1), "outside-marks", 10)


def revoked(kind: str, value: str, *, cutoff: int, marks: tuple[tuple[float, int], ...] | None = None) -> Report:
    """Verify the story with a revocation that had to be known at a size."""
    world = World().story()
    world.revoke(kind, world.policy_digest if kind == "policy" else value, NOW - 6 * SECOND)
    return marked(world, *(marks or ((0, cutoff), (2, 12))))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("job", "job-1"),
        ("agent", "agent-1"),
        ("client", "orchestrator-1"),
        ("policy", ""),
        ("all", "*"),
        ("jti", "token-1"),
        ("server", "crm-mcp"),
        ("tool", "crm-mcp/get_case"),
        ("model", "openrouter_via_fal/small-1"),
    ],
)
def test_a_call_allowed_after_its_revocation_had_to_be_known_is_found(kind: str, value: str) -> None:
    only(revoked(kind, value, cutoff=2), "after-revocation", 10, lane="lane-1")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("job", "job-2"), ("jti", "token-2"), ("server", "other"), ("tool", "crm-mcp/other"), ("model", "openai/x")],
)
def test_a_call_that_a_revocation_is_not_about_passes(kind: str, value: str) -> None:
    assert revoked(kind, value, cutoff=2).verdict == "PASS"


def test_a_call_before_its_revocation_had_to_be_known_passes() -> None:
    assert revoked("job", "job-1", cutoff=12).verdict == "PASS"
    assert revoked("tool", "crm-mcp/get_case", cutoff=5).verdict == "PASS"


def test_a_mark_that_scope_set_too_late_is_missing() -> None:
    world = World().story()
    world.revoke("job", "job-1", NOW - 120 * SECOND)
    only(marked(world, (0, 12), (2, 12)), "missing-mark", 10, field="marks")


def test_a_revocation_in_time_explains_a_seal_that_says_revoked() -> None:
    world = World().story()
    world.revoke("job", "job-1", NOW + SECOND)
    assert sealed(world, status="revoked").verdict == "PASS"


# Steps 11 to 14 -------------------------------------------------------------------------------------------------------


def test_a_call_whose_answer_nobody_recorded_is_incomplete_in_an_interrupted_lane() -> None:
    world = World()
    world.lane().begin("call-1", MODEL)
    report = sealed(world, status="interrupted")
    says(report, "no-answer", 12, seq=2)
    assert report.verdict == "INCOMPLETE"


def test_a_tool_call_answered_twice_is_found() -> None:
    def play(lane: Lane) -> None:
        lane.model("call-1", "get_case")
        lane.tool("call-2")
        lane.tool("call-3", parent=Parent(call="call-1", id="call-1-0"))

    only(receipts(play), "no-model-call", 12, seq=6)


def test_without_the_tie_a_tool_needs_no_model_but_a_named_parent_is_checked() -> None:
    free = {"policy": {"model_egress": {"require_proxy_receipts": False}}}
    assert receipts(lambda lane: lane.tool("call-1"), **free).verdict == "PASS"
    only(
        receipts(lambda lane: lane.tool("call-1", parent=Parent(call="x", id="y")), **free), "no-model-call", 12, seq=2
    )


# The report -----------------------------------------------------------------------------------------------------------


def test_all_findings_are_listed_and_the_worst_decides() -> None:
    def play(lane: Lane) -> None:
        lane.tool("call-1", parent=None)
        lane.tool("call-2", rule="x", parent=None)
        raw_receipt(lane, b"{}")

    report = receipts(play)
    assert [(each.code, each.seq) for each in report.findings][:4] == [
        ("no-model-call", 2), ("wrong-decision", 4), ("no-model-call", 4), ("wrong-kind", 6),
    ]  # fmt: skip
    assert (report.verdict, report.exit_code) == ("MALFORMED", 2)


def test_findings_beyond_ten_thousand_are_counted_and_still_decide() -> None:
    report = Report()
    for _ in range(MAX_FINDINGS + 5):
        report.add("lost-call", 12, "x")
    report.add("not-json", 7, "x")
    assert (len(report.findings), report.unlisted, report.verdict) == (MAX_FINDINGS, 6, "MALFORMED")


def test_a_report_is_plain_values() -> None:
    assert json.loads(canonical(World().story().verify()))["verdict"] == "PASS"


def test_a_tool_of_a_server_that_a_wild_card_allows_is_judged_by_its_own_manifest() -> None:
    tool = Tool(
        name="wipe",
        description="",
        input_schema=SCHEMA,
        tool_class="destructive",
        sensitivity="internal",
        data_classes=[],
        approval="none",
    )
    read_only = [{"kind": "mcp", "server": "*", "tools": ["*"], "classes": ["read"]}]
    world = World(policy={"allowed_tools": read_only}, tools=[tool], scope={"tools": ["mcp:crm-mcp/wipe"]})
    only(world.verify(), "scope-too-wide", 4)


def test_documents_of_a_kind_stand_in_one_order_so_that_a_job_has_one_bundle() -> None:
    world = World().story()
    world.revoke("agent", "somebody-else", NOW)
    world.revoke("agent", "nobody", NOW)
    lines = world.bundle().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith(b'{"revocation":'))
    assert world.verify(b"".join(lines)).verdict == "PASS"
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    only(world.verify(b"".join(lines)), "bad-line", 1, line=first + 2)
