"""What the verifier says of a vector: the verdict and every code. One judge a folder."""

import json
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import NamedTuple

import msgspec

from tests.vectors import bundles, documents
from tests.vectors.case import PASS, Case, Made
from tests.vectors.pins import pins
from tests.world import GATEWAY, NOW, pair
from verifier import leaf
from verifier.audit import verify
from verifier.checkpoint import Checkpoint, Proof
from verifier.codes import CODES
from verifier.draft import build, read_draft
from verifier.grant import Grant
from verifier.keys import Pin, Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.refused import Refused
from verifier.report import Finding, Report
from verifier.revocation import Revocation
from verifier.seal import Seal

FOLDERS: dict[str, Made] = {"bundles": bundles.MADE, **documents.FOLDERS}


class Judgement(NamedTuple):
    """What came of a vector."""

    verdict: str
    codes: set[str]
    finds: tuple[str, ...]


def judge(folder: str, case: Case) -> Judgement:
    """Judge one case as its folder asks."""
    if folder == "bundles":
        report = verify(BytesIO(case.raw), pin(case.pin), case.at)
        codes = {finding.code for finding in report.findings}
        return Judgement(report.verdict, codes, tuple(map(where, report.findings)))
    try:
        READERS[folder](case)
    except Refused as refused:
        place = f" field={refused.field}" if refused.field else ""
        return Judgement(CODES[refused.code].verdict.name, {refused.code}, (refused.code + place,))
    return Judgement(PASS, set(), ())


def where(finding: Finding) -> str:
    """Write a finding's code, step and place, as far as it has one."""
    names = ("step", "line", "lane", "seq", "field")
    given = [(name, getattr(finding, name)) for name in names]
    return " ".join([finding.code, *(f"{name}={value}" for name, value in given if value is not None)])


def expected(report: Report) -> bytes:
    """Write what no later version may say otherwise of a frozen bundle: everything but the prose."""
    said = json.loads(msgspec.json.encode(report))
    kept = {name: said[name] for name in ("verdict", "exit_code", "job", "policy", "status", "replay", "totals")}
    return json.dumps({**kept, "findings": [finding.code for finding in report.findings]}, indent=1).encode() + b"\n"


@cache
def pin(name: str) -> Pin:
    """Read a pin beside the vectors."""
    return Pin.parse(pins()[name])


@cache
def trust() -> Trust:
    """Open the key list beside the vectors."""
    return Trust.establish(pin("pin.json"), pins()["keys.json"])


def _checkpoint(case: Case) -> None:
    Checkpoint.parse(case.raw.decode()).check(pair("gateway").public, closing=False)


READERS: dict[str, Callable[[Case], object]] = {
    "policies": lambda case: Policy.parse(case.raw),
    "drafts": lambda case: build(read_draft(case.raw), issuer=GATEWAY, now=NOW),
    "manifests": lambda case: Manifest.parse(case.raw),
    "grants": lambda case: Grant.parse(case.raw),
    "seals": lambda case: Seal.parse(case.raw),
    "revocations": lambda case: Revocation.parse(case.raw),
    "keys": lambda case: Trust.establish(pin("pin.json"), case.raw),
    "pins": lambda case: Pin.parse(case.raw),
    "envelopes": lambda case: trust().open(case.raw, case.kind),
    "checkpoints": _checkpoint,
    "proofs": lambda case: Proof.parse(case.raw.decode()).check(pair("gateway").public),
    "leaves": lambda case: leaf.decode(case.raw),
}
