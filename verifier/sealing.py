"""Step 5: the seal, the one that it may supersede, and a log's word for its time (specs/seal.md)."""

from collections.abc import Iterable, Mapping
from functools import partial

from verifier.bundle import Line
from verifier.docket import Docket
from verifier.documents import open_seal
from verifier.encoding import digest
from verifier.envelope import Envelope
from verifier.family import Family
from verifier.refused import Refused
from verifier.revocation import Revocation
from verifier.seal import Seal, unextended
from verifier.tree import place_of
from verifier.witness import witness


def open_seals(docket: Docket) -> tuple[Seal | None, Seal | None]:
    """Open the final seal, which stands last, and the interrupted one that it may supersede."""
    lines, logs = docket.of("seal"), docket.of("log")
    for line in logs[1:] if lines else logs:
        docket.report.add("unnamed-document", 5, "a log's proof of no seal, or a second proof", line=line.number)
    if not lines:
        return None, None
    *earlier, last = lines
    time = _witness(docket, logs[0], last) if logs else None
    final = docket.open_line(last, 5, partial(open_seal, docket.trust, witnessed=time))
    # The final seal names the one before it: what vouches for its time vouches for both.
    before = _earlier(docket, earlier, None if final is None else time)
    if final is None:
        return None, None
    docket.report.seal, docket.report.children = final.digest, final.value.children
    if before.pop(final.digest, None) is not None:
        docket.report.add("bad-line", 1, "a seal stands twice", line=last.number)
    name = final.value.supersedes
    docket.named("seal", before, {name} if name else set(), 5)
    superseded = before.get(name or "")
    if superseded is not None:
        for field, why in unextended(final.value, superseded):
            docket.report.add("wrong-supersedes", 5, why, place=field)
        if superseded.keys not in docket.trust.digests.values():
            docket.report.add("wrong-keys", 5, "the superseded seal names another key list", place="supersedes")
    return final.value, superseded


def _earlier(docket: Docket, lines: list[Line], witnessed: int | None) -> dict[str, Seal]:
    """Open the seals before the last one, by digest."""
    before: dict[str, Seal] = {}
    for line in lines:
        one = docket.open_line(line, 5, partial(open_seal, docket.trust, witnessed=witnessed))
        if one is not None:
            if one.digest in before:
                docket.report.add("bad-line", 1, "a seal stands twice", line=line.number)
            before[one.digest] = one.value
    return before


def _witness(docket: Docket, log: Line, seal: Line) -> int | None:
    """Check a log's proof of a seal that is not believed yet."""
    try:
        payload = Envelope.parse(seal.raw, "seal").content()
        return witness(docket.trust, log.raw, digest(payload), Seal.parse(payload))
    except Refused as refused:
        docket.report.refuse(refused, 5, line=log.number)
        return None


def check_seal(
    docket: Docket, seal: Seal | None, family: Family, policies: Iterable[str], revocations: Mapping[str, Revocation]
) -> None:
    """Hold the seal against everything that it names; `policies` is the chain."""
    report, first = docket.report, family.first
    if seal is None:
        report.add("no-seal", 5, "without a seal nothing says that these are all the receipts", place="seal")
        return
    report.status, report.totals.incidents = seal.status, len(seal.incidents or ())
    for code, wrong, why in (
        ("wrong-job", seal.job != docket.job, "the seal is of another job"),
        ("wrong-policy", seal.policy != first.scope.policy, "the seal names another policy than the grant"),
        ("wrong-issuer", seal.iss != first.scope.iss, "the seal is by another issuer than the grant"),
        ("wrong-keys", seal.keys != docket.trust.digest, "the seal names another key list"),
        ("wrong-grant", seal.opened != first.opened, "the seal and the grant say different openings"),
    ):
        if wrong:
            report.add(code, 5, why, place="seal")
    docket.named("grant", family.own, set(seal.grants), 5)
    docket.named("revocation", revocations, set(seal.revocations), 5)
    ended = {each.name for each in revocations.values()} & family.names(policies)
    if seal.status == "revoked" and not ended:
        why = "sealed as revoked, and no revocation in the bundle ends a grant"
        report.add("missing-document", 5, why, place="revocation")
    if any(each.iss != seal.iss for each in revocations.values()):
        report.add("wrong-issuer", 5, "a revocation by another issuer", place="revocation")
    if seal.status == "interrupted":
        report.add("interrupted", 5, "sealed as interrupted: a gateway did not answer at the close", place="status")
    for child in seal.children:
        why = f"job {child.job} was delegated, and its bundle is not here"
        report.add("missing-child", 12, why, place=place_of(child))
