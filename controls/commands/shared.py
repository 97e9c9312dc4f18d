"""What the commands of the registry share: options, how they sign, write and speak, and how they act as a client."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
import typer

from controls import drafting
from controls.client import Credential, Publisher
from service import keystore
from service.clients import client_token
from verifier.encoding import canonical, digest, parse
from verifier.envelope import Envelope, seal_up
from verifier.policy import Chain, Policy
from verifier.refused import Refused

T = TypeVar("T")

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


def chain_of(path: Path, ancestors: Sequence[Path] | None) -> Chain:
    """Read a built or signed policy, and its ancestors. Raises `Refused`: missing-parent, too-deep."""
    policy = Policy.parse(unsigned("policy", path.read_bytes()).content())
    return (policy, *ancestors_of(policy, ancestors))


def ancestors_of(policy: Policy, paths: Sequence[Path] | None, most: int = 3) -> list[Policy]:
    """Find a policy's ancestors in files, nearest first. Raises `Refused`: missing-parent, too-deep."""
    payloads = [unsigned("policy", path.read_bytes()).content() for path in paths or ()]
    known = {digest(payload): Policy.parse(payload) for payload in payloads}
    found: list[Policy] = []
    while (parent := (found or [policy])[-1].parent) is not None:
        if parent not in known:
            hint = "Give its file: --with FILE."
            raise Refused("missing-parent", f"{policy.policy_name} has an ancestor {parent[:18]}…", hint=hint)
        if len(found) == most:
            raise Refused("too-deep", f"{policy.policy_name} has more than {most} ancestors")
        found.append(known[parent])
    return found


def as_json_draft(path: Path) -> bytes:
    """Read a draft in YAML or TOML as the JSON that it says; JSON as it stands."""
    raw, foreign = path.read_bytes(), path.suffix.lower() in {".yaml", ".yml", ".toml"}
    return canonical(drafting.read(path.name, raw).value) if foreign else raw


def unsigned(kind: str, raw: bytes) -> Envelope:
    """Read what is to be signed: a built document, or one that others have signed already."""
    return Envelope.parse(raw if raw.startswith(b'{"payload":') else seal_up(kind, raw), kind)


def sign(kind: str, use: str, envelope: Envelope, issuer: str, key: Path) -> Envelope:
    """Add the signature of a key of the document's issuer. Raises `Refused` wrong-owner."""
    if (owner := owner_of(key)) != issuer:
        raise Refused("wrong-owner", f"the {kind} is issued by {issuer}, {key.name} is a key of {owner}")
    return envelope.signed_by(kind, keystore.load(key, use))


def issuer_of(key: Path | None, issuer: str | None) -> str:
    """Name the issuer of a document: the owner of a key, or whom the author says."""
    if (key is None) == (issuer is None):
        raise Refused("usage", "name the issuer: either --key or --issuer")
    return owner_of(key) if key is not None else str(issuer)


def owner_of(key: Path) -> str:
    """Tell whose key a file holds, as the key list names its owner."""
    return parse(keystore.read_private(key), keystore.KeyFile, limit=keystore.MAX_KEY_FILE).owner


def as_client(url: str, client: Path, act: Callable[[Publisher], Awaitable[T]]) -> T:
    """Act as the client whose directory this is; its tokens are for the registry at `url` and nobody else."""
    return online(lambda session: act(Publisher(session, url, credential(url, client))))


def credential(url: str, client: Path) -> Credential:
    """Make what a client shows to the registry at `url`: a fresh token each time."""
    key, name = keystore.load(client / "client.key", "client"), client.resolve().name
    return lambda: client_token(key, name, url.rstrip("/"), now())


def online(act: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    """Run something that asks the registry."""

    async def run() -> T:
        async with aiohttp.ClientSession() as session:
            return await act(session)

    return asyncio.run(run())


def write(out: Path, content: bytes, as_json: bool, sentence: str, payload: bytes | None = None) -> None:  # noqa: FBT001
    """Write a file, and say its digest: that of `payload`, where the file is an envelope."""
    out.write_bytes(content)
    address = digest(payload or content)
    say(as_json, {"digest": address, "file": str(out)}, f"{out}: {sentence}", address)


def say(as_json: bool, facts: dict[str, Any], *lines: str) -> None:  # noqa: FBT001
    """Speak to a person, or print one JSON object."""
    for line in [msgspec.json.encode(facts).decode()] if as_json else lines:
        typer.echo(line)


def now() -> int:
    """Read the clock: Unix time in microseconds."""
    return time.time_ns() // 1000
