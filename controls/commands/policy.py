"""`tally policy`: sign, publish, fetch and withdraw policies; how they are written is `authoring.py`'s."""

from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from controls.client import ControlsClient, Document, fetch_trust
from controls.commands.authoring import app
from controls.commands.shared import (
    Client,
    In,
    Json,
    Key,
    Out,
    Url,
    as_client,
    now,
    online,
    say,
    sign,
    unsigned,
)
from service.key_list import Installed
from verifier.draft import run_tests
from verifier.encoding import digest
from verifier.keys import Pin
from verifier.policy import Policy


@app.command("sign")
def sign_policy(
    file: In,
    *,
    key: Key,
    out: Out,
    installation: Annotated[
        Path | None, typer.Option("--dir", help="Where pin.json and keys.json lie: how many signatures are needed?")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a built policy as its author, once its own tests hold, or add the signature of a second key of the author.

    Example: tally policy sign crm.policy.json --key author/policy.key -o crm.signed.json
    """
    envelope = unsigned("policy", file.read_bytes())
    read = Policy.parse(envelope.content())
    if read.parent is None:
        run_tests((read,))
    signed = sign("policy", "policy", envelope, read.issuer, key)
    out.write_bytes(signed.encode())
    keys = len(signed.kids())
    facts: dict[str, object] = {"digest": digest(signed.content()), "file": str(out), "signatures": keys}
    lines = [f"{out}: policy signed by {read.issuer}", digest(signed.content())]
    if installation is not None:
        facts["needed"] = needed = Installed.read(installation).listed.author_quorum.get(read.issuer, 1)
        lines.append(
            f"{keys} of {needed} signatures" + ("" if keys >= needed else ": another key of the author signs next")
        )
    say(as_json, facts, *lines)


@app.command("publish")
def publish_policy(
    file: In,
    *,
    url: Url,
    client: Client,
    allow_wider: Annotated[
        bool, typer.Option("--allow-wider", help="Let it allow more than the newest policy of its name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a signed policy; the registry checks it, countersigns it and freezes it.

    Example: tally policy publish crm.signed.json --url http://127.0.0.1:8701 --client author
    """
    done = as_client(url, client, lambda publisher: publisher.publish(file.read_bytes(), allow_wider=allow_wider))
    say(as_json, {"digest": done.digest}, f"published {done.digest}")


@app.command("fetch")
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
        return await ControlsClient(session, url, trust).policy(wanted, now())

    fetched = online(fetch)
    if out is not None:
        out.write_bytes(fetched.raw)
    read = fetched.value
    facts = {"digest": fetched.digest, "policy_name": read.policy_name, "serial": read.serial, "issuer": read.issuer}
    say(as_json, facts, f"{fetched.digest}: good: {read.policy_name}, serial {read.serial}, by {read.issuer}")


@app.command("withdraw")
def withdraw_policy(
    wanted: Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:…")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")],
    url: Url,
    client: Client,
    as_json: Json = False,
) -> None:
    """Withdraw a policy: no new job may pin it. Jobs that run go on, until a responder revokes the policy at scope.

    Example: tally policy withdraw sha256:… --reason "a rule was too wide" --url http://127.0.0.1:8701 --client author
    """
    status = as_client(url, client, lambda publisher: publisher.withdraw(wanted, reason))
    running = f"jobs under it that run go on; to end them: tally revoke policy {status.digest} --reason withdrawn …"
    say(as_json, msgspec.to_builtins(status), f"withdrawn {status.digest}: {status.reason}", running)
