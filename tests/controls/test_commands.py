"""The road of an author and a registrar, from drafts to the registry, by the commands that the manual shows.

The registry is a process of its own, as `tally run` starts it, on today's clock.
"""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec import Struct
from typer.testing import CliRunner

from controls.commands import app
from examples.crm_server import crm
from service.app import now
from service.initialise import Plan, Urls, initialise
from tests.conftest import free_port
from verifier.documents import open_manifest, open_policy
from verifier.envelope import Envelope
from verifier.keys import Pin, Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.refused import Refused

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


class Installed(Struct, frozen=True):
    """A registry that runs."""

    home: Path
    url: str

    def client(self, name: str) -> tuple[object, ...]:
        """The options that say where, and as whom."""
        return ("--url", self.url, "--client", self.home / name)

    def get(self, path: str) -> bytes:
        """Read what is public."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def trust(self) -> Trust:
        """Believe the installation's own key list."""
        return Trust.establish(Pin.parse((self.home / "pin.json").read_bytes()), (self.home / "keys.json").read_bytes())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installed, None, None]:
    """Make an installation and run its registry."""
    home = tmp_path_factory.mktemp("installed") / "home"
    url = f"http://127.0.0.1:{free_port()}"
    initialise(home, Plan(urls=Urls(controls=url), demo=True), now(), os.urandom)
    command = [sys.executable, "-m", "service.commands", "run", "controls", "--dir", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            yield wait(Installed(home, url), process)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def wait(registry: Installed, process: subprocess.Popen[bytes]) -> Installed:
    """Wait until the registry answers, or has ended."""
    while process.poll() is None:
        try:
            registry.get("/livez")
        except OSError:
            sleep(0.05)
        else:
            return registry
    raise RuntimeError((process.stderr.read() if process.stderr else b"").decode())


def tally(*words: object, code: str = "") -> Any:
    """Run a command; gives what it said, as JSON where that was asked for. `code` is the refusal that is expected."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if code:
        assert isinstance(result.exception, Refused), result.output
        assert result.exception.code == code
        return None
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in words else result.stdout


def test_an_author_builds_tests_signs_publishes_and_anybody_fetches(installed: Installed, tmp_path: Path) -> None:
    built, signed, fetched = tmp_path / "built.json", tmp_path / "signed.json", tmp_path / "fetched.json"
    key = installed.home / "author/policy.key"
    said = tally("policy", "build", EXAMPLES / "policies/minimal.json", "--key", key, "-o", built, "--json")
    digest = said["digest"]
    assert Policy.parse(built.read_bytes()).issuer == "example.author"
    assert "tests hold" in tally("policy", "test", built)
    assert tally("policy", "sign", built, "--key", key, "-o", signed, "--json")["digest"] == digest
    assert tally("policy", "publish", signed, *installed.client("author"), "--json") == {"digest": digest}
    where = ("--url", installed.url, "--pin", installed.home / "pin.json")
    text = tally("policy", "fetch", digest, *where, "-o", fetched)
    assert text == f"{digest}: good: mcp-enterprise-agent-minimal, serial 1, by example.author\n"
    assert fetched.read_bytes() == installed.get(f"/policies/{digest}")
    assert open_policy(installed.trust(), fetched.read_bytes(), now()).digest == digest
    withdrawn = tally("policy", "withdraw", digest, "--reason", "too wide", *installed.client("author"), "--json")
    assert (withdrawn["status"], withdrawn["withdrawn_by"]) == ("withdrawn", "author")


def test_a_policy_is_exported_from_a_file_or_by_its_digest(installed: Installed, tmp_path: Path) -> None:
    parent, child = tmp_path / "parent.json", tmp_path / "child.json"
    key, author = installed.home / "author/policy.key", installed.client("author")
    drafts = {"parent": {"policy_name": "above"}, "child": {"policy_name": "below"}}
    for name, out in (("parent", parent), ("child", child)):
        rules = [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"]}]
        (tmp_path / "draft.json").write_text(json.dumps({**drafts[name], "allowed_tools": rules}))
        tally("policy", "build", tmp_path / "draft.json", "--key", key, "-o", out)
        drafts["child"]["parent"] = tally("policy", "sign", out, "--key", key, "-o", out, "--json")["digest"]
        tally("policy", "publish", out, *author)
    digest = drafts["child"]["parent"]
    home = tmp_path / "out"
    read = tally("policy", "export", child, "--with", parent, "--for", "cedar", "--json")
    where = ("--url", installed.url, "--pin", installed.home / "pin.json")
    assert tally("policy", "export", digest, "--for", "cedar", *where, "--json") == read
    assert '@id("1/default")' in read["files"]["policy.cedar"]
    said = tally("policy", "export", digest, "--for", "claude-code", *where, "--output", home)
    assert said.startswith(f"{home}/settings.json: written\n{home}/.mcp.json: written\n")
    assert "gateway: 1/responses: answers are screened by the gateway" in said
    assert json.loads((home / "settings.json").read_text())["permissions"]["allow"] == ["mcp__crm-mcp__get_case"]
    (home / "settings.json").unlink()
    tally("policy", "export", digest, "--for", "claude-code", *where, "--output", home, code="file-exists")
    assert not (home / "settings.json").exists()
    assert tally("policy", "export", digest, "--for", "openclaw", *where, "-o", home, "--json")["files"]
    tally("policy", "export", child, "--for", "cedar", code="missing-parent")
    tally("policy", "export", digest, "--for", "cedar", code="usage")
    tally("policy", "export", tmp_path / "nothing.json", "--for", "cedar", code="usage")


def test_a_registrar_registers_a_server_and_publishes_its_manifest(installed: Installed, tmp_path: Path) -> None:
    built, signed = tmp_path / "built.json", tmp_path / "signed.json"
    key, upstream = installed.home / "registrar/registry.key", "http://127.0.0.1:9999/mcp"
    named = ("--server-url", upstream, "--purpose", "Customers and their cases", "--owner", "crm-team")
    classes = ("--data-class", "customer_provided", "--data-class", "internal")
    registrar = installed.client("registrar")
    entry = tally("server", "register", "crm-mcp", *named, *classes, *registrar, "--json")
    assert entry["record"]["url"] == upstream
    assert entry["record"]["next_review"] > entry["record"]["last_review"]
    draft = EXAMPLES / "manifests/crm-mcp.json"
    digest = tally("manifest", "build", draft, "--key", key, "--server-url", upstream, "-o", built, "--json")["digest"]
    tally("manifest", "sign", built, "--key", key, "-o", signed)
    assert tally("manifest", "publish", signed, *registrar) == f"approved {digest} for crm-mcp\n"
    served = installed.get(f"/manifests/{digest}")
    assert served == signed.read_bytes()
    assert open_manifest(installed.trust(), served, now()).value.issuer == "example.registrar"
    assert "next review 2100-01-01" in tally(
        "server", "register", "crm-mcp", *named, *classes, *registrar, "--next-review", "2100-01-01"
    )


async def test_a_manifest_takes_what_the_server_says_from_its_listing(tmp_path: Path) -> None:
    listing = [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in await crm(0).list_tools()]
    listed, draft, built = (tmp_path / name for name in ("listed.json", "draft.json", "built.json"))
    listed.write_text(json.dumps({"tools": listing}))
    judged = {"name": "get_case", "tool_class": "read", "sensitivity": "internal", "data_classes": []}
    draft.write_text(json.dumps({"server": "crm-mcp", "url": "http://127.0.0.1:9999/mcp", "tools": [judged]}))
    tally("manifest", "build", draft, "--issuer", "me", "-o", built, code="missing-field")
    said = tally("manifest", "build", draft, "--issuer", "me", "--tools-list", listed, "-o", built)
    assert "not approved: export_customers, http_request, search_customer" in said
    assert Manifest.parse(built.read_bytes()).tools[0].description == "Read one support case."


def test_a_policy_is_not_signed_before_its_tests_hold(installed: Installed, tmp_path: Path) -> None:
    draft, built, signed = (tmp_path / name for name in ("draft.json", "built.json", "signed.json"))
    call = {"server": "crm-mcp", "tool": "get_case"}
    draft.write_text(json.dumps({"policy_name": "p", "tests": [{"name": "t", "call": call, "expect": "allow"}]}))
    key = installed.home / "author/policy.key"
    tally("policy", "build", draft, "--key", key, "-o", built)
    assert CliRunner().invoke(app, ["policy", "test", str(built)]).exit_code == 1
    tally("policy", "sign", built, "--key", key, "-o", signed, code="policy-test-failed")
    assert not signed.exists()


def test_a_policy_is_signed_by_its_issuer_alone(installed: Installed, tmp_path: Path) -> None:
    built, signed = tmp_path / "built.json", tmp_path / "signed.json"
    draft, key = EXAMPLES / "policies/minimal.json", installed.home / "author/policy.key"
    tally("policy", "build", draft, "--issuer", "somebody", "-o", built)
    tally("policy", "sign", built, "--key", key, "-o", signed, code="wrong-owner")
    tally("policy", "build", draft, "--key", key, "-o", built)
    registrar = installed.home / "registrar/registry.key"
    tally("policy", "sign", built, "--key", registrar, "-o", signed, code="wrong-owner")
    tally("policy", "build", draft, "-o", built, code="usage")
    tally("policy", "build", draft, "--key", key, "--issuer", "x", "-o", built, code="usage")
    assert not signed.exists()


def test_a_client_without_the_role_is_told_so(installed: Installed, tmp_path: Path) -> None:
    built, signed = tmp_path / "built.json", tmp_path / "signed.json"
    key = installed.home / "author/policy.key"
    tally("policy", "build", EXAMPLES / "policies/minimal.json", "--key", key, "--serial", "9", "-o", built)
    tally("policy", "sign", built, "--key", key, "-o", signed)
    tally("policy", "publish", signed, *installed.client("registrar"), code="forbidden")
    tally("policy", "publish", signed, "--url", installed.url, "--client", tmp_path, code="no-key")
    digest = tally("policy", "sign", built, "--key", key, "-o", signed, "--json")["digest"]
    where = ("--url", installed.url, "--pin", installed.home / "pin.json")
    tally("policy", "fetch", digest, *where, code="unknown-policy")
    assert Envelope.parse(signed.read_bytes(), "policy").signatures
