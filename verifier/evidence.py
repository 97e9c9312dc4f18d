"""Steps 2 to 5: the documents of a bundle, opened and held against each other (specs/verification.md)."""

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from verifier import documents
from verifier.admission import within
from verifier.bundle import Line
from verifier.documents import Opened
from verifier.grant import Grant
from verifier.keys import Pin, Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.refused import Refused
from verifier.report import Report
from verifier.revocation import Revocation
from verifier.seal import Seal

T = TypeVar("T")


class Evidence(Struct, frozen=True, kw_only=True):
    """What the signed documents of one job establish; absent is what a finding has been reported for."""

    job: str
    trust: Trust
    policy: Policy
    policy_digest: str
    grants: dict[str, Grant]
    manifests: dict[str, Manifest]
    revocations: list[Revocation]
    seal: Seal | None

    @property
    def first(self) -> Grant:
        """The job's first grant, wherever it stands in the bundle: the one that opened it."""
        return min(self.grants.items(), key=lambda each: (each[1].issued_at, each[0]))[1]

    @property
    def gateway(self) -> str:
        """The one gateway that the job may use."""
        return self.first.scope.audience


class Docket:
    """The documents of one bundle while they are opened; every refusal becomes a finding."""

    def __init__(self, job: str, pin: Pin, trust: Trust, lines: list[Line], report: Report) -> None:
        """Take the lines as read, after the key list."""
        self.job = job
        self.pin = pin
        self.trust = trust
        self.report = report
        self.lines = lines

    def establish(self) -> Evidence | None:
        """Open everything, check every relation between documents; None when no policy or grant is left to judge by."""
        for line in self.lines:
            if line.kind in {"approval", "log"}:
                self.report.add("unsupported", 11, f"{line.kind} lines are not judged yet", line=line.number)
        grants = self._open("grant", 4, lambda raw: documents.open_grant(self.trust, raw))
        first = min(grants.values(), key=lambda each: (each.value.issued_at, each.digest), default=None)
        if first is None:
            self.report.add("missing-document", 4, "no grant that can be used", place="grant")
            return None
        opened, issued, wanted = first.value.opened, first.value.issued_at, first.value.scope.policy
        policies = self._open("policy", 3, lambda raw: documents.open_policy(self.trust, raw, opened))
        manifests = self._open("manifest", 3, lambda raw: documents.open_manifest(self.trust, raw, issued))
        revocations = self._open("revocation", 10, lambda raw: documents.open_revocation(self.trust, raw))
        seal = next(iter(self._open("seal", 5, lambda raw: documents.open_seal(self.trust, raw)).values()), None)
        self._grants(grants, first)
        self._named("policy", policies, {wanted}, 3)
        admitted = {each for grant in grants.values() for each in grant.value.scope.manifests.values()}
        self._named("manifest", manifests, admitted, 3)
        policy = policies.get(wanted)
        if policy is None:
            return None
        self._scopes(grants, policy.value, manifests)
        self._seal(seal, first.value, grants, revocations)
        self._expected(wanted, first.value)
        return Evidence(
            job=self.job, trust=self.trust, policy=policy.value, policy_digest=wanted,
            grants={name: each.value for name, each in grants.items()},
            manifests={name: each.value for name, each in manifests.items()},
            revocations=[each.value for each in revocations.values()], seal=None if seal is None else seal.value,
        )  # fmt: skip

    def _open(self, kind: str, step: int, open_one: Callable[[bytes], Opened[T]]) -> dict[str, Opened[T]]:
        """Open every document of a kind, by digest."""
        found: dict[str, Opened[T]] = {}
        last = (-1, "")
        for line in self.lines:
            if line.kind != kind:
                continue
            try:
                one = open_one(line.raw)
            except Refused as refused:
                self.report.refuse(refused, step, line=line.number)
                continue
            if _place(one) <= last or (kind == "seal" and found):
                why = f"documents of a kind stand in one order, none twice; this {kind} does not, or is a second"
                self.report.add("bad-line", 1, why, line=line.number)
            last = max(last, _place(one))
            found.setdefault(one.digest, one)
        return found

    def _named(self, kind: str, found: dict[str, Opened[T]], wanted: set[str], step: int) -> None:
        """Hold what is there against what is named: neither more nor less."""
        for name in sorted(wanted - set(found)):
            self.report.add(
                "missing-document",
                step,
                f"the {kind} {name} is named and not in the bundle, or cannot be used",
                place=kind,
            )
        for name in sorted(set(found) - wanted):
            self.report.add("unnamed-document", step, f"the {kind} {name} is named by nothing", place=kind)

    def _grants(self, grants: dict[str, Opened[Grant]], first: Opened[Grant]) -> None:
        """One job, one policy, one issuer, one gateway."""
        for name, grant in grants.items():
            scope = grant.value.scope
            if scope.job != self.job:
                self.report.add("wrong-job", 4, f"grant {name} is of job {scope.job}", place="grant")
            if scope.policy != first.value.scope.policy:
                self.report.add(
                    "wrong-policy",
                    4,
                    f"grant {name} is pinned to another policy: a job has one for life",
                    place="grant",
                )
            if (scope.iss, scope.audience, scope.limits, grant.value.opened) != (
                first.value.scope.iss,
                first.value.scope.audience,
                first.value.scope.limits,
                first.value.opened,
            ):
                self.report.add(
                    "wrong-grant",
                    4,
                    f"grant {name} has another issuer, gateway, purse or opening than the job's first",
                    place="grant",
                )

    def _scopes(self, grants: dict[str, Opened[Grant]], policy: Policy, manifests: dict[str, Opened[Manifest]]) -> None:
        """Every scope inside the policy, every manifest the one of its server, no grant longer than its policy."""
        for grant in grants.values():
            scope = grant.value.scope
            pinned = {server: manifests[name].value for server, name in scope.manifests.items() if name in manifests}
            for server, manifest in pinned.items():
                if manifest.server != server:
                    self.report.add(
                        "wrong-manifest",
                        4,
                        f"the manifest pinned for {server} is of {manifest.server}",
                        place="manifests",
                    )
            if grant.value.expires > policy.valid_until:
                self.report.add("wrong-grant", 4, "the grant outlives its policy", place="expires")
            try:
                within(scope, policy, pinned)
            except Refused as refused:
                self.report.refuse(refused, 4)

    def _seal(
        self,
        seal: Opened[Seal] | None,
        grant: Grant,
        grants: dict[str, Opened[Grant]],
        revocations: dict[str, Opened[Revocation]],
    ) -> None:
        """Hold the seal against everything that it names."""
        if seal is None:
            self.report.add("no-seal", 5, "without a seal nothing says that these are all the receipts", place="seal")
            return
        value = seal.value
        self.report.status = value.status
        for code, wrong, why in (
            ("wrong-job", value.job != self.job, "the seal is of another job"),
            ("wrong-policy", value.policy != grant.scope.policy, "the seal names another policy than the grant"),
            ("wrong-issuer", value.iss != grant.scope.iss, "the seal is by another issuer than the grant"),
            ("wrong-keys", value.keys != self.trust.digest, "the seal names another key list"),
            ("wrong-grant", value.opened != grant.opened, "the seal and the grant say different openings"),
        ):
            if wrong:
                self.report.add(code, 5, why, place="seal")
        self._named("grant", grants, set(value.grants), 5)
        self._named("revocation", revocations, set(value.revocations), 5)
        ended = any(each.value.ends(one.value.scope) for each in revocations.values() for one in grants.values())
        if value.status == "revoked" and not ended:
            self.report.add(
                "missing-document",
                5,
                "sealed as revoked, and no revocation in the bundle ends a grant",
                place="revocation",
            )
        if any(each.value.iss != value.iss for each in revocations.values()):
            self.report.add("wrong-issuer", 5, "a revocation by another issuer", place="revocation")
        if value.status == "interrupted":
            self.report.add(
                "interrupted", 5, "sealed as interrupted: a gateway did not answer at the close", place="status"
            )

    def _expected(self, policy: str, grant: Grant) -> None:
        """Hold the job against what the pin expects of it."""
        pin = self.pin
        for name, wanted, found in (
            ("job", pin.job, self.job),
            ("policy", pin.policy, policy),
            ("gateway", pin.gateway, grant.scope.audience),
        ):
            if wanted is not None and wanted != found:
                self.report.add("not-expected", 5, f"the pin expects the {name} {wanted}, this is {found}", place=name)


def _place(one: Opened[T]) -> tuple[int, str]:
    """Where a document stands among its kind: grants as they were issued, revocations in sequence, else by digest."""
    value = one.value
    number = value.issued_at if isinstance(value, Grant) else value.sequence if isinstance(value, Revocation) else 0
    return number, one.digest


def establish_trust(pin: Pin, lines: list[Line], report: Report) -> Trust | None:
    """Step 2: open the one key list by the pinned roots."""
    listed = [line for line in lines if line.kind == "keys"]
    if not listed:
        report.add("missing-line", 2, "the bundle has no key list", place="keys")
        return None
    if len(listed) > 1:
        report.add(
            "unsupported", 2, "root rotation chains are not judged by this version", line=listed[1].number, place="keys"
        )
    try:
        return Trust.establish(pin, listed[0].raw)
    except Refused as refused:
        report.refuse(refused, 2, line=listed[0].number)
        return None
