"""`tally token`: what a token says, and never the token."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from scope.client import claims_of, header_of
from scope.commands.shared import SECOND, Json, as_client, say, when
from service import keystore
from verifier.refused import Refused

app = typer.Typer(help="Look at tokens.", no_args_is_help=True)


@app.command("inspect")
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
    said, header = claims_of(raw), header_of(raw)
    live: dict[str, bool] = {}
    if url is not None and client is not None:
        live = {"active": bool(as_client(url, client, lambda scope: scope.introspect(raw)).get("active"))}
    bound = f", bound to key {said.cnf.jkt}" if said.cnf else ""
    times = f"from {when(said.nbf * SECOND)} until {when(said.exp * SECOND)}"
    carries = [f"  {each['type']}: {_named(each)}" for each in said.authorization_details]
    asked = [f"  {'live' if live['active'] else 'not live'}, says scope"] if live else []
    heading = f"token {said.jti} of job {said.txn}, for {said.sub}{bound}"
    signed = f"  {header.typ}, {header.alg}, says that key {header.kid} signed it"
    documents = [f"  policy {said.policy_hash}", f"  grant {said.grant}"]
    facts = {"header": msgspec.to_builtins(header), **msgspec.to_builtins(said), **live}
    say(as_json, facts, heading, f"  {times}", signed, *documents, *carries, *asked)


def _named(detail: dict[str, Any]) -> str:
    """Write one entry of a token's authorization details: a server and names, or models."""
    names = [str(each) for value in detail.values() if isinstance(value, list) for each in value]
    server = f"{detail['server']}: " if "server" in detail else ""
    return f"{server}{', '.join(names)}"
