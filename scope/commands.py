"""`tally job` and `tally revoke`: what orchestrators and incident responders do."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import aiohttp
import msgspec
import typer

from scope.client import (
    Detail,
    Incident,
    IssuedToken,
    JobRequest,
    JobStatus,
    Models,
    OpenedJob,
    Preview,
    RevocationRequest,
    ScopeClient,
    State,
    Tools,
    claims_of,
)
from service import keystore
from service.clients import client_token
from verifier.documents import open_heartbeat, open_revocation
from verifier.encoding import canonical, parse
from verifier.envelope import Envelope
from verifier.grant import Grant
from verifier.keys import Pin, Trust
from verifier.refused import Refused
from verifier.revocation import Revocation

app = typer.Typer(no_args_is_help=True)
job = typer.Typer(help="Open jobs, get their tokens, close them.", no_args_is_help=True)
app.add_typer(job, name="job")
token_group = typer.Typer(help="Look at tokens.", no_args_is_help=True)
app.add_typer(token_group, name="token")

T = TypeVar("T")
MAX_REQUEST = 1 << 20
MAX_PAGE = 100
SECOND = 1_000_000

Name = Annotated[str, typer.Argument(metavar="JOB", help="As `tally job open` named it.")]
Url = Annotated[str, typer.Option("--url", help="Base URL of scope.")]
Client = Annotated[
    Path, typer.Option("--client", help="Your directory: its name is your client id, it holds client.key.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seconds = Annotated[int | None, typer.Option(min=1, help="In seconds.")]


@job.command("open")
def open_job(
    *,
    policy: Annotated[str, typer.Option(help="The digest that the job is pinned to: sha256:…")],
    agent: Annotated[str, typer.Option(help="Who will act.")],
    job_type: Annotated[str, typer.Option("--type", help="The type of job, as the policy admits it.")],
    environment: Annotated[str, typer.Option(help="Where, as the policy admits it.")],
    tool: Annotated[list[str] | None, typer.Option(help="server/tool; once for each. None: all.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="provider/pattern; once for each. None: all.")] = None,
    calls: Annotated[int | None, typer.Option(min=0, help="At most so many calls.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="At most so many tokens of models.")] = None,
    cost_nano_usd: Annotated[int | None, typer.Option(min=0, help="At most so many billionths of a dollar.")] = None,
    expires_in: Seconds = None,
    user_token: Annotated[
        Path | None, typer.Option(help="A private file with an identity provider's token of the user.", dir_okay=False)
    ] = None,
    grant: Annotated[Path | None, typer.Option(help="Keep the signed grant here.", dir_okay=False)] = None,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Open a job under one policy. With --tool or --model it gets exactly these, else all that the policy allows.

    Example: tally job open --policy sha256:… --agent support-1 --type support --environment test
    --url http://127.0.0.1:8702 --client orchestrator
    """
    asked: dict[str, Any] = {"agent": agent, "policy": policy, "job_type": job_type, "environment": environment}
    asked |= {"limits": _limits(calls, cost_nano_usd, tokens)} | ({"expires_in": expires_in} if expires_in else {})
    if user_token is not None:
        asked["user_token"] = keystore.read_private(user_token).decode("latin-1").strip()
    if tool or model:
        asked["authorization_details"] = [*map(_tool, tool or ()), *([Models(models=model)] if model else [])]
    request = parse(canonical(asked), JobRequest, limit=MAX_REQUEST)
    opened = _as_client(url, client, lambda scope: scope.open(request))
    _opened(opened, grant, as_json)


@job.command("child")
def child(
    *,
    whole: Annotated[Path, typer.Option("--from", help="A private file with a living token of the parent job.")],
    agent: Annotated[str | None, typer.Option(help="Who will act. None: the parent's agent.")] = None,
    policy: Annotated[str | None, typer.Option(help="A policy under the parent's. None: the same.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="None: the parent's type.")] = None,
    tool: Annotated[list[str] | None, typer.Option(help="server/tool; once for each. None: the parent's.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="provider/pattern; once for each. None: the parent's.")
    ] = None,
    calls: Annotated[int | None, typer.Option(min=0, help="Of the parent's purse. None: half of what is left.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Of the parent's purse: tokens of models.")] = None,
    cost_nano_usd: Annotated[int | None, typer.Option(min=0, help="Of the parent's purse: billionths of a dollar.")] = (
        None
    ),
    expires_in: Seconds = None,
    grant: Annotated[Path | None, typer.Option(help="Keep the signed grant here.", dir_okay=False)] = None,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Open a child job: a part of what the parent's token carries and of its purse, for a part of its time.

    It ends with its parent, and the parent is sealed after it.

    Example: tally job child --from agent.token --agent helper-1 --tool crm-mcp/get_case --calls 10
    --url http://127.0.0.1:8702 --client orchestrator
    """
    subject = keystore.read_private(whole).decode("latin-1").strip()
    given = {"agent": agent, "policy": policy, "job_type": job_type}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    asked |= {"limits": _limits(calls, cost_nano_usd, tokens)} | ({"expires_in": expires_in} if expires_in else {})
    if tool or model:
        asked["authorization_details"] = [*map(_tool, tool or ()), *([Models(models=model)] if model else [])]

    async def delegated(scope: ScopeClient) -> OpenedJob:
        raw = await scope.grant(claims_of(subject).grant)
        above = Grant.parse(Envelope.parse(raw, "grant").content()).scope
        inherited = {name: getattr(above, name) for name in ("agent", "policy", "job_type", "environment")}
        wanted = canonical({**inherited, **asked})
        return await scope.child(subject, parse(wanted, JobRequest, limit=MAX_REQUEST))

    _opened(_as_client(url, client, delegated), grant, as_json)


@job.command("token")
def token(
    name: Name,
    *,
    ttl: Seconds = None,
    whole: Annotated[
        Path | None, typer.Option("--from", help="A private file with a token, of which --tool and --model are a part.")
    ] = None,
    tool: Annotated[list[str] | None, typer.Option(help="server/tool, for a narrower token; once for each.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="provider/pattern, for a narrower token.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new file, of mode 0600.", dir_okay=False)] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the token itself.")] = False,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Get a token of a job of your own, into a private file; it is a secret, and lives for minutes.

    With --from a narrower one, for the --tool and --model named alone.

    Example: tally job token job-… --ttl 300 -o agent.token --url http://127.0.0.1:8702 --client orchestrator
    """
    details: list[Detail] = [*map(_tool, tool or ()), *([Models(models=model)] if model else [])]
    if (whole is None) != (not details):
        raise Refused("usage", "a narrower token is a part (--tool, --model) of another one (--from)")
    if (out is None) != show:
        raise Refused("usage", "a token goes into a file (--out) or is shown (--show)")
    if out is not None and out.exists():
        raise Refused("usage", f"{out} exists: a token never replaces a file")
    if whole is None:
        issued = _as_client(url, client, lambda scope: scope.token(name, ttl))
    else:
        subject = keystore.read_private(whole).decode("latin-1").strip()
        issued = _as_client(url, client, lambda scope: scope.narrow(subject, *details, ttl=ttl))
    if out is not None:
        keystore.write_private(out, issued.access_token.encode())
    _say(as_json, _shown(issued, out), issued.access_token if show else f"{out}: good for {issued.expires_in} s")


@job.command("close")
def close(name: Name, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Close a job of your own and wait for its seal.

    Example: tally job close job-… --url http://127.0.0.1:8702 --client orchestrator
    """

    async def closed(scope: ScopeClient) -> JobStatus:
        await scope.close(name)
        await scope.wait_for_seal(name)
        return await scope.status(name)

    _tell(as_json, _as_client(url, client, closed))


@job.command("status")
def status(name: Name, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Show where a job stands.

    Example: tally job status job-… --url http://127.0.0.1:8702 --client orchestrator
    """
    _tell(as_json, _as_client(url, client, lambda scope: scope.status(name)))


@job.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help="Only these: open, closing or sealed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """List your own jobs, newest first.

    Example: tally job list --state open --url http://127.0.0.1:8702 --client orchestrator
    """
    if state not in {None, *get_args(State)}:
        raise Refused("usage", f"{state!r} is no state: open, closing or sealed")

    async def newest(scope: ScopeClient) -> list[JobStatus]:
        found, before = list[JobStatus](), None
        while len(found) < limit:
            page = await scope.jobs(before, limit=MAX_PAGE)
            found += [each for each in page.jobs if state in {None, each.state}]
            before = page.next
            if before is None:
                break
        return found[:limit]

    found = _as_client(url, client, newest)
    lines = [f"{each.job} {each.status or each.state}, {each.agent}, until {_when(each.expires)}" for each in found]
    _say(as_json, {"jobs": msgspec.to_builtins(found)}, *(lines or ["no jobs"]))


@token_group.command("inspect")
def inspect_token(
    file: Annotated[Path, typer.Argument(help="A private file with a token.", dir_okay=False)],
    *,
    url: Annotated[str | None, typer.Option("--url", help="Base URL of scope, to ask whether it is live.")] = None,
    client: Annotated[Path | None, typer.Option("--client", help="Your directory, to ask.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a token says, and never the token: nobody can use what is printed.

    Its signature is not checked here; with --url and --client scope says whether it is live.

    Example: tally token inspect agent.token --url http://127.0.0.1:8702 --client orchestrator
    """
    if (url is None) != (client is None):
        raise Refused("usage", "to ask scope takes both --url and --client")
    raw = keystore.read_private(file).decode("latin-1").strip()
    said = claims_of(raw)
    live: dict[str, bool] = {}
    if url is not None and client is not None:
        live = {"active": bool(_as_client(url, client, lambda scope: scope.introspect(raw)).get("active"))}
    bound = f", bound to key {said.cnf.jkt}" if said.cnf else ""
    times = f"from {_when(said.nbf * SECOND)} until {_when(said.exp * SECOND)}"
    carries = [f"  {each['type']}: {_named(each)}" for each in said.authorization_details]
    asked = [f"  {'live' if live['active'] else 'not live'}, says scope"] if live else []
    heading = f"token {said.jti} of job {said.txn}, for {said.sub}{bound}"
    _say(as_json, {**msgspec.to_builtins(said), **live}, heading, f"  {times}", *carries, *asked)


@app.command("revocations")
def revocations(
    *,
    after: Annotated[int, typer.Option(min=0, help="Only those behind this number.")] = 0,
    pin: Annotated[Path, typer.Option(help="Your pin.json: whose signatures you believe.", dir_okay=False)],
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """List what was revoked, in order, each one's signature checked by your own pin.

    Example: tally revocations --pin pin.json --url http://127.0.0.1:8702 --client responder
    """

    async def every(scope: ScopeClient) -> list[Revocation]:
        trust = Trust.establish(Pin.parse(pin.read_bytes()), await scope.keys())
        found, last = list[Revocation](), after
        while True:
            heartbeat, raws = await scope.snapshot(last)
            found += [open_revocation(trust, raw).value for raw in raws]
            last = found[-1].sequence if found else last
            if not raws or last >= open_heartbeat(trust, heartbeat).value.sequence:
                return found

    found = _as_client(url, client, every)
    if [each.sequence for each in found] != list(range(after + 1, after + 1 + len(found))):
        raise Refused("bad-snapshot", "scope leaves revocations out, or gives them in another order")
    lines = [
        f"{each.sequence} {_when(each.time)} {each.target.kind} {each.target.value}: {each.reason} by {each.actor}"
        + (f" ({each.ticket})" if each.ticket else "")
        + (f", until {_when(each.until)}" if each.until else "")
        for each in found
    ]
    _say(as_json, {"revocations": msgspec.to_builtins(found)}, *(lines or ["nothing is revoked"]))


@app.command("revoke")
def revoke(
    kind: Annotated[str, typer.Argument(help="jti, job, agent, client, user, policy, server, tool, model, key or all")],
    value: Annotated[
        str, typer.Argument(help="Which; a tool is server/name, a model provider/name, of all it is '*'.")
    ],
    *,
    reason: Annotated[str, typer.Option(help="A code such as incident or key-leak.")],
    ticket: Annotated[str | None, typer.Option(help="Where the story is told.")] = None,
    note: Annotated[str | None, typer.Option(help="A sentence; it goes into proof bundles.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would touch, and revoke nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Revoke, for ever; gateways refuse at once, and jobs that are ended begin to close.

    On a terminal it shows what it will touch, and asks.

    Example: tally revoke job job-… --reason incident --ticket INC-7 --url http://127.0.0.1:8702 --client responder
    """
    asked = {"kind": kind, "value": value, "reason": reason}
    asked |= {name: text for name, text in (("ticket", ticket), ("note", note)) if text is not None}
    request = parse(canonical(asked), RevocationRequest, limit=MAX_REQUEST)
    asking = _terminal() and not yes
    if dry_run or asking:
        there = _as_client(url, client, lambda scope: scope.preview(request))
        _preview(as_json and dry_run, kind, value, there)
        if dry_run or not typer.confirm("Revoke?", err=True):
            return
    done = _as_client(url, client, lambda scope: scope.revoke(request))
    sentence = f"revoked {kind} {value} at {_when(done.time)}: number {done.sequence}, {done.jobs} open jobs ended"
    _say(as_json, msgspec.to_builtins(done), sentence)


@app.command("incidents")
def incidents(*, url: Url, client: Client, as_json: Json = False) -> None:
    """List what gateways reported and cannot be; exit 1 when there is any.

    Example: tally incidents --url http://127.0.0.1:8702 --client responder
    """

    async def every(scope: ScopeClient) -> list[Incident]:
        found, after = list[Incident](), 0
        while True:
            page = await scope.incidents(after)
            found += page.incidents
            if page.next is None:
                return found
            after = page.next

    found = _as_client(url, client, every)
    lines = [f"{_when(each.time)} {each.code} {each.value} in lane {each.lane} of {each.job}" for each in found]
    _say(as_json, {"incidents": msgspec.to_builtins(found)}, *(lines or ["no incidents"]))
    if found:
        raise typer.Exit(1)


def _limits(calls: int | None, cost_nano_usd: int | None, tokens: int | None) -> dict[str, int]:
    asked = {"calls": calls, "cost_nano_usd": cost_nano_usd, "tokens": tokens}
    return {name: value for name, value in asked.items() if value is not None}


def _opened(opened: OpenedJob, grant: Path | None, as_json: bool) -> None:  # noqa: FBT001 - passes an option on
    """Tell of a job that was opened, and keep its grant."""
    if grant is not None:
        grant.write_bytes(bytes(opened.grant))
    facts = {
        name: getattr(opened, name) for name in ("job", "grant_digest", "policy", "opened", "expires", "unavailable")
    }
    missing = f"not available: {', '.join(opened.unavailable)}" if opened.unavailable else "everything is available"
    _say(as_json, facts, f"{opened.job} until {_when(opened.expires)}", f"grant {opened.grant_digest}", missing)


def _terminal() -> bool:
    return sys.stdin.isatty()


def _preview(as_json: bool, kind: str, value: str, there: Preview) -> None:  # noqa: FBT001 - passes an option on
    what = "ends" if there.ends else "touches"
    heading = (
        f"{kind} {value}: {what} {there.jobs} jobs, with {there.tokens} living tokens and {there.lanes} open lanes"
    )
    more = [f"  and {there.jobs - len(there.names)} more"] if there.jobs > len(there.names) else []
    _say(as_json, msgspec.to_builtins(there), heading, *(f"  {each}" for each in there.names), *more)


def _named(detail: dict[str, Any]) -> str:
    """Write one entry of a token's authorization details: a server and names, or models."""
    names = [str(each) for value in detail.values() if isinstance(value, list) for each in value]
    server = f"{detail['server']}: " if "server" in detail else ""
    return f"{server}{', '.join(names)}"


def _tool(text: str) -> Tools:
    server, slash, name = text.partition("/")
    if not slash or not name:
        raise Refused("usage", f"{text!r} is not server/tool")
    return Tools(server=server, tools=[name])


def _shown(issued: IssuedToken, out: Path | None) -> dict[str, Any]:
    """The secret itself only where it was asked for."""
    secret = {"access_token": issued.access_token} if out is None else {"file": str(out)}
    return {**secret, "token_type": issued.token_type, "expires_in": issued.expires_in}


def _tell(as_json: bool, found: JobStatus) -> None:  # noqa: FBT001 - passes an option on
    ended = "".join(f", {each}" for each in (found.reason, found.status) if each)
    lanes = [f"  lane {lane.lane}: {lane.size} receipts{', closed' * lane.closed}" for lane in found.lanes]
    lanes += [f"  child {each}" for each in found.children]
    sealed = [f"  seal {found.seal}"] if found.seal else []
    heading = f"{found.job}: {found.state}{ended}, expires {_when(found.expires)}"
    _say(as_json, msgspec.to_builtins(found), heading, *lanes, *sealed)


def _as_client(url: str, client: Path, act: Callable[[ScopeClient], Awaitable[T]]) -> T:
    """Act as the client whose directory this is; its tokens are for the scope at `url` and nobody else."""
    key, name = keystore.load(client / "client.key", "client"), client.resolve().name

    async def run() -> T:
        async with aiohttp.ClientSession() as session:
            return await act(ScopeClient(session, url, lambda: client_token(key, name, url.rstrip("/"), _now())))

    return asyncio.run(run())


def _say(as_json: bool, facts: dict[str, Any], *lines: str) -> None:  # noqa: FBT001 - passes an option on
    for line in [msgspec.json.encode(facts).decode()] if as_json else lines:
        typer.echo(line)


def _when(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> int:
    return time.time_ns() // 1000
