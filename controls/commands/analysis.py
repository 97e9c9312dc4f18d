"""`tally policy diff | narrower | simulate | log`: what a change of a policy means, and what became of a name."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import msgspec
import typer

from controls.analysis import Comparison, Simulation, compare, diff, simulate
from controls.client import ControlsClient, PolicyEntry, fetch_trust
from controls.commands.authoring import Ancestors, app
from controls.commands.shared import Client, In, Json, Url, chain_of, credential, online, say, unsigned
from verifier.draft import call_of
from verifier.encoding import parse
from verifier.keys import Pin
from verifier.policy import Policy, PolicyTest

MAX_CALL = 1 << 16
STATUS = {"equal": 0, "narrower": 0, "wider": 1, "incomparable": 1, "unknown": 3}
WORDS = {
    "equal": "equal: they let the same calls through",
    "narrower": "narrower: the new policy lets nothing through that the old one does not",
    "wider": "WIDER: the new policy lets through what the old one does not",
    "incomparable": "WIDER and narrower: each lets something through that the other does not",
    "unknown": "UNKNOWN: not proved to be narrower, so to be treated as wider",
}

Old = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Built or signed.")]


@app.command("diff")
def diff_policies(old: Old, new: In, *, as_json: Json = False) -> None:
    """Say field by field what two policies say differently.

    Example: tally policy diff crm-1.policy.json crm-2.policy.json
    """
    changes = diff(_read(old), _read(new))
    say(as_json, {"changes": msgspec.to_builtins(changes)}, *(each.words() for each in changes))


@app.command("narrower")
def narrower(old: Old, new: In, *, ancestors: Ancestors = None, as_json: Json = False) -> None:
    """Prove that a new policy lets nothing through that the old one does not, or show what it does.

    Exit status: 0 narrower or equal, 1 wider, 3 not known.

    Example: tally policy narrower crm-1.policy.json crm-2.policy.json
    """
    found = compare(chain_of(old, ancestors), chain_of(new, ancestors))
    say(as_json, msgspec.to_builtins(found), *_told(found))
    raise typer.Exit(STATUS[found.relation])


@app.command("simulate")
def simulate_call(
    policy: In,
    *,
    call: Annotated[Path, typer.Option("--call", help="A call and facts, as a policy's test says them.", exists=True)],
    ancestors: Ancestors = None,
    as_json: Json = False,
) -> None:
    """Ask a policy about one call, and show every rule that was looked at. Exit status 1 when it is denied.

    Example: tally policy simulate crm.policy.json --call call.json
    """
    asked = parse(call.read_bytes(), dict[str, Any], limit=MAX_CALL)
    test = msgspec.convert({"name": "call", "facts": {}, "expect": "allow", **asked}, PolicyTest)
    found = simulate(chain_of(policy, ancestors), call_of(test))
    say(as_json, msgspec.to_builtins(found), *_considered(found))
    raise typer.Exit(int(found.decision == "deny"))


@app.command("log")
def log(
    name: Annotated[str, typer.Argument(help="A policy's name.")],
    *,
    url: Url,
    client: Client,
    pin: Annotated[Path, typer.Option("--pin", help="Your own pin.json.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Show what was published under a name, the newest first.

    Example: tally policy log crm-read --url http://127.0.0.1:8701 --client auditor --pin pin.json
    """

    async def walk(session: aiohttp.ClientSession) -> list[PolicyEntry]:
        trust = await fetch_trust(session, url, Pin.parse(pin.read_bytes()))
        registry = ControlsClient(session, url, trust, credential(url, client))
        return [each async for each in registry.history(name=name)]

    found = online(walk)
    lines = (
        f"{_time(each.published_at)}  serial {each.serial}  {each.digest}  by {each.issuer}  {each.status}"
        for each in found
    )
    say(as_json, {"policies": msgspec.to_builtins(found)}, *(lines if found else (f"nothing is published as {name}",)))


def _read(path: Path) -> Policy:
    return Policy.parse(unsigned("policy", path.read_bytes()).content())


def _told(found: Comparison) -> list[str]:
    lines = [WORDS[found.relation], *([f"  {found.why}"] if found.why and found.relation == "unknown" else [])]
    lines += [f"  lets through: {each}" for each in found.widening]
    return lines + [f"  no more: {each}" for each in found.narrowing]


def _considered(found: Simulation) -> list[str]:
    more = {"allow": "", "hold": f", for tier {found.tier}", "deny": f" ({found.reason})"}[found.decision]
    lines = [f"{found.decision} by {found.rule}{more}"]
    for each in found.considered:
        lines.append(f"  {'*' if each.matches else '-'} {each.rule} ({each.effect}): {each.because}")
        lines += [
            f"      {one.attr} {one.op} {_json(one.value)}: {one.truth}, it is {_json(one.found)}"
            for one in each.conditions
        ]
    return lines


def _json(value: Any) -> str:
    return "absent" if value is None else msgspec.json.encode(value).decode()


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"
