"""`tally server`: the register of MCP servers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from controls.client import ServerRecord
from controls.commands.shared import Client, Json, Url, as_client, now, say
from verifier.encoding import canonical, parse

app = typer.Typer(help="Register MCP servers.", no_args_is_help=True)

QUARTER = timedelta(days=90)


@app.command("register")
def register_server(
    name: Annotated[str, typer.Argument(help="The name that policies use.")],
    *,
    server_url: Annotated[
        str | None, typer.Option(help="Where the gateway reaches it; none of tools that the runtime runs itself.")
    ] = None,
    purpose: Annotated[str, typer.Option(help="What it is for, in a sentence.")],
    owner: Annotated[str, typer.Option(help="The team that answers for it.")],
    data_class: Annotated[list[str], typer.Option(help="A class of data that its tools may carry; once for each.")],
    url: Url,
    client: Client,
    next_review: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A date; by default a quarter from now.")
    ] = None,
    status: Annotated[str, typer.Option(help="active, suspended or retired")] = "active",
    provenance: Annotated[str | None, typer.Option(help="Where its code comes from, in a sentence.")] = None,
    as_json: Json = False,
) -> None:
    """Register an MCP server, reviewed now, or replace its record; a server that is not registered cannot be reached.

    Example: tally server register crm-mcp --server-url http://127.0.0.1:8801/mcp --purpose "Customers and their cases"
    --owner crm-team --data-class customer_provided --data-class internal --url http://127.0.0.1:8701 --client registrar
    """
    today = datetime.fromtimestamp(now() / 1e6, UTC)
    due = next_review.replace(tzinfo=UTC) if next_review else today + QUARTER
    fields = {
        "purpose": purpose,
        "owner": owner,
        "transport": "streamable-http" if server_url else "local",
        "data_classes": sorted(set(data_class)),
        "last_review": now(),
        "next_review": int(due.timestamp()) * 1_000_000,
        "status": status,
        **({"url": server_url} if server_url else {}),
        **({"provenance": provenance} if provenance else {}),
    }
    record = parse(canonical(fields), ServerRecord, limit=1 << 14)
    entry = as_client(url, client, lambda publisher: publisher.register(name, record))
    say(
        as_json,
        msgspec.to_builtins(entry),
        f"registered {entry.name} at {entry.record.url or 'the runtime itself'}, next review {due:%Y-%m-%d}",
    )


@app.command("scan")
def scan(
    name: Annotated[str, typer.Argument(help="The server's name.")],
    *,
    url: Url,
    client: Client,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a draft for `tally manifest build` here.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a server for its tools, and say what is not as it was approved; exit 1 when something is.

    Example: tally server scan crm-mcp --url http://127.0.0.1:8701 --client registrar -o crm.draft.json
    """
    found = as_client(url, client, lambda publisher: publisher.scan(name))
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found["draft"]), indent=1) + b"\n")
    lines = [
        *(f"{each['change']}: {each['tool']} {', '.join(each.get('parts', ()))}".rstrip() for each in found["drift"]),
        *(f"look at {each['tool']}: {each['sign']}: {each['says']}" for each in found["warnings"]),
    ]
    say(as_json, found, *(lines or [f"{name}: {found['tools']} tools, all as approved"]))
    if found["drift"]:
        raise typer.Exit(1)
