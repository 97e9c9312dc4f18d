"""A caller's key for proofs, in a file: made once, read in the form that libraries write, open to nobody else."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey

from service.dpop import Proofs, thumbprint
from service.dpop_key import prover
from tests.conftest import Clock
from verifier.refused import Refused

URL = "https://scope.example"
Random = Callable[[int], bytes]


def proved(path: Path, clock: Clock, random: Random) -> str:
    """Prove something with the key of a file; gives its thumbprint, as the one who checks computes it."""
    proofs, mine = Proofs(URL, b"s" * 32, clock), prover(path, clock, random)
    return proofs.check([mine.proof("POST", f"{URL}/token", nonce=proofs.nonce())], "POST", "/token")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file in a directory that nobody else can enter."""
    (tmp_path / "agent").mkdir(mode=0o700)
    return tmp_path / "agent/dpop.jwk"


def test_a_key_is_made_once_for_its_owner_alone(place: Path, clock: Clock, random: Random) -> None:
    first = proved(place, clock, random)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    raw = place.read_bytes()
    assert proved(place, clock, random) == first
    assert place.read_bytes() == raw
    theirs = OKPKey.import_key(json.loads(raw))  # another library reads the file, and knows the key by the same name
    assert (theirs.is_private, theirs.thumbprint()) == (True, first)


@pytest.mark.parametrize("kind", ["Ed25519", "P-256"])
def test_a_key_that_another_library_made_is_used_as_it_is(place: Path, clock: Clock, random: Random, kind: str) -> None:
    theirs: Any = (OKPKey if kind == "Ed25519" else ECKey).generate_key(
        kind, {"use": "sig", "kid": "mine"}, private=True
    )
    place.write_text(json.dumps(theirs.as_dict(private=True)))
    place.chmod(0o600)
    for _ in range(20):  # a number may begin with zeros
        assert proved(place, clock, random) == theirs.thumbprint() == thumbprint(theirs.as_dict(private=False))


GOOD = OKPKey.generate_key("Ed25519", private=True).as_dict(private=True)
CURVE = ECKey.generate_key("P-256", private=True).as_dict(private=True)


WRONG: dict[str, Any] = {
    "nothing": b"", "a word": b"nonsense", "a list": b"[]", "no text": b"\xff", "no key": {},
    "another curve": {**GOOD, "crv": "Ed448"}, "another kind": {**GOOD, "kty": "RSA"}, "short": {**GOOD, "d": "AA"},
    "padded": {**GOOD, "d": f"{GOOD['d']}="}, "another half": {**GOOD, "x": CURVE["x"]},
    "a public key": {name: value for name, value in GOOD.items() if name != "d"}, "P-384": {**CURVE, "crv": "P-384"},
    "another y": {**CURVE, "y": CURVE["x"]}, "zero": {**CURVE, "d": "A" * 43}, "large": {**CURVE, "d": "_" * 42 + "8"},
    "a number": {**CURVE, "d": 7},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_private_key_of_the_two_kinds_is_refused_and_never_repeated(
    place: Path, clock: Clock, random: Random, wrong: str
) -> None:
    content = WRONG[wrong] if isinstance(WRONG[wrong], bytes) else json.dumps(WRONG[wrong]).encode()
    place.write_bytes(content)
    place.chmod(0o600)
    with pytest.raises(Refused) as caught:
        prover(place, clock, random)
    assert caught.value.code == "bad-key"
    for secret in (GOOD["d"], CURVE["d"]):
        assert str(secret) not in f"{caught.value} {caught.value.hint}"
    assert place.read_bytes() == content


def test_what_others_could_read_is_refused_and_nothing_is_made_beside_them(
    place: Path, clock: Clock, random: Random, tmp_path: Path
) -> None:
    proved(place, clock, random)
    place.chmod(0o644)
    open_directory = tmp_path / "open"
    open_directory.mkdir(mode=0o755)
    for path, code in (
        (place, "loose-mode"),
        (open_directory / "key.jwk", "loose-mode"),
        (tmp_path / "nowhere/key.jwk", "no-key"),
    ):
        with pytest.raises(Refused) as caught:
            prover(path, clock, random)
        assert caught.value.code == code
    assert [*open_directory.iterdir()] == []
