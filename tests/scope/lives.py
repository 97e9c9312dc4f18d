"""Job lives against a scope that goes away under them: what its clients do about it, and what they were told."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from msgspec.structs import replace

from scope.client import IssuedToken, JobRequest, OpenedJob, Proving, RevocationRequest, Revoked, ScopeClient, Tools
from scope.client import claims_of as read
from service import keystore
from service.clients import client_token
from service.dpop import Prover
from tests.conftest import seeded
from tests.scope.conftest import Town, jwk_of
from tests.scope.processes import Process
from tests.scope.witness import PATIENCE, Gateway
from verifier.grant import Token
from verifier.refused import Refused
from verifier.signing import KeyPair

T = TypeVar("T")
ORCHESTRATORS = ("orchestrator", "orchestrator-2", "orchestrator-3")
PART = Tools(server="crm-mcp", tools=["get_case"])
OVER = {"job-not-open", "bad-token", "bad-parent-token"}  # what is said of a job whose time has passed


class Load:
    """What is asked of one scope, in one process or several, and what was answered."""

    def __init__(self, town: Town, processes: list[Process], seed: int) -> None:
        self.town, self.seed, self.random = town, seed, Random(seed)
        self.urls = [each.url for each in processes]
        self.waiting = Counter[str]()
        self.answered = 0
        self.jobs: dict[str, tuple[str, OpenedJob]] = {}
        self.ends: dict[str, str] = {}
        self.tokens: dict[str, Token] = {}
        self.seals: dict[str, bytes] = {}
        self.revoked: list[Revoked] = []
        self.gateway = Gateway(town, self.once, self.insist)
        self._keys = {name: hire(town, name) for name in ORCHESTRATORS}

    def client(self, name: str, url: str) -> ScopeClient:
        """Call one process as somebody."""
        key, issuer = self._keys.get(name) or self.town.key(name, "client"), self.town.urls.scope
        return ScopeClient(self.town.session, url, lambda: client_token(key, name, issuer, self.town.clock()))

    async def once(self, name: str, ask: Callable[[ScopeClient], Awaitable[T]]) -> T:
        """Make one request of any of the processes."""
        url = self.random.choice(self.urls)
        self.waiting[url] += 1
        try:
            answer = await ask(self.client(name, url))
        finally:
            self.waiting[url] -= 1
        self.answered += 1
        return answer

    async def insist(self, name: str, ask: Callable[[ScopeClient], Awaitable[T]]) -> T:
        """Repeat a request until scope answers it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.once(name, ask)
                except Refused as refused:
                    if refused.code != "scope-unavailable":
                        raise
                await asyncio.sleep(self.random.uniform(0.02, 0.1))

    async def revoke(self, kind: str, value: str) -> None:
        """Revoke as the responder."""
        wanted = RevocationRequest(kind=kind, value=value, reason="incident")  # type: ignore[arg-type]
        self.revoked.append(await self.insist("responder", lambda scope: scope.revoke(wanted)))

    async def close(self, who: str, job: str) -> None:
        """Close a job."""
        status = await self.insist(who, lambda scope: scope.close(job))
        assert status.reason is not None
        self.ends[job] = status.reason

    async def seal(self, who: str, job: str) -> None:
        """Wait for a job's seal."""
        async with asyncio.timeout(PATIENCE):
            while job not in self.seals:
                try:
                    self.seals[job] = await self.insist(who, lambda scope: scope.seal(job))
                except Refused as refused:
                    if refused.code != "not-sealed":
                        raise
                    await asyncio.sleep(0.1)

    async def lives(self, numbers: range, at_once: int) -> None:
        """Live so many lives, some at once."""
        rest = iter(numbers)

        async def worker() -> None:
            for number in rest:
                await Life(self, number).live()

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())


class Life:
    """One job, with what it delegates: opened, worked in, ended one way or another, sealed."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.number = load, number
        self.random = Random(f"{load.seed}/{number}")
        self.who = self.random.choice(ORCHESTRATORS)
        self.end = self.random.choices(["close", "revoke", "expire"], [7, 2, 1])[0]
        self.agent = f"agent-{number}"
        self.proving: Proving | None = None
        self.jobs = list[str]()

    async def live(self) -> None:
        """Live it."""
        self.proving = self._prover() if self.random.random() < 0.1 else None
        wanted = self.load.town.job(
            agent=self.agent,
            binding="dpop" if self.proving else "none",
            expires_in=2 if self.end == "expire" else 3600,
        )
        job = await self._open(wanted)
        try:
            raw = await self._work(job, f"lane-{self.number}")
            if self.random.random() < 0.2:
                await self._delegate(raw)
        except Refused as refused:
            if refused.code not in OVER or self.end != "expire":
                raise
        if self.end == "close":
            await self.load.close(self.who, job.job)
        elif self.end == "revoke":
            await self.load.revoke(*self.random.choice([("job", job.job), ("agent", self.agent)]))
            self.load.ends[job.job] = "revoked"
        for name in self.jobs:
            await self.load.seal(self.who, name)

    async def _open(self, wanted: JobRequest) -> OpenedJob:
        named = replace(wanted, request_id=f"life-{self.number}-{len(self.jobs)}")
        job = await self.load.insist(self.who, lambda scope: scope.open(named))
        self.load.jobs[job.job] = self.who, job
        self.jobs.append(job.job)
        return job

    async def _work(self, job: OpenedJob, name: str) -> str:
        """Use a lane or two and several tokens; return the last one."""
        raw = await self._token(lambda scope: scope.token(job.job, proving=self.proving))
        lanes = [await self.load.gateway.register(job, f"{name}-{each}") for each in range(self.random.choice([1, 2]))]
        for _ in range(self.random.randint(1, 3)):
            for lane in lanes:
                lane.use(read(raw))
                lane.note(self.random.randint(1, 4))
                await lane.reach(len(lane.raws))
            raw = await self._next(job, raw)
        return raw

    async def _next(self, job: OpenedJob, raw: str) -> str:
        """Go on with a younger token, with a narrower one beside it, or with another because this one is revoked."""
        match self.random.choice(["refresh", "refresh", "narrow", "revoke"]):
            case "refresh":
                return await self._token(lambda scope: scope.refresh(raw, proving=self.proving))
            case "narrow":
                await self._token(lambda scope: scope.narrow(raw, PART, proving=self.proving))
                return raw
            case _:
                await self.load.insist(self.who, lambda scope: scope.revoke_token(raw))
                return await self._token(lambda scope: scope.token(job.job, proving=self.proving))

    async def _delegate(self, raw: str) -> None:
        """Let a child job work, which ends by itself or with this one."""
        child = await self._open(self.load.town.job(agent=self.agent, parent_token=raw))
        await self._work(child, f"lane-{self.number}-child")
        if self.random.random() < 0.5:
            await self.load.close(self.who, child.job)

    async def _token(self, ask: Callable[[ScopeClient], Awaitable[IssuedToken]]) -> str:
        raw = (await self.load.insist(self.who, ask)).access_token
        self.load.tokens[read(raw).jti] = read(raw)
        return raw

    def _prover(self) -> Proving:
        key = keystore.generate("client", self.who, seeded(f"proofs/{self.number}")).pair()
        prover = Prover(key.ed25519, jwk_of(key), self.load.town.clock, seeded(f"jti/{self.number}"))
        address = f"{self.load.town.urls.scope}/token"  # whichever process is behind it
        return lambda method, _url, nonce: prover.proof(method, address, nonce=nonce)


def hire(town: Town, name: str) -> KeyPair:
    """Give another orchestrator a key, before scope starts."""
    if name == "orchestrator":
        return town.key(name, "client")
    key = keystore.generate("client", name, seeded(name)).pair()
    with (town.installation / "scope/clients.toml").open("a") as file:
        file.write(f'\n[clients.{name}]\ned25519 = "{key.public.ed25519}"\nroles = ["orchestrator"]\n')
    return key


class Killer:
    """Kills scope's processes while they work, at moments that a seed chooses, and starts them again.

    Between kills there are `least` to `most` answers.
    """

    def __init__(self, load: Load, processes: list[Process], least: int, most: int) -> None:
        self.load, self.processes, self.every = load, processes, (least, most)
        self.random = Random(load.seed)
        self.kills = self.cut = 0
        self.done = False

    async def run(self) -> None:
        """Kill until it is done: each time after so many answers, while at least one request is on its way."""
        while not self.done:
            process = self.random.choice(self.processes)
            answers = self.load.answered + self.random.randint(*self.every)
            while not self.done and (self.load.answered < answers or not self.load.waiting[process.url]):  # noqa: ASYNC110 - a moment among many
                await asyncio.sleep(0.002)
            await asyncio.sleep(self.random.uniform(0, 0.01))
            await self._kill(process)
            if self.random.random() < 0.2:  # again, while it starts
                await process.spawn()
                await asyncio.sleep(self.random.uniform(0, 1))
                await self._kill(process)
            await process.start()

    async def _kill(self, process: Process) -> None:
        self.cut += self.load.waiting[process.url]
        self.kills += 1
        await process.kill()
