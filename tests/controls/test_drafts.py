"""A manifest is what the reviewer says of tools, filled with what the server says of them."""

import json
from pathlib import Path

import pytest

from controls.drafts import build_manifest, read_listing, read_manifest_draft
from examples.crm_server import crm
from tests.conftest import START
from verifier.manifest import Manifest
from verifier.refused import Refused

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/manifests/crm-mcp.json"
JUDGED = {
    "name": "get_case",
    "tool_class": "read",
    "sensitivity": "internal",
    "data_classes": ["internal", "customer_provided"],
}
SCHEMA = {"type": "object", "properties": {"amount": {"type": "number", "maximum": 1.0}}}
LISTED = {
    "name": "get_case",
    "description": "Read.",
    "inputSchema": SCHEMA,
    "annotations": {"readOnlyHint": True},
    "icons": [],
}


def draft(**fields: object) -> bytes:
    """Write a draft of one tool."""
    return json.dumps(
        {"server": "crm-mcp", "url": "http://127.0.0.1:8801/mcp", "tools": [JUDGED | fields]}, indent=4
    ).encode()


def refused(raw: bytes, listing: bytes | None = None) -> Refused:
    """Expect a draft to be refused."""

    def attempt() -> Manifest:
        listed = read_listing(listing) if listing else None
        return build_manifest(read_manifest_draft(raw), issuer="me", now=START, listing=listed)

    with pytest.raises(Refused) as caught:
        attempt()
    return caught.value


@pytest.mark.parametrize("whole", [False, True])
def test_the_servers_own_listing_fills_what_a_draft_leaves_out(*, whole: bool) -> None:
    listing: object = {"tools": [LISTED, {**LISTED, "name": "other"}], "ttlMs": 0}
    listing = {"jsonrpc": "2.0", "id": 1, "result": listing} if whole else listing
    listed = read_listing(json.dumps(listing).encode())
    manifest = build_manifest(read_manifest_draft(draft()), issuer="me", now=START, serial=7, listing=listed)
    (tool,) = manifest.tools
    assert (manifest.issuer, manifest.issued_at, manifest.serial) == ("me", START, 7)
    assert (tool.name, tool.description, tool.approval) == ("get_case", "Read.", "none")
    assert tool.annotations == '{"readOnlyHint":true}'
    assert tool.data_classes == ["customer_provided", "internal"]


def test_a_schema_keeps_its_own_tokens() -> None:
    raw = draft(description="Read.", input_schema=SCHEMA)
    manifest = build_manifest(read_manifest_draft(raw), issuer="me", now=START)
    assert manifest.tools[0].input_schema == '{"type":"object","properties":{"amount":{"type":"number","maximum":1.0}}}'


def test_the_draft_speaks_before_the_listing() -> None:
    listed = read_listing(json.dumps({"tools": [LISTED]}).encode())
    manifest = build_manifest(read_manifest_draft(draft(description="Mine.")), issuer="me", now=START, listing=listed)
    assert manifest.tools[0].description == "Mine."


def test_what_a_draft_cannot_be_is_refused_by_code() -> None:
    good = draft(description="Read.", input_schema=SCHEMA)
    listing = json.dumps({"tools": [{**LISTED, "name": "other"}]}).encode()
    assert refused(draft()).code == "missing-field"
    assert refused(draft(), listing).code == "unknown-tool"
    assert refused(good, b'{"tools":1}').code == "wrong-type"
    assert refused(good, b"[" * 100).code == "too-deep"
    assert refused(good[:-1]).code == "truncated"
    assert refused(good.replace(b'"server"', b'"server": "x", "server"')).code == "not-canonical"
    assert refused(draft(description="Read.", input_schema=[])).code == "bad-manifest"
    assert refused(draft(description="Read.", input_schema=SCHEMA, tool_class="safe")).code == "bad-value"
    assert refused(draft(description="Read.", input_schema=SCHEMA, sensitivity="a b")).code == "bad-value"
    assert refused(draft(description="Read.", input_schema=SCHEMA, approval="human")).code == "unknown-field"


async def test_the_example_draft_says_what_the_example_server_says() -> None:
    listing = [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in await crm(0).list_tools()]
    manifest = build_manifest(read_manifest_draft(EXAMPLE.read_bytes()), issuer="me", now=START)
    said = {
        tool.name: (tool.description, json.loads(tool.input_schema), json.loads(tool.output_schema or "null"))
        for tool in manifest.tools
    }
    assert said == {tool["name"]: (tool["description"], tool["inputSchema"], tool["outputSchema"]) for tool in listing}
