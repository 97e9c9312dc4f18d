"""What clients were told, held against what scope has in the end, by its database and by its own answers."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from io import BytesIO
from typing import Any

import msgspec
from sqlalchemy import text

from controls.client import Connection, ControlsClient, audit_lines
from service.audit import Entry, Line, check
from service.engine import open_engine, reading
from tests.scope.lives import ORCHESTRATORS, Load
from tests.scope.witness import EVERY, PATIENCE
from verifier import bundle
from verifier.audit import verify
from verifier.documents import Opened, open_revocation, open_seal
from verifier.encoding import digest
from verifier.envelope import Envelope
from verifier.merkle import EMPTY, leaf_hash, root_of
from verifier.refused import Refused
from verifier.seal import Seal
from verifier.signing import SUITE

# The record's act, and the rows that it stands for.
ACTS = {
    "job-opened": "SELECT job FROM jobs",
    "job-closing": "SELECT job FROM jobs WHERE state <> 'open'",
    "job-sealed": "SELECT job FROM seals",
    "lane-registered": "SELECT lane FROM lanes",
    "revoked": "SELECT value FROM revocations",
    "grant-narrowed": 'SELECT job FROM grants WHERE digest NOT IN (SELECT "grant" FROM jobs)',
    "incident": "SELECT lane FROM incidents",
}


class Follower:
    """A gateway that follows the feed of revocations from where it was cut off, on any process."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.seen: list[int] = []

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                await self._follow()
            except Refused as refused:
                if refused.code != "scope-unavailable":
                    raise
            await asyncio.sleep(EVERY)

    async def reach(self, last: int) -> None:
        """Wait until it has seen so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.seen) < last:  # noqa: ASYNC110 - what scope sends, when it sends it
                await asyncio.sleep(0.01)

    async def _follow(self) -> None:
        scope = self.load.client("receipts", self.load.random.choice(self.load.urls))
        async with aclosing(scope.follow(self.seen[-1] if self.seen else 0)) as lines:
            async for _, revocations in lines:
                self.seen += [open_revocation(self.load.town.trust, each).value.sequence for each in revocations]


async def settle(load: Load) -> int:
    """Close the jobs whose opening nobody was told of, as their client finds them; return how many there were."""
    lost = dict[str, str]()
    for who in ORCHESTRATORS:
        before: int | None = None
        while True:
            page = await load.insist(who, lambda scope, before=before: scope.jobs(before, 100))  # type: ignore[misc]
            lost |= {each.job: who for each in page.jobs if each.job not in load.jobs}
            before = page.next
            if before is None:
                break
    for job, who in lost.items():
        await load.insist(who, lambda scope, job=job: scope.close(job))  # type: ignore[misc]
        await load.seal(who, job)
    return len(lost)


class Reckoning:
    """The database of a scope, and the clients' side of it."""

    def __init__(self, load: Load, rows: dict[str, list[Any]], entries: list[Entry]) -> None:
        self.load, self.rows, self.entries = load, rows, entries
        self.seals = {each.job: bytes(each.envelope) for each in rows["seals"]}
        self.opened = {job: open_seal(load.town.trust, raw) for job, raw in self.seals.items()}

    @classmethod
    async def of(cls, load: Load) -> "Reckoning":
        """Read the tables, and the record as an auditor does."""
        engine = open_engine(load.town.database_url)
        async with reading(engine) as db:
            tables = ("jobs", "tokens", "lanes", "revocations", "seals", "incidents", "counters")
            rows = {name: list((await db.execute(text(f"SELECT * FROM {name}"))).all()) for name in tables}
            acts = {act: sorted((await db.execute(text(query))).scalars()) for act, query in ACTS.items()}
        await engine.dispose()
        town = load.town
        http = Connection(town.session, town.urls.scope, lambda: town.credential("auditor"))
        lines = [line async for line in audit_lines(http)]
        check(lines)
        entries = [msgspec.json.decode(line, type=Line).entry for line in lines]
        assert {act: sorted(each.subject for each in entries if each.act == act) for act in acts} == acts
        return cls(load, rows, entries)

    def tokens_have_rows(self) -> None:
        """Every token that a client was handed has its row, which says what the token says."""
        known = {each.jti: (each.job, each.grant, each.iat, each.exp) for each in self.rows["tokens"]}
        for jti, token in self.load.tokens.items():
            assert known[jti] == (token.txn, token.grant, token.iat, token.exp)

    def jobs_are_sealed_once(self) -> None:
        """Every job is sealed, one entry of the record each, by the bytes that its client was given."""
        known = {each.job: each for each in self.rows["jobs"]}
        assert Counter(each.state for each in known.values()) == {"sealed": len(self.seals)}
        assert {job: known[job].grant for job in self.load.jobs} == {
            job: opened.grant_digest for job, (_, opened) in self.load.jobs.items()
        }
        said = {each.subject: each.digest for each in self.entries if each.act == "job-sealed"}
        assert said == {job: digest(Envelope.parse(raw, "seal").content()) for job, raw in self.seals.items()}
        assert self.load.seals == self.seals
        for job, sealed in self.opened.items():
            whole = all(each.closed and each.size for each in self.rows["lanes"] if each.job == job)
            assert sealed.value.status == (known[job].reason if whole else "interrupted")
            assert self.load.ends.get(job, known[job].reason) == known[job].reason

    def lanes_are_in_seals(self) -> None:
        """Every lane that was acknowledged stands in its job's seal, with all that was acknowledged of it."""
        for lane in self.load.gateway.lanes.values():
            (sealed,) = [each for each in self.opened[lane.job.job].value.lanes if each.lane == lane.name]
            hashes = [leaf_hash(raw) for raw in lane.raws[: sealed.size]]
            assert lane.reported <= sealed.size == len(hashes)
            assert sealed.root == "sha256:" + (root_of(hashes) if hashes else EMPTY).hex()
            assert {each.jti for each in sealed.tokens} == {j for j, seq in lane.jtis.items() if seq < sealed.size}

    def revocations_have_no_gap(self, seen: Iterable[int]) -> None:
        """Sequences are 1, 2, 3 …, in the database, on the feed, and in what responders were told."""
        known = {each.sequence: each.digest for each in self.rows["revocations"]}
        assert sorted(known) == list(range(1, len(known) + 1)) == list(seen)
        (counter,) = self.rows["counters"]
        assert counter.value == len(known)
        assert len({each.sequence for each in self.load.revoked}) == len(self.load.revoked)
        assert all(known[each.sequence] == each.digest for each in self.load.revoked)

    def unheard(self) -> int:
        """Count the tokens and the responder's revocations that scope made and no client was told of."""
        told = {each.sequence for each in self.load.revoked}
        revoked = [each for each in self.rows["revocations"] if each.kind != "jti" and each.sequence not in told]
        return len(self.rows["tokens"]) - len(self.load.tokens) + len(revoked)

    async def seals_read_the_same(self, every: int) -> None:
        """A seal that is read again is the same, byte for byte: each `every`th of them."""
        for job in sorted(self.seals)[::every]:
            who = next(each.client for each in self.rows["jobs"] if each.job == job)
            for url in self.load.urls:
                assert await self.load.client(who, url).seal(job) == self.seals[job]

    async def auditors_pass(self, every: int) -> int:
        """An auditor finds nothing wrong with a job that ended whole: each `every`th; returns how many."""
        kin = {each.parent for each in self.rows["jobs"]} | {each.job for each in self.rows["jobs"] if each.parent}
        whole = sorted(
            job for job, each in self.opened.items() if each.value.status != "interrupted" and job not in kin
        )
        for job in whole[::every]:
            judged = await self._audit(self.opened[job])
            assert judged == ("PASS", []), (job, *judged)
        return len(whole[::every])

    async def _audit(self, sealed: Opened[Seal]) -> tuple[str, list[str]]:
        town, seal = self.load.town, sealed.value
        scope = self.load.client("receipts", self.load.urls[0])
        registry = ControlsClient(town.session, town.urls.controls, town.trust)
        opened = self.load.jobs.get(seal.job)
        pins = {} if opened is None else msgspec.json.decode(Envelope.parse(bytes(opened[1].grant), "grant").content())
        manifests = sorted(pins["scope"]["manifests"].values()) if pins else []
        documents = bundle.Documents(
            job=seal.job, suite=SUITE, keys=await scope.keys(),
            policies=[(await registry.policy(seal.policy, seal.opened)).raw],
            manifests=[(await registry.manifest(each, seal.opened)).raw for each in manifests],
            grants=[await scope.grant(each) for each in seal.grants],
            revocations=await scope.revocations(seal.job), seal=self.seals[seal.job],
        )  # fmt: skip
        lanes = []
        for each in seal.lanes:
            lane = self.load.gateway.lanes[each.lane]
            lanes.append(bundle.Lane(each.lane, lane.newest, lane.raws))
        report = verify(BytesIO(b"".join(bundle.write(documents, lanes))), town.trust.pin)
        return report.verdict, [finding.code for finding in report.findings]
