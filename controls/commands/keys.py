"""`tally keys`: the key list of an installation — who may sign what, until when — and each change of it."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import aiohttp
import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from controls.client import ControlsClient, PolicyEntry
from controls.commands.shared import Client, Json, Url, credential, now, online, say
from service import key_list, keystore
from service.initialise import DAY
from service.key_list import Installed
from verifier.encoding import canonical, parse
from verifier.keys import Key, KeyList, Reason, Use
from verifier.refused import Refused
from verifier.signing import KeyPair

app = typer.Typer(help="The key list: who may sign what, and until when.", no_args_is_help=True)

SOON = 30 * DAY
MAX_PUBLIC = 1 << 14
RESTART = "Restart scope first, then controls and receipts: a service reads its key list when it starts."

Directory = Annotated[Path, typer.Option("--dir", help="The installation that `tally init` made.", file_okay=False)]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", help="A root's key file, once for each; by default DIR/root/root.key.", dir_okay=False),
]
Passphrase = Annotated[Path | None, typer.Option(help="The file with the passphrase that the roots are sealed under.")]
Kid = Annotated[str, typer.Argument(metavar="KID", help="A key's id, or its first eight digits or more.")]
New = Annotated[Path, typer.Option("--out", "-o", help="Where the new private key goes: a file of mode 0600.")]
Days = Annotated[int, typer.Option(help="For how many days the key is good.", min=1, max=3650)]


@app.command("list")
def list_keys(directory: Directory = Path(), *, as_json: Json = False) -> None:
    """Show every key of the list: use, owner, and whether it is good now.

    Example: tally keys list --dir .tally
    """
    installed, at = Installed.read(directory), now()
    if as_json:
        entries = [{**msgspec.to_builtins(key), "status": status(key, at)} for key in installed.listed.keys]
        facts = {name: getattr(installed.listed, name) for name in ("version", "issued_at", "expires", "author_quorum")}
        say(as_json, {**facts, "digest": installed.trust.digest, "keys": entries})
        return
    table = Table(title=f"Key list version {installed.listed.version}, good until {_day(installed.listed.expires)}")
    for column in ("key", "use", "owner", "status"):
        table.add_column(column, no_wrap=column == "key")
    for key in sorted(installed.listed.keys, key=lambda each: (each.owner, each.use, each.not_before)):
        said = status(key, at)
        table.add_row(key.kid[:12], key.use, key.owner, said if said.startswith("good") else f"[yellow]{said}[/]")
    Console().print(table)
    for owner, quorum in sorted(installed.listed.author_quorum.items()):
        typer.echo(f"policies of {owner} need {quorum} signatures")


@app.command("add")
def add_key(
    use: Annotated[str, typer.Argument(metavar="USE", help=", ".join(get_args(Use)))],
    *,
    owner: Annotated[str, typer.Option(help="Whose key it is, as documents name their issuer.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Make a key, and keep it in this new file.")] = None,
    public: Annotated[
        Path | None, typer.Option(help="The public half of a key made elsewhere, as JSON (tally keygen auditor).")
    ] = None,
    days: Days = 365,
    directory: Directory = Path(),
    root: Roots = None,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Name one more key in the list, and make it unless its public half is given.

    Example: tally keys add policy --owner example.author -o second-author/policy.key --dir .tally
    """
    change = _Change.begin(directory, root, passphrase_file, as_json=as_json)
    if (out is None) == (public is None):
        raise Refused("usage", "make a key (--out FILE), or give the public half of one (--public FILE)")
    key = _made(use, owner, out, days) if out is not None else _given(use, owner, public or Path(), days)
    listed = key_list.added(change.listed, key)
    change.carry_out(listed, {"kid": key.kid}, f"added {key.kid}: {use} of {key.owner}")


@app.command("rotate")
def rotate_key(
    kid: Kid,
    *,
    out: New,
    overlap_days: Annotated[int, typer.Option(help="How long the old key stays good beside the new one.", min=1)] = 7,
    days: Days = 365,
    directory: Directory = Path(),
    root: Roots = None,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make a key of the same use and owner, and let the old one end after an overlap.

    Example: tally keys rotate 31c1669a -o .tally/scope/seal.key.new --overlap-days 7 --dir .tally
    """
    change = _Change.begin(directory, root, passphrase_file, as_json=as_json)
    old = change.installed.key(kid)
    if old.use == "auditor":
        raise Refused("wrong-use", "an auditor makes its own key: tally keygen auditor, then tally keys add --public")
    end = min(now() + overlap_days * DAY, old.not_after)
    shortened = key_list.ended(change.listed, old, end)
    new = _made(old.use, old.owner, out, days)
    said = f"{new.kid} takes over from {old.kid}, which is good until {_day(end)}"
    change.carry_out(key_list.added(shortened, new), {"kid": new.kid, "old": old.kid, "ends": end}, said)


@app.command("revoke")
def revoke_key(
    kid: Kid,
    *,
    reason: Annotated[
        str, typer.Option(help=f"{', '.join(get_args(Reason))}: a compromise ends trust for every time.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    directory: Directory = Path(),
    root: Roots = None,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Revoke a key from now on; for a compromise nothing that it ever signed is believed again.

    Which policies it touched: tally keys touched KID. Example: tally keys revoke 31c1669a --reason compromise
    """
    change = _Change.begin(directory, root, passphrase_file, as_json=as_json)
    key, wanted = change.installed.key(kid), _reason(reason)
    listed = key_list.revoked(change.listed, key, now(), wanted)
    if not yes:
        _confirm(f"Revoke the {key.use} key {key.kid} of {key.owner} ({wanted})? Nothing can undo this.")
    change.carry_out(listed, {"kid": key.kid}, f"revoked {key.kid}: {wanted}")


@app.command("quorum")
def author_quorum(
    owner: Annotated[str, typer.Argument(help="The issuer of policies.")],
    keys: Annotated[int, typer.Argument(help="How many of its keys have to sign each policy.", min=1, max=16)],
    *,
    directory: Directory = Path(),
    root: Roots = None,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Say how many keys of an owner have to sign its policies.

    Example: tally keys quorum example.author 2 --dir .tally
    """
    change = _Change.begin(directory, root, passphrase_file, as_json=as_json)
    listed = key_list.with_quorum(change.listed, owner, keys)
    change.carry_out(listed, {"owner": owner, "quorum": keys}, f"policies of {owner} need {keys} signatures")


@app.command("sign")
def sign_list(
    *, directory: Directory = Path(), root: Roots = None, passphrase_file: Passphrase = None, as_json: Json = False
) -> None:
    """Sign a waiting list as a root; the last signature that it needs installs it.

    Example: tally keys sign --root /media/second/root.key --dir .tally
    """
    _Change(Installed.read(directory), root, passphrase_file, as_json).finish({}, "signed")


@app.command("drop")
def drop_list(directory: Directory = Path(), *, as_json: Json = False) -> None:
    """Forget a change that waits for signatures.

    Example: tally keys drop --dir .tally
    """
    key_list.drop(directory)
    say(as_json, {"dropped": True}, "dropped")


@app.command("touched")
def touched(kid: Kid, *, url: Url, client: Client, directory: Directory = Path(), as_json: Json = False) -> None:
    """List the published policies that a key signed, as author or as registry.

    Example: tally keys touched 31c1669a --url http://127.0.0.1:8701 --client auditor --dir .tally
    """
    installed = Installed.read(directory)
    key = installed.key(kid)

    async def walk(session: aiohttp.ClientSession) -> list[PolicyEntry]:
        registry = ControlsClient(session, url, installed.trust, credential(url, client))
        return [each async for each in registry.history(kid=key.kid)]

    found = online(walk)
    lines = [f"{each.digest}  {each.name} {each.serial} by {each.issuer}, {each.status}" for each in found]
    say(
        as_json,
        {"kid": key.kid, "policies": msgspec.to_builtins(found)},
        *lines,
        f"{len(found)} policies bear a signature of {key.kid}",
    )


def status(key: Key, at: int) -> str:
    """Say in words what a key is worth at a time."""
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}: {key.reason}"
    if at < key.not_before:
        return f"from {_day(key.not_before)}"
    if at > key.not_after:
        return f"ended {_day(key.not_after)}"
    return f"ends {_day(key.not_after)}" if key.not_after - at < SOON else f"good until {_day(key.not_after)}"


class _Change(Struct, frozen=True):
    """One change of a list, from the command line to its signatures."""

    installed: Installed
    root: list[Path] | None
    passphrase_file: Path | None
    as_json: bool

    @classmethod
    def begin(
        cls, directory: Path, root: list[Path] | None, passphrase_file: Path | None, *, as_json: bool
    ) -> "_Change":
        """Read the list, before any key is made. Raises `Refused` change-under-way."""
        key_list.require_free(directory)
        return cls(Installed.read(directory), root, passphrase_file, as_json)

    @property
    def listed(self) -> KeyList:
        """The list as it stands."""
        return self.installed.listed

    def carry_out(self, changed: KeyList, facts: dict[str, Any], sentence: str) -> None:
        """Write the next list, and sign it as far as the roots at hand can."""
        key_list.propose(self.installed, changed, now())
        self.finish(facts, sentence)

    def finish(self, facts: dict[str, Any], sentence: str) -> None:
        """Sign what waits with the roots at hand, and say what is still missing."""
        missing = key_list.countersign(self.installed, self._pairs())
        version = self.listed.version + 1
        waits = f"{key_list.NEXT} waits for a root of {', '.join(missing)}: tally keys sign --root FILE"
        done = (f"key list version {version} is in place", RESTART)
        said = {**facts, "version": version, "installed": not missing, "missing": missing}
        say(self.as_json, said, sentence, *((waits,) if missing else done))

    def _pairs(self) -> list[KeyPair]:
        usual = self.installed.directory / "root" / "root.key"
        paths = self.root or ([usual] if usual.exists() else [])
        passphrase = None if self.passphrase_file is None else keystore.read_passphrase(self.passphrase_file)
        return [keystore.load(path, "root", passphrase=passphrase) for path in paths]


def _made(use: str, owner: str, out: Path, days: int) -> Key:
    """Make a private key in a new file, and say what the list says of it."""
    if use not in get_args(Use) or use == "auditor" or not owner:
        hint = "An auditor makes its own: tally keygen auditor."
        raise Refused("usage", "a new key has a --owner, and a use that signs", hint=hint)
    if not out.parent.exists():
        keystore.make_private_directory(out.parent)
    made = keystore.generate(use, owner, os.urandom)
    try:
        keystore.save(out, made)
    except FileExistsError as error:
        raise Refused("file-exists", f"{out} exists: a key is never overwritten") from error
    public = made.pair().public
    return _entry({"use": use, "owner": owner, "kid": public.kid(), **msgspec.to_builtins(public)}, days)


def _given(use: str, owner: str, path: Path, days: int) -> Key:
    """Read the public half of a key that was made elsewhere."""
    said = parse(path.read_bytes(), dict[str, str], limit=MAX_PUBLIC)
    if said.get("use") != use or (owner and said.get("owner") != owner):
        raise Refused("wrong-use", f"{path.name} is not a key for {use}" + (f" of {owner}" if owner else ""))
    return _entry(said, days)


def _entry(public: dict[str, str], days: int) -> Key:
    at = now()
    return parse(canonical({**public, "not_before": at, "not_after": at + days * DAY}), Key, limit=MAX_PUBLIC)


def _reason(text: str) -> Reason:
    try:
        reason: Reason = msgspec.convert(text, Reason)
    except msgspec.ValidationError as error:
        raise Refused("usage", f"a reason is one of {', '.join(get_args(Reason))}") from error
    return reason


def _confirm(question: str) -> None:
    """Ask a person; nobody there is a no."""
    if not sys.stdin.isatty() or not typer.confirm(question):
        raise Refused("usage", "nothing was changed", hint="Answer yes on a terminal, or give --yes.")


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%d}"
