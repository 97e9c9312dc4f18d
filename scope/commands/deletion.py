"""`tally job delete`: a sealed job is deleted at scope, which records it, then its receipts at each gateway."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import aiohttp
import msgspec
import typer

from receipts.client import ReceiptsClient
from scope.client import DeletedJob, JobStatus, ScopeClient
from scope.commands.responding import terminal
from scope.commands.shared import Client, Json, now, say, when
from service import keystore
from service.clients import client_token
from verifier.refused import Refused

GONE = {"unknown-job", "receipts-deleted"}  # where there is nothing left to delete


async def find(scope: ScopeClient, name: str) -> JobStatus | None:
    """Ask scope where a job stands; None when scope has it no more."""
    try:
        return await scope.status(name)
    except Refused as refused:
        if refused.code not in {"unknown-job", "job-deleted"}:
            raise
        return None


async def erase(gateway: ReceiptsClient, name: str, reason: str) -> dict[str, Any]:
    """Delete a job's receipts at one gateway; tell how many there were, or why they are still there."""
    try:
        done = await gateway.delete(name, reason)
    except Refused as refused:
        gone = {"lanes": 0, "receipts": 0}
        return gone if refused.code in GONE else {"code": refused.code, "why": refused.why}
    return {"lanes": done.lanes, "receipts": done.receipts}


def delete(
    name: Annotated[str, typer.Argument(metavar="JOB", help="A job that is sealed.")],
    *,
    reason: Annotated[str, typer.Option(help="A code such as erasure-request; it goes into the record.")],
    ticket: Annotated[str | None, typer.Option(help="Where the story is told.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Annotated[str, typer.Option("--url", "--scope-url", help="Base URL of scope.")],
    receipts_url: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of a gateway with receipts of it; once for each. None: those of its lanes."),
    ] = None,
    client: Client,
    as_json: Json = False,
) -> None:
    """Delete a sealed job for ever, as a responder: fetch its bundle first. The record of acts keeps its seal's digest.

    On a terminal it shows what goes, and asks; elsewhere it wants --yes. When a gateway did not answer, run it again
    with --receipts-url: what is deleted already is no error.

    Example: tally job delete job-… --reason erasure-request --url http://127.0.0.1:8702 --client responder
    """
    if not yes and not terminal():
        raise Refused("usage", "nobody can be asked here: a job is deleted with --yes", hint="Fetch its bundle first.")
    key, who = keystore.load(client / "client.key", "client"), client.resolve().name

    def credential(audience: str) -> Callable[[], str]:
        return lambda: client_token(key, who, audience.rstrip("/"), now())

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            scope = ScopeClient(session, url, credential(url))
            there = await find(scope, name)
            gateways = receipts_url or sorted({each.gateway for each in there.lanes} if there is not None else ())
            if there is None and not gateways:
                raise Refused("unknown-job", "scope has no such job, or it was deleted before")
            if not yes:
                _ask(name, there, gateways)
            done = None if there is None else await scope.delete(name, reason, ticket)
            erased = [
                {"url": each, **await erase(ReceiptsClient(session, each, credential(each)), name, reason)}
                for each in gateways
            ]
        _tell(as_json, name, done, erased)

    asyncio.run(run())


def _ask(name: str, there: JobStatus | None, gateways: list[str]) -> None:
    """Show what goes, and ask. Exits when the answer is no."""
    shown = "scope has it no more"
    if there is not None:
        ended = f", {there.status}, ended {when(there.closing_at)}" if there.status and there.closing_at else ""
        size = sum(lane.size for lane in there.lanes)
        shown = f"{there.state}{ended}, of {there.client}, {len(there.lanes)} lanes with {size} receipts"
    for line in (f"{name}: {shown}", *(f"  receipts at {each}" for each in gateways)):
        typer.echo(line, err=True)
    if not typer.confirm("Delete it for ever?", err=True):
        typer.echo("nothing was deleted", err=True)
        raise typer.Exit(1)


def _tell(as_json: bool, name: str, done: DeletedJob | None, erased: list[dict[str, Any]]) -> None:  # noqa: FBT001 - passes an option on
    """Say what was deleted. Raises `Refused` with the first gateway's refusal."""
    first = (
        f"{name}: scope had deleted it before" if done is None else f"deleted {name} at {when(done.time)}: {done.seal}"
    )
    lines = [
        f"  {each['url']}: {each['code']}: {each['why']}" if "code" in each else f"  {each['url']}: {_counted(each)}"
        for each in erased
    ]
    facts = {} if done is None else msgspec.to_builtins(done)
    say(as_json, {"job": name, **facts, "gateways": erased}, first, *lines)
    if failed := next((each for each in erased if "code" in each), None):
        raise Refused(failed["code"], f"{failed['url']}: {failed['why']}", hint="Run it again when that is mended.")


def _counted(each: dict[str, Any]) -> str:
    return f"{each['lanes']} lanes with {each['receipts']} receipts"
