"""Attacks that verifiers of today accept (the protocol's list, the field's table): each is a claim that ours does not.

The attacker holds the keys that the claim says, signs whatever those can sign, and rebuilds whatever those can rebuild.
"""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.world import GATEWAY, NOW, REGISTRY, SECOND, World, key, pair, root
from verifier import bundle, seal
from verifier.checkpoint import sign_head
from verifier.encoding import b64, canonical, digest
from verifier.envelope import Envelope, payload_type, seal_up
from verifier.grant import Budget
from verifier.keys import Pin
from verifier.leaf import Parent, Target, ToolCall
from verifier.merkle import leaf_hash, root_of
from verifier.policy import DAY
from verifier.report import Report
from verifier.seal import Child

HTTP = Target(server="crm-mcp", tool="http_request")
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
ZERO = "sha256:" + "0" * 64
WORLD = World().story()
HONEST = WORLD.bundle()
LINES = HONEST.splitlines(keepends=True)
FIRST = next(number for number, line in enumerate(LINES) if line.startswith(b'{"head":')) + 1


def codes(report: Report) -> set[str]:
    """Name what a report found."""
    return {each.code for each in report.findings}


def fails(report: Report, *wanted: str, verdict: str = "FAIL") -> None:
    """Check verdict and codes."""
    assert set(wanted) <= codes(report), report.findings
    assert report.verdict == verdict
    assert report.exit_code != 0


def bent(lines: list[bytes]) -> Report:
    """Verify other lines by the honest world's pin."""
    return WORLD.verify(b"".join(lines))


def line_of(kind: str) -> int:
    """Find a document's line."""
    return next(number for number, line in enumerate(LINES) if line.startswith(b'{"%s":' % kind.encode()))


def instead(kind: str, raw: bytes) -> Report:
    """Put another document in a line's place."""
    at = line_of(kind)
    return bent([*LINES[:at], bundle.wrap(kind, raw) + b"\n", *LINES[at + 1 :]])


PAYLOADS = {
    "policy": WORLD.policy_payload, "manifest": WORLD.manifest_payload, "grant": WORLD.grant_payload,
    "seal": canonical(WORLD.sealed()), "keys": WORLD.keys_payload,
}  # fmt: skip


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_bare_payload_without_signature_is_malformed(kind: str) -> None:
    assert instead(kind, PAYLOADS[kind]).verdict == "MALFORMED"


@pytest.mark.parametrize("kind", PAYLOADS)
def test_an_envelope_without_any_signature_fails(kind: str) -> None:
    fails(instead(kind, seal_up(kind, PAYLOADS[kind])), "missing-signature")


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("half", [0, 1])
def test_one_of_two_signatures_stripped_fails(kind: str, half: int) -> None:
    raw = json.loads(LINES[line_of(kind)])[kind]
    raw["signatures"] = [each for number, each in enumerate(raw["signatures"]) if number % 2 == half]
    fails(instead(kind, canonical(raw)), "missing-signature")


@pytest.mark.parametrize("kind", PAYLOADS)
def test_two_halves_of_a_signature_by_different_owners_fail(kind: str) -> None:
    name = {"policy": "author", "manifest": "registry", "keys": "root"}.get(kind, kind)
    first = Envelope.parse(seal_up(kind, PAYLOADS[kind], pair(name)), kind).signatures[0]
    second = Envelope.parse(seal_up(kind, PAYLOADS[kind], pair("gateway")), kind).signatures[1]
    signatures = sorted([first, second], key=lambda each: each.keyid)
    report = instead(kind, Envelope(b64(PAYLOADS[kind]), payload_type(kind), signatures).encode())
    assert codes(report) & {"missing-signature", "unknown-signer"}
    assert report.verdict in {"FAIL", "UNTRUSTED"}


def test_another_agents_receipts_signed_again_fail() -> None:
    """The gateway takes the receipts of another job and signs a head over them in this one."""
    world, other = World(), World()
    other.job, other.jti = "job-2", "token-2"
    other.story()
    lane = world.lane()
    lane.raws, lane.tree, lane.time, lane.closed = other.lanes[0].raws, other.lanes[0].tree, other.lanes[0].time, True
    fails(world.verify(), "wrong-job", "unknown-token")


def test_a_good_receipt_beside_a_forged_one_fails() -> None:
    forged = LINES[FIRST + 4].replace(b'"get_case"', b'"search_customer"')
    assert forged != LINES[FIRST + 4]
    fails(bent([*LINES[: FIRST + 4], forged, *LINES[FIRST + 5 :]]), "wrong-root")


@pytest.mark.parametrize("place", range(len(LINES) - FIRST))
def test_a_dropped_receipt_fails(place: int) -> None:
    fails(bent([*LINES[: FIRST + place], *LINES[FIRST + place + 1 :]]), "wrong-size", "wrong-root")


@pytest.mark.parametrize("place", range(len(LINES) - FIRST))
def test_a_doubled_receipt_fails(place: int) -> None:
    fails(bent([*LINES[: FIRST + place + 1], *LINES[FIRST + place :]]), "wrong-size", "wrong-root", "wrong-seq")


@pytest.mark.parametrize("place", range(len(LINES) - FIRST - 1))
def test_two_receipts_in_another_order_fail(place: int) -> None:
    at = FIRST + place
    fails(bent([*LINES[:at], LINES[at + 1], LINES[at], *LINES[at + 2 :]]), "wrong-root", "wrong-seq")


def test_a_truncated_receipt_is_malformed() -> None:
    fails(WORLD.verify(HONEST[:-20]), "truncated", verdict="MALFORMED")
    fails(bent([*LINES[:-1], LINES[-1][:-20] + b"\n"]), "truncated", "wrong-root", verdict="MALFORMED")


@pytest.mark.parametrize("kept", range(len(LINES) - FIRST))
def test_half_a_chain_and_an_empty_one_fail(kept: int) -> None:
    fails(bent(LINES[: FIRST + kept]), "wrong-size", "wrong-root", "no-close")


def test_an_empty_bundle_is_malformed() -> None:
    for raw in (b"", b"\n", b"{}\n", LINES[0]):
        assert WORLD.verify(raw).verdict == "MALFORMED"


def test_documents_without_their_lanes_fail() -> None:
    fails(bent(LINES[: FIRST - 1]), "missing-lane")


def test_a_lane_cut_off_and_signed_again_by_the_gateway_fails_against_the_seal() -> None:
    """The gateway's key is not enough: the seal has the size, signed by a key that the gateway does not have."""
    raws = [line[:-1] for line in LINES[FIRST:-2]]
    name = seal.origin(GATEWAY, "job-1", "lane-1")
    note = sign_head(pair("gateway"), name, len(raws), root_of(map(leaf_hash, raws)))
    lane = bundle.Lane("lane-1", note, raws)
    report = WORLD.verify(b"".join(bundle.write(WORLD.documents(WORLD.sealed()), [lane])))
    fails(report, "wrong-size", "wrong-root", "wrong-head", "no-close")


def test_a_whole_world_under_an_attackers_root_is_untrusted() -> None:
    """Every key is the attacker's own and everything agrees; only the pin does not know the root."""
    report = WORLD.verify(HONEST, roots=[root("attacker", "owner-1")])
    fails(report, "unknown-root", verdict="UNTRUSTED")


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"roots":[],"suites":["tally-1"],"threshold":1}'])
def test_an_empty_pin_trusts_nobody_and_is_no_pin(raw: bytes) -> None:
    with refused("bad-pin"):
        Pin.parse(raw)


def test_a_self_signed_policy_is_untrusted() -> None:
    """The policy names the attacker as its issuer and bears the attacker's own good signature."""
    own = canonical(replace(WORLD.policy, issuer="attacker"))
    fails(instead("policy", seal_up("policy", own, pair("attacker"))), "unknown-signer", verdict="UNTRUSTED")


def test_a_policy_that_the_registry_alone_signed_is_untrusted() -> None:
    own = canonical(replace(WORLD.policy, issuer=REGISTRY))
    fails(instead("policy", seal_up("policy", own, pair("registry"))), "wrong-use", verdict="UNTRUSTED")


def test_an_authors_key_does_not_sign_another_authors_policy() -> None:
    keys = [*WORLD.listed.keys, key("author-2", "policy", "another-team")]
    world = World(keys=keys).story()
    raw = seal_up("policy", world.policy_payload, pair("author-2"), pair("registry"))
    report = world.verify(world.bundle(replace(world.documents(world.sealed()), policies=[raw])))
    fails(report, "wrong-owner", verdict="UNTRUSTED")


def test_two_policies_in_one_job_fail() -> None:
    """A second policy that allows more, signed by the right author, with a grant pinned to it."""
    world = World().story()
    wide = World(policy={"serial": 2, "denied_tools": []})
    scope = replace(world.grant.scope, policy=wide.policy_digest)
    other = canonical(replace(world.grant, scope=scope))
    documents = world.documents(world.sealed(grants=[world.grant_digest, digest(other)]))
    documents = replace(
        documents,
        policies=documents.policies + wide.documents(None).policies,
        grants=[*documents.grants, seal_up("grant", other, pair("grant"))],
    )
    fails(world.verify(world.bundle(documents)), "wrong-policy", "unnamed-document", verdict="MALFORMED")


def test_a_policy_swapped_for_a_wider_one_of_the_same_author_fails() -> None:
    wide = World(policy={"serial": 2, "denied_tools": []})
    raw = wide.documents(None).policies[0]
    fails(instead("policy", raw), "missing-document", "unnamed-document", verdict="MALFORMED")


def test_receipts_outside_the_jobs_time_fail() -> None:
    world = World()
    lane = world.lane()
    lane.time = NOW + 2 * DAY
    lane.model("call-1")
    lane.close()
    fails(world.verify(), "outside-token")
    late = World()
    late.lane().model("call-1")
    late.lanes[0].time = NOW + 2 * DAY
    late.lanes[0].close()
    marks = [seal.Mark(time=NOW + SECOND, size=0), seal.Mark(time=NOW + 10 * SECOND, size=5)]
    lanes = [replace(late.sealed().lanes[0], marks=marks)]
    fails(late.verify(late.bundle(late.documents(late.sealed(lanes=lanes, closed=NOW + 10 * SECOND)))), "outside-marks")


@pytest.mark.parametrize("kind", [*PAYLOADS, "header", "head"])
def test_a_duplicate_key_is_not_canonical(kind: str) -> None:
    at = line_of(kind)
    document = bundle.content(LINES[at][:-1], kind)
    name = next(iter(json.loads(document)))
    value = json.dumps(json.loads(document)[name], ensure_ascii=False, separators=(",", ":"))
    doubled = b'{"%s":%s,' % (name.encode(), value.encode()) + document[1:]
    fails(
        bent([*LINES[:at], bundle.wrap(kind, doubled) + b"\n", *LINES[at + 1 :]]), "not-canonical", verdict="MALFORMED"
    )


def test_a_duplicate_key_in_a_receipt_is_not_canonical() -> None:
    doubled = LINES[FIRST].replace(b'{"build":', b'{"build":"evil","build":')
    report = bent([*LINES[:FIRST], doubled, *LINES[FIRST + 1 :]])
    fails(report, "not-canonical", verdict="MALFORMED")


@pytest.mark.parametrize("number", range(len(LINES)))
def test_an_honest_bundle_written_again_is_not_canonical_and_not_called_tampered(number: int) -> None:
    again = json.dumps(json.loads(LINES[number]), ensure_ascii=False).encode() + b"\n"
    report = bent([*LINES[:number], again, *LINES[number + 1 :]])
    assert report.verdict == "MALFORMED"
    assert codes(report) & {"not-canonical", "missing-line", "bad-line", "unsealed-lane"} or number == FIRST - 1
    assert "bad-signature" not in codes(report)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_an_envelope_field_that_the_signature_does_not_cover_cannot_be_changed(kind: str) -> None:
    raw = json.loads(LINES[line_of(kind)])[kind]
    others = {
        "payloadType": payload_type("grant" if kind != "grant" else "policy"),
        "payload": raw["payload"][:-4] + "AAA=",
        "signatures": raw["signatures"][::-1],
    }
    for name, value in others.items():
        assert instead(kind, canonical(raw | {name: value})).verdict != "PASS"
    for more in ({"alg": "none"}, {"trusted": True}):
        fails(instead(kind, canonical(raw | more)), "unknown-field", verdict="MALFORMED")
    keyid = raw["signatures"][0] | {"keyid": raw["signatures"][0]["keyid"] + "x"}
    assert instead(kind, canonical(raw | {"signatures": [keyid, *raw["signatures"][1:]]})).verdict == "UNTRUSTED"


def test_the_job_in_the_header_is_checked_against_signed_documents() -> None:
    fails(WORLD.verify(HONEST.replace(b'"job":"job-1"', b'"job":"job-2"', 1)), "wrong-job")


@pytest.mark.parametrize("algorithm", ["none", "ed448", "hs256"])
def test_a_bundle_that_names_its_own_algorithm_is_untrusted(algorithm: str) -> None:
    raw = json.loads(LINES[line_of("seal")])["seal"]
    kid = raw["signatures"][0]["keyid"].split("/")[0]
    raw["signatures"] = [{"keyid": f"{kid}/{algorithm}", "sig": raw["signatures"][0]["sig"]}]
    fails(instead("seal", canonical(raw)), "unknown-signer", verdict="UNTRUSTED")


def test_tenant_as_keys_do_not_sign_tenant_bs_job() -> None:
    """Both tenants are in one key list; A's scope and gateway make a whole job in B's name."""
    other = "https://scope-a.example"
    keys = [
        *World().listed.keys,
        key("grant-a", "grant", other),
        key("seal-a", "seal", other),
        key("gateway-a", "gateway", "https://gateway-a.example"),
    ]
    world = World(keys=keys).story()
    documents = replace(
        world.documents(None),
        grants=[seal_up("grant", world.grant_payload, pair("grant-a"))],
        seal=seal_up("seal", canonical(world.sealed()), pair("seal-a")),
    )
    fails(world.verify(world.bundle(documents)), "wrong-owner", verdict="UNTRUSTED")
    lanes = [bundle.Lane("lane-1", world.lanes[0].head("gateway-a"), world.lanes[0].raws)]
    raw = b"".join(bundle.write(world.documents(world.sealed()), lanes))
    fails(world.verify(raw), "unknown-signer", verdict="UNTRUSTED")


def test_an_older_key_list_with_a_key_that_was_revoked_since_is_refused_by_a_pin_that_knows() -> None:
    old = World(listed={"version": 1}).story()
    assert old.verify().verdict == "PASS"
    fails(old.verify(min_keys_version=2), "old-keys", verdict="UNTRUSTED")
    keys = [
        replace(each, revoked_at=NOW + DAY, reason="compromise") if each.use == "gateway" else each
        for each in old.listed.keys
    ]
    fails(
        World(keys=keys, listed={"version": 2}).story().verify(min_keys_version=2), "key-revoked", verdict="UNTRUSTED"
    )


def test_a_jti_that_scope_never_issued_fails() -> None:
    world = World().story()
    lanes = [replace(world.sealed().lanes[0], tokens=[])]
    fails(world.verify(world.bundle(world.documents(world.sealed(lanes=lanes)))), "unknown-token")


def test_an_older_manifest_fails() -> None:
    """The gateway judges by yesterday's manifest, in which the tool carried no label."""
    world = World().story()
    tools = [replace(tool, data_classes=[]) for tool in world.manifest.tools]
    older = canonical(replace(world.manifest, tools=tools))
    raw = seal_up("manifest", older, pair("registry"))
    report = world.verify(world.bundle(replace(world.documents(world.sealed()), manifests=[raw])))
    fails(report, "missing-document", "unnamed-document", "wrong-manifest", verdict="MALFORMED")


def test_a_child_job_is_never_left_out_unseen() -> None:
    world = World(policy={"token_constraints": {"max_delegation_depth": 1}}).story()
    child = Child(job="job-2", grant=ZERO, seal=ZERO, share=Budget())
    report = world.verify(world.bundle(world.documents(world.sealed(children=[child]))))
    fails(report, "missing-child", verdict="INCOMPLETE")


@pytest.mark.parametrize("approval", [b"{}", b'{"job":"job-1","verdict":"approved"}'])
def test_an_approval_that_no_approver_signed_is_untrusted(approval: bytes) -> None:
    at = line_of("seal")
    raw = bundle.wrap("approval", seal_up("approval", approval, pair("attacker"))) + b"\n"
    fails(bent([*LINES[:at], raw, *LINES[at:]]), "unknown-signer", verdict="UNTRUSTED")


def test_a_call_that_the_policy_denies_fails_although_the_gateway_allowed_and_signed_it() -> None:
    world = World(scope={"tools": ["mcp:crm-mcp/get_case", "mcp:crm-mcp/http_request"]})
    lane = world.lane()
    lane.model("call-1", "http_request")
    lane.begin("call-2", HTTP, rule="allow-1")
    lane.end("call-2")
    lane.close()
    fails(world.verify(), "scope-too-wide", "wrong-decision")


def test_a_parent_that_is_merely_there_answers_nothing() -> None:
    world = World()
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2", "search_customer", parent=Parent(call="call-1", id="call-1-0"))
    lane.close()
    fails(world.verify(), "no-model-call")


def test_a_policy_that_inherits_is_refused_and_never_read_without_its_parent() -> None:
    fails(World(policy={"parent": ZERO}).story().verify(), "missing-document")


def test_a_missing_attribute_in_a_deny_condition_denies() -> None:
    """A deny rule whose condition cannot be evaluated is not skipped: no call of that tool is replayed as allowed."""
    when = [{"attr": "model.name", "op": "eq", "value": "never"}]
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "when": when}
    world = World(policy={"denied_tools": [rule]}, scope={"tools": ["mcp:crm-mcp/get_case"]}).story()
    fails(world.verify(), "scope-too-wide", "wrong-decision")


def test_a_stream_that_broke_has_an_end_and_its_absence_is_found() -> None:
    world = World()
    lane = world.lane()
    lane.begin("call-1", Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions"))
    lane.end("call-1", status="client_abort", stream="cut", dlv=None)
    lane.close()
    assert world.verify().verdict == "PASS"
    without = World()
    lane = without.lane()
    lane.begin("call-1", Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions"))
    lane.close()
    fails(without.verify(), "no-end")


def test_a_revoked_token_used_after_it_had_to_be_known_fails() -> None:
    world = World().story()
    world.revoke("jti", "token-1", NOW - 6 * SECOND)
    marks = [seal.Mark(time=NOW, size=2), seal.Mark(time=NOW + 2 * SECOND, size=12)]
    lanes = [replace(world.sealed().lanes[0], marks=marks)]
    fails(world.verify(world.bundle(world.documents(world.sealed(lanes=lanes)))), "after-revocation")


def test_a_gateway_cannot_hide_a_revocation_by_what_it_says_that_it_had_seen() -> None:
    world = World().story()
    made = world.revoke("jti", "token-1", NOW - 6 * SECOND)
    documents = world.documents(world.sealed())
    assert documents.revocations == [seal_up("revocation", canonical(made), pair("revocation"))]
    fails(world.verify(world.bundle(replace(documents, revocations=[]))), "missing-document")


def test_a_call_allowed_by_a_gateway_that_says_it_had_seen_the_revocation_fails() -> None:
    world = World()
    lane = world.lane()
    lane.begin("call-1", MODEL, revocations=1)
    lane.end("call-1")
    lane.close()
    world.revoke("model", "openrouter_via_fal/small-1", lane.time)
    fails(world.verify(), "after-revocation")


def test_a_seal_without_the_marks_that_a_revocation_asks_for_fails() -> None:
    world = World().story()
    world.revoke("jti", "token-1", NOW)
    marks = [seal.Mark(time=NOW, size=0)]
    lanes = [replace(world.sealed().lanes[0], marks=marks)]
    late = world.sealed(lanes=lanes, closed=NOW + 70 * SECOND)
    fails(world.verify(world.bundle(world.documents(late))), "missing-mark", verdict="INCOMPLETE")


def test_the_purse_of_a_job_does_not_depend_on_the_order_of_its_grants() -> None:
    world = World(scope={"limits": Budget(calls=2)}, grant={"issued_at": NOW + 1}).story()
    wide = replace(world.grant, issued_at=NOW, scope=replace(world.grant.scope, limits=Budget()))
    signed, names = seal_up("grant", canonical(wide), pair("grant")), [digest(canonical(wide)), world.grant_digest]
    lanes = [replace(world.sealed().lanes[0], share=Budget())]
    documents = world.documents(world.sealed(grants=names, lanes=lanes))
    fails(world.verify(world.bundle(replace(documents, grants=[signed, *documents.grants]))), "wrong-grant")


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"manifest": ZERO}, "wrong-manifest"), ({"parent": Parent(call="call-0", id="a")}, "no-model-call")],
)
def test_a_call_of_a_model_claims_neither_manifest_nor_parent(changes: dict[str, Any], code: str) -> None:
    world = World()
    lane = world.lane()
    lane.begin("call-1", MODEL, **changes)
    lane.end("call-1")
    lane.close()
    fails(world.verify(), code)


@pytest.mark.parametrize("status", ["client_abort", "policy_cut", "upstream_error", "lost"])
def test_an_answer_that_was_withheld_asks_for_no_tool(status: str) -> None:
    world = World()
    lane = world.lane()
    lane.begin("call-1", MODEL)
    lane.end("call-1", status=status, recv=None, dlv=None, tool_calls=[ToolCall(id="a", name="get_case")])
    lane.tool("call-2")
    lane.close()
    fails(world.verify(), "bad-end")


def test_a_seal_made_by_the_gateway_is_untrusted() -> None:
    raw = seal_up("seal", canonical(WORLD.sealed()), pair("gateway"))
    fails(instead("seal", raw), "wrong-use", verdict="UNTRUSTED")


def test_a_second_seal_is_malformed() -> None:
    at = line_of("seal")
    other = bundle.wrap("seal", seal_up("seal", canonical(WORLD.sealed(status="expired")), pair("seal"))) + b"\n"
    fails(bent([*LINES[: at + 1], other, *LINES[at + 1 :]]), "unnamed-document", verdict="MALFORMED")


def test_a_bundle_without_its_seal_never_passes() -> None:
    at = line_of("seal")
    fails(bent([*LINES[:at], *LINES[at + 1 :]]), "no-seal", verdict="INCOMPLETE")


def test_the_header_of_another_version_is_malformed() -> None:
    fails(WORLD.verify(HONEST.replace(b"bundle/1", b"bundle/0", 1)), "bad-value", verdict="MALFORMED")


def test_bytes_after_the_end_are_found() -> None:
    for more in (b"\n", b"{}\n", b" ", b"\0", LINES[-1], LINES[0]):
        assert WORLD.verify(HONEST + more).verdict != "PASS"
