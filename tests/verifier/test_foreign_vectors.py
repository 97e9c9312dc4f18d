"""Vectors that no one here wrote, read from the folder that FOREIGN_VECTORS names.

They are public: Wycheproof and CCTV (github.com/C2SP/wycheproof, github.com/C2SP/CCTV), the proofs of
github.com/transparency-dev/merkle, the samples of github.com/cyberphone/json-canonicalization and of
github.com/nst/JSONTestSuite, in folders `wycheproof`, `cctv`, `merkle`, `jcs`, `jsontestsuite` with the layout of the
repositories.
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from dilithium_py.ml_dsa import ML_DSA_44
from msgspec import Meta
from msgspec.structs import replace

from receipts.body import read_json
from tests.vectors.schema import TYPES
from tests.world import World
from verifier.codes import CODES
from verifier.draft import arguments, read_draft
from verifier.encoding import canonical, parse, read, reject_duplicates
from verifier.envelope import Envelope
from verifier.keys import Pin
from verifier.leaf import KINDS, decode
from verifier.manifest import Manifest, Tool
from verifier.merkle import check_consistency, check_inclusion
from verifier.refused import Refused
from verifier.signing import KeyPair, verify_ed25519, verify_ml_dsa_44

Plain = str | int | bool | None
Key = Annotated[str, Meta(pattern=r"^[ -~]*\Z")]
# specs/encoding.md §1, as deep as the samples go; null and a space in a key are let in, so that more can be compared.
Restricted = dict[Key, Plain] | list[Plain | dict[Key, Plain | list[Plain]]]
FORMATS = {name: kind for name, kind in TYPES.items() if name not in {"report", "token"}} | {
    f"receipt {name}": kind for name, kind in KINDS.items()
}
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
    """A seed of another length makes no key; a signature with a context is none of ours, the context being empty."""
    checked = contexts = short = 0
    for group, case in cases(folder / "wycheproof/testvectors_v1/mldsa_44_sign_seed_test.json"):
        seed = bytes.fromhex(group["privateSeed"])
        if len(seed) != 32:
            with pytest.raises(ValueError, match="seed"):
                KeyPair(bytes(32), seed)
            short += 1
            continue
        public = KeyPair(bytes(32), seed).public.raw()[1]
        assert public == bytes.fromhex(group["publicKey"])
        if case.get("ctx"):
            signature = bytes.fromhex(case["sig"])
            assert not verify_ml_dsa_44(public, bytes.fromhex(case["msg"]), signature)
            contexts += 1
        elif "msg" in case:  # the others sign a digest made elsewhere, which pure ML-DSA does not
            assert case["result"] == "valid"
            assert verify_ml_dsa_44(public, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            checked += 1
    assert (checked, contexts, short) == (71, 4, 3)


def test_the_signer_of_our_vectors_gives_wycheproofs_deterministic_signatures(folder: Path) -> None:
    """The pure-Python ML-DSA that signs `specs/vectors/` is held to the same file, byte for byte."""
    same = 0
    for group, case in cases(folder / "wycheproof/testvectors_v1/mldsa_44_sign_seed_test.json"):
        if case["result"] == "valid" and "msg" in case and "Randomized" not in case["flags"] and case["tcId"] < 16:
            secret = ML_DSA_44.key_derive(bytes.fromhex(group["privateSeed"]))[1]
            message, context = bytes.fromhex(case["msg"]), bytes.fromhex(case.get("ctx", ""))
            assert ML_DSA_44.sign(secret, message, context, deterministic=True).hex() == case["sig"], case["tcId"]
            same += 1
    assert same > 8


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
    equal, refused = set(), {}
    for path in sorted((folder / "jcs/testdata/input").iterdir()):
        written = (folder / "jcs/testdata/output" / path.name).read_bytes()
        try:
            value = msgspec.convert(reject_duplicates(path.read_bytes()), Restricted)
        except msgspec.ValidationError as error:
            refused[path.name] = str(error)
            continue
        assert canonical(value) == written, path.name
        assert read(written, Restricted, limit=1 << 20) == value
        equal.add(path.name)
    assert equal == {"arrays.json", "unicode.json"}
    assert set(refused) == {"french.json", "structures.json", "values.json", "weird.json"}


def test_rfc_8785_bytes_are_never_read_as_other_bytes(folder: Path) -> None:
    """What a reader of any JSON gives back is what it got, or it refuses by name: no digest is over other bytes."""
    said = {}
    for path in sorted((folder / "jcs/testdata/output").iterdir()):
        raw = path.read_bytes()
        code = _code(lambda: read(raw, object, limit=1 << 20))  # noqa: B023 - at once
        assert code == (None if canonical(msgspec.json.decode(raw)) == raw else "not-canonical")
        said[path.name] = code
    assert said["values.json"] == said["weird.json"] == "not-canonical"


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_holds_a_float_or_a_free_key_outside_ascii(name: str) -> None:
    """So the two places where RFC 8785 is hard, numbers and the order of keys, do not exist in what is signed."""
    floats, maps = [], []
    for kind in _types(msgspec.inspect.type_info(FORMATS[name]), set()):
        if isinstance(kind, msgspec.inspect.FloatType | msgspec.inspect.AnyType):
            floats.append(kind)
        if isinstance(kind, msgspec.inspect.DictType):
            pattern = getattr(kind.key_type, "pattern", None)
            maps.append(kind)
            assert pattern, kind
            assert not re.match(pattern, "é"), pattern
    assert floats == []


def _types(kind: Any, seen: set[Any]) -> Iterator[Any]:
    """Walk through a type and everything inside it."""
    yield kind
    if isinstance(kind, msgspec.inspect.StructType):
        if kind.cls in seen:
            return
        seen.add(kind.cls)
        for field in kind.fields:
            yield from _types(field.type, seen)
    for part in ("item_type", "key_type", "value_type"):
        if hasattr(kind, part):
            yield from _types(getattr(kind, part), seen)
    for several in ("types", "item_types"):
        for each in getattr(kind, several, ()):
            yield from _types(each, seen)


def _manifest(raw: bytes) -> None:
    """Carry a text as a tool's schema, which has to be an object; what is no text never gets that far."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("not-utf8", "not text") from error
    tool = Tool(
        name="t", description="t", input_schema=text, tool_class="read", sensitivity="internal",
        data_classes=[], approval="none",
    )  # fmt: skip
    Manifest.parse(canonical(replace(World().manifest, tools=[tool])))


# Every reader that takes JSON which we did not write, and the codes by which each refuses what is valid JSON.
READERS: dict[str, tuple[Callable[[bytes], Any], set[str | None]]] = {
    "any": (reject_duplicates, {None, "not-canonical", "too-deep"}),
    "typed": (lambda raw: parse(raw, object, limit=1 << 20), {None, "too-deep"}),
    "canonical": (lambda raw: read(raw, object, limit=1 << 20), {None, "not-canonical", "too-deep"}),
    "draft": (read_draft, {None, "not-canonical", "too-deep", "wrong-type"}),
    "arguments": (arguments, {None, "not-canonical", "too-deep", "wrong-type", "bad-value"}),
    "schema": (_manifest, {None, "not-canonical", "too-deep", "bad-manifest"}),
    "pin": (Pin.parse, {"bad-pin"}),
    "envelope": (
        lambda raw: Envelope.parse(raw, "policy"),
        {"unknown-field", "missing-field", "wrong-type", "not-canonical", "too-deep"},
    ),
    "receipt": (decode, {"wrong-kind", "wrong-type", "not-canonical", "too-deep"}),
    "body": (read_json, {None, "duplicate-key", "bad-number", "too-deep"}),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_json_does_not_parse_and_what_is_does_unless_refused_by_name(folder: Path, name: str) -> None:
    """`y_` parses, or has a name in our form: a key twice, too deep. `n_` never does. `i_` may go either way."""
    reader, valid = READERS[name]
    paths = sorted((folder / "jsontestsuite/test_parsing").glob("*.json"))
    said = set()
    for path in paths:
        code = _code(lambda: reader(path.read_bytes()))  # noqa: B023 - at once
        assert code is None or code in CODES or name == "body"
        assert path.name[0] != "y" or code in valid, path.name
        assert path.name[0] != "n" or code is not None, path.name
        said.add(code)
    assert len(paths) > 300
    assert len(said) > (name != "pin")


def test_what_two_parsers_read_differently_is_refused_or_kept_exactly(folder: Path) -> None:
    """JSONTestSuite's other folder: the same key twice, half characters, numbers that do not fit."""
    said = {
        path.name: _code(lambda: reject_duplicates(path.read_bytes(), Decimal))  # noqa: B023 - at once
        for path in sorted((folder / "jsontestsuite/test_transform").glob("*.json"))
    }
    assert {name for name, code in said.items() if code == "not-canonical"} == {
        f"object_same_key_{each}.json" for each in ("different_values", "same_value", "unclear_values")
    }
    assert {name for name, code in said.items() if code == "not-utf8"} == {
        name for name in said if "invalid_codepoint" in name
    }
    kept = (folder / "jsontestsuite/test_transform/number_1.000000000000000005.json").read_bytes()
    assert reject_duplicates(kept, Decimal) == [Decimal("1.000000000000000005")]
    assert set(said.values()) == {None, "not-canonical", "not-utf8"}
