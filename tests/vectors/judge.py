"""What the verifier says of a vector: the verdict and every code. One judge a folder."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from msgspec import Struct

from tests.vectors import bundles, documents
from tests.vectors.case import PASS, Case, Made
from tests.vectors.pins import pins
from tests.world import GATEWAY, NOW, pair
from verifier import leaf, signing
from verifier.approval import Approval
from verifier.audit import verify
from verifier.box import MAX_BOX, AuditorKey, Box, open_box
from verifier.checkpoint import Checkpoint, Proof
from verifier.codes import CODES
from verifier.documents import Opened, addressed
from verifier.draft import build, read_draft, run_tests
from verifier.encoding import read
from verifier.grant import Grant
from verifier.kept import read as read_kept
from verifier.keys import Pin, Trust
from verifier.leaf import Commitment
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.report import Finding, Report
from verifier.revocation import Revocation
from verifier.seal import Seal
from verifier.tree import hold_together

FOLDERS: dict[str, Made] = {"bundles": bundles.MADE, **documents.FOLDERS}


class Judgement(NamedTuple):
    """What came of a vector."""

    verdict: str
    codes: set[str]
    finds: tuple[str, ...]


def judge(folder: str, case: Case) -> Judgement:
    """Judge one case as its folder asks, by an installation that lacks what the case says."""
    with _without(case.lacks):
        if folder == "bundles":
            report = audited(case)
            codes = {finding.code for finding in report.findings}
            return Judgement(report.verdict, codes, tuple(map(where, report.findings)))
        try:
            READERS[folder](case)
        except Refused as refused:
            place = f" field={refused.field}" if refused.field else ""
            return Judgement(CODES[refused.code].verdict.name, {refused.code}, (refused.code + place,))
    return Judgement(PASS, set(), ())


def audited(case: Case) -> Report:
    """Audit a bundle, with whatever else is given beside it."""
    more: dict[str, Any] = {}
    if case.keys:
        more["keys"] = b"\n".join(vector(name) for name in case.keys.split())
    if case.kept:
        more["kept"] = [(name, vector(name)) for name in case.kept.split()]
    report = verify(BytesIO(case.raw), pin(case.pin), case.at, **more)
    if case.beside:
        others = {name: verify(BytesIO(vector(name)), pin(case.pin), case.at) for name in case.beside.split()}
        hold_together({"": report, **others})
    return report


@cache
def vector(name: str) -> bytes:
    """Make the bytes of another vector, named as `folder/name`."""
    folder, _, file = name.partition("/")
    return FOLDERS[folder][file]().raw


@contextmanager
def _without(lacks: str) -> Iterator[None]:
    """Take ML-DSA-44 away for a while."""
    patch = pytest.MonkeyPatch()
    if lacks:
        assert lacks == "ml-dsa-44"
        patch.setattr(signing, "mldsa", _NoMlDsa)
        signing.self_test.cache_clear()
    try:
        yield
    finally:
        patch.undo()
        if lacks:
            signing.self_test.cache_clear()


class _NoMlDsa:
    """What cryptography offers where OpenSSL has no ML-DSA."""

    class MLDSA44PrivateKey:
        """There is none."""

        @staticmethod
        def from_seed_bytes(_: bytes) -> None:
            """Refuse, as cryptography does."""
            raise UnsupportedAlgorithm("no ML-DSA here")


def where(finding: Finding) -> str:
    """Write a finding's code, step and place, as far as it has one."""
    names = ("step", "line", "lane", "seq", "field")
    given = [(name, getattr(finding, name)) for name in names]
    return " ".join([finding.code, *(f"{name}={value}" for name, value in given if value is not None)])


# What a report counted when the bundle was frozen; later versions count more.
FROZEN_TOTALS = ("lanes", "receipts", "calls", "denials", "lost", "replayed", "replayed_fully")


def expected(report: Report) -> bytes:
    """Write what no later version may say otherwise of a frozen bundle: everything but the prose."""
    said = json.loads(msgspec.json.encode(report))
    kept = {name: said[name] for name in ("verdict", "exit_code", "job", "policy", "status", "replay", "totals")}
    kept["totals"] = {name: said["totals"][name] for name in FROZEN_TOTALS}
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


def _envelope(case: Case) -> None:
    signed = trust().open(case.raw, case.kind)
    if case.asked:
        addressed(Opened(None, signed.digest, signed.payload), case.asked)


def _box(case: Case) -> None:
    """Open a box: `{"box","commitment","seed"}`, the private key's seed in hex."""
    given = read(case.raw, BoxCase, limit=MAX_BOX)
    open_box(AuditorKey(bytes.fromhex(given.seed)), given.box, given.commitment)


class BoxCase(Struct, frozen=True, forbid_unknown_fields=True):
    """A sealed payload with all that is needed to open it."""

    box: Box
    commitment: Commitment
    seed: str


READERS: dict[str, Callable[[Case], object]] = {
    "policies": lambda case: Policy.parse(case.raw),
    "drafts": lambda case: run_tests((build(read_draft(case.raw), issuer=GATEWAY, now=NOW),)),
    "prices": lambda case: Prices.parse(case.raw),
    "manifests": lambda case: Manifest.parse(case.raw),
    "grants": lambda case: Grant.parse(case.raw),
    "seals": lambda case: Seal.parse(case.raw),
    "revocations": lambda case: Revocation.parse(case.raw),
    "approvals": lambda case: Approval.parse(case.raw),
    "keys": lambda case: Trust.establish(pin("pin.json"), case.raw),
    "pins": lambda case: Pin.parse(case.raw),
    "envelopes": _envelope,
    "checkpoints": _checkpoint,
    "proofs": lambda case: Proof.parse(case.raw.decode()).check(pair("gateway").public),
    "leaves": lambda case: leaf.decode(case.raw),
    "boxes": _box,
    "kept": lambda case: read_kept(case.raw),
}
