"""A token bound to a key: worth nothing without the key, at any address, for any other request, or a second time."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from receipts.client import ReceiptsClient
from scope.client import JobRequest, Tools, claims_of
from service import dpop
from service.dpop import Proofs, Prover, thumbprint
from tests.conftest import Serve, seeded
from tests.receipts.gatehouse import SECOND, Gatehouse, gatehouse
from verifier.refused import Refused

BOUND: dict[str, Any] = {
    "token_constraints": {"binding": "dpop", "max_delegation_depth": 1},
    "model_egress": {"require_proxy_receipts": False},
}
PATH = "/mcp/crm-mcp"
NUMBERS = count()  # no two clients make the same proof


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect a refusal with this code."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code == code, caught.value


def prover(house: Gatehouse, seed: bytes = b"1" * 32) -> Prover:
    """Make a client's key."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return Prover(key.sign, jwk_of(key), house.clock, seeded(f"{seed.hex()}-{next(NUMBERS)}"))


def jwk_of(key: Ed25519PrivateKey) -> dict[str, str]:
    """Write a key's public half."""
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"crv": "Ed25519", "kty": "OKP", "x": x}


@pytest.fixture
async def house(tmp_path: Path, serve: Serve) -> AsyncIterator[Gatehouse]:
    """A policy that asks for bound tokens, and a job with one."""
    async with gatehouse(tmp_path, serve, opened=False, **BOUND) as made:
        mine = prover(made)
        request = JobRequest(agent="agent-1", policy=made.policy, job_type="support", environment="test")
        made.job = (await made.scope().open(request)).job
        made.token = (await made.scope().token(made.job, proving=by(mine))).access_token
        yield made


def by(mine: Prover) -> Any:
    """Prove to scope."""
    return lambda method, url, nonce: mine.proof(method, url, nonce=nonce)


async def call(house: Gatehouse, proof: str | None, *, scheme: str = "DPoP", **headers: str) -> tuple[str | None, Any]:
    """Call a tool; gives the code of a refusal, and the headers."""
    given = {"dpop": proof} if proof is not None else {}
    _, said, body = await house.rpc(Authorization=f"{scheme} {house.token}", **given, **headers)
    return body.get("error", {}).get("data", {}).get("code"), said


async def nonce(house: Gatehouse) -> str:
    """Ask the gateway for a nonce, as RFC 9449 §9 has it."""
    proof = prover(house, b"9" * 32).proof("POST", house.gateway + PATH, token=house.token)
    said, headers = await call(house, proof)
    assert said == "use-dpop-nonce"
    assert headers["WWW-Authenticate"].startswith('DPoP error="use_dpop_nonce", algs="EdDSA ES256"')
    found: str = headers["DPoP-Nonce"]
    return found


async def test_a_bound_token_with_its_key_is_good_and_the_bundle_passes(house: Gatehouse) -> None:
    mine, given = prover(house), await nonce(house)
    assert claims_of(house.token).cnf.jkt == OKPKey.import_key(mine.jwk).thumbprint()  # type: ignore[union-attr]
    for _ in range(3):
        proof = mine.proof("POST", house.gateway + PATH, token=house.token, nonce=given)
        assert (await call(house, proof))[0] is None
    chat = mine.proof("POST", f"{house.gateway}/v1/chat/completions", token=house.token, nonce=given)
    status, _, _ = await house.post(
        "/v1/chat/completions", {"model": "x/y", "messages": []}, Authorization=f"DPoP {house.token}", dpop=chat
    )
    assert status != 401
    read = mine.proof("GET", f"{house.gateway}/jobs/{house.job}/receipts", token=house.token, nonce=given)
    for proof, expected in ((read, 200), (read, 401), ("", 401)):
        url, headers = f"{house.gateway}/jobs/{house.job}/receipts", {"Authorization": f"DPoP {house.token}"}
        async with house.session.get(url, headers=headers | ({"DPoP": proof} if proof else {})) as answer:
            assert answer.status == expected
    raw, report = await house.audited()
    assert report.verdict == "PASS", report.findings
    assert house.token.encode() not in raw


async def test_our_own_reader_of_receipts_proves_and_asks_for_a_nonce_once(house: Gatehouse) -> None:
    mine, asked = prover(house), list[str]()

    def proving(method: str, url: str, nonce: str, token: str) -> str:
        asked.append(nonce)
        return mine.proof(method, url, token=token, nonce=nonce)

    given = mine.proof("POST", house.gateway + PATH, token=house.token, nonce=await nonce(house))
    code, headers = await call(house, given)
    assert code is None
    reader = ReceiptsClient(house.session, house.gateway, lambda: house.token, proving=proving)
    for _ in range(2):
        assert (await reader.receipt(headers["Tally-Receipt"])).job == house.job
    assert len((await reader.receipts(house.job)).items) == 4
    assert (len(asked), asked[0], "" in asked[1:]) == (4, "", False)
    thief = ReceiptsClient(
        house.session, house.gateway, lambda: house.token,
        proving=lambda method, url, nonce, token: prover(house, b"2" * 32).proof(method, url, token=token, nonce=nonce),
    )  # fmt: skip
    for reading, code in (
        (thief, "bad-dpop-proof"),
        (ReceiptsClient(house.session, house.gateway, lambda: house.token), "dpop-required"),
    ):
        with refused(code):
            await reading.receipts(house.job)


async def test_a_stolen_token_is_worth_nothing(house: Gatehouse) -> None:
    given, thief = await nonce(house), prover(house, b"2" * 32)
    stolen = thief.proof("POST", house.gateway + PATH, token=house.token, nonce=given)
    assert (await call(house, stolen))[0] == "bad-dpop-proof"
    code, headers = await call(house, None, scheme="Bearer")
    assert (code, headers["WWW-Authenticate"].split()[0]) == ("dpop-required", "DPoP")
    assert (await call(house, None))[0] == "dpop-required"
    assert house.upstream.requests == []


async def test_a_proof_counts_once_for_one_request_at_one_time(house: Gatehouse) -> None:
    mine, given = prover(house), await nonce(house)
    url = house.gateway + PATH
    good = mine.proof("POST", url, token=house.token, nonce=given)
    assert (await call(house, good))[0] is None
    for what, proof in {
        "again": good,
        "another method": mine.proof("GET", url, token=house.token, nonce=given),
        "another path": mine.proof("POST", f"{house.gateway}/mcp/other", token=house.token, nonce=given),
        "another host": mine.proof("POST", f"https://evil.example{PATH}", token=house.token, nonce=given),
        "another token": mine.proof("POST", url, token=house.token + "x", nonce=given),
        "no token": mine.proof("POST", url, nonce=given),
        "no URL": mine.proof("POST", "http://[", token=house.token, nonce=given),
        "long": mine.proof("POST", url + "?" + "x" * 5000, token=house.token, nonce=given),
        "nothing": "x",
    }.items():
        assert (await call(house, proof))[0] == "bad-dpop-proof", what
    query = mine.proof("POST", url + "?q=1#f", token=house.token, nonce=given)
    assert (await call(house, query))[0] is None  # neither counts (RFC 9449 §4.3)
    early = mine.proof("POST", url, token=house.token, nonce=given)
    house.clock.pass_seconds(61)
    assert (await call(house, early))[0] in {"bad-dpop-proof", "stale-revocations"}


async def test_a_nonce_is_this_servers_and_lately_given(house: Gatehouse) -> None:
    mine = prover(house)
    url = house.gateway + PATH
    for bad in ("", "guessed", Proofs(house.gateway, bytes(32), house.clock).nonce()):
        assert (await call(house, mine.proof("POST", url, token=house.token, nonce=bad)))[0] == "use-dpop-nonce"


async def test_two_proofs_and_a_bearer_token_as_a_bound_one_are_refused(tmp_path: Path, serve: Serve) -> None:
    free = {"model_egress": {"require_proxy_receipts": False}}
    async with gatehouse(tmp_path, serve, **free) as house:
        await house.open()
        proof = prover(house).proof("POST", house.gateway + PATH, token=house.token)
        assert (await call(house, proof))[0] == "bad-token"
        assert (await call(house, proof, scheme="Bearer"))[0] is None  # a proof of nothing that is asked
        mine = by(prover(house))
        house.token = (await house.scope().token(house.job, proving=mine)).access_token  # bound of its own will
        assert (await call(house, None, scheme="Bearer"))[0] == "dpop-required"


async def test_a_job_of_bound_tokens_gets_no_other(house: Gatehouse) -> None:
    scope, mine, other = house.scope(), by(prover(house)), by(prover(house, b"2" * 32))
    issued = await scope.token(house.job, proving=mine)
    assert issued.token_type == "DPoP"
    assert (await scope.introspect(issued.access_token))["cnf"] == {"jkt": claims_of(issued.access_token).cnf.jkt}  # type: ignore[union-attr]
    with refused("dpop-required"):
        await scope.token(house.job)
    for proving, code in ((None, "bad-dpop-proof"), (other, "bad-dpop-proof")):
        with refused(code):
            await scope.refresh(issued.access_token, proving=proving)
    young = await scope.refresh(issued.access_token, proving=mine)
    assert claims_of(young.access_token).cnf == claims_of(issued.access_token).cnf
    part = await scope.narrow(young.access_token, Tools(server="crm-mcp", tools=["get_case"]), proving=mine)
    assert claims_of(part.access_token).cnf == claims_of(issued.access_token).cnf
    child = await scope.child(
        young.access_token,
        JobRequest(agent="helper", policy=house.policy, job_type="support", environment="test"),
    )
    with refused("dpop-required"):
        await scope.token(child.job)


def _claims(clock: int, **changes: Any) -> dict[str, Any]:
    return {"jti": "12345678", "htm": "POST", "htu": "https://a.example/x", "iat": clock, **changes}


def _signed(claims: dict[str, Any], alg: str, key: Any, **header: Any) -> str:
    return jwt.encode(claims, key, algorithm=alg, headers={"typ": "dpop+jwt", **header})


def test_only_asymmetric_keys_of_the_two_kinds_prove_and_no_private_half_is_shown() -> None:
    proofs = Proofs("https://a.example", b"s" * 32, lambda: 1_790_000_000 * SECOND)
    claims = _claims(1_790_000_000, nonce=proofs.nonce())
    curve = generate_private_key(SECP256R1())
    numbers = curve.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    ec = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    assert proofs.check([_signed(claims, "ES256", curve, jwk=ec)], "POST", "/x") == thumbprint(ec)
    edwards = Ed25519PrivateKey.generate()
    okp = jwk_of(edwards)
    assert proofs.check([_signed({**claims, "jti": "87654321"}, "EdDSA", edwards, jwk=okp)], "POST", "/x")
    oct_key = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode()}
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
        for each in ({"typ": "dpop+jwt", "alg": "none", "jwk": okp}, claims)
    )
    for what, proof in {
        "HS256": _signed(claims, "HS256", b"k" * 32, jwk=oct_key),
        "none": unsigned + ".",
        "another typ": jwt.encode(claims, edwards, algorithm="EdDSA", headers={"typ": "JWT", "jwk": okp}),
        "no key": _signed(claims, "EdDSA", edwards),
        "another's key": _signed(claims, "EdDSA", Ed25519PrivateKey.generate(), jwk=okp),
        "a key of another kind": _signed(claims, "EdDSA", edwards, jwk=ec),
        "the private half": _signed(claims, "EdDSA", edwards, jwk={**okp, "d": okp["x"]}),
        "crit": _signed(claims, "EdDSA", edwards, jwk=okp, crit=["x"]),
        "no text for jti": _signed({**claims, "jti": "\ud800" * 8}, "EdDSA", edwards, jwk=okp),
        "no ASCII for nonce": _signed({**claims, "nonce": "é"}, "EdDSA", edwards, jwk=okp),
        "no ASCII for ath": _signed({**claims, "ath": "é"}, "EdDSA", edwards, jwk=okp),
        "no jti": _signed({**claims, "jti": ""}, "EdDSA", edwards, jwk=okp),
        "a number for htm": _signed({**claims, "htm": 1}, "EdDSA", edwards, jwk=okp),
        "of a time to come": _signed({**claims, "iat": 1_790_000_006}, "EdDSA", edwards, jwk=okp),
        "old": _signed({**claims, "iat": 1_790_000_000 - 61}, "EdDSA", edwards, jwk=okp),
    }.items():
        with refused("bad-dpop-proof"):
            proofs.check([proof], "POST", "/x", "token" if "ath" in what else None)
            pytest.fail(what)
    for given, code in (([], "dpop-required"), (["a", "b"], "bad-dpop-proof")):
        with refused(code):
            proofs.check(given, "POST", "/x")


def test_what_is_remembered_is_bounded_and_forgotten_when_it_no_longer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpop, "MOST_PROOFS", 2)
    at = [1_790_000_000 * SECOND]
    proofs, key = Proofs("https://a.example", b"s" * 32, lambda: at[0]), Ed25519PrivateKey.generate()
    mine = Prover(key.sign, jwk_of(key), lambda: at[0], seeded("proofs"))

    def prove() -> str:
        return proofs.check([mine.proof("POST", "https://a.example/x", nonce=proofs.nonce())], "POST", "/x")

    assert prove() == prove()
    with refused("too-many-proofs"):
        prove()
    at[0] += 66 * SECOND
    assert prove()


def test_a_refusal_never_repeats_the_proof() -> None:
    proofs = Proofs("https://a.example", b"s" * 32, lambda: 0)
    with pytest.raises(Refused) as caught:
        proofs.check(["secret-looking-text"], "POST", "/x")
    assert "secret" not in f"{caught.value} {caught.value.hint}"
