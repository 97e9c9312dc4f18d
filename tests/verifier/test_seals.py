"""Seals: one that completes an interrupted one, a log's word for a seal's time, and approvals beside it."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.refusal import refused
from tests.verifier.test_verify import only, says
from tests.world import GATEWAY, NOW, SCOPE, SECOND, Lane, World, key, log_proof, pair
from verifier import seal
from verifier.approval import Approval
from verifier.checkpoint import ML_DSA_44_TYPE, key_id
from verifier.encoding import b64, canonical, digest
from verifier.envelope import seal_up
from verifier.grant import Budget
from verifier.keys import Key
from verifier.leaf import Target
from verifier.policy import DAY
from verifier.report import Report
from verifier.seal import Child, Incident, Mark, Seal

ZERO = "sha256:" + "0" * 64
OTHER = "https://gateway-2.example"
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
DEEP: dict[str, Any] = {"token_constraints": {"max_delegation_depth": 1}}


# One interrupted seal may precede the final one ---------------------------------------------------------------------


def resumed(policy: dict[str, Any] | None = None) -> World:
    """Seal a job while its gateway is cut off, then let the gateway come back and close."""
    world = World(policy=policy)
    lane = world.lane()
    lane.model("call-1", "get_case")
    world.superseded = world.sealed(status="interrupted")
    lane.tool("call-2")
    lane.close()
    return world


def test_a_final_seal_may_supersede_an_interrupted_one() -> None:
    report = resumed().verify()
    assert (report.verdict, report.status) == ("PASS", "complete")
    assert report.kin is not None
    assert report.kin.supersedes == digest(canonical(resumed().superseded))


def bent(**changes: Any) -> Report:
    """Let the interrupted seal have said something else."""
    world = resumed()
    assert world.superseded is not None
    world.superseded = replace(world.superseded, **changes)
    return world.verify(world.bundle(world.documents(world.sealed(lanes=resumed().sealed().lanes))))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"status": "complete"}, "status"),
        ({"policy": ZERO}, "policy"),
        ({"opened": NOW - 1}, "opened"),
        ({"closed": NOW + DAY}, "closed"),
        ({"grants": [ZERO]}, "grants"),
        ({"revocations": [ZERO]}, "revocations"),
        ({"incidents": [Incident(time=NOW, lane="lane-1", code="inconsistent-head")]}, "incidents"),
        ({"children": [Child(job="job-2", grant=ZERO, seal=ZERO, share=Budget())]}, "children"),
    ],
)
def test_a_seal_extends_the_one_that_it_supersedes(changes: dict[str, Any], field: str) -> None:
    only(bent(**changes), "wrong-supersedes", 5, field=field)


def test_what_scope_refused_of_a_lane_stands_in_the_seal_and_in_the_report() -> None:
    world = World().story()
    incidents = [Incident(time=NOW + each, lane="lane-1", code="inconsistent-head") for each in (1, 2)]
    report = world.verify(world.bundle(world.documents(world.sealed(incidents=incidents))))
    assert (report.verdict, report.totals.incidents) == ("PASS", 2)
    assert [each for each in report.not_proved if each.startswith("Why scope refused 2 reports of these lanes")]
    assert not [each for each in world.verify().not_proved if "refused" in each]


def test_a_superseded_seal_is_of_the_same_job_and_issuer() -> None:
    honest = resumed().superseded
    assert honest is not None
    lane = replace(honest.lanes[0], origin=seal.origin(GATEWAY, "job-2", "lane-1"))
    only(bent(job="job-2", lanes=[lane]), "wrong-supersedes", 5, field="job")
    says(bent(iss="https://scope-2.example"), "wrong-owner", 5)
    assert dict(seal.unextended(honest, replace(honest, iss="https://scope-2.example")))["iss"]


def laned(**changes: Any) -> Report:
    """Let the interrupted seal have said something else of the lane."""
    honest = resumed().superseded
    assert honest is not None
    return bent(lanes=[replace(honest.lanes[0], **changes)])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lane": "lane-0", "origin": seal.origin(GATEWAY, "job-1", "lane-0")}, "lanes.lane"),
        ({"kid": "0" * 32}, "lanes.kid"),
        ({"size": 99}, "lanes.size"),
        ({"size": 7, "root": ZERO}, "lanes.root"),
        ({"marks": [Mark(time=NOW + SECOND, size=1)]}, "lanes.marks"),
        ({"tokens": [seal.SealedToken(jti="token-2", grant=ZERO, iat=0, exp=1)]}, "lanes.tokens"),
        (
            {
                "gateway": "https://gateway-2.example",
                "origin": seal.origin("https://gateway-2.example", "job-1", "lane-1"),
            },
            "lanes.gateway",
        ),
    ],
)
def test_every_lane_of_a_superseded_seal_is_extended(changes: dict[str, Any], field: str) -> None:
    says(laned(**changes), "wrong-supersedes", 5, field=field)


def test_everything_in_which_a_seal_does_not_extend_the_former_is_listed() -> None:
    report = bent(grants=[ZERO], opened=NOW - 1, lanes=[])
    assert {each.field for each in report.findings} == {"grants", "opened"}


def test_a_superseded_seal_names_a_list_of_the_chain() -> None:
    only(bent(keys=ZERO), "wrong-keys", 5, field="supersedes")


def test_an_interrupted_seal_under_a_former_key_list_passes() -> None:
    world = resumed()
    former = digest(world.keys_payload)
    assert world.superseded is not None
    assert world.superseded.keys == former
    world = World()
    first = digest(world.keys_payload)
    world.rotate()
    lane = world.lane()
    lane.model("call-1")
    world.superseded = world.sealed(status="interrupted", keys=first)
    lane.close()
    assert world.verify().verdict == "PASS"


def test_a_superseded_seal_that_is_left_out_fails() -> None:
    world = resumed()
    documents = replace(world.documents(world.sealed()), superseded=None)
    only(world.verify(world.bundle(documents)), "missing-document", 5, field="seal")


def test_two_final_seals_of_one_job_are_malformed() -> None:
    world = World().story()
    sealed = world.sealed()
    world.superseded = replace(sealed, closed=sealed.closed - 1)
    report = world.verify(world.bundle(world.documents(sealed)))
    only(report, "unnamed-document", 5, field="seal")
    assert report.verdict == "MALFORMED"


def test_a_seal_stands_once() -> None:
    world = resumed()
    lines = world.bundle().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith(b'{"seal":'))
    only(world.verify(b"".join([*lines[:first], lines[first], *lines[first:]])), "bad-line", 1, line=first + 2)


def test_an_earlier_seal_does_not_stand_in_for_a_final_one_that_cannot_be_read() -> None:
    world = resumed()
    forged = seal_up("seal", canonical(world.sealed()), pair("gateway"))
    report = world.verify(world.bundle(replace(world.documents(world.sealed()), seal=forged)))
    assert {each.code for each in report.findings} >= {"wrong-use", "no-seal"}


def test_a_superseded_seal_that_nobody_signed_is_refused() -> None:
    world = resumed()
    forged = seal_up("seal", canonical(world.superseded), pair("attacker"))
    report = world.verify(world.bundle(replace(world.documents(world.sealed()), superseded=forged)))
    assert {each.code for each in report.findings} == {"unknown-signer", "missing-document"}


def test_children_of_a_superseded_seal_may_have_been_sealed_again() -> None:
    child = Child(job="job-2", grant=ZERO, seal=ZERO, share=Budget())
    honest = resumed().sealed()
    again = replace(honest, children=[replace(child, seal="sha256:" + "1" * 64)])
    assert list(seal.unextended(again, replace(honest, status="interrupted", children=[child]))) == []


# A log's word for the time ------------------------------------------------------------------------------------------

LOG = key("log", "log", "https://log.example")
COSIGNER = key("witness", "log", "https://witness.example")
LATER = NOW // SECOND + 3600


def witnessed(
    proves: Callable[[Seal], str] | None = None, *, compromised: int | None = NOW + DAY, more: list[Key] | None = None
) -> Report:
    """Verify a job whose seal a log had seen, and whose seal key was compromised later."""
    keys = [*World().listed.keys, *([LOG, COSIGNER] if more is None else more)]
    if compromised is not None:
        keys = [
            replace(each, revoked_at=compromised, reason="compromise") if each.use == "seal" else each for each in keys
        ]
    world = World(keys=keys).story()
    sealed = world.sealed()
    world.log = proves(sealed) if proves else proof_of(sealed)
    return world.verify(world.bundle(world.documents(sealed)))


def proof_of(sealed: Seal, seconds: int = LATER, log: str = "log", **cosigners: int) -> str:
    return log_proof(digest(canonical(sealed)).encode(), seconds, log, **cosigners)


def test_a_log_that_saw_a_seal_before_its_key_was_compromised_keeps_it_believed() -> None:
    assert witnessed().verdict == "PASS"
    assert witnessed(compromised=None).verdict == "PASS"
    assert witnessed(lambda sealed: proof_of(sealed, witness=LATER + 60)).verdict == "PASS"


def test_without_a_log_a_compromised_seal_key_is_not_believed() -> None:
    assert {each.code for each in witnessed(compromised=LATER * SECOND).findings} == {"key-revoked", "no-seal"}


def test_the_latest_time_of_log_and_cosigners_counts() -> None:
    report = witnessed(lambda sealed: proof_of(sealed, witness=LATER + 60), compromised=(LATER + 60) * SECOND)
    assert {each.code for each in report.findings} == {"key-revoked", "no-seal"}


def test_what_vouches_for_the_final_seal_vouches_for_the_one_that_it_supersedes() -> None:
    revoked = replace(key("seal", "seal", SCOPE), revoked_at=NOW + DAY, reason="compromise")
    keys = [*(each for each in World().listed.keys if each.use != "seal"), revoked, LOG]
    world = World(keys=keys)
    lane = world.lane()
    lane.model("call-1")
    world.superseded = world.sealed(status="interrupted")
    lane.close()
    world.log = proof_of(world.sealed())
    assert world.verify().verdict == "PASS"


def cut(text: str, line: str) -> str:
    """Leave out the signature line whose place is named: 0 is the log's first."""
    lines = text.split("\n")
    signatures = [number for number, each in enumerate(lines) if each.startswith("—")]
    del lines[signatures[int(line)]]
    return "\n".join(lines)


def swapped(text: str) -> str:
    head, _, lines = text.rpartition("\n\n")
    first, *rest = lines.splitlines()
    return "\n".join([head, "", *rest, first, ""])


def renamed(text: str, name: str) -> str:
    """Give the log's own ML-DSA-44 line another name, under which its key has another id."""
    return text.replace("— log.example/seals", f"— {name}")


WRONG: list[tuple[Callable[[Seal], str], str]] = [
    (lambda _: log_proof(ZERO.encode(), LATER), "bad-proof"),
    (lambda sealed: proof_of(sealed, NOW // SECOND - 60), "bad-proof"),
    (lambda sealed: proof_of(sealed).replace("index 1", "index 0"), "bad-proof"),
    (lambda sealed: proof_of(sealed).replace("\nindex", f"\nindex 1\n{b64(bytes(32))}\nindex", 1), "bad-base64"),
    (lambda _: "a word", "bad-proof"),
    (lambda sealed: proof_of(sealed, log="attacker"), "unknown-signer"),
    (lambda sealed: proof_of(sealed, log="gateway"), "unknown-signer"),
    (lambda sealed: proof_of(sealed, attacker=LATER), "unknown-signer"),
    (lambda sealed: renamed(proof_of(sealed), "other.example"), "unknown-signer"),
    (lambda sealed: cut(proof_of(sealed), "1"), "missing-signature"),
    (lambda sealed: cut(proof_of(sealed), "0"), "unknown-signer"),
    (lambda sealed: swapped(proof_of(sealed)), "unknown-signer"),
    (lambda sealed: cut(proof_of(sealed, witness=LATER), "1"), "missing-signature"),
    (lambda sealed: proof_of(sealed, witness=LATER).replace(f"\n{2}\n", f"\n{3}\n", 1), "bad-signature"),
    (lambda sealed: proof_of(sealed, witness=2**62), "bad-signature"),
    (lambda sealed: proof_of(sealed, NOW // SECOND + 366 * 86_400), "key-not-valid"),
    (lambda sealed: proof_of(sealed, witness=NOW // SECOND + 366 * 86_400), "key-not-valid"),
]


@pytest.mark.parametrize(("proves", "code"), WRONG)
def test_a_logs_proof_that_does_not_hold_vouches_for_nothing(proves: Callable[[Seal], str], code: str) -> None:
    report = witnessed(proves)
    says(report, code, 5)
    assert {each.code for each in report.findings} == {code, "key-revoked", "no-seal"}
    only(witnessed(proves, compromised=None), code, 5)


def test_a_cosigner_signs_once_and_in_order() -> None:
    second = key("third", "log", "https://third.example")
    good = witnessed(lambda sealed: proof_of(sealed, witness=LATER, third=LATER), more=[LOG, COSIGNER, second])
    assert good.verdict == "PASS"

    def turned(sealed: Seal) -> str:
        *lines, one, two, end = proof_of(sealed, witness=LATER, third=LATER).split("\n")
        return "\n".join([*lines, two, one, end])

    def twice(sealed: Seal) -> str:
        *lines, one, end = proof_of(sealed, witness=LATER).split("\n")
        return "\n".join([*lines, one, one, end])

    for proves in (turned, twice):
        says(witnessed(proves, more=[LOG, COSIGNER, second]), "missing-signature", 5)


def test_a_cosigner_of_a_name_too_long_to_be_signed_is_malformed() -> None:
    name = "w" * 249
    long = key(name, "log", "https://witness.example")
    with pytest.raises(ValueError, match="range"):
        proof_of(World().sealed(), **{name: LATER})
    short = "v"
    listed = key(short, "log", "https://witness.example")

    def stretched(sealed: Seal) -> str:
        text = proof_of(sealed, **{short: LATER})
        ident = key_id(name * 2, ML_DSA_44_TYPE, pair(short).raw[1])
        return text[: text.rindex("—")] + f"— {name * 2} {b64(ident + bytes(2428))}\n"

    says(witnessed(stretched, more=[LOG, listed, long]), "bad-checkpoint", 5)


def test_whoever_sealed_is_no_witness_of_it() -> None:
    own = replace(LOG, owner=SCOPE)
    says(witnessed(more=[own]), "wrong-owner", 5)
    says(
        witnessed(lambda sealed: proof_of(sealed, witness=LATER), more=[LOG, replace(COSIGNER, owner=SCOPE)]),
        "wrong-owner",
        5,
    )


def test_a_log_whose_own_key_was_compromised_vouches_for_nothing() -> None:
    says(witnessed(more=[replace(LOG, revoked_at=NOW + DAY, reason="compromise")]), "key-revoked", 5)


def test_a_log_vouches_for_one_seal_that_is_there() -> None:
    world = World(keys=[*World().listed.keys, LOG]).story()
    world.log = proof_of(world.sealed())
    report = world.verify(world.bundle(world.documents(None)))
    says(report, "unnamed-document", 5)
    lines = world.bundle().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith(b'{"log":'))
    only(world.verify(b"".join([*lines[:at], lines[at], *lines[at:]])), "unnamed-document", 5, line=at + 2)


# Approvals ----------------------------------------------------------------------------------------------------------

APPROVER = key("approver-1", "approver", "approver-1")


def asked(**changes: Any) -> tuple[World, Approval]:
    """Hold a call and approve it."""
    world = World(keys=[*World().listed.keys, APPROVER])
    lane: Lane = world.lane()
    lane.model("call-1", "get_case")
    held = lane.hold("call-2", Target(server="crm-mcp", tool="get_case"))
    made = world.approve(held, lane.raws[-1], **changes)
    lane.close()
    return world, made


def codes(report: Report) -> set[tuple[str, str | None]]:
    return {(each.code, each.field) for each in report.findings if each.step == 11 and each.code != "unnamed-document"}


def test_an_approval_is_opened_with_the_approvers_key() -> None:
    world, _ = asked()
    assert not codes(world.verify()) - {("unsupported", "kind")}


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"job": "job-2"}, "wrong-approval", "job"),
        ({"policy": ZERO}, "wrong-approval", "policy"),
        ({"time": NOW + 100 * DAY}, "bad-approval", "expires"),
        ({"time": NOW + 366 * DAY, "expires": NOW + 367 * DAY}, "key-not-valid", None),
        ({"time": NOW - 2 * DAY}, "key-not-valid", None),
    ],
)
def test_an_approval_of_something_else_or_at_another_time_is_refused(
    changes: dict[str, Any], code: str, field: str | None
) -> None:
    assert (code, field) in codes(asked(**changes)[0].verify())


def test_every_way_in_which_an_approval_is_of_something_else_is_listed() -> None:
    found = codes(asked(job="job-2", policy=ZERO)[0].verify())
    assert found >= {("wrong-approval", "job"), ("wrong-approval", "policy")}


@pytest.mark.parametrize(
    ("signer", "code"),
    [("gateway", "wrong-use"), ("attacker", "unknown-signer"), ("approver-2", "wrong-owner")],
)
def test_an_approval_signed_by_anybody_else_is_refused(signer: str, code: str) -> None:
    world, made = asked()
    world.listed = replace(world.listed, keys=[*world.listed.keys, key("approver-2", "approver", "approver-2")])
    world.keys_payload = canonical(world.listed)
    raw = seal_up("approval", canonical(made), pair(signer))
    report = world.verify(world.bundle(replace(world.documents(world.sealed()), approvals=[raw])))
    assert code in {name for name, _ in codes(report)}


def test_an_approval_ends_after_it_is_given() -> None:
    made = asked()[1]
    with refused("bad-approval", "expires"):
        Approval.parse(canonical(replace(made, expires=made.time)))


# What the pin expects -----------------------------------------------------------------------------------------------


def test_everything_that_the_pin_does_not_expect_is_listed() -> None:
    report = World().story().verify(job="job-2", policy=ZERO, gateway="https://gateway-2.example")
    assert {(each.code, each.field) for each in report.findings} == {
        ("not-expected", "job"),
        ("not-expected", "policy"),
        ("not-expected", "gateway"),
    }


def test_what_the_pin_expects_is_said_of_a_job_without_a_policy_as_well() -> None:
    world = World().story()
    documents = replace(world.documents(world.sealed()), policies=[])
    report = world.verify(world.bundle(documents), job="job-2", gateway="https://gateway-2.example")
    assert [each.field for each in report.findings if each.code == "not-expected"] == ["job", "gateway"]


def test_what_is_wrong_with_a_seal_is_said_of_a_job_without_a_policy_as_well() -> None:
    world = World().story()
    documents = replace(world.documents(world.sealed(keys=ZERO)), policies=[])
    assert {each.code for each in world.verify(world.bundle(documents)).findings} == {"missing-document", "wrong-keys"}


def test_a_parent_that_was_sealed_names_each_of_its_children() -> None:
    parent = World(policy=DEEP)
    parent.delegate("job-3")
    parent.delegate("job-2")
    report = parent.verify()
    assert [each.job for each in report.children] == ["job-2", "job-3"]
    assert [each.field for each in report.findings] == ["children.job-2", "children.job-3"]
