"""`tally bundle`: what an auditor or an orchestrator asks the gateway for."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, BinaryIO

import aiohttp
import msgspec
import typer

from receipts.client import ReceiptsClient
from service import keystore
from service.clients import client_token
from verifier.refused import Refused

app = typer.Typer(no_args_is_help=True)
bundle = typer.Typer(help="Fetch proof bundles.", no_args_is_help=True)
app.add_typer(bundle, name="bundle")

DEFAULT_URL = "http://127.0.0.1:8703"

Job = Annotated[str, typer.Argument(help="The job, which must be sealed but for --underway.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="A new file for the bundle.", dir_okay=False)]
Url = Annotated[str, typer.Option("--url", help="Base URL of the gateway.")]
Client = Annotated[
    Path, typer.Option("--client", help="Your directory: its name is your client id, it holds client.key.")
]
Underway = Annotated[bool, typer.Option("--underway", help="Take what there is of a job without a seal: INCOMPLETE.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@bundle.callback()
def group() -> None:
    """Keep `bundle` a group, so that a second command does not rename the first."""


@bundle.command("fetch")
def fetch(
    job: Job, *, out: Out, client: Client, url: Url = DEFAULT_URL, underway: Underway = False, as_json: Json = False
) -> None:
    """Fetch a job's proof bundle. The verdict beside it is the gateway's own: run `tally verify` yourself.

    Example: tally bundle fetch job-… -o crm.tally --client auditor

    Example: tally bundle fetch job-… -o sofar.tally --client auditor --underway
    """
    key, name = keystore.load(client / "client.key", "client"), client.resolve().name

    async def ask(file: BinaryIO) -> str:
        async with aiohttp.ClientSession() as session:
            asks = ReceiptsClient(session, url, lambda: client_token(key, name, url, time.time_ns() // 1000))
            return await asks.bundle(job, file, underway=underway)

    try:
        with out.open("xb") as file:
            verdict = asyncio.run(ask(file))
    except FileExistsError as error:
        raise Refused("not-empty", f"{out} is there already", hint="Name a new file.") from error
    except Refused:
        out.unlink()
        raise
    if as_json:
        typer.echo(msgspec.json.encode({"job": job, "file": str(out), "verdict": verdict}))
    else:
        typer.echo(f"{out}: the gateway's own verdict is {verdict}; run: tally verify {out} --pin pin.json")
