"""The specifications against the code: vectors, schemas, codes, threats, citations, examples."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from tests.vectors.bundles.approvals import approval
from tests.vectors.case import FROZEN, SPECS, VECTORS, Case
from tests.vectors.judge import READERS, expected, judge, trust
from tests.world import MINIMAL, NOW, World
from verifier import leaf
from verifier.approval import Approval
from verifier.audit import verify
from verifier.box import Box
from verifier.codes import CODES
from verifier.commitment import call_key, commit
from verifier.conditions import glob_matches
from verifier.disclosure import Disclosure
from verifier.disclosure import check as check_disclosure
from verifier.draft import build, read_draft
from verifier.encoding import canonical, unb64
from verifier.envelope import Envelope
from verifier.grant import Grant, Token
from verifier.keys import KeyList, Pin, Use
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.revocation import Heartbeat, Revocation
from verifier.rules import Condition
from verifier.seal import Seal

ROOT = SPECS.parent
PACKAGES = ("verifier", "service", "controls", "scope", "receipts")
FOLDERS = ("bundles", *READERS)
FILES = [path for folder in FOLDERS for path in sorted((VECTORS / folder).iterdir())]


def named(path: Path) -> str:
    """Name a vector by folder and file."""
    return f"{path.parent.name}/{path.name}"


# Vectors and schemas --------------------------------------------------------------------------------------------------


def test_the_generator_makes_the_vectors_and_schemas_that_are_there() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.vectors", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_vector_is_judged_as_its_header_says(path: Path) -> None:
    case = Case.parse(path.read_bytes())
    assert case.why
    assert judge(path.parent.name, case) == (case.verdict, case.codes, case.finds)


def test_every_code_that_a_document_can_get_has_a_vector() -> None:
    shown = {code for path in FILES for code in Case.parse(path.read_bytes()).codes}
    assert set(CODES) - shown == set()


def test_the_frozen_bundle_is_judged_as_it_always_was() -> None:
    report = verify(FROZEN / "job-1.tally", Pin.parse((FROZEN / "pin.json").read_bytes()))
    assert expected(report) == (FROZEN / "expected.json").read_bytes()


def honest() -> Iterator[tuple[str, bytes]]:
    """Give every kind of honest document beside the name of its schema."""
    world = World().story()
    world.revoke("job", world.job, NOW)
    documents = world.documents(world.sealed())
    yield from (("envelope", raw) for raw in (documents.keys, *documents.policies, *documents.grants))
    yield "keys", world.keys_payload
    yield "pin", canonical(world.pin())
    yield "policy", world.policy_payload
    yield "manifest", world.manifest_payload
    yield "grant", world.grant_payload
    yield "seal", canonical(world.sealed())
    yield "revocation", canonical(world.revocations[0])
    yield "approval", canonical(approval(world))
    table = json.loads((VECTORS / "tables" / "disclosures.json").read_bytes())
    yield "disclosure", json.dumps(table[0]["disclosure"]).encode()
    yield "box", json.dumps(json.loads((FROZEN / "box.json").read_bytes())["box"]).encode()
    yield "report", json.dumps(json.loads(canonical(world.verify()))).encode()
    yield from (("receipt", raw) for raw in world.lanes[0].raws)


@pytest.mark.parametrize("name", sorted({name for name, _ in honest()}))
def test_a_schema_accepts_what_is_honest_and_refuses_a_field_more(name: str) -> None:
    schema = json.loads((SPECS / "schema" / f"{name}.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for kind, raw in honest():
        if kind == name:
            validator.validate(json.loads(raw))
            assert name == "report" or not validator.is_valid({**json.loads(raw), "more": 1})


def test_globs_are_as_the_table_says() -> None:
    for row in json.loads((VECTORS / "tables" / "globs.json").read_bytes()):
        assert glob_matches(row["pattern"], row["text"]) is row["matches"], row


# Errors ---------------------------------------------------------------------------------------------------------------


def table(text: str, title: str) -> list[list[str]]:
    """Read the first table after a heading, without its header, cells without their back-ticks."""
    _, _, after = text.partition(f"## {title}")
    assert after, title
    lines = after.partition("\n## ")[0].split("\n")
    rows = [[cell.strip().strip("`") for cell in line[1:-1].split(" | ")] for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1, title
    return rows[2:]


def errors(title: str) -> list[list[str]]:
    """Read a table of errors.md."""
    return table((SPECS / "errors.md").read_text(), title)


def test_the_codes_of_documents_are_those_of_the_verifier() -> None:
    written = {code: (verdict, says, hint) for code, verdict, says, hint in errors("1. ")}
    assert written == {code: (each.verdict.name, each.says, each.hint) for code, each in CODES.items()}


def raised() -> dict[str, str]:
    """Find every code that the sources raise or record by a literal, and where."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                for code in literal_codes(node):
                    found[code] = f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
    return found


def literal_codes(node: ast.AST) -> Iterator[str]:
    """Read the code of one refusal: the place of the code is known for each way to refuse."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    place = {"Refused": 0, "BadToken": 0, "UpstreamFailed": 0, "Denied": 1, "fail": 1}.get(name)
    if place is not None and len(node.args) > place:
        argument = node.args[place]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value


def documented() -> dict[str, str]:
    """Name every code of errors.md and its part."""
    return {row[0]: title for title in ("1. ", "2. ", "3. ", "4. ") for row in errors(title)}


def test_every_code_in_the_sources_is_in_the_table() -> None:
    known = documented()
    assert {code: place for code, place in raised().items() if code not in known} == {}


def test_every_code_in_the_table_is_in_the_sources() -> None:
    literals = {
        node.value
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(documented()) - literals == set()


@pytest.mark.parametrize(("service", "title"), [("controls", "1. "), ("scope", "2. ")])
def test_the_acts_on_record_are_those_that_are_written(service: str, title: str) -> None:
    nodes = [node for path in (ROOT / service).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    literals = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {
        node.value.value
        for node in nodes
        if isinstance(node, ast.keyword) and node.arg == "act" and isinstance(node.value, ast.Constant)
    }
    rows = table((SPECS / "audit.md").read_text(), title)
    written = {act for row in rows for act in re.findall(r"[a-z-]+", row[0])}
    assert named <= written <= literals


def test_a_code_that_has_a_status_of_its_own_is_written_with_it() -> None:
    tables = {service: import_module(f"{service}.app").STATUSES for service in ("controls", "scope", "receipts")}
    tables["every service"] = import_module("service.problems").STATUS
    written = {
        (service, code): int(status)
        for code, places, status, *_ in errors("2. ")
        for service in places.split(", ")
        if service in tables
    }
    coded = {(service, code): status for service, codes in tables.items() for code, status in codes.items()}
    assert {key: status for key, status in written.items() if status != 400} == coded


def test_a_refused_call_has_the_status_that_is_written() -> None:
    completion, tokens = import_module("receipts.completion"), import_module("receipts.tokens")
    refused = import_module("verifier.refused").Refused
    for code, status, receipt, *_ in errors("3. "):
        if receipt.startswith("end"):
            continue  # an upstream's failure carries its own status
        error = (tokens.BadToken if status == "401" else refused)(code, "why")
        if code not in {
            "header-mismatch",
            "bad-params",
            "unsupported-version",
            "bad-schema",
            "unknown-state",
        }:  # of the MCP path alone
            assert completion.refusal(error).status == int(status), code


# Threats --------------------------------------------------------------------------------------------------------------


def threats() -> list[list[str]]:
    """Read both tables of threats.md."""
    text = (SPECS / "threats.md").read_text()
    return table(text, "1. ") + table(text, "2. ")


@pytest.mark.parametrize("row", threats(), ids=lambda row: row[0])
def test_every_threat_names_a_proof_that_exists(row: list[str]) -> None:
    _, stops, code, proof = row
    assert stops
    assert code == "none" or code in documented()
    if proof.startswith("tests/"):
        path, _, name = proof.partition("::")
        assert re.search(rf"^ *(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), proof
    else:
        folder, _, file = proof.rpartition("/")
        assert code in Case.parse((VECTORS / (folder or "bundles") / file).read_bytes()).codes


def test_what_losing_a_key_means_is_said_of_every_use() -> None:
    rows = {row[0].strip("`") for row in table((SPECS / "threats.md").read_text(), "4. ")}
    assert set(get_args(Use)) | {"root"} <= rows


# Citations and examples -----------------------------------------------------------------------------------------------

CITATION = re.compile(r"specs/([a-z-]+\.md)(?: §([0-9]+))?")
LINK = re.compile(r"\]\(([a-z-]+\.md)\)(?: §([0-9]+))?")


def citations() -> Iterator[tuple[str, str, str]]:
    """Find every mention of a page, and perhaps of its section, in sources and pages."""
    sources = [path for package in (*PACKAGES, "tests", "examples") for path in (ROOT / package).rglob("*.py")]
    for path in sources:
        if path != Path(__file__):
            yield from ((str(path), *found) for found in CITATION.findall(path.read_text()))
    for path in SPECS.glob("*.md"):
        yield from ((str(path), *found) for found in LINK.findall(path.read_text()))


def test_every_section_that_is_cited_exists() -> None:
    for where, page, section in citations():
        assert (SPECS / page).is_file(), (where, page)
        assert not section or f"\n## {section}. " in (SPECS / page).read_text(), (where, page, section)


def test_the_steps_are_numbered_as_in_the_code() -> None:
    text = (SPECS / "verification.md").read_text()
    steps = {
        int(node.args[1].value)
        for path in (ROOT / "verifier").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"add", "refuse"} and len(node.args) > 1
        if isinstance(node.args[1], ast.Constant) and isinstance(node.args[1].value, int)
    }
    assert steps
    assert all(f"\n## {step}. " in text for step in steps)


def test_every_page_is_in_the_reading_order() -> None:
    index = (SPECS / "README.md").read_text()
    assert [
        path.name for path in SPECS.glob("*.md") if f"]({path.name})" not in index and path.name != "README.md"
    ] == []


def whole() -> dict[str, str]:
    """Collect the long keys that examples cut short, by their first characters."""
    texts = [*re.findall(r'"([A-Za-z0-9+/=]{200,})"', (VECTORS / "pin.json").read_text())]
    texts += [key.ml_dsa_44 or "" for key in trust().listed.keys]
    texts.append(json.loads((FROZEN / "box.json").read_bytes())["box"]["ciphertext"])
    return {text[:24]: text for text in texts}


def packed(example: str) -> bytes:
    """Write an example canonically, with its keys whole."""
    for start, text in whole().items():
        example = example.replace(f"{start}…", text)
    return canonical(json.loads(example))


def _disclosed() -> leaf.Commitment:
    """Make the commitment that the page's example opens."""
    key = call_key(bytes(range(32)), "call-1", "sent")
    return commit(key, [b'{"arguments":{', b'"amount":10.50', b",", b'"to":"a@b.example"', b"}}"])


READ: dict[str, Callable[[str], Any]] = {
    "heartbeat": lambda text: Heartbeat.parse(packed(text)),
    "envelope revocation": lambda text: trust().open(packed(text), "revocation"),
    "keys": lambda text: KeyList.parse(packed(text)),
    "pin": lambda text: Pin.parse(packed(text)),
    "draft": lambda text: build(read_draft(text.encode()), issuer="security-team", now=NOW),
    "condition": lambda text: Condition(**json.loads(text)),
    "conditions": lambda text: [Condition(**each) for each in json.loads(text)],
    "manifest": lambda text: Manifest.parse(packed(text)),
    "prices": lambda text: Prices.parse(packed(text)),
    "grant": lambda text: Grant.parse(packed(text)),
    "token": lambda text: Token(**json.loads(text)),
    "receipts": lambda text: [leaf.decode(line.encode()) for line in text.splitlines()],
    "approval": lambda text: Approval.parse(packed(text)),
    "revocation": lambda text: Revocation.parse(packed(text)),
    "seal": lambda text: Seal.parse(packed(text)),
    "disclosure": lambda text: check_disclosure(Disclosure.parse(packed(text)), _disclosed()),
    "box": lambda text: Box.parse(packed(text)),
}


def examples() -> list[tuple[str, str, str]]:
    """Find every JSON example of every page."""
    block = re.compile(r"```json ([a-z ]+)\n(.*?)```", re.DOTALL)
    return [
        (path.name, kind, text) for path in sorted(SPECS.glob("*.md")) for kind, text in block.findall(path.read_text())
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"{example[0]} {example[1]}")
def test_an_example_is_read_by_the_real_types(example: tuple[str, str, str]) -> None:
    _, kind, text = example
    assert READ[kind](text)


def test_every_format_has_an_example() -> None:
    assert {kind for _, kind, _ in examples()} == set(READ)


def test_the_draft_in_the_page_is_the_users_example() -> None:
    text = next(text for _, kind, text in examples() if kind == "draft")
    assert json.loads(text) == json.loads(MINIMAL.read_bytes())
    assert isinstance(build(read_draft(text.encode()), issuer="a", now=NOW), Policy)


def test_the_canonical_bytes_in_the_page_are_those_of_its_example() -> None:
    page = (SPECS / "encoding.md").read_text()
    text = next(text for name, _, text in examples() if name == "encoding.md")
    assert f"```\n{canonical(json.loads(text)).decode()}\n```" in page


# Check without us -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Take the program out of its page."""
    page = (SPECS / "check-without-us.md").read_text()
    program = tmp_path_factory.mktemp("foreign") / "check.py"
    program.write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    return program


def check(program: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run it, apart from this project."""
    return subprocess.run(
        [sys.executable, "-I", program, bundle, VECTORS / "pin.json"], capture_output=True, text=True, check=False
    )


def test_a_bundle_can_be_checked_without_our_code(foreign: Path) -> None:
    source = foreign.read_text()
    assert not re.search(r"import (verifier|nacl|msgspec)|from (verifier|nacl|msgspec)", source)
    done = check(foreign, FROZEN / "job-1.tally")
    assert (done.returncode, done.stdout) == (0, "job job-1: complete, 19 receipts as they were sealed\n"), done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "receipt-dropped",
        "receipt-rewritten-by-gateway",
        "grant-stripped-of-ml-dsa",
        "head-stripped-of-ml-dsa",
        "keys-of-another-root",
        "seal-by-gateway",
        "lane-left-out",
        "manifest-older",
        "no-seal",
        "two-policies",
    ],
)
def test_the_check_without_our_code_refuses_what_is_forged(foreign: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bent.tally"
    bundle.write_bytes(Case.parse((VECTORS / "bundles" / name).read_bytes()).raw)
    assert check(foreign, bundle).returncode == 1


def test_an_envelope_of_the_bundle_reads_as_the_page_says() -> None:
    line = next(line for line in (FROZEN / "job-1.tally").read_bytes().splitlines() if line.startswith(b'{"seal":'))
    assert Seal.parse(unb64(json.loads(line)["seal"]["payload"])).job == "job-1"
    assert Envelope.parse(line[8:-1], "seal").signatures
