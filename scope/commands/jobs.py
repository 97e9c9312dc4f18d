"""`tally job`: what orchestrators do."""

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from scope.client import (
    JobRequest,
    JobStatus,
    Models,
    OpenedJob,
    ScopeClient,
    State,
    claims_of,
)
from scope.commands.shared import Client, Json, Url, as_client, new_file, read_token, request, say, tool_named, when
from verifier.envelope import Envelope
from verifier.grant import Grant
from verifier.refused import Refused
from verifier.terminal import moment

app = typer.Typer(help="Open jobs, get their tokens, close them; list and delete them.", no_args_is_help=True)

MAX_PAGE = 100

Name = Annotated[str, typer.Argument(metavar="JOB", help="As `tally job open` named it.")]
Seconds = Annotated[int | None, typer.Option(min=1, help="In seconds.")]
RequestId = Annotated[str | None, typer.Option(help="Your own name of this request: repeated, it opens no second job.")]


@app.command("open")
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
    dpop: Annotated[
        bool, typer.Option("--dpop", help="Bind its tokens to keys (tally job token --dpop), policy or not.")
    ] = False,
    request_id: RequestId = None,
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
    asked |= {} if request_id is None else {"request_id": request_id}
    asked |= {"binding": "dpop"} if dpop else {}
    if user_token is not None:
        asked["user_token"] = read_token(user_token)
    if tool or model:
        asked["authorization_details"] = [*map(tool_named, tool or ()), *([Models(models=model)] if model else [])]
    wanted = request(JobRequest, asked)
    new_file(grant)
    opened = as_client(url, client, lambda scope: scope.open(wanted))
    _opened(opened, grant, as_json)


@app.command("child")
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
    request_id: RequestId = None,
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
    subject = read_token(whole)
    given = {"agent": agent, "policy": policy, "job_type": job_type}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    asked |= {"limits": _limits(calls, cost_nano_usd, tokens)} | ({"expires_in": expires_in} if expires_in else {})
    asked |= {} if request_id is None else {"request_id": request_id}
    if tool or model:
        asked["authorization_details"] = [*map(tool_named, tool or ()), *([Models(models=model)] if model else [])]

    async def delegated(scope: ScopeClient) -> OpenedJob:
        raw = await scope.grant(claims_of(subject).grant)
        above = Grant.parse(Envelope.parse(raw, "grant").content()).scope
        inherited = {name: getattr(above, name) for name in ("agent", "policy", "job_type", "environment")}
        return await scope.child(subject, request(JobRequest, {**inherited, **asked}))

    new_file(grant)
    _opened(as_client(url, client, delegated), grant, as_json)


@app.command("close")
def close(name: Name, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Close a job of your own and wait for its seal.

    Example: tally job close job-… --url http://127.0.0.1:8702 --client orchestrator
    """

    async def closed(scope: ScopeClient) -> JobStatus:
        await scope.close(name)
        await scope.wait_for_seal(name)
        return await scope.status(name)

    _tell(as_json, as_client(url, client, closed))


@app.command("status")
def status(name: Name, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Show where a job stands.

    Example: tally job status job-… --url http://127.0.0.1:8702 --client orchestrator
    """
    _tell(as_json, as_client(url, client, lambda scope: scope.status(name)))


@app.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help="Only these: open, closing or sealed.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's, as an auditor or a responder.")] = False,
    sealed_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those with a seal that ended before this time (RFC 3339).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """List your own jobs, newest first; with --all everybody's.

    Example: tally job list --state open --url http://127.0.0.1:8702 --client orchestrator

    Example: tally job list --all --sealed-before 2026-01-01 --url http://127.0.0.1:8702 --client responder
    """
    if state not in {None, *get_args(State)}:
        raise Refused("usage", f"{state!r} is no state: open, closing or sealed")
    asked: dict[str, Any] = {"everybody": everybody, "state": state}
    asked["sealed_before"] = None if sealed_before is None else moment(sealed_before, "--sealed-before")

    async def newest(scope: ScopeClient) -> list[JobStatus]:
        found, before = list[JobStatus](), None
        while len(found) < limit:
            page = await scope.jobs(before, limit=min(limit, MAX_PAGE), **asked)
            found += page.jobs
            before = page.next
            if before is None:
                break
        return found[:limit]

    found = as_client(url, client, newest)
    lines = [_line(each, everybody) for each in found]
    say(as_json, {"jobs": msgspec.to_builtins(found)}, *(lines or ["no jobs"]))


def _line(each: JobStatus, everybody: bool) -> str:  # noqa: FBT001 - passes an option on
    client = f" of {each.client}" if everybody else ""
    return f"{each.job} {each.status or each.state}, {each.agent}{client}, until {when(each.expires)}"


def _limits(calls: int | None, cost_nano_usd: int | None, tokens: int | None) -> dict[str, int]:
    asked = {"calls": calls, "cost_nano_usd": cost_nano_usd, "tokens": tokens}
    return {name: value for name, value in asked.items() if value is not None}


def _opened(opened: OpenedJob, grant: Path | None, as_json: bool) -> None:  # noqa: FBT001 - passes an option on
    """Tell of a job that was opened, and keep its grant."""
    facts = {
        name: getattr(opened, name) for name in ("job", "grant_digest", "policy", "opened", "expires", "unavailable")
    }
    missing = f"not available: {', '.join(opened.unavailable)}" if opened.unavailable else "everything is available"
    say(as_json, facts, f"{opened.job} until {when(opened.expires)}", f"grant {opened.grant_digest}", missing)
    if grant is not None:
        grant.write_bytes(bytes(opened.grant))


def _tell(as_json: bool, found: JobStatus) -> None:  # noqa: FBT001 - passes an option on
    ended = "".join(f", {each}" for each in (found.reason, found.status) if each)
    lanes = [f"  lane {lane.lane}: {lane.size} receipts{', closed' * lane.closed}" for lane in found.lanes]
    lanes += [f"  child {each}" for each in found.children]
    sealed = [f"  seal {found.seal}"] if found.seal else []
    heading = f"{found.job}: {found.state}{ended}, expires {when(found.expires)}"
    say(as_json, msgspec.to_builtins(found), heading, *lanes, *sealed)
