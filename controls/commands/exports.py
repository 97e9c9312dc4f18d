"""`tally policy export`: a policy as another program's own configuration, with a list of what that does not say."""

from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from controls.client import ControlsClient, fetch_trust
from controls.commands.authoring import Ancestors, app
from controls.commands.shared import Json, chain_of, now, online, say
from controls.exports import Export, Runtime, export
from verifier.chain import MAX_CHAIN
from verifier.keys import Pin
from verifier.policy import Chain, Policy
from verifier.refused import Refused

Wanted = Annotated[str, typer.Argument(metavar="FILE_OR_DIGEST", help="Built or signed; or sha256:… in a registry.")]


@app.command("export")
def export_policy(
    wanted: Wanted,
    *,
    runtime: Annotated[Runtime, typer.Option("--for", help="openclaw, claude-code or cedar")],
    ancestors: Ancestors = None,
    url: Annotated[str | None, typer.Option("--url", help="Base URL of the registry, for a digest.")] = None,
    pin: Annotated[
        Path | None, typer.Option("--pin", help="Your own pin.json, for a digest.", exists=True, dir_okay=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the files into this directory.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a policy as a runtime's own configuration, never wider than the policy, and list what that does not say.

    Example: tally policy export crm.policy.json --for claude-code --output crm
    """
    done = export(_chain(wanted, ancestors, url, pin), runtime)
    told = [f"{each.effect}: {each.place}: {each.why}" for each in done.unexpressed]
    if output is None:
        say(as_json, msgspec.to_builtins(done), *_shown(done), *told)
    else:
        written = _write(output, done)
        facts = {name: value for name, value in msgspec.to_builtins(done).items() if name != "files"}
        say(as_json, {**facts, "files": written}, *(f"{each}: written" for each in written), *told)


def _chain(wanted: str, ancestors: list[Path] | None, url: str | None, pin: Path | None) -> Chain:
    """Read a policy from files, or fetch it with its ancestors and open each with one's own pin."""
    if not wanted.startswith("sha256:"):
        if not Path(wanted).is_file():
            raise Refused("usage", f"{wanted}: no such file, and no digest")
        return chain_of(Path(wanted), ancestors)
    if url is None or pin is None:
        raise Refused("usage", "a policy by its digest is fetched: name the registry (--url) and your pin (--pin)")
    address, pinned = url, Pin.parse(pin.read_bytes())

    async def fetch(session: aiohttp.ClientSession) -> Chain:
        registry = ControlsClient(session, address, await fetch_trust(session, address, pinned))
        chain: list[Policy] = []
        asked: str | None = wanted
        while asked is not None:
            if len(chain) == MAX_CHAIN:
                raise Refused("too-deep", f"the policy has more than {MAX_CHAIN - 1} ancestors")
            chain.append((await registry.policy(asked, now())).value)
            asked = chain[-1].parent
        return tuple(chain)

    return online(fetch)


def _shown(done: Export) -> list[str]:
    return [line for name, content in done.files.items() for line in (f"--- {name}", content)]


def _write(directory: Path, done: Export) -> list[str]:
    """Write the files, all or none: what is there may be somebody's own configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {directory / name: content for name, content in done.files.items()}
    for path in paths:
        if path.exists() or path.is_symlink():
            raise Refused("file-exists", f"{path} exists: a configuration is not overwritten")
    for path, content in paths.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    return [str(path) for path in paths]
