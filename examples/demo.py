"""The main job, end to end, on real parts: `make demo`, or `python -m examples.demo [--out DIR] [--json]`.

Real processes, real sockets on loopback, real signatures, SQLite, the official `openai` and `mcp` clients. It leaves in
`demo-out/` the bundles, the auditor's `pin.json` and the spoilt copies; everything else is removed again.
"""

import argparse
import asyncio
import base64
import io
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from controls.client import ControlsClient, fetch_trust
from examples import tamper
from examples.agent import Agent, Refusal, refused
from examples.stage import PROVIDER, ROOT, SERVICES, Stage
from receipts.client import ReceiptsClient
from scope.client import JobRequest, OpenedJob, RevocationRequest, ScopeClient
from service import keystore
from service.clients import client_token
from verifier.checkpoint import Proof
from verifier.keys import Pin
from verifier.refused import Refused
from verifier.signing import KeyPair

POLICY = ROOT / "examples" / "policies" / "minimal.json"
MANIFEST = ROOT / "examples" / "manifests" / "crm-mcp.json"
STEPS = 11


class Row(NamedTuple):
    """One thing that happened, and whether it is what had to happen."""

    step: int
    what: str
    outcome: str
    good: bool


class Demo:
    """The story, step by step; `rows` is the table at its end."""

    def __init__(self, stage: Stage, out: Path, http: aiohttp.ClientSession) -> None:
        """Take the stage, and where to leave what the reader keeps."""
        self.stage = stage
        self.out = out
        self.http = http
        self.rows: list[Row] = []
        self.policy = ""
        self.slow = ""

    def note(self, step: int, what: str, outcome: str, *, good: bool = True) -> None:
        """Write a row of the table."""
        self.rows.append(Row(step, what, outcome, good))

    def expect(self, step: int, what: str, found: object, wanted: object) -> None:
        """Write a row that is good only when the outcome is the one that had to come."""
        good = found == wanted
        self.note(step, what, str(found) if good else f"{found} (expected {wanted})", good=good)

    def client(self, name: str, service: str) -> Callable[[], str]:
        """Return what makes fresh tokens of one client for one service."""
        key = keystore.load(self.stage.installation / name / "client.key", "client")
        return lambda: client_token(key, name, self.stage.url(service), _now())

    @property
    def orchestrator(self) -> ScopeClient:
        """The orchestrator's view of scope."""
        return ScopeClient(self.http, self.stage.url("scope"), self.client("orchestrator", "scope"))

    # 1, 2 -----------------------------------------------------------------------------------------------------------

    async def install(self) -> None:
        """1. Make roots, keys, key list and pin."""
        stage = self.stage
        urls = [part for name in SERVICES for part in (f"--{name}-url", stage.url(name))]
        stage.tally("init", str(stage.installation), *urls, "--demo")
        loose = [path for path in stage.installation.rglob("*") if path.stat().st_mode & 0o077]
        self.expect(1, "tally init: files that others could read", len(loose), 0)
        shutil.copy(stage.installation / "pin.json", self.out / "pin.json")
        receipts = stage.installation / "receipts"
        keystore.write_private(stage.secret, secrets.token_urlsafe(24).encode())
        with (receipts / "settings.toml").open("a") as settings:
            settings.write(
                f'\n[models.{PROVIDER}]\nbase_url = "{stage.url("model")}/v1"\napi_key_file = "provider.secret"\n'
            )
            settings.write('operations = ["chat.completions", "embeddings"]\n')

    async def start(self) -> None:
        """2. Start three services and two upstreams, each a process of its own."""
        for name in ("model", "crm", *SERVICES):
            await asyncio.to_thread(self.stage.start, name)
        databases = sorted(path.parent.name for path in self.stage.installation.glob("*/*.db"))
        self.expect(2, "services running, each with its own database", databases, sorted(SERVICES))

    # 3, 4 -----------------------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """3. Build, test, sign and publish the users' example; a changed one is refused."""
        tally, folder, home = self.stage.tally, self.stage.directory, self.stage.installation
        key, url = str(home / "author" / "policy.key"), self.stage.url("controls")
        await asyncio.to_thread(tally, "policy", "build", str(POLICY), "--key", key, "-o", "policy.json")
        await asyncio.to_thread(tally, "policy", "test", "policy.json")
        await asyncio.to_thread(tally, "policy", "sign", "policy.json", "--key", key, "-o", "policy.signed.json")
        signed = (folder / "policy.signed.json").read_bytes()
        (folder / "forged.json").write_bytes(_forge(signed))
        publish = ("--url", url, "--client", str(home / "author"))
        self.note(
            3,
            "a policy changed after it was signed",
            await self._cli_refusal("policy", "publish", "forged.json", *publish),
        )
        done = await asyncio.to_thread(tally, "policy", "publish", "policy.signed.json", *publish)
        self.policy = done["digest"]
        self.note(3, "policy published", self.policy[:24] + "…")

    async def register(self) -> None:
        """4. Register the CRM with its signed manifest."""
        tally, home = self.stage.tally, self.stage.installation
        url, crm = self.stage.url("controls"), self.stage.url("crm") + "/mcp"
        who = ("--url", url, "--client", str(home / "registrar"))
        classes = ("--data-class", "customer_provided", "--data-class", "internal")
        described = ("--purpose", "Customers and their cases", "--owner", "crm-team", *classes)
        await asyncio.to_thread(tally, "server", "register", "crm-mcp", "--server-url", crm, *described, *who)
        key = str(home / "registrar" / "registry.key")
        await asyncio.to_thread(
            tally, "manifest", "build", str(MANIFEST), "--key", key, "--server-url", crm, "-o", "crm.json"
        )
        await asyncio.to_thread(tally, "manifest", "sign", "crm.json", "--key", key, "-o", "crm.signed.json")
        done = await asyncio.to_thread(tally, "manifest", "publish", "crm.signed.json", *who)
        self.note(4, "MCP server crm-mcp registered, manifest approved", done["digest"][:24] + "…")

    # 5, 6 -----------------------------------------------------------------------------------------------------------

    async def open(self, step: int, name: str) -> tuple[OpenedJob, Agent]:
        """5. Open a job pinned to the policy and mint its token."""
        job = await self.orchestrator.open(
            JobRequest(agent="crm-agent", policy=self.policy, job_type="support", environment="demo")
        )
        token = await self.orchestrator.token(job.job)
        self.note(
            step,
            f"job {name} opened, token for {token.expires_in} s",
            f"{job.job}, unavailable: {', '.join(job.unavailable)}",
        )
        return job, Agent(self.stage.url("receipts"), token.access_token)

    async def work(self, agent: Agent) -> None:
        """6. The agent checks its policy, then works: the model asks, the agent performs."""
        pin = Pin.parse((self.out / "pin.json").read_bytes())
        trust = await fetch_trust(self.http, self.stage.url("controls"), pin)
        policy = await ControlsClient(self.http, self.stage.url("controls"), trust).policy(self.policy, _now())
        self.note(6, "the agent fetched its policy and checked it", policy.value.policy_name)
        self.expect(6, "tools that the gateway shows", await agent.tools(), ["get_case", "search_customer"])
        found = await agent.work('call search_customer {"query": "Ada"}\ncall get_case {"case_id": "CASE-1"}')
        self.expect(6, "chat completion, two tool calls performed", len(found), 2)
        found = await agent.work('call get_case {"case_id": "CASE-2"}', stream=True)
        self.expect(6, "streamed completion, its tool call performed", len(found), 1)
        proof = Proof.parse(base64.b64decode(agent.proofs[0]).decode())
        gateway = next(key for key in trust.listed.keys if key.use == "gateway")
        self.note(
            6,
            "the answer's proof checked by the client",
            f"receipt {proof.index} of {proof.check(gateway.pair()).size}",
        )

    # 7 --------------------------------------------------------------------------------------------------------------

    async def refusals(self, job: OpenedJob, agent: Agent) -> None:
        """7. Everything that must be refused is."""
        gateway = agent.gateway
        await agent.ask('call http_request {"url": "http://evil.example"}\ncall export_customers {"format": "csv"}')
        await agent.ask('call get_case {"case_id": "CASE-1", "verbose": true}')
        other = Agent(gateway, agent.token, {"Tally-Job": "job-of-somebody-else"})
        forged = Agent(
            gateway, _forge_token(agent.token, keystore.load(self.stage.installation / "scope" / "token.key", "token"))
        )
        short = Agent(gateway, (await self.orchestrator.token(job.job, ttl=1)).access_token)
        web = [{"type": "web_search"}]
        await asyncio.sleep(2.1)
        attempts: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
            ("a denied tool", "denied-tool", lambda: agent.call("http_request", {"url": "http://evil.example"})),
            (
                "a tool that the policy does not list",
                "not-allowed",
                lambda: agent.call("export_customers", {"format": "csv"}),
            ),
            (
                "an argument that the schema does not know",
                "unknown-argument",
                lambda: agent.call("get_case", {"case_id": "CASE-1", "verbose": True}),
            ),
            (
                "a tool call that no model asked for",
                "no-model-call",
                lambda: agent.call("search_customer", {"query": "all"}),
            ),
            ("a call naming another job", "wrong-job", lambda: other.ask("hello")),
            ("a token of one second, two seconds later", "token-expired", lambda: short.ask("hello")),
            ("a token pinned to another policy than its grant", "wrong-policy", lambda: forged.ask("hello")),
            ("a tool that the provider runs", "hosted-tool", lambda: agent.ask("hello", tools=web)),
        ]
        for what, wanted, attempt in attempts:
            self.expect(7, what, await refused(attempt), wanted)

    # 8 --------------------------------------------------------------------------------------------------------------

    async def revoke(self, job: OpenedJob, agent: Agent) -> None:
        """8. A responder revokes the job; the next call is refused."""
        responder = ScopeClient(self.http, self.stage.url("scope"), self.client("responder", "scope"))
        began = time.monotonic()
        await responder.revoke(RevocationRequest(kind="job", value=job.job, reason="incident", ticket="INC-1"))
        code = "allowed"
        while code == "allowed" and time.monotonic() - began < STEPS:
            code = await refused(lambda: agent.ask("hello"))
        self.note(8, f"revoked; refused after {time.monotonic() - began:.2f} s", code, good=code != "allowed")
        await self.orchestrator.wait_for_seal(job.job)
        bundle = await self.fetch(job.job, "revoked.tally")
        await self.audited(8, "the revoked job's bundle", bundle, 0, "PASS")

    # 9, 10 ----------------------------------------------------------------------------------------------------------

    async def finish(self) -> Path:
        """9. A second job is finished, sealed and fetched."""
        job, agent = await self.open(9, "two")
        await agent.work('call search_customer {"query": "Grace"}')
        await agent.work('call get_case {"case_id": "CASE-3"}', stream=True)
        await agent.ask('call http_request {"url": "http://evil.example"}')
        self.expect(
            9,
            "a denied tool, for the record",
            await refused(lambda: agent.call("http_request", {"url": "x"})),
            "denied-tool",
        )
        await self.orchestrator.close(job.job)
        await self.orchestrator.wait_for_seal(job.job)
        bundle = await self.fetch(job.job, "job.tally")
        self.note(9, "sealed, bundle fetched", _described(bundle))
        return bundle

    async def fetch(self, job: str, name: str) -> Path:
        """Fetch a bundle from the gateway."""
        receipts = ReceiptsClient(self.http, self.stage.url("receipts"), self.client("auditor", "receipts"))
        content = io.BytesIO()
        await receipts.bundle(job, content)
        path = self.out / name
        await asyncio.to_thread(path.write_bytes, content.getvalue())
        return path

    async def audit(self, bundle: Path) -> None:
        """10. Verify with the base install alone and no network; then spoil copies and see each found out."""
        await self.audited(10, "job.tally, base install, no network", bundle, 0, "PASS")
        for spoilt, pin, status, code in tamper.spoil_all(bundle, self.out / "pin.json"):
            await self.audited(10, f"{spoilt.name} under {pin.name}", spoilt, status, code, pin)

    async def audited(  # noqa: PLR0917 - a row of a table
        self, step: int, what: str, bundle: Path, status: int, code: str, pin: Path | None = None
    ) -> dict[str, Any]:
        """Verify a bundle; good when exit status and a finding (or the verdict) are the expected ones."""
        found, said = await asyncio.to_thread(self.stage.audit, bundle, pin or self.out / "pin.json", "--json")
        try:
            report: dict[str, Any] = json.loads(said)
        except ValueError:
            self.note(step, what, said.strip()[-200:], good=False)
            return {}
        codes = [each["code"] for each in report["findings"]]
        outcome = f"{report['verdict']} (exit {found})" + (f": {', '.join(dict.fromkeys(codes))}" if codes else "")
        self.note(step, what, outcome, good=found == status and code in [report["verdict"], *codes])
        return report

    # 11 -------------------------------------------------------------------------------------------------------------

    async def crash(self) -> None:
        """11. The gateway is killed in the middle of a call; what was lost is named."""
        job, agent = await self.open(11, "three")
        await agent.ask('call get_case {"case_id": "CASE-SLOW"}')
        before = self._upstream_calls()
        call = asyncio.create_task(refused(lambda: agent.call("get_case", {"case_id": "CASE-SLOW"})))
        while self._upstream_calls() == before:  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.02)
        self.stage.kill("receipts")
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.to_thread(self.stage.start, "receipts")
        await self.orchestrator.close(job.job)
        await self.orchestrator.wait_for_seal(job.job)
        report = await self.audited(
            11, "killed in the middle of a call", await self.fetch(job.job, "lost.tally"), 3, "lost-call"
        )
        lost = [each["why"] for each in report.get("findings", []) if each["code"] == "lost-call"]
        self.note(11, "what was lost", lost[0] if lost else "nothing named", good=bool(lost))

    def _upstream_calls(self) -> int:
        return self.stage.calls.read_text().count("tools/call") if self.stage.calls.exists() else 0

    async def _cli_refusal(self, *arguments: str) -> str:
        """Run a command that must be refused; return its code."""
        try:
            await asyncio.to_thread(self.stage.tally, *arguments)
        except RuntimeError as error:
            return "refused: " + str(error).partition("failed: tally: ")[2].partition(":")[0]
        raise RuntimeError(f"tally {' '.join(arguments)} was not refused")


async def play(stage: Stage, out: Path, tick: Callable[[str], None]) -> list[Row]:
    """Play all eleven steps; `tick` is told what comes next."""
    async with aiohttp.ClientSession() as http:
        demo = Demo(stage, out, http)
        try:
            await _acts(demo, tick)
        except (Refused, Refusal, RuntimeError) as error:
            demo.note(STEPS, "the demo stopped", str(error), good=False)
        return demo.rows


async def _acts(demo: Demo, tick: Callable[[str], None]) -> None:
    """Play the acts in their order."""
    for words, act in (
        ("keys", demo.install),
        ("processes", demo.start),
        ("policy", demo.publish),
        ("MCP server", demo.register),
    ):
        tick(words)
        await act()
    tick("job")
    job, agent = await demo.open(5, "one")
    tick("work")
    await demo.work(agent)
    tick("refusals")
    await demo.refusals(job, agent)
    tick("revocation")
    await demo.revoke(job, agent)
    tick("seal")
    bundle = await demo.finish()
    tick("audit")
    await demo.audit(bundle)
    tick("crash")
    await demo.crash()


def main() -> int:
    """Play the story and show the table; 0 when everything was as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Run the main job end to end.")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="where bundles and pin are left")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="tally-demo-") as folder,
        Stage(Path(folder)) as stage,
        _progress(console) as progress,
    ):
        task = progress.add_task("starting", total=STEPS)

        def tick(words: str) -> None:
            progress.update(task, description=words, advance=1)
            if not console.is_terminal:
                console.print(f"  {words}")

        rows = asyncio.run(play(stage, options.out, tick))
        _, report = stage.audit(options.out / "job.tally", options.out / "pin.json")
    if options.json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        Console().print(_table(rows))
        Console().print("\nWhat the auditor read of job.tally:\n", highlight=False)
        print(report)
        Console().print(
            f"Left in {options.out.name}/: {', '.join(sorted(path.name for path in options.out.iterdir()))}"
        )
    return 0 if all(row.good for row in rows) else 1


def _progress(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:>2.0f}/{task.total:.0f} {task.description:<12}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _table(rows: list[Row]) -> Table:
    table = Table(title="What happened")
    for name in ("", "", "step", "outcome"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row("[green]✓[/]" if row.good else "[red]✗[/]", str(row.step), row.what, row.outcome)
    return table


def _described(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size} bytes"


def _forge(signed: bytes) -> bytes:
    """Change one byte of a signed policy's payload and keep its signatures."""
    envelope = json.loads(signed)
    payload = base64.b64decode(envelope["payload"]).replace(b'"http_request"', b'"http_requesT"')
    envelope["payload"] = base64.b64encode(payload).decode()
    return json.dumps(envelope, separators=(",", ":")).encode()


def _forge_token(token: str, key: KeyPair) -> str:
    """Sign, with scope's own key, a token whose policy hash is not its grant's."""
    header, claims, _ = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    said["policy_hash"] = "sha256:" + "0" * 64
    signed = header + "." + _b64url(json.dumps(said, separators=(",", ":")).encode())
    return signed + "." + _b64url(key.ed25519(signed.encode()))


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _now() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Refused, Refusal, RuntimeError) as error:
        sys.exit(f"demo: {error}")
