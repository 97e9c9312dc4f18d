"""`tally job token`, `tally token`: a token is got into a private file, and looked at without being shown."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from scope.client import Detail, IssuedToken, Models, ScopeClient, claims_of, header_of
from scope.commands.shared import SECOND, Client, Json, Url, as_client, new_file, now, read_token, say, tool_named, when
from service import dpop_key, keystore
from service.dpop import thumbprint
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
    raw = read_token(file)
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


def get_token(
    name: Annotated[str, typer.Argument(metavar="JOB", help="As `tally job open` named it.")],
    *,
    ttl: Annotated[int | None, typer.Option(min=1, help="In seconds.")] = None,
    whole: Annotated[
        Path | None, typer.Option("--from", help="A private file with a token, of which --tool and --model are a part.")
    ] = None,
    tool: Annotated[list[str] | None, typer.Option(help="server/tool, for a narrower token; once for each.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="provider/pattern, for a narrower token.")] = None,
    dpop: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY",
            help="Bind it to the key in this private file, which is made if there is none: a JWK, Ed25519 or P-256.",
            dir_okay=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new file, of mode 0600.", dir_okay=False)] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the token itself.")] = False,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Get a token of a job of your own, into a private file; it is a secret, and lives for minutes.

    With --from a narrower one, for the --tool and --model named alone. With --dpop it is worth nothing without the key:
    give both to the agent, which proves with the key at each call (RFC 9449).

    Example: tally job token job-… --ttl 300 -o agent.token --url http://127.0.0.1:8702 --client orchestrator

    Example: tally job token job-… --dpop agent.jwk -o agent.token --url http://127.0.0.1:8702 --client orchestrator
    """
    details: list[Detail] = [*map(tool_named, tool or ()), *([Models(models=model)] if model else [])]
    if (whole is None) != (not details):
        raise Refused("usage", "a narrower token is a part (--tool, --model) of another one (--from)")
    if (out is None) != show:
        raise Refused("usage", "a token goes into a file (--out) or is shown (--show)")
    new_file(out)
    subject = None if whole is None else read_token(whole)
    if subject is not None and (job := claims_of(subject).txn) != name:
        raise Refused("usage", f"the token in --from is of {job}, not of {name}", hint="Name that job, or its token.")
    prover = None if dpop is None else dpop_key.prover(dpop, now, os.urandom)
    proving = None if prover is None else lambda method, address, nonce: prover.proof(method, address, nonce=nonce)

    async def asked(scope: ScopeClient) -> IssuedToken:
        if subject is None:
            return await scope.token(name, ttl, proving=proving)
        return await scope.narrow(subject, *details, ttl=ttl, proving=proving)

    issued = as_client(url, client, asked)
    if out is not None:
        keystore.write_private(out, issued.access_token.encode())
    bound = {} if prover is None else {"jkt": thumbprint(prover.jwk)}
    sentence = f"{out}: good for {issued.expires_in} s" + "".join(f", bound to key {jkt}" for jkt in bound.values())
    say(as_json, {**_shown(issued, out), **bound}, issued.access_token if show else sentence)


def _shown(issued: IssuedToken, out: Path | None) -> dict[str, Any]:
    """The secret itself only where it was asked for."""
    secret = {"access_token": issued.access_token} if out is None else {"file": str(out)}
    return {**secret, "token_type": issued.token_type, "expires_in": issued.expires_in}


def _named(detail: dict[str, Any]) -> str:
    """Write one entry of a token's authorization details: a server and names, or models."""
    names = [str(each) for value in detail.values() if isinstance(value, list) for each in value]
    server = f"{detail['server']}: " if "server" in detail else ""
    return f"{server}{', '.join(names)}"
