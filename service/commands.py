"""`tally init`, `tally run` and `tally up`: an installation is made, a service is started, all three are."""

import importlib
import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import DBAPIError

from service import NAMES, keystore, landlock, migrate, supervise
from service.app import configure_logs, now, serve
from service.engine import is_full
from service.initialise import Made, Plan, Urls, initialise
from service.settings import common
from verifier.refused import Refused

app = typer.Typer(
    help="Make an installation and run its services.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may be secret
)
SOURCE = Path(__file__).resolve().parent.parent
USAGE = 64

Directory = Annotated[Path, typer.Option("--dir", help="The installation that `tally init` made.")]


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.")],
    *,
    controls_url: Annotated[str, typer.Option(help="Base URL of the policy registry.")] = Urls().controls,
    scope_url: Annotated[str, typer.Option(help="Base URL of jobs, tokens, revocation and seals.")] = Urls().scope,
    receipts_url: Annotated[str, typer.Option(help="Base URL of the gateway.")] = Urls().receipts,
    owner: Annotated[str, typer.Option(help="The organisation, as its documents name it.")] = "example",
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Seal the root key under the passphrase in this file.")
    ] = None,
    seal_root: Annotated[bool, typer.Option("--seal-root", help="Seal the root key; ask for the passphrase.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Let upstreams lie on this machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make roots, keys, the signed key list, an auditor's pin, and settings for the three services."""
    try:
        urls = msgspec.convert({"controls": controls_url, "scope": scope_url, "receipts": receipts_url}, Urls)
        plan = msgspec.convert({"urls": urls, "owner": owner, "demo": demo}, Plan)
    except msgspec.ValidationError as error:
        raise Refused("bad-settings", f"a URL or the owner's name cannot be used: {error}") from error
    passphrase = keystore.read_passphrase(passphrase_file) if passphrase_file else _ask() if seal_root else None
    made = initialise(directory, plan, now(), os.urandom, passphrase)
    if as_json:
        typer.echo(msgspec.json.encode(made).decode())
    else:
        _show(directory, made)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="controls, scope or receipts", metavar="SERVICE")],
    directory: Directory = Path(),
    parent: Annotated[int, typer.Option(hidden=True, help="End when this process ends.")] = 0,
) -> None:
    """Start one service: lock the process into its own directory, migrate its database, serve."""
    if name not in NAMES:
        raise Refused("usage", f"there is no service {name!r}; there are {', '.join(NAMES)}")
    if parent:
        supervise.end_with(parent)
    os.umask(0o077)
    configure_logs()
    path = directory.absolute() / name / "settings.toml"
    settings = common(name, path, os.environ)
    create = importlib.import_module(f"{name}.app").create
    # First of all, before a database driver starts a thread that would stay free.
    if not landlock.restrict(settings.directory, SOURCE):
        typer.echo("tally: this kernel has no Landlock: only file modes keep the services apart", err=True)
    _migrate(name, settings.engine_url)
    serve(create(path), settings)


@app.command()
def up(directory: Directory = Path()) -> None:
    """Start all three services, each in a process of its own, until Ctrl-C or until one of them ends."""
    raise typer.Exit(supervise.supervise(directory.absolute(), Console(stderr=True)))


def _migrate(name: str, url: str) -> None:
    try:
        migrate.upgrade(name, url)
    except DBAPIError as error:
        if not is_full(error):
            raise
        hint = "Free the disk that it lies on, and start again."
        raise Refused("disk-full", f"there is no room to open {name}'s database", hint=hint) from error


def _ask() -> bytes:
    first, second = getpass("Passphrase for the root key: "), getpass("Once more: ")
    if not first or first != second:
        raise Refused("bad-passphrase", "the passphrase was empty, or the two were not the same")
    return first.encode()


def _show(directory: Path, made: list[Made]) -> None:
    table = Table(title=f"Made in {directory}")
    for column in ("file", "what it is", "key id", "owner"):
        table.add_column(column, no_wrap=column == "file")
    for each in made:
        table.add_row(each.path, each.what, each.kid[:12], each.owner)
    Console().print(table)
    typer.echo("Take root/ offline. Give pin.json to your auditors over a channel that you both trust.")


def main() -> None:
    """Run these commands alone, as `tally up` starts its children."""
    try:
        app()
    except Refused as refused:
        typer.echo(
            f"tally: {refused.code}: {refused.why}" + (f"\n  hint: {refused.hint}" if refused.hint else ""), err=True
        )
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
