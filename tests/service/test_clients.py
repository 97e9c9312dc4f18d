"""A caller is who its own key says, once a token, for a minute."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service import clients, keystore
from service.clients import Caller, Clients, client_token
from tests.conftest import START, Clock
from verifier.refused import Refused
from verifier.signing import KeyPair

HERE = "http://127.0.0.1:8702"
NOW = START // 1_000_000


@pytest.fixture
def key(installation: Path) -> KeyPair:
    return keystore.load(installation / "orchestrator/client.key", "client")


@pytest.fixture
def callers(installation: Path, clock: Clock) -> Clients:
    return Clients.load(installation / "scope/clients.toml", HERE, clock)


def code(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.code


def token(key: KeyPair, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Sign claims as a client would, each of them as the test wants it; None leaves one out."""
    usual = {"iss": "orchestrator", "sub": "orchestrator", "aud": HERE, "iat": NOW, "exp": NOW + 60, "jti": "j" * 20}
    body = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    parts = [json.dumps(each).encode() for each in (header or {"alg": "EdDSA"}, body)]
    signed = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    return f"{signed}.{base64.urlsafe_b64encode(key.ed25519(signed.encode())).rstrip(b'=').decode()}"


def test_a_clients_own_token_names_it_and_its_roles(callers: Clients, key: KeyPair) -> None:
    caller = callers.authenticate(f"Bearer {client_token(key, 'orchestrator', HERE, START)}", "127.0.0.1")
    assert (caller.client, caller.roles) == ("orchestrator", {"orchestrator"})
    caller.require("auditor", "orchestrator")
    assert code(lambda: caller.require("responder")) == "forbidden"


def test_a_token_is_taken_once(callers: Clients, key: KeyPair) -> None:
    bearer = f"Bearer {client_token(key, 'orchestrator', HERE, START)}"
    callers.authenticate(bearer, "127.0.0.1")
    assert code(lambda: callers.authenticate(bearer, "127.0.0.1")) == "unauthenticated"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "responder", "sub": "responder"},  # signed by another client's key
        {"iss": "nobody", "sub": "nobody"},
        {"sub": "responder"},
        {"aud": "http://127.0.0.1:8703"},
        {"aud": [HERE]},
        {"exp": NOW + 61},
        {"iat": NOW - 61, "exp": NOW - 1},
        {"iat": NOW - 60, "exp": NOW},
        {"iat": NOW + 6, "exp": NOW + 60},
        {"iat": NOW + 60, "exp": NOW},
        {"iat": float(NOW)},
        {"iat": True, "exp": NOW + 1},
        {"jti": "short"},
        {"jti": 7},
        {"jti": None},
        {"exp": None},
        {"iss": ["orchestrator"]},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}},
        {"header": {"alg": "EdDSA", "crit": ["b64"], "b64": False}},
    ],
)
def test_any_other_token_is_refused_in_one_sentence(callers: Clients, key: KeyPair, claims: dict[str, Any]) -> None:
    bearer = f"Bearer {token(key, **claims)}"
    with pytest.raises(Refused) as refused:
        callers.authenticate(bearer, "127.0.0.1")
    assert (refused.value.code, refused.value.why) == ("unauthenticated", "the caller did not prove who it is")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic eA==", "Bearer a.b.c", "Bearer " + "x" * 5000, "Bearer é.é.é"]
)
def test_a_header_that_is_no_token_is_refused(callers: Clients, header: str) -> None:
    assert code(lambda: callers.authenticate(header, "127.0.0.1")) == "unauthenticated"


def test_a_changed_token_is_refused(callers: Clients, key: KeyPair) -> None:
    header, body, signature = client_token(key, "orchestrator", HERE, START).split(".")
    other = client_token(key, "orchestrator", "http://127.0.0.1:8701", START).split(".")[1]
    assert code(lambda: callers.authenticate(f"Bearer {header}.{other}.{signature}", "127.0.0.1")) == "unauthenticated"
    assert body != other


def test_a_point_that_fits_every_message_is_nobodys_key(clock: Clock) -> None:
    identity = bytes([1, *bytes(31)])  # of small order: OpenSSL takes R = identity, S = 0 for a signature of anything
    forged = b64url(identity + bytes(32))
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"anything")
    claims = {"iss": "a", "sub": "a", "aud": HERE, "iat": NOW, "exp": NOW + 60, "jti": "x" * 22}
    header = json.dumps({"alg": "EdDSA"}).encode()
    signed = f"{b64url(header)}.{b64url(json.dumps(claims).encode())}.{forged}"
    listed = clients.ClientFile({"a": clients.Client(ed25519=base64.b64encode(identity).decode(), roles=["author"])})
    assert code(lambda: Clients(listed, HERE, clock).authenticate(f"Bearer {signed}", "127.0.0.1")) == "unauthenticated"


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_an_address_that_keeps_failing_is_told_to_wait_and_shuts_nobody_out(
    callers: Clients, key: KeyPair, clock: Clock
) -> None:
    for _ in range(clients.MAX_FAILURES):
        assert code(lambda: callers.authenticate("", "10.0.0.1")) == "unauthenticated"
    assert code(lambda: callers.authenticate("", "10.0.0.1")) == "too-many-failures"
    assert code(lambda: callers.authenticate("", "10.0.0.2")) == "unauthenticated"
    good = f"Bearer {client_token(key, 'orchestrator', HERE, START)}"
    assert callers.authenticate(good, "10.0.0.1").client == "orchestrator"
    assert code(lambda: callers.authenticate(good, "10.0.0.1")) == "too-many-failures"
    clock.pass_seconds(60)
    assert code(lambda: callers.authenticate("", "10.0.0.1")) == "unauthenticated"


def test_memory_of_used_tokens_is_bounded_and_forgets(
    installation: Path, key: KeyPair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MAX_REMEMBERED", 2)
    callers = Clients.load(installation / "scope/clients.toml", HERE, clock, writes=3)
    for _ in range(3):
        callers.authenticate(f"Bearer {client_token(key, 'orchestrator', HERE, clock())}", "127.0.0.1")
    more = f"Bearer {client_token(key, 'orchestrator', HERE, clock())}"
    assert code(lambda: callers.authenticate(more, "127.0.0.1")) == "too-many-requests"
    clock.pass_seconds(66)
    assert callers.authenticate(f"Bearer {client_token(key, 'orchestrator', HERE, clock())}", "127.0.0.1")


def test_our_tokens_are_what_a_common_library_reads(key: KeyPair) -> None:
    public = Ed25519PublicKey.from_public_bytes(key.public.raw()[0])
    bearer = client_token(key, "orchestrator", HERE, time.time_ns() // 1000)
    assert jwt.decode(bearer, public, algorithms=["EdDSA"], audience=HERE)["iss"] == "orchestrator"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[clients.a]\nroles = []",
        '[clients.a]\ned25519 = "AAAA"\nroles = ["author"]',
        '[clients.a]\nroles = ["king"]',
        "x",
    ],
)
def test_an_unusable_file_of_clients_stops_the_start(tmp_path: Path, clock: Clock, text: str) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(text)
    assert code(lambda: Clients.load(path, HERE, clock)) == "bad-clients"


def test_a_client_changes_things_so_often_a_minute_and_others_are_not_kept_waiting(
    installation: Path, key: KeyPair, clock: Clock
) -> None:
    clients = Clients.load(installation / "scope/clients.toml", HERE, clock, 60)
    caller = clients.authenticate(f"Bearer {client_token(key, 'orchestrator', HERE, START)}", "127.0.0.1")
    for _ in range(60):
        clients.count_write(caller)
    assert code(lambda: clients.count_write(caller)) == "too-many-requests"
    clients.count_write(Caller("receipts", frozenset()))
    clock.pass_seconds(0.9)
    assert code(lambda: clients.count_write(caller)) == "too-many-requests"
    clock.pass_seconds(0.2)
    clients.count_write(caller)
    assert code(lambda: clients.count_write(caller)) == "too-many-requests"
    clock.pass_seconds(-5)
    assert code(lambda: clients.count_write(caller)) == "too-many-requests"
    clock.pass_seconds(3600)
    for _ in range(60):
        clients.count_write(caller)
    assert code(lambda: clients.count_write(caller)) == "too-many-requests"
