"""Vectors that no one here wrote, read from the folder that FOREIGN_VECTORS names.

They are public: Wycheproof and CCTV (github.com/C2SP/wycheproof, github.com/C2SP/CCTV), the proofs of
github.com/transparency-dev/merkle, the samples of github.com/cyberphone/json-canonicalization and of
github.com/nst/JSONTestSuite, in folders `wycheproof`, `cctv`, `merkle`, `jcs`, `jsontestsuite` with the layout of the
repositories.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from verifier.codes import CODES
from verifier.encoding import canonical, parse, reject_duplicates
from verifier.merkle import check_consistency, check_inclusion
from verifier.refused import Refused
from verifier.signing import KeyPair, verify_ed25519, verify_ml_dsa_44

HOW = "FOREIGN_VECTORS names no folder: clone the public repositories that this file's first lines name into one"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The folder; without it CI fails, and a person is told where to get them."""
    named = Path(os.environ.get("FOREIGN_VECTORS", ""))
    if "FOREIGN_VECTORS" in os.environ and named.is_dir():
        return named
    if os.environ.get("CI"):
        pytest.fail(HOW)
    pytest.skip(HOW)


def cases(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give each case of a Wycheproof file with its group."""
    for group in json.loads(path.read_bytes())["testGroups"]:
        for case in group["tests"]:
            yield group, case


def test_ed25519_verifies_as_wycheproof_says(folder: Path) -> None:
    results = []
    for group, case in cases(folder / "wycheproof/testvectors_v1/ed25519_test.json"):
        public, message, signature = (
            bytes.fromhex(each) for each in (group["publicKey"]["pk"], case["msg"], case["sig"])
        )
        good = verify_ed25519(public, message, signature)
        assert good == (case["result"] == "valid"), case
        results.append(good)
    assert 0 < sum(results) < len(results) == 151


def test_ml_dsa_44_verifies_as_wycheproof_says_with_the_empty_context(folder: Path) -> None:
    results = []
    for group, case in cases(folder / "wycheproof/testvectors_v1/mldsa_44_verify_test.json"):
        public, message, signature = (bytes.fromhex(each) for each in (group["publicKey"], case["msg"], case["sig"]))
        good = verify_ml_dsa_44(public, message, signature)
        assert good == (case["result"] == "valid" and not case.get("ctx")), case
        results.append(good)
    assert 0 < sum(results) < len(results) == 180


def test_ml_dsa_44_seeds_give_wycheproofs_keys_and_its_signatures_verify(folder: Path) -> None:
    checked = 0
    for group, case in cases(folder / "wycheproof/testvectors_v1/mldsa_44_sign_seed_test.json"):
        seed = bytes.fromhex(group["privateSeed"])
        if case["result"] != "valid" or case.get("ctx") or "msg" not in case or len(seed) != 32:
            continue
        public = mldsa.MLDSA44PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
        assert public == bytes.fromhex(group["publicKey"]) == KeyPair(bytes(32), seed).public.raw()[1]
        assert verify_ml_dsa_44(public, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
        checked += 1
    assert checked > 20


def test_of_914_edge_cases_of_ed25519_libsodiums_43_are_accepted(folder: Path) -> None:
    vectors = json.loads((folder / "cctv/ed25519/ed25519vectors.json").read_bytes())
    accepted = [
        each["number"]
        for each in vectors
        if verify_ed25519(bytes.fromhex(each["key"]), each["msg"].encode(), bytes.fromhex(each["sig"]))
    ]
    assert (len(accepted), len(vectors)) == (43, 914)
    for each in vectors:
        if each["number"] in accepted:
            assert not {"low_order_A", "non_canonical_A", "non_canonical_R"} & set(each["flags"] or ()), each


def test_merkle_inclusion_proofs_hold_or_not_as_transparency_dev_says(folder: Path) -> None:
    paths = sorted((folder / "merkle/testdata/inclusion").rglob("*.json"))
    for path in paths:
        case = json.loads(path.read_bytes())
        proof, root, leaf = _hashes(case["proof"]), _hash(case["root"]), _hash(case["leafHash"])
        code = _code(lambda: check_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root))  # noqa: B023 - at once
        assert code == ("bad-proof" if case["wantErr"] else None), path
    assert len(paths) > 50


def test_merkle_consistency_proofs_hold_or_not_as_transparency_dev_says(folder: Path) -> None:
    """Our rule is stricter in two places: the empty tree is an earlier tree of nothing, and a root has 32 bytes."""
    paths = sorted((folder / "merkle/testdata/consistency").rglob("*.json"))
    for path in paths:
        case = json.loads(path.read_bytes())
        proof, roots = _hashes(case["proof"]), (_hash(case["root1"]), _hash(case["root2"]))
        code = _code(lambda: check_consistency(case["size1"], case["size2"], proof, *roots))  # noqa: B023 - at once
        stricter = case["size1"] == 0 or {len(each) for each in roots} != {32}
        assert code == ("bad-proof" if case["wantErr"] or stricter else None), path
    assert len(paths) > 50


def _code(act: Callable[[], object]) -> str | None:
    """Say by which code something is refused; None when it is not."""
    try:
        act()
    except Refused as refused:
        return refused.code
    return None


def _hash(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def _hashes(texts: list[str] | None) -> list[bytes]:
    return [_hash(text) for text in texts or []]


def test_rfc_8785_samples_are_equal_bytes_or_refused_by_name(folder: Path) -> None:
    """Our restricted form leaves out floats and keys outside ASCII; for the rest it never writes other bytes."""
    equal = set()
    for path in sorted((folder / "jcs/testdata/input").iterdir()):
        value = reject_duplicates(path.read_bytes())
        if _restricted(value):
            assert canonical(value) == (folder / "jcs/testdata/output" / path.name).read_bytes(), path.name
            equal.add(path.name)
    assert equal == {"arrays.json", "unicode.json"}


def _restricted(value: Any) -> bool:
    if isinstance(value, dict):
        return all(name.isascii() and _restricted(each) for name, each in value.items())
    if isinstance(value, list):
        return all(map(_restricted, value))
    return not isinstance(value, float)


def test_what_is_no_json_does_not_parse_and_what_is_does_unless_refused_by_name(folder: Path) -> None:
    """`y_` parses, or has a name in our form: a key twice, too deep. `n_` never does. `i_` may go either way."""
    paths = sorted((folder / "jsontestsuite/test_parsing").glob("*.json"))
    for path in paths:
        for reader in (reject_duplicates, lambda raw: parse(raw, object, limit=1 << 20)):
            code = _code(lambda: reader(path.read_bytes()))  # noqa: B023 - at once
            assert code is None or code in CODES
            if path.name[0] == "y":
                assert code in {None, "not-canonical", "too-deep"}, path.name
            assert path.name[0] != "n" or code is not None, path.name
    assert len(paths) > 300
