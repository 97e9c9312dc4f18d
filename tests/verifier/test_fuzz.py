"""Every parser, fed with 2,000 bent forms of what it accepts: it accepts or refuses by a listed code, nothing else."""

import json
import random
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fuzz.bend import bend
from tests.world import NOW, SCOPE, World, pair
from verifier import leaf
from verifier.audit import verify
from verifier.bundle import Head, Header
from verifier.checkpoint import Checkpoint, Proof, proof
from verifier.codes import CODES
from verifier.conditions import Truth, evaluate
from verifier.decision import Call, Subject, ToolTarget, decide
from verifier.draft import arguments, build, read_draft, run_tests
from verifier.encoding import canonical, parse, read, reject_duplicates, unb64
from verifier.envelope import Envelope
from verifier.grammar import number
from verifier.grant import Grant, Token, authorization_details
from verifier.keys import KeyList, Pin, Trust
from verifier.latest import Latest
from verifier.manifest import Manifest
from verifier.merkle import check_consistency, check_inclusion, inclusion_proof, leaf_hash, root_of
from verifier.policy import Policy
from verifier.refused import Refused
from verifier.revocation import Heartbeat, Revocation, Target
from verifier.rules import Condition
from verifier.seal import Seal

EXAMPLES = 2_000
WORLD = World().story()
LANE = WORLD.lanes[0]
GRANT = WORLD.grant
REVOKED = WORLD.revoke("job", "job-9", NOW)
DOCUMENTS = WORLD.documents(WORLD.sealed())
RAW = WORLD.bundle()
PIN = WORLD.pin()
POLICY = build(
    {
        "policy_name": "p",
        "allowed_tools": [
            {
                "kind": "mcp",
                "server": "crm",
                "tools": ["*"],
                "when": [
                    {"attr": "args.amount", "op": "between", "value": ["0.5", 10]},
                    {"attr": "args.customer.name", "op": "glob", "value": "a*b"},
                    {"attr": "args.tags", "op": "in", "value": ["x", 1, True]},
                ],
            }
        ],
        "tests": [{"name": "t", "call": {"server": "crm", "tool": "x"}, "expect": "deny"}],
    },
    issuer="t",
    now=NOW,
)
TOKEN = Token(
    iss=SCOPE,
    sub="agent-1",
    aud="a",
    client_id="c",
    iat=1,
    nbf=1,
    exp=2,
    jti="t",
    txn="job-1",
    policy_hash=WORLD.policy_digest,
    scope_hash=GRANT.scope.hash(),
    grant=WORLD.grant_digest,
    authorization_details=authorization_details(GRANT.scope),
)
HASHES = [leaf_hash(raw) for raw in LANE.raws]
PROOF = proof(LANE.raws[3], 3, inclusion_proof(HASHES, 3), LANE.head())
ARGUMENTS = b'{"amount":1.50,"customer":{"name":"axb"},"tags":"x","more":[1,2,{"a":null}]}'


def text(function: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Feed a parser of text; what is no text never reaches it."""
    return lambda raw: function(raw.decode("utf-8", "replace"))


def opened(raw: bytes) -> Any:
    """Establish trust in a key list."""
    return Trust.establish(PIN, raw)


def drafted(raw: bytes) -> Any:
    """Build a draft and run its tests."""
    return run_tests((build(read_draft(raw), issuer="team", now=NOW),))


def decided(raw: bytes) -> Any:
    """Decide a call with these arguments."""
    target = ToolTarget("crm", "x", "read", "internal", "crm.example")
    subject = Subject("a", "c", "j", "t", "e")
    return decide((POLICY,), Call(subject=subject, target=target, token_ttl=1, time=NOW, arguments=arguments(raw)))


def conditioned(raw: bytes) -> Any:
    """Evaluate one condition over its own text as argument."""
    condition = read(raw, Condition, limit=1 << 16)
    Policy.parse(canonical(replace(POLICY, allowed_tools=[replace(POLICY.allowed_tools[0], when=[condition])])))
    for value in (condition.value, raw.decode("utf-8", "replace"), None, number(1), ["x"], {}):
        assert isinstance(evaluate(condition, {"args": {"amount": value}}), Truth)


def proved(raw: bytes) -> Any:
    """Check a proof, and its hashes as another tree's."""
    made = Proof.parse(raw.decode("utf-8", "replace"))
    made.check(pair("gateway").public)
    check_consistency(made.index, 12, made.hashes, HASHES[0], root_of(HASHES))
    check_inclusion(HASHES[0], made.index, 12, made.hashes, root_of(HASHES))


def headed(raw: bytes) -> Any:
    """Check a head's signatures."""
    return Checkpoint.parse(raw.decode("utf-8", "replace")).check(pair("gateway").public, closing=True)


PARSERS: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "envelope": (lambda raw: Envelope.parse(raw, "grant"), DOCUMENTS.grants),
    "signed": (lambda raw: Trust.establish(PIN, DOCUMENTS.keys).open(raw, "revocation"), DOCUMENTS.revocations),
    "key list": (KeyList.parse, [WORLD.keys_payload]),
    "trust": (opened, [DOCUMENTS.keys]),
    "pin": (Pin.parse, [canonical(PIN), json.dumps(json.loads(canonical(PIN)), indent=1).encode()]),
    "policy": (Policy.parse, [WORLD.policy_payload, canonical(POLICY)]),
    "draft": (drafted, [canonical(POLICY), b'{"policy_name":"p","allowed_tools":[],"model_egress":{"provider":"x"}}']),
    "manifest": (Manifest.parse, [WORLD.manifest_payload]),
    "grant": (Grant.parse, [WORLD.grant_payload]),
    "token": (lambda raw: parse(raw, Token, limit=1 << 14).fits(GRANT), [canonical(TOKEN)]),
    "seal": (Seal.parse, [canonical(WORLD.sealed())]),
    "revocation": (
        Revocation.parse,
        [canonical(REVOKED), canonical(replace(REVOKED, target=Target("all", "*"), note="x"))],
    ),
    "heartbeat": (Heartbeat.parse, [canonical(Heartbeat(iss=SCOPE, sequence=1, time=NOW))]),
    "latest": (
        Latest.parse,
        [
            canonical(
                Latest(
                    issuer="r",
                    time=1,
                    policy_issuer="t",
                    policy_name="p",
                    policy=WORLD.policy_digest,
                    serial=1,
                    withdrawn=False,
                )
            )
        ],
    ),
    "leaf": (leaf.decode, LANE.raws),
    "header": (
        lambda raw: read(raw, Header, limit=8192),
        [b'{"format":"tallystick-bundle/1","job":"job-1","suite":"tally-1"}'],
    ),
    "head": (lambda raw: read(raw, Head, limit=1 << 15), [canonical(Head(lane="lane-1", note=LANE.head()))]),
    "checkpoint": (headed, [LANE.head().encode()]),
    "proof": (proved, [PROOF.encode()]),
    "arguments": (decided, [ARGUMENTS]),
    "condition": (conditioned, [canonical(each) for each in POLICY.allowed_tools[0].when]),
    "foreign JSON": (reject_duplicates, [ARGUMENTS]),
    "base64": (text(unb64), [b"QUJDRA==", b"QUJD"]),
}


def refusal(parser: Callable[[bytes], Any], raw: bytes) -> Refused | None:
    """Say how a parser refuses; whatever else it raises fails the test and shows what it was fed."""
    try:
        parser(raw)
    except Refused as refused:
        return refused
    except Exception as error:
        error.add_note(repr(raw[:300]))
        raise
    return None


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_accepts_or_refuses_by_a_listed_code(name: str) -> None:
    parser, seeds = PARSERS[name]
    dice = random.Random(name)
    for seed in seeds:
        found = refusal(parser, seed)
        assert found is None or found.code in {"bad-proof", "wrong-grant"}, "the seeds themselves are read"
    refusals = [refusal(parser, bend(dice.choice(seeds), dice)) for _ in range(EXAMPLES)]
    codes = {each.code for each in refusals if each is not None}
    assert codes <= set(CODES)
    assert len(codes) >= {"pin": 1, "base64": 2, "foreign JSON": 2}.get(name, 3), codes


def test_no_bent_bundle_passes_and_none_crashes() -> None:
    dice = random.Random("bundle")
    lines = RAW.splitlines(keepends=True)
    verdicts = set()
    for count in range(EXAMPLES):
        at = dice.randrange(len(lines))
        bent = [*lines[:at], bend(lines[at], dice), *lines[at + 1 :]] if dice.random() < 0.8 else [bend(RAW, dice)]
        raw = b"".join(bent)
        report = verify(BytesIO(raw), PIN)
        assert raw == RAW or report.verdict != "PASS", count
        verdicts.add(report.verdict)
    assert verdicts >= {"MALFORMED", "FAIL", "UNTRUSTED"}


def test_the_memory_of_an_audit_does_not_grow_with_what_it_is_fed() -> None:
    """32 MiB of lines that are no receipts, and one line without an end: read in a few MiB."""
    lines = RAW.splitlines(keepends=True)

    class Endless(BytesIO):
        """A file whose middle repeats."""

        def __init__(self, middle: bytes, times: int) -> None:
            super().__init__()
            self.parts = iter([b"".join(lines[:-1]), *[middle] * times, lines[-1]])
            self.rest = b""

        def read(self, size: int | None = -1) -> bytes:
            """Give the next bytes."""
            while size and size > 0 and len(self.rest) < size and (part := next(self.parts, b"")):
                self.rest += part
            given, self.rest = self.rest[: size or 0], self.rest[size or 0 :]
            return given

    for middle, times in ((b"{}\n" * 1000, 400), (b"x" * (1 << 16), 512)):
        tracemalloc.start()
        report = verify(Endless(middle, times), PIN)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.verdict == "MALFORMED"
        assert peak < 64 << 20
