"""`tally audit`: the append-only record of controls or of scope, kept as a file and checked offline."""

from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from controls.client import Connection, audit_lines
from controls.commands.shared import Client, In, Json, Out, credential, online, say
from service.audit import check
from verifier.refused import Refused

Url = Annotated[str, typer.Option("--url", help="Base URL of controls, or of scope: each keeps its own record.")]

app = typer.Typer(help="The append-only records of what was done in controls and in scope.", no_args_is_help=True)


@app.command("export")
def export(*, url: Url, client: Client, out: Out, as_json: Json = False) -> None:
    """Write the whole record, one entry a line, the oldest first.

    Example: tally audit export --url http://127.0.0.1:8701 --client auditor -o audit.jsonl
    """

    async def fetch(session: aiohttp.ClientSession) -> list[bytes]:
        return [line async for line in audit_lines(Connection(session, url, credential(url, client)))]

    try:
        lines = online(fetch)
    except Refused as refused:
        if refused.code != "controls-unavailable":
            raise
        raise Refused("service-unavailable", f"{url} does not answer with a record") from refused
    found = check(lines)
    out.write_bytes(b"".join(line + b"\n" for line in lines))
    say(
        as_json,
        {"entries": found.entries, "head": found.head, "file": str(out)},
        f"{out}: {found.entries} entries",
        found.head,
    )


@app.command("verify")
def verify(
    file: In,
    *,
    head: Annotated[str | None, typer.Option(help="The hash that was remembered: it has to be in there.")] = None,
    as_json: Json = False,
) -> None:
    """Check that an exported record is one unbroken chain; remember the hash that it ends in.

    Example: tally audit verify audit.jsonl --head sha256:…
    """
    found = check(Path(file).read_bytes().splitlines(), head=head)
    say(
        as_json, {"entries": found.entries, "head": found.head}, f"good: {found.entries} entries, one chain", found.head
    )
