"""`tally policy`, `tally server` and `tally manifest`: what authors and registrars do, offline until they publish."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
import typer

from controls import drafts
from controls.client import ControlsClient, Document, Publisher, ServerRecord, fetch_trust
from service import keystore
from service.clients import client_token
from verifier.draft import build, read_draft, run_tests
from verifier.encoding import canonical, digest, parse
from verifier.envelope import Envelope, seal_up
from verifier.keys import Pin
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.refused import Refused

app = typer.Typer(no_args_is_help=True)
policy = typer.Typer(help="Write, test, sign, publish and fetch policies.", no_args_is_help=True)
server = typer.Typer(help="Register MCP servers.", no_args_is_help=True)
manifest = typer.Typer(help="Write, sign and publish the tool manifest of a server.", no_args_is_help=True)
for name, group in (("policy", policy), ("server", server), ("manifest", manifest)):
    app.add_typer(group, name=name)

T = TypeVar("T")
QUARTER = timedelta(days=90)

In = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write it.", dir_okay=False)]
Key = Annotated[Path, typer.Option("--key", help="The key file to sign with.", exists=True, dir_okay=False)]
IssuerKey = Annotated[
    Path | None, typer.Option("--key", help="Name the owner of this key as issuer.", exists=True, dir_okay=False)
]
Issuer = Annotated[str | None, typer.Option(help="Name this issuer; instead of --key.")]
Serial = Annotated[int, typer.Option(help="Higher than the last one published.", min=1)]
Url = Annotated[str, typer.Option("--url", help="Base URL of the registry.")]
Client = Annotated[
    Path, typer.Option("--client", help="Your directory: its name is your client id, it holds client.key.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@policy.command("build")
def build_policy(
    draft: In, *, out: Out, key: IssuerKey = None, issuer: Issuer = None, serial: Serial = 1, as_json: Json = False
) -> None:
    """Write out every default of a JSON draft: the exact bytes that will be signed.

    Example: tally policy build minimal.json --key author/policy.key -o crm.policy.json
    """
    built = build(read_draft(draft.read_bytes()), issuer=_issuer(key, issuer), now=_now(), serial=serial)
    _write(out, canonical(built), as_json, f"policy {built.policy_name}, serial {built.serial}, by {built.issuer}")


@policy.command("test")
def run_policy_tests(file: In, *, as_json: Json = False) -> None:
    """Run the tests that a built policy carries; the first that does not hold is named.

    Example: tally policy test crm.policy.json
    """
    results = run_tests((Policy.parse(file.read_bytes()),))
    held = [
        {"test": test.name, "decision": type(decision).__name__.lower(), "rule": decision.rule}
        for test, decision in results
    ]
    _say(
        as_json,
        {"tests": held},
        *(f"{each['test']}: {each['decision']} by {each['rule']}" for each in held),
        f"{len(held)} tests hold",
    )


@policy.command("sign")
def sign_policy(file: In, *, key: Key, out: Out, as_json: Json = False) -> None:
    """Sign a built policy as its author, once its own tests hold.

    Example: tally policy sign crm.policy.json --key author/policy.key -o crm.signed.json
    """
    payload = file.read_bytes()
    read = Policy.parse(payload)
    run_tests((read,))
    _sign("policy", "policy", payload, read.issuer, key, out, as_json)


@policy.command("publish")
def publish_policy(file: In, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Publish a signed policy; the registry checks it, countersigns it and freezes it.

    Example: tally policy publish crm.signed.json --url http://127.0.0.1:8701 --client author
    """
    done = _as_client(url, client, lambda publisher: publisher.publish(file.read_bytes()))
    _say(as_json, {"digest": done.digest}, f"published {done.digest}")


@policy.command("fetch")
def fetch_policy(
    wanted: Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:…")],
    *,
    url: Url,
    pin: Annotated[Path, typer.Option("--pin", help="Your own pin.json.", exists=True, dir_okay=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the signed bytes here.", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """Fetch a policy by digest and open it with your own pin: signatures, digest and validity.

    Example: tally policy fetch sha256:… --url http://127.0.0.1:8701 --pin pin.json -o crm.published.json
    """

    async def fetch(session: aiohttp.ClientSession) -> Document[Policy]:
        trust = await fetch_trust(session, url, Pin.parse(pin.read_bytes()))
        return await ControlsClient(session, url, trust).policy(wanted, _now())

    fetched = _online(fetch)
    if out is not None:
        out.write_bytes(fetched.raw)
    read = fetched.value
    facts = {"digest": fetched.digest, "policy_name": read.policy_name, "serial": read.serial, "issuer": read.issuer}
    _say(as_json, facts, f"{fetched.digest}: good: {read.policy_name}, serial {read.serial}, by {read.issuer}")


@policy.command("withdraw")
def withdraw_policy(
    wanted: Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:…")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")],
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Withdraw a policy: no new job may pin it.

    Example: tally policy withdraw sha256:… --reason "a rule was too wide" --url http://127.0.0.1:8701 --client author
    """
    status = _as_client(url, client, lambda publisher: publisher.withdraw(wanted, reason))
    _say(as_json, msgspec.to_builtins(status), f"withdrawn {status.digest}: {status.reason}")


@server.command("register")
def register_server(
    name: Annotated[str, typer.Argument(help="The name that policies use.")],
    *,
    server_url: Annotated[str, typer.Option(help="Where the gateway reaches it.")],
    purpose: Annotated[str, typer.Option(help="What it is for, in a sentence.")],
    owner: Annotated[str, typer.Option(help="The team that answers for it.")],
    data_class: Annotated[list[str], typer.Option(help="A class of data that its tools may carry; once for each.")],
    url: Url,
    client: Client,
    next_review: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A date; by default a quarter from now.")
    ] = None,
    status: Annotated[str, typer.Option(help="active, suspended or retired")] = "active",
    as_json: Json = False,
) -> None:
    """Register an MCP server, reviewed now, or replace its record; a server that is not registered cannot be reached.

    Example: tally server register crm-mcp --server-url http://127.0.0.1:8801/mcp --purpose "Customers and their cases"
    --owner crm-team --data-class customer_provided --data-class internal --url http://127.0.0.1:8701 --client registrar
    """
    today = datetime.fromtimestamp(_now() / 1e6, UTC)
    due = next_review.replace(tzinfo=UTC) if next_review else today + QUARTER
    fields = {
        "purpose": purpose,
        "owner": owner,
        "url": server_url,
        "transport": "streamable-http",
        "data_classes": sorted(set(data_class)),
        "last_review": _now(),
        "next_review": int(due.timestamp()) * 1_000_000,
        "status": status,
    }
    record = parse(canonical(fields), ServerRecord, limit=1 << 14)
    entry = _as_client(url, client, lambda publisher: publisher.register(name, record))
    _say(
        as_json,
        msgspec.to_builtins(entry),
        f"registered {entry.name} at {entry.record.url}, next review {due:%Y-%m-%d}",
    )


@manifest.command("build")
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
    """Write a manifest out of a JSON draft: the exact bytes that will be signed.

    Example: tally manifest build crm-mcp.json --key registrar/registry.key -o crm.manifest.json
    """
    read = drafts.read_manifest_draft(draft.read_bytes())
    read = msgspec.structs.replace(read, url=server_url) if server_url else read
    listing = drafts.read_listing(tools_list.read_bytes()) if tools_list else None
    built = drafts.build_manifest(read, issuer=_issuer(key, issuer), now=_now(), serial=serial, listing=listing)
    left_out = sorted(set(listing or ()) - {tool.name for tool in built.tools})
    note = f"; not approved: {', '.join(left_out)}" if left_out else ""
    _write(out, canonical(built), as_json, f"manifest of {built.server}, {len(built.tools)} tools{note}")


@manifest.command("sign")
def sign_manifest(file: In, *, key: Key, out: Out, as_json: Json = False) -> None:
    """Sign a built manifest as its registrar.

    Example: tally manifest sign crm.manifest.json --key registrar/registry.key -o crm.manifest.signed.json
    """
    payload = file.read_bytes()
    _sign("manifest", "registry", payload, Manifest.parse(payload).issuer, key, out, as_json)


@manifest.command("publish")
def publish_manifest(file: In, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Approve a signed manifest for the server that it names.

    Example: tally manifest publish crm.manifest.signed.json --url http://127.0.0.1:8701 --client registrar
    """
    raw = file.read_bytes()
    name = Manifest.parse(Envelope.parse(raw, "manifest").content()).server
    done = _as_client(url, client, lambda publisher: publisher.approve(name, raw))
    _say(as_json, {"digest": done.digest, "server": name}, f"approved {done.digest} for {name}")


def _sign(kind: str, use: str, payload: bytes, issuer: str, key: Path, out: Path, as_json: bool) -> None:  # noqa: FBT001, PLR0917
    if (owner := _owner(key)) != issuer:
        raise Refused("wrong-owner", f"the {kind} is issued by {issuer}, {key.name} is a key of {owner}")
    _write(out, seal_up(kind, payload, keystore.load(key, use)), as_json, f"{kind} signed by {owner}", payload)


def _issuer(key: Path | None, issuer: str | None) -> str:
    if (key is None) == (issuer is None):
        raise Refused("usage", "name the issuer: either --key or --issuer")
    return _owner(key) if key is not None else str(issuer)


def _owner(key: Path) -> str:
    """Tell whose key a file holds, as the key list names its owner."""
    return parse(keystore.read_private(key), keystore.KeyFile, limit=keystore.MAX_KEY_FILE).owner


def _as_client(url: str, client: Path, act: Callable[[Publisher], Awaitable[T]]) -> T:
    """Act as the client whose directory this is; its tokens are for the registry at `url` and nobody else."""
    key, name = keystore.load(client / "client.key", "client"), client.resolve().name
    return _online(
        lambda session: act(Publisher(session, url, lambda: client_token(key, name, url.rstrip("/"), _now())))
    )


def _online(act: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession() as session:
            return await act(session)

    return asyncio.run(run())


def _write(out: Path, content: bytes, as_json: bool, sentence: str, payload: bytes | None = None) -> None:  # noqa: FBT001
    out.write_bytes(content)
    address = digest(payload or content)
    _say(as_json, {"digest": address, "file": str(out)}, f"{out}: {sentence}", address)


def _say(as_json: bool, facts: dict[str, Any], *lines: str) -> None:  # noqa: FBT001
    for line in [msgspec.json.encode(facts).decode()] if as_json else lines:
        typer.echo(line)


def _now() -> int:
    return time.time_ns() // 1000
