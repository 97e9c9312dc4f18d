"""`tally revoke`, `tally revocations`, `tally incidents`: what incident responders do."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from scope.client import Incident, Preview, RevocationRequest, ScopeClient
from scope.commands.shared import Client, Json, Url, as_client, request, say, when
from verifier.documents import open_heartbeat, open_revocation
from verifier.keys import Pin, Trust
from verifier.refused import Refused
from verifier.revocation import Revocation
from verifier.terminal import moment

app = typer.Typer(no_args_is_help=True)


@app.command("revoke")
def revoke(
    kind: Annotated[str, typer.Argument(help="jti, job, agent, client, user, policy, server, tool, model, key or all")],
    value: Annotated[
        str,
        typer.Argument(
            help="Which; a tool is server/name, a model provider/name, a user user-…, a key its kid, of all it is '*'."
        ),
    ],
    *,
    reason: Annotated[str, typer.Option(help="A code such as incident or key-leak.")],
    ticket: Annotated[str | None, typer.Option(help="Where the story is told.")] = None,
    note: Annotated[str | None, typer.Option(help="A sentence; it goes into proof bundles.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until this time (RFC 3339); none for a job, jti or key.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would touch, and revoke nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Revoke, for ever or until a time; gateways refuse at once, and jobs that are ended begin to close for good.

    On a terminal it shows what it will touch, and asks. Elsewhere nobody can be asked: everything ('all') is revoked
    with --yes alone.

    Example: tally revoke job job-… --reason incident --ticket INC-7 --url http://127.0.0.1:8702 --client responder
    """
    asked: dict[str, str | int] = {"kind": kind, "value": value, "reason": reason}
    asked |= {name: text for name, text in (("ticket", ticket), ("note", note)) if text is not None}
    asked |= {} if until is None else {"until": moment(until, "--until")}
    wanted = request(RevocationRequest, asked)
    asking = terminal() and not yes
    if kind == "all" and not (asking or yes or dry_run):
        raise Refused("usage", "nobody can be asked here: everything is revoked with --yes", hint="Look: --dry-run.")
    if dry_run or asking:
        there = as_client(url, client, lambda scope: scope.preview(wanted))
        _preview(as_json and dry_run, wanted, there, err=not dry_run)
    if dry_run:
        return
    if asking and not typer.confirm("Revoke?", err=True):
        typer.echo("nothing was revoked", err=True)
        raise typer.Exit(1)
    done = as_client(url, client, lambda scope: scope.revoke(wanted))
    sentence = f"revoked {kind} {value} at {when(done.time)}: number {done.sequence}, {done.jobs} open jobs ended"
    say(as_json, msgspec.to_builtins(done), sentence)


@app.command("revocations")
def revocations(
    *,
    after: Annotated[int, typer.Option(min=0, help="Only those behind this number.")] = 0,
    pin: Annotated[Path, typer.Option(help="Your pin.json: whose signatures you believe.", dir_okay=False)],
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """List what was revoked, in order, each one's signature checked by your own pin.

    Example: tally revocations --pin pin.json --url http://127.0.0.1:8702 --client responder
    """

    async def every(scope: ScopeClient) -> list[Revocation]:
        trust = Trust.establish(Pin.parse(pin.read_bytes()), await scope.keys())
        found, last = list[Revocation](), after
        while True:
            heartbeat, raws = await scope.snapshot(last)
            found += [open_revocation(trust, raw).value for raw in raws]
            last, newest = found[-1].sequence if found else last, open_heartbeat(trust, heartbeat).value.sequence
            if newest < after:
                hint = "Was its database restored from a backup? Compare with what you kept."
                raise Refused("bad-snapshot", f"scope counts {newest} revocations, and there were {after}", hint=hint)
            if not raws or last >= newest:
                return found

    found = as_client(url, client, every)
    if [each.sequence for each in found] != list(range(after + 1, after + 1 + len(found))):
        raise Refused("bad-snapshot", "scope leaves revocations out, or gives them in another order")
    lines = [
        f"{each.sequence} {when(each.time)} {each.target.kind} {each.target.value}: {each.reason} by {each.actor}"
        + (f" ({each.ticket})" if each.ticket else "")
        + (f", until {when(each.until)}" if each.until else "")
        for each in found
    ]
    say(as_json, {"revocations": msgspec.to_builtins(found)}, *(lines or ["nothing is revoked"]))


@app.command("incidents")
def incidents(*, url: Url, client: Client, as_json: Json = False) -> None:
    """List what gateways reported and cannot be; exit 1 when there is any.

    Example: tally incidents --url http://127.0.0.1:8702 --client responder
    """

    async def every(scope: ScopeClient) -> list[Incident]:
        found, after = list[Incident](), 0
        while True:
            page = await scope.incidents(after)
            found += page.incidents
            if page.next is None:
                return found
            after = page.next

    found = as_client(url, client, every)
    lines = [f"{when(each.time)} {each.code} {each.value} in lane {each.lane} of {each.job}" for each in found]
    say(as_json, {"incidents": msgspec.to_builtins(found)}, *(lines or ["no incidents"]))
    if found:
        raise typer.Exit(1)


def terminal() -> bool:
    """Tell whether somebody is there to be asked."""
    return sys.stdin.isatty()


def _preview(as_json: bool, wanted: RevocationRequest, there: Preview, *, err: bool) -> None:  # noqa: FBT001 - passes an option on
    verb = "ends" if there.ends else "touches"
    count = f"{there.jobs} open jobs" if there.complete else f"at least {there.jobs} open jobs"
    heading = f"{wanted.kind} {wanted.value}: {verb} {count}, {there.tokens} living tokens, {there.lanes} open lanes"
    lines = [f"{heading} with {there.running} running calls"]
    lines += [f"  {each}" for each in there.names]
    lines += [f"  and {there.jobs - len(there.names)} more"] if there.jobs > len(there.names) else []
    lines += [f"  gateway {each}" for each in there.gateways]
    lines += ["  it is revoked already"] if there.again else []
    say(as_json, msgspec.to_builtins(there), *lines, err=err)
