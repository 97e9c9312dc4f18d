"""A new installation: roots, keys, the first signed key list, the auditor's pin, and settings for three services.

DIR/root/                      offline: what signs key lists; take it away afterwards
DIR/author/ registrar/ …       one directory a person or client: their own keys
DIR/controls/ scope/ receipts/ one directory a service: settings.toml, clients.toml, keys.json, pin.json, its keys
DIR/pin.json, DIR/keys.json    public: what an auditor pins, and the key list that the pin opens
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from service import NAMES, keystore
from service.clients import Role
from service.keystore import KeyFile, Random
from service.settings import is_loopback
from verifier.encoding import Url, canonical
from verifier.envelope import seal_up
from verifier.keys import Key, KeyList, Pin, Root, Trust, Use
from verifier.refused import Refused
from verifier.signing import SUITE, KeyPair

DAY = 86_400 * 1_000_000
VALIDITY = 365 * DAY

PEOPLE: dict[str, tuple[Use, ...]] = {
    "author": ("policy",),
    "registrar": ("registry",),
    "orchestrator": (),
    "responder": (),
    "auditor": (),
}
SERVICES: dict[str, tuple[Use, ...]] = {
    "controls": ("registry",),
    "scope": ("grant", "seal", "token", "revocation"),
    "receipts": ("gateway",),
}
# Who may call which service, as what; the least that each needs.
CLIENTS: dict[str, dict[str, tuple[Role, ...]]] = {
    "controls": {
        "author": ("author",),
        "registrar": ("registrar",),
        "orchestrator": ("orchestrator",),
        "auditor": ("auditor",),
        "scope": ("gateway",),
        "receipts": ("gateway",),
    },
    "scope": {
        "orchestrator": ("orchestrator",),
        "responder": ("responder",),
        "auditor": ("auditor",),
        "controls": ("responder",),
        "receipts": ("gateway",),
    },
    "receipts": {
        "orchestrator": ("orchestrator",),
        "responder": ("responder",),
        "auditor": ("auditor",),
    },
}


class Urls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The three services' base URLs: issuers of what they sign, owners of their keys."""

    controls: Url = "http://127.0.0.1:8701"
    scope: Url = "http://127.0.0.1:8702"
    receipts: Url = "http://127.0.0.1:8703"


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator decides: URLs, the organisation's name, whether upstreams may lie on this machine (`demo`)."""

    urls: Urls = Urls()
    owner: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}\Z")] = "example"
    demo: bool = False

    def owner_of(self, holder: str) -> str:
        """Name the owner of a holder's keys: a service's is its URL, a person's `<organisation>.<person>`."""
        return getattr(self.urls, holder) if holder in NAMES else f"{self.owner}.{holder}"


class Made(Struct, frozen=True):
    """One file that was made; nothing of its content when that is secret."""

    path: str
    what: str
    kid: str = ""
    owner: str = ""


def initialise(directory: Path, plan: Plan, now: int, random: Random, passphrase: bytes | None = None) -> list[Made]:
    """Make an installation in an empty directory; with a passphrase the root is sealed under it.

    Raises `Refused` with not-empty when there is anything, so that no key is ever replaced.
    """
    plan = msgspec.convert(msgspec.to_builtins(plan), Plan)
    if directory.is_file() or (directory.exists() and any(directory.iterdir())):
        raise Refused(
            "not-empty", f"{directory} is not an empty directory", hint="Choose a new one: keys are never replaced."
        )
    holders = {**PEOPLE, **SERVICES}
    for each in ("", "root", *holders):
        keystore.make_private_directory(directory / each)
    made: list[Made] = []
    root = _key(directory, "root", "root", plan.owner, random, made=made, passphrase=passphrase)
    keys = [
        _listed(_key(directory, holder, use, plan.owner_of(holder), random, made=made), use, plan.owner_of(holder), now)
        for holder, uses in holders.items()
        for use in uses
    ]
    clients = {holder: _key(directory, holder, "client", holder, random, made=made) for holder in holders}
    _publish(directory, _documents(plan, root, keys, now), made)
    for service in NAMES:
        _write(directory, f"{service}/clients.toml", clients_toml(service, clients), "who may call it", made)
        _write(directory, f"{service}/settings.toml", settings_toml(service, plan), "settings", made)
    return made


def _documents(plan: Plan, root: KeyPair, keys: list[Key], now: int) -> dict[str, bytes]:
    """Sign the first key list, make the pin, and open the one with the other as an auditor will."""
    public = Root(owner=plan.owner, ed25519=root.public.ed25519, ml_dsa_44=root.public.ml_dsa_44 or "")
    pin = Pin(roots=[public], threshold=1, suites=[SUITE])
    listed = KeyList(
        issuer=plan.owner,
        version=1,
        issued_at=now,
        expires=now + VALIDITY,
        roots=[public],
        threshold=1,
        author_quorum={},
        keys=sorted(keys, key=lambda key: key.kid),
    )
    signed = seal_up("keys", canonical(listed), root)
    Trust.establish(pin, signed)
    return {"keys.json": signed, "pin.json": msgspec.json.format(canonical(pin), indent=2) + b"\n"}


def _publish(directory: Path, documents: Mapping[str, bytes], made: list[Made]) -> None:
    meaning = {"keys.json": "the signed key list, version 1", "pin.json": "what an auditor pins"}
    for place in ("", *(f"{name}/" for name in NAMES)):
        for name, content in documents.items():
            _write(directory, place + name, content, meaning[name], made)


def _key(
    directory: Path,
    holder: str,
    use: str,
    owner: str,
    random: Random,
    *,
    made: list[Made],
    passphrase: bytes | None = None,
) -> KeyPair:
    key: KeyFile = keystore.generate(use, owner, random)
    path = f"{holder}/{use}.key"
    keystore.save(directory / path, key, passphrase=passphrase, random=random)
    pair = key.pair()
    made.append(Made(path, f"{use} key" + (", sealed" if passphrase else ""), pair.kid, owner))
    return pair


def _listed(pair: KeyPair, use: Use, owner: str, now: int) -> Key:
    public = pair.public
    return Key(
        kid=pair.kid,
        use=use,
        owner=owner,
        ed25519=public.ed25519,
        ml_dsa_44=public.ml_dsa_44,
        not_before=now,
        not_after=now + VALIDITY,
    )


def _write(directory: Path, path: str, content: bytes, what: str, made: list[Made]) -> None:
    keystore.write_private(directory / path, content)
    made.append(Made(path, what))


def clients_toml(service: str, clients: Mapping[str, KeyPair]) -> bytes:
    """Write `clients.toml`: public keys and roles."""
    lines = ["# Who may call this service. Public keys only; a client's private key is its own.", ""]
    for name, roles in CLIENTS[service].items():
        lines += [
            f"[clients.{name}]",
            f"ed25519 = {_toml(clients[name].public.ed25519)}",
            f"roles = {_toml(list(roles))}",
            "",
        ]
    return "\n".join(lines).encode()


def settings_toml(service: str, plan: Plan) -> bytes:
    """Write `settings.toml`; whatever a service can do without is left to its defaults."""
    issuer: str = getattr(plan.urls, service)
    lines = [
        f"# Settings of {service}; TALLY_{service.upper()}_<SETTING> overrides a line; unknown ones stop the start.",
        f"issuer = {_toml(issuer)}",
        f"listen = {_toml(_listen(service, issuer))}",
        'database = "sqlite"  # or postgresql://user@host/database',
        *(f"{name}_url = {_toml(getattr(plan.urls, name))}" for name in NAMES),
        *(EXTRA.get(service, _nothing)(plan)),
    ]
    return ("\n".join(lines) + "\n").encode()


def _controls(plan: Plan) -> list[str]:
    return [
        "",
        "# Networks beyond public addresses in which a server may be scanned.",
        f"upstream_networks = {_toml(['127.0.0.0/8'] if plan.demo else [])}",
    ]


def _receipts(plan: Plan) -> list[str]:
    return [
        "",
        "# Networks beyond public addresses in which an upstream may lie.",
        f"upstream_networks = {_toml(['127.0.0.0/8'] if plan.demo else [])}",
        "",
        "# One table a provider of models; the key lies in a file of mode 0600 beside this one.",
        "# [models.example]",
        '# base_url = "https://models.example/v1"',
        '# api_key_file = "example.secret"',
        '# operations = ["chat.completions"]',
    ]


def _nothing(_plan: Plan) -> list[str]:
    return []


EXTRA: dict[str, Callable[[Plan], list[str]]] = {"controls": _controls, "receipts": _receipts}


def _listen(service: str, url: str) -> str:
    """Bind what a loopback URL says; a public name is served by a proxy from the service's usual port."""
    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    usual = getattr(Urls(), service).rpartition(":")[2]
    return f"{host}:{port or 80}" if is_loopback(host) else f"127.0.0.1:{usual}"


def _toml(value: str | list[str]) -> str:
    """Write a string or a list of strings: in TOML as in JSON."""
    return msgspec.json.encode(value).decode()
