"""Policies for Claude Code and OpenClaw, asked as these programs would be: never wider than the policy, by any name."""

import json
import os
import re
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controls.analysis.witness import ask, rank
from controls.exports import Export, Runtime, export
from tests.controls.cedar import Engine
from tests.verifier.test_two_decisions import Generator
from verifier.decision import Call, Recency, Subject, ToolTarget
from verifier.draft import build
from verifier.policy import Chain
from verifier.refused import Refused

NOW = 1_790_000_000_000_000
AT_ONCE = 3
NIGHTLY = os.environ.get("TALLY_NIGHTLY") == "1"
tries = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def matches(pattern: str, text: str) -> bool:
    """A glob of either program: `*` alone means more than itself."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text, re.DOTALL) is not None


class ClaudeCode:
    """What the documentation of Claude Code says of its settings: deny, ask, allow, in this order."""

    def __init__(self, done: Export) -> None:
        self.settings = json.loads(done.files["settings.json"])
        self.servers = json.loads(done.files[".mcp.json"])["mcpServers"]

    def says(self, server: str, tool: str) -> str:
        """Answer for a tool that the gateway shows."""
        key = next((key for key, each in self.servers.items() if each["url"].endswith(f"}}/mcp/{server}")), None)
        if key is None:
            return "deny"
        return self.own("__".join(("mcp", *(re.sub(r"[^A-Za-z0-9_-]", "_", each) for each in (key, tool)))))

    def own(self, name: str) -> str:
        """Answer for a name as Claude Code writes it."""
        rules = self.settings["permissions"]
        for kind in ("deny", "ask", "allow"):
            if any(matches(each, name) for each in rules[kind] if kind != "allow" or anchored(each)):
                return kind
        return {"dontAsk": "deny", "default": "ask"}[rules["defaultMode"]]


def anchored(rule: str) -> bool:
    """An allow rule may have a glob only behind `mcp__<server>__`."""
    return "*" not in rule or re.fullmatch(r"mcp__(?:[A-Za-z0-9-]|_(?!_))+__[^_].*", rule) is not None


class OpenClaw:
    """What OpenClaw's sources make of its configuration: filter of the server, tool policy, both versions of it."""

    def __init__(self, done: Export) -> None:
        self.config = json.loads(done.files["openclaw.json"])
        self.servers = self.config["mcp"]["servers"]

    def offers(self, server: str, tool: str) -> bool:
        """Tell whether the agent gets a tool that the gateway shows."""
        if server not in self.servers:
            return False
        prefix = self.prefixes()[server]
        name = re.sub(r"[^A-Za-z0-9_-]", "-", tool)
        name = prefix + "__" + (name if name[:1].isalpha() else f"tool-{name}")[: 64 - len(prefix) - 2]
        names, filters = (tool, f"{server}__{tool}", name), self.servers[server]["toolFilter"]
        if filters["include"] and not any(matches(each, name) for each in filters["include"] for name in names):
            return False
        if any(matches(each, name) for each in filters["exclude"] for name in names):
            return False
        tools = self.config["tools"]
        return self.lets(name, tools) and self.lets(name, tools["sandbox"]["tools"])

    def prefixes(self) -> dict[str, str]:
        """Name servers apart, in small letters, at most 30 characters."""
        found: dict[str, str] = {}
        for server in self.servers:
            base = candidate = re.sub(r"[^A-Za-z0-9_-]", "-", server)[:30]
            number = 2
            while candidate.lower() in {each.lower() for each in found.values()}:
                candidate, number = f"{base}-{number}", number + 1
            found[server] = candidate
        return found

    def lets(self, name: str, rules: dict[str, list[str]]) -> bool:
        """Deny wins; a list without a tool of OpenClaw's own allows everything, in older versions."""
        if any(matches(each.lower(), name.lower()) for each in expanded(rules["deny"])):
            return False
        allow = expanded(rules["allow"])
        if not set(allow) & {each for group in CORE.values() for each in group}:
            return True
        return any(matches(each.lower(), name.lower()) for each in allow)


CORE = {
    "group:fs": ["read", "write", "edit", "apply_patch"], "group:runtime": ["exec", "process"],
    "group:sessions": ["sessions_list", "sessions_send", "sessions_spawn", "session_status"],
    "group:openclaw": ["browser", "cron", "gateway", "message", "nodes", "session_status", "web_fetch", "web_search"],
}  # fmt: skip


def expanded(rules: list[str]) -> list[str]:
    return [name for each in rules for name in CORE.get(each, [each])]


def policy(**draft: Any) -> Chain:
    return (build({"policy_name": "p", **draft}, issuer="me", now=NOW),)


def rule(**changes: Any) -> dict[str, Any]:
    return {"kind": "mcp", "server": "crm", "tools": ["get_case"], **changes}


def named(server: str, tool: str) -> Call:
    return Call(
        subject=Subject("a", "c", "j", "t", "e"), target=ToolTarget(server, tool, "read", "s", "h"),
        arguments={}, recent=Recency(first_use=False), token_ttl=0, time=NOW, staleness=0,
    )  # fmt: skip


IF = [{"attr": "args.a", "op": "eq", "value": 1}]


def plain(call: Call) -> Call:
    """Take from a call what is the gateway's to judge: labels, host, the manifest's own tier, the token's life."""
    assert isinstance(call.target, ToolTarget)
    return replace(call, token_ttl=0, target=replace(call.target, labels=(), host="a.example", approval="none"))


@settings(tries, max_examples=3000 if NIGHTLY else 60)
@given(st.randoms(use_true_random=False))
def test_what_is_let_through_without_a_question_is_allowed(random: Random) -> None:
    made = Generator(0)
    made.random = random
    chain = made.chain()
    claude, claw = ClaudeCode(export(chain, "claude-code")), OpenClaw(export(chain, "openclaw"))
    for call in (plain(each) for each in (made.call() for _ in range(12)) if isinstance(each.target, ToolTarget)):
        assert isinstance(call.target, ToolTarget)
        if call.target.kind != "mcp":
            continue
        at_once = rank(ask(chain, call)) == AT_ONCE
        names = call.target.server, call.target.tool
        assert at_once or (claude.says(*names) != "allow" and not claw.offers(*names)), call


NAMES = st.text(alphabet="aAb_-.", min_size=1, max_size=6)
SERVERS = st.builds("a{}".format, st.text(alphabet="aAb_-.", max_size=4))
GLOBS = st.text(alphabet="aAb_-.*", min_size=1, max_size=6)
RULES = st.lists(
    st.builds(
        lambda server, tools: rule(server=server, tools=tools),
        SERVERS | GLOBS,
        st.lists(GLOBS, min_size=1, max_size=3),
    ),
    max_size=4,
)


@settings(tries, max_examples=20_000 if NIGHTLY else 200)
@given(allow=RULES, deny=RULES, server=SERVERS, tool=NAMES)
def test_no_name_is_read_as_another(allow: list[Any], deny: list[Any], server: str, tool: str) -> None:
    chain = policy(allowed_tools=allow, denied_tools=deny)
    at_once = rank(ask(chain, named(server, tool))) == AT_ONCE
    assert at_once or not OpenClaw(export(chain, "openclaw")).offers(server, tool)
    if "." not in tool:  # a dot and `_` are one to Claude Code: told, and the gateway tells them apart
        assert at_once or ClaudeCode(export(chain, "claude-code")).says(server, tool) != "allow"


# What a policy allows, and a call that it does not allow, whose name could be taken for what it does.
OPENCLAW_TRAPS = {
    "a filter by the server's part of a name": ([("ab", "a*")], ("ab", "A")),
    "a filter by a part within it": ([("ab", "*a*")], ("ab", "A")),
    "one server's pattern for another's tool": ([("a", "*__b__c"), ("a__b", "*")], ("a", "b__c")),
    "letters of another size": ([("a", "get")], ("a", "GET")),
    "characters that are written alike": ([("a", "g.t"), ("a", "x*")], ("a", "g-t")),
}  # fmt: skip
CLAUDE_TRAPS = {
    "a server's name that holds the separator": ([("a__b", "c"), ("a", "d")], ("a", "b__c")),
    "a server's name that ends in half of it": ([("a_", "x"), ("a", "d")], ("a", "_x")),
    "characters that are written alike": ([("a", "g.t")], ("a", "g_t")),
    "servers that are written alike": ([("a.b", "x"), ("a_b", "y")], ("a_b", "x")),
}


@pytest.mark.parametrize(("allowed", "other"), OPENCLAW_TRAPS.values(), ids=list(OPENCLAW_TRAPS))
def test_no_name_gets_past_openclaw_as_another(allowed: list[tuple[str, str]], other: tuple[str, str]) -> None:
    done = export(policy(allowed_tools=[rule(server=server, tools=[tool]) for server, tool in allowed]), "openclaw")
    assert not OpenClaw(done).offers(*other)


@pytest.mark.parametrize(("allowed", "other"), CLAUDE_TRAPS.values(), ids=list(CLAUDE_TRAPS))
def test_no_name_gets_past_claude_code_as_another(allowed: list[tuple[str, str]], other: tuple[str, str]) -> None:
    done = export(policy(allowed_tools=[rule(server=server, tools=[tool]) for server, tool in allowed]), "claude-code")
    assert ClaudeCode(done).says(*other) != "allow"


@pytest.mark.parametrize("server", ["x/../admin", "crm-*", "*", "a@b", "a:1"])
def test_what_names_no_server_is_no_part_of_an_address(server: str) -> None:
    chain = policy(allowed_tools=[rule(server=server)])
    assert ClaudeCode(export(chain, "claude-code")).servers == {}
    assert OpenClaw(export(chain, "openclaw")).servers == {}


def test_servers_that_openclaw_would_rename_are_left_out_and_listed() -> None:
    done = export(
        policy(allowed_tools=[rule(server=each) for each in ("crm", "CRM", "9", "a.b", "x" * 31)]), "openclaw"
    )
    assert list(OpenClaw(done).servers) == ["crm"]
    listed = [each.why for each in done.unexpressed if "cannot connect" in each.why]
    assert [each.partition(":")[0] for each in listed] == [
        "CRM/get_case", "9/get_case", "a.b/get_case", f"{'x' * 31}/get_case",
    ]  # fmt: skip


def test_claude_code_allows_asks_and_denies() -> None:
    chain = policy(
        allowed_tools=[rule(), rule(tools=["put_*"], when=IF), rule(server="bank", tools=["pay"], approval="human")],
        denied_tools=[rule(server="*", tools=["shell"]), rule(server="*", tools=["x"], classes=["write"])],
    )
    claude = ClaudeCode(export(chain, "claude-code"))
    said = {tool: claude.says("crm", tool) for tool in ("get_case", "put_case", "shell", "x", "other")}
    assert said == {"get_case": "allow", "put_case": "ask", "shell": "deny", "x": "ask", "other": "ask"}
    assert claude.says("bank", "pay") == "ask"
    assert claude.own("Bash") == claude.own("WebFetch") == claude.own("Read") == "deny"
    assert claude.servers["crm"] == {
        "type": "http",
        "url": "${TALLY_GATEWAY}/mcp/crm",
        "headers": {"Authorization": "Bearer ${TALLY_TOKEN}"},
    }
    permissions = claude.settings["permissions"]
    assert (permissions["disableBypassPermissionsMode"], permissions["disableAutoMode"]) == ("disable", "disable")


def test_claude_code_asks_nothing_where_nothing_hangs_on_more_than_names() -> None:
    claude = ClaudeCode(export(policy(allowed_tools=[rule()]), "claude-code"))
    assert claude.settings["permissions"]["defaultMode"] == "dontAsk"
    assert claude.says("crm", "other") == "deny"


def test_two_tools_that_claude_code_spells_alike_are_asked_about() -> None:
    chain = policy(allowed_tools=[rule(tools=["get_case"]), rule(tools=["get.case"], approval="human")])
    assert ClaudeCode(export(chain, "claude-code")).says("crm", "get_case") == "ask"


def test_openclaw_offers_what_hangs_on_names_alone() -> None:
    chain = policy(
        allowed_tools=[rule(), rule(tools=["put_*"], when=IF), rule(server="bank", tools=["*"])],
        denied_tools=[rule(server="*", tools=["shell"]), rule(server="bank", tools=["pay"], when=IF)],
    )
    claw = OpenClaw(export(chain, "openclaw"))
    assert claw.offers("crm", "get_case")
    assert claw.offers("bank", "balance")
    assert not any(claw.offers(*each) for each in (("crm", "put_case"), ("bank", "shell"), ("bank", "pay")))
    assert not claw.offers("bank", "resources_read")
    assert not any(claw.lets(name, claw.config["tools"]) for group in CORE.values() for name in group)
    assert claw.config["agents"]["defaults"]["sandbox"]["mode"] == "all"
    assert claw.config["tools"]["elevated"] == {"enabled": False}
    assert claw.servers["crm"]["url"] == "${TALLY_GATEWAY}/mcp/crm"


def test_a_long_name_that_openclaw_cuts_short_stays_denied() -> None:
    long = "x" * 70
    chain = policy(allowed_tools=[rule(tools=["*"])], denied_tools=[rule(tools=[long])])
    claw = OpenClaw(export(chain, "openclaw"))
    assert not claw.offers("crm", long)
    assert claw.offers("crm", "y" * 70)


@pytest.mark.parametrize("runtime", ["claude-code", "openclaw"])
def test_a_policy_that_allows_nothing_offers_nothing(runtime: Runtime) -> None:
    done = export(policy(), runtime)
    if runtime == "openclaw":
        claw = OpenClaw(done)
        assert claw.servers == {}
        assert not any(claw.lets(name, claw.config["tools"]) for name in ("exec", "read", "session_status", "a__b"))
    else:
        assert ClaudeCode(done).says("crm", "get_case") == "deny"


def test_every_level_must_offer_a_tool() -> None:
    child = policy(allowed_tools=[rule(tools=["*"]), rule(server="bank", tools=["pay"])])
    (parent,) = policy(allowed_tools=[rule(server="*", tools=["get_*", "a*"])], denied_tools=[rule(tools=["get_all"])])
    claude = ClaudeCode(export((*child, parent), "claude-code"))
    assert [claude.says("crm", tool) for tool in ("get_case", "a", "put", "get_all")] == [
        "allow",
        "allow",
        "deny",
        "deny",
    ]
    assert claude.says("bank", "pay") == "deny"


def test_a_part_that_two_levels_have_in_common_and_no_glob_says_is_listed() -> None:
    (one,), (other,) = policy(allowed_tools=[rule(tools=["get_*"])]), policy(allowed_tools=[rule(tools=["*_case"])])
    for runtime in ("claude-code", "openclaw"):
        done = export((one, other), runtime)  # type: ignore[arg-type]
        assert any("crm/get_*, crm/*_case" in each.why for each in done.unexpressed if each.effect == "narrower")
    assert ClaudeCode(export((one, other), "claude-code")).says("crm", "get_case") == "deny"
    (apart,) = policy(allowed_tools=[rule(tools=["put"])])
    assert not any("a part" in each.why for each in export((one, apart), "openclaw").unexpressed)


def test_what_cannot_be_said_is_listed_with_what_becomes_of_it() -> None:
    chain = policy(
        allowed_tools=[rule(limits={"calls_per_job": 3}), rule(when=IF), rule(server="b*")],
        budgets={"calls": 5},
        egress={"hosts": ["*.example"]},
    )
    for runtime, effect in (("claude-code", "gateway"), ("openclaw", "narrower")):
        done = export(chain, runtime)  # type: ignore[arg-type]
        told = {(each.place, each.effect) for each in done.unexpressed}
        asked = {("allow-1", "gateway"), ("budgets", "gateway"), ("egress.hosts", "gateway"), ("responses", "gateway")}
        assert asked | {("allow-2", effect), ("allowed_tools", "narrower")} <= told
        assert "jobs" not in {place for place, _ in told}
    two = export((*chain, *chain), "cedar")
    assert {"budgets", "1/budgets", "1/allow-1"} <= {each.place for each in two.unexpressed}


def test_only_tools_of_servers_are_offered() -> None:
    local = rule(id="local", kind="local", server="crm", tools=["*"])
    chain = policy(allowed_tools=[local, rule(id="uri", tools=[], resources=["crm:*"], server_requests=["roots/list"])])
    assert not OpenClaw(export(chain, "openclaw")).offers("crm", "get_case")
    done = export(chain, "claude-code")
    assert ClaudeCode(done).says("crm", "get_case") == "deny"
    told = {(each.place, each.effect) for each in done.unexpressed}
    assert {("local", "narrower"), ("uri", "narrower"), ("uri", "gateway")} <= told
    asked = Engine(export(chain, "cedar"), chain)
    call = named("crm", "get_case")
    for kind, tool, allowed in (("local", "get_case", True), ("mcp", "get_case", False), ("resource", "crm:1", True)):
        assert asked.allows(replace(call, target=replace(call.target, kind=kind, tool=tool))) is allowed


def test_too_many_names_are_refused() -> None:
    many = [rule(id=f"r{n}", tools=[f"t{n}-{m}" for m in range(250)]) for n in range(20)]
    globs = [rule(id=f"r{n}", tools=[f"*t{n}-{m}*" for m in range(50)], when=IF) for n in range(20)]
    for rules in (many, [*globs, rule(tools=[f"*{n}*" for n in range(200)])]):
        for runtime in ("claude-code", "openclaw"):
            with pytest.raises(Refused) as refused:
                export(policy(allowed_tools=rules), runtime)  # type: ignore[arg-type]
            assert refused.value.code == "export-too-large"
