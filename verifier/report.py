"""What an audit found: findings, the verdict that follows from them, and in words what was proved and what was not."""

from msgspec import Struct, field
from msgspec.structs import replace

from verifier.codes import CODES, Verdict
from verifier.grant import Budget
from verifier.refused import Refused
from verifier.seal import Child

MAX_FINDINGS = 10_000

NOT_PROVED = (
    (
        "That what the gateway wrote of content is true: "
        "alone it can write false content, but cannot hide what scope or a client saw."
    ),
    "That identities, tokens and revocations are true: scope alone speaks for them, though it cannot make a receipt.",
    "That gateway and scope did not rewrite the job together, where no client, log or witness keeps a half.",
    "That no call went past the gateway: such calls leave nothing here.",
)


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong: code, step, place and what to do next."""

    code: str
    step: int
    verdict: str
    why: str
    hint: str
    line: int | None = None
    lane: str | None = None
    seq: int | None = None
    field: str | None = None


class Totals(Struct, kw_only=True):
    """How much was read and judged."""

    lanes: int = 0
    receipts: int = 0
    calls: int = 0
    denials: int = 0
    holds: int = 0
    lost: int = 0
    incidents: int = 0
    observed: int = 0
    disclosed: int = 0
    sealed: int = 0
    replayed: int = 0
    replayed_fully: int = 0


class Kin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a job stands in its delegation tree: what its parent's seal says of it, and what its children name.

    `grant` opened the job and was narrowed from `parent`, a grant of the job that delegated it.
    """

    grant: str
    grants: list[str]
    parent: str | None = None
    depth: int
    limits: Budget
    supersedes: str | None = None


class Report(Struct, kw_only=True):
    """The outcome of one audit. `verdict` is the worst of the findings' verdicts, PASS without any.

    A finding's verdict is its code's (codes.py); of a regulated job what is INCOMPLETE elsewhere is FAIL.
    """

    verdict: str = Verdict.PASS.name
    exit_code: int = 0
    job: str | None = None
    policy: str | None = None
    status: str | None = None
    regulated: bool = False
    seal: str | None = None
    children: list[Child] = field(default_factory=list)
    kin: Kin | None = None
    findings: list[Finding] = field(default_factory=list)
    unlisted: int = 0
    totals: Totals = field(default_factory=Totals)
    replay: str = "none"
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=lambda: list(NOT_PROVED))

    def regulate(self) -> None:
        """Judge as a regulated job: from now on, and in what was found before its policy was known."""
        self.regulated = True
        self.findings = [replace(each, verdict=self._judged(Verdict[each.verdict]).name) for each in self.findings]
        self._worsen(self._judged(Verdict[self.verdict]))

    def _judged(self, verdict: Verdict) -> Verdict:
        return Verdict.FAIL if self.regulated and verdict is Verdict.INCOMPLETE else verdict

    def _worsen(self, verdict: Verdict) -> None:
        if verdict > Verdict[self.verdict]:
            self.verdict, self.exit_code = verdict.name, verdict.exit_code

    def add(
        self,
        code: str,
        step: int,
        why: str,
        *,
        line: int | None = None,
        lane: str | None = None,
        seq: int | None = None,
        place: str = "",
        hint: str = "",
    ) -> None:
        """Record a finding; one never hides another, but after 10,000 they are only counted."""
        known = CODES[code]
        verdict = self._judged(known.verdict)
        self._worsen(verdict)
        if len(self.findings) >= MAX_FINDINGS:
            self.unlisted += 1
            return
        self.findings.append(
            Finding(
                code=code, step=step, verdict=verdict.name, why=why, hint=hint or known.hint,
                line=line, lane=lane, seq=seq, field=place or None,
            )
        )  # fmt: skip

    def refuse(
        self, refused: Refused, step: int, *, line: int | None = None, lane: str | None = None, seq: int | None = None
    ) -> None:
        """Record a refusal as a finding."""
        self.add(refused.code, step, refused.why, line=line, lane=lane, seq=seq, place=refused.field, hint=refused.hint)

    def conclude(self) -> None:
        """Say in words what holds now that everything was read."""
        totals = self.totals
        self.replay = "none"
        if totals.replayed:
            full = totals.replayed_fully == totals.replayed
            self.replay = "full" if full else f"partial ({totals.replayed_fully} of {totals.replayed})"
        self.proved, self.not_proved = [], list(NOT_PROVED)
        if totals.sealed:
            payloads = many(totals.sealed, "sealed payload")
            self.not_proved.append(
                f"What is in {payloads}: none was opened; who has the key holds it against the receipt (tally open)."
            )
        if totals.incidents:
            reports = many(totals.incidents, "report")
            self.not_proved.append(
                f"Why scope refused {reports} of these lanes, which contradicted what it knew (incidents of the seal)."
            )
        if self.verdict != Verdict.PASS.name:
            return
        lanes, receipts = many(totals.lanes, "lane"), many(totals.receipts, "receipt")
        calls = f"{many(totals.calls, 'call')} recorded"
        issued = ", each by a token that scope issued for this job, in its time and inside its grant"
        self.proved = [
            f"Job {self.job} ran under policy {self.policy}, which its author and the registry signed.",
            f"The seal covers {lanes} with {receipts}: none was changed, dropped, added or moved since.",
            f"{calls}{issued if totals.calls else ''}.",
            f"{many(totals.replayed, 'decision')} replayed against the policy: {self.replay}.",
            f"{many(totals.denials, 'denial')} on record; no call was allowed after a revocation had to be known.",
        ]
        if self.children:
            delegated = many(len(self.children), "child job")
            self.proved.append(f"{delegated} delegated: each bundle is the one that was sealed, and passes.")


def many(count: int, noun: str) -> str:
    """Count things in words: `1 lane`, `2 lanes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
