"""`tally manifest`: write, sign and publish the tool manifest of a server."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from controls import drafts
from controls.commands.shared import (
    Client,
    In,
    Issuer,
    IssuerKey,
    Json,
    Key,
    Out,
    Serial,
    Url,
    as_client,
    as_json_draft,
    issuer_of,
    now,
    say,
    sign,
    unsigned,
    write,
)
from verifier.encoding import canonical
from verifier.envelope import Envelope
from verifier.manifest import Manifest

app = typer.Typer(help="Write, sign and publish the tool manifest of a server.", no_args_is_help=True)


@app.command("build")
def build_manifest(
    draft: In,
    *,
    out: Out,
    key: IssuerKey = None,
    issuer: Issuer = None,
    serial: Serial = 1,
    server_url: Annotated[str | None, typer.Option(help="Instead of the draft's url.")] = None,
    tools_list: Annotated[
        Path | None,
        typer.Option(
            help="The server's own tools/list, as JSON: fills what the draft leaves out.", exists=True, dir_okay=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a manifest out of a draft in YAML, JSON or TOML: the exact bytes that will be signed.

    Example: tally manifest build crm-mcp.json --key registrar/registry.key -o crm.manifest.json
    """
    read = drafts.read_manifest_draft(as_json_draft(draft))
    read = msgspec.structs.replace(read, url=server_url) if server_url else read
    listing = drafts.read_listing(tools_list.read_bytes()) if tools_list else None
    built = drafts.build_manifest(read, issuer=issuer_of(key, issuer), now=now(), serial=serial, listing=listing)
    left_out = sorted(set(listing or ()) - {tool.name for tool in built.tools})
    note = f"; not approved: {', '.join(left_out)}" if left_out else ""
    write(out, canonical(built), as_json, f"manifest of {built.server}, {len(built.tools)} tools{note}")


@app.command("sign")
def sign_manifest(file: In, *, key: Key, out: Out, as_json: Json = False) -> None:
    """Sign a built manifest as its registrar.

    Example: tally manifest sign crm.manifest.json --key registrar/registry.key -o crm.manifest.signed.json
    """
    envelope = unsigned("manifest", file.read_bytes())
    payload = envelope.content()
    issuer = Manifest.parse(payload).issuer
    signed = sign("manifest", "registry", envelope, issuer, key)
    write(out, signed.encode(), as_json, f"manifest signed by {issuer}", payload)


@app.command("publish")
def publish_manifest(file: In, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Approve a signed manifest for the server that it names.

    Example: tally manifest publish crm.manifest.signed.json --url http://127.0.0.1:8701 --client registrar
    """
    raw = file.read_bytes()
    name = Manifest.parse(Envelope.parse(raw, "manifest").content()).server
    done = as_client(url, client, lambda publisher: publisher.approve(name, raw))
    say(as_json, {"digest": done.digest, "server": name}, f"approved {done.digest} for {name}")
