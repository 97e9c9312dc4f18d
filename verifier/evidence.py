"""Steps 2 to 5: the documents of a bundle, opened and held against each other (specs/verification.md)."""

from functools import partial

from msgspec import Struct

from verifier import documents
from verifier.approval import Approval
from verifier.bundle import Line
from verifier.chain import MAX_CHAIN, check_prices
from verifier.docket import Docket, values
from verifier.documents import Opened
from verifier.family import Family, check_family, check_scopes
from verifier.grant import Grant
from verifier.keys import BrokenChain, Pin, Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.report import Kin, Report
from verifier.revocation import Revocation
from verifier.seal import Seal
from verifier.sealing import check_seal, open_seals


class Evidence(Struct, frozen=True, kw_only=True):
    """What the signed documents of one job establish; absent is what a finding has been reported for.

    `policies` is the chain, child first. `grants` are the job's own, `ancestors` those of the jobs that delegated it,
    `first` the one that opened it, `kids` the keys that signed each. `superseded` is the interrupted seal that `seal`
    completes. Grants, manifests and approvals are kept by digest.
    """

    job: str
    trust: Trust
    policies: tuple[Policy, ...]
    policy_digest: str
    first: Grant
    grants: dict[str, Grant]
    ancestors: dict[str, Grant]
    kids: dict[str, frozenset[str]]
    manifests: dict[str, Manifest]
    prices: Prices | None
    revocations: list[Revocation]
    approvals: dict[str, Approval]
    seal: Seal | None
    superseded: Seal | None

    @property
    def policy(self) -> Policy:
        """The policy that the job is pinned to; its ancestors are the rest of the chain."""
        return self.policies[0]

    @property
    def chain(self) -> list[str]:
        """The digests of the job's policy and of those above it."""
        return [self.policy_digest, *(each.parent for each in self.policies if each.parent is not None)]

    @property
    def gateway(self) -> str:
        """The one gateway that the job may use."""
        return self.first.scope.audience


def establish(job: str, trust: Trust, lines: list[Line], report: Report) -> Evidence | None:
    """Open everything, check every relation between documents; None when no policy or grant is left to judge by."""
    docket, pin = Docket(job, trust, lines, report), trust.pin
    docket.expected("job", pin.job, job)
    grants = docket.open("grant", 4, partial(documents.open_grant, trust))
    if not grants:
        report.add("missing-document", 4, "no grant that can be used", place="grant")
        return None
    family = Family.of(job, grants)
    first, wanted = family.first, family.first.scope.policy
    docket.expected("policy", pin.policy, wanted)
    docket.expected("gateway", pin.gateway, first.scope.audience)
    chain = _chain(docket, docket.open("policy", 3, partial(documents.open_policy, trust, at=first.opened)), wanted)
    opened = docket.open("manifest", 3, partial(documents.open_manifest, trust, at=first.issued_at))
    admitted = {each for grant in family.own.values() for each in grant.scope.manifests.values()}
    docket.named("manifest", opened, admitted, 3)
    manifests = values(opened)
    prices = _prices(docket, tuple(chain.values()), first.issued_at)
    revocations = docket.open("revocation", 10, partial(documents.open_revocation, trust))
    approvals = _approvals(docket, wanted)
    check_family(family, chain, job, report)
    seal, superseded = open_seals(docket)
    check_seal(docket, seal, family, chain, values(revocations))
    report.kin = Kin(
        grant=family.opening, grants=sorted(family.own), parent=first.parent, depth=first.scope.depth,
        limits=first.scope.limits, supersedes=None if seal is None else seal.supersedes,
    )  # fmt: skip
    if wanted not in chain:
        return None
    check_scopes(family, tuple(chain.values()), manifests, seal, report)
    return Evidence(
        job=job, trust=trust, policies=tuple(chain.values()), policy_digest=wanted, first=first,
        grants=family.own, ancestors=family.ancestors, kids=family.kids, manifests=manifests, prices=prices,
        revocations=list(values(revocations).values()), approvals=approvals, seal=seal, superseded=superseded,
    )  # fmt: skip


def _chain(docket: Docket, policies: dict[str, Opened[Policy]], wanted: str) -> dict[str, Policy]:
    """Follow a policy's parents, child first, as far as they are in the bundle; no digest can lead in a circle."""
    chain: dict[str, Policy] = {}
    name: str | None = wanted
    while name is not None and name in policies:
        chain[name] = policies[name].value
        name = chain[name].parent
    docket.named("policy", policies, {*chain} if name is None else {*chain, name}, 3)
    if len(chain) > MAX_CHAIN:
        why = f"a chain of {len(chain)} policies; at most {MAX_CHAIN} are decided together"
        docket.report.add("bad-policy", 3, why, place="parent")
    return dict(list(chain.items())[:MAX_CHAIN])


def _prices(docket: Docket, chain: tuple[Policy, ...], at: int) -> Prices | None:
    """Open the price table that the policies name."""
    opened = docket.open("prices", 3, partial(documents.open_prices, docket.trust, at=at))
    wanted = {each.model_egress.prices for each in chain} - {None}
    docket.named("prices", opened, {each for each in wanted if each is not None}, 3)
    try:
        check_prices(chain)
    except Refused as refused:
        docket.report.refuse(refused, 3)
    return next((each.value for name, each in opened.items() if name in wanted), None)


def _approvals(docket: Docket, policy: str) -> dict[str, Approval]:
    """Step 11, its documents: of this job and policy; which calls they release is the lanes' question."""
    found: dict[str, Approval] = {}
    for name, one in docket.open("approval", 11, partial(documents.open_approval, docket.trust)).items():
        problems = [
            (field, f"approval {name} is of another {field}")
            for field, wrong in (("job", one.value.job != docket.job), ("policy", one.value.policy != policy))
            if wrong
        ]
        for field, why in problems:
            docket.report.add("wrong-approval", 11, why, place=field)
        if not problems:
            found[name] = one.value
    return found


def establish_trust(pin: Pin, lines: list[Line], report: Report, newer: bytes | None = None) -> Trust | None:
    """Step 2: open the key lists by the pinned roots; `newer` holds later ones, an envelope a line (`--keys`)."""
    listed = [line for line in lines if line.kind == "keys"]
    if not listed:
        report.add("missing-line", 2, "the bundle has no key list", place="keys")
        return None
    raws = [line.raw for line in listed]
    try:
        return Trust.establish(pin, raws, newer=[] if newer is None else newer.splitlines())
    except BrokenChain as broken:
        beside = broken.place >= len(raws)
        report.refuse(broken, 2, line=None if beside else listed[broken.place].number)
        # What is wrong with the lists beside a bundle hides nothing that is wrong with the bundle.
        return establish_trust(pin, lines, report) if beside else None
    except Refused as refused:
        report.refuse(refused, 2, line=listed[-1].number)
        return None
