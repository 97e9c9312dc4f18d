"""`tally prices`: write, sign and publish the price table that budgets of cost are counted by."""

import typer

from controls import price_drafts
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
from verifier.prices import Prices

app = typer.Typer(help="Write, sign and publish the price table of a budget of cost.", no_args_is_help=True)


@app.command("build")
def build(
    draft: In, *, out: Out, key: IssuerKey = None, issuer: Issuer = None, serial: Serial = 1, as_json: Json = False
) -> None:
    """Write a price table out of a draft in YAML, JSON or TOML. Prices are US dollars a million tokens, as text.

    Example: tally prices build prices.yaml --key registrar/registry.key -o prices.json
    """
    read = price_drafts.read_draft(as_json_draft(draft))
    built = price_drafts.build(read, issuer=issuer_of(key, issuer), now=now(), serial=serial)
    write(out, canonical(built), as_json, f"price table {built.name}, {len(built.prices)} prices")


@app.command("sign")
def sign_prices(file: In, *, key: Key, out: Out, as_json: Json = False) -> None:
    """Sign a built price table as its registrar.

    Example: tally prices sign prices.json --key registrar/registry.key -o prices.signed.json
    """
    envelope = unsigned("prices", file.read_bytes())
    payload = envelope.content()
    issuer = Prices.parse(payload).issuer
    signed = sign("prices", "registry", envelope, issuer, key)
    write(out, signed.encode(), as_json, f"price table signed by {issuer}", payload)


@app.command("publish")
def publish(file: In, *, url: Url, client: Client, as_json: Json = False) -> None:
    """Publish a signed price table; a policy names the digest that this prints.

    Example: tally prices publish prices.signed.json --url http://127.0.0.1:8701 --client registrar
    """
    raw = file.read_bytes()
    done = as_client(url, client, lambda publisher: publisher.price(raw))
    name = Prices.parse(done.value).name
    say(as_json, {"digest": done.digest, "name": name}, f"published {done.digest} as {name}")
