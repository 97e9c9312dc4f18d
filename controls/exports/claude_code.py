"""A policy for Claude Code: permissions, and the gateway as its MCP servers (specs/exports.md §5).

Claude Code looks at `deny` first, then `ask`, then `allow`, and knows an MCP tool as `mcp__<server>__<tool>`. It judges
no arguments of MCP tools: what hangs on more than a name is asked, and then decided by the gateway.
"""

import re
from collections.abc import Iterable, Iterator

from controls.exports.names import Named, Pair, beside_names, by_name, hanging
from controls.exports.unexpressed import Export, Unexpressed, as_file, beside_calls
from verifier.encoding import canonical, digest
from verifier.policy import Chain

# What Claude Code can do without a server: a policy that names no such tool allows none of it.
OWN_TOOLS = (
    "Bash", "Edit", "Glob", "Grep", "LSP", "ListMcpResourcesTool", "Monitor", "NotebookEdit", "PowerShell", "Read",
    "ReadMcpResourceTool", "WebFetch", "WebSearch", "Write",
)  # fmt: skip
SPELLING = (
    "Claude Code writes other characters than letters, digits, _ and - as _: names that differ in those alone are one "
    "here, and told apart by the gateway"
)
UNNAMED = "a tool that no rule names is asked about, not denied; the gateway neither shows nor allows it"
_server = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}").fullmatch  # what a server can be called: no glob, no path
_foreign = re.compile(r"[^A-Za-z0-9_*-]")


def write(chain: Chain) -> Export:
    """Write `settings.json` and `.mcp.json`. Raises `Refused` export-too-large."""
    named = by_name(chain)
    servers = _servers([*named.free, *named.asked])
    allow, ask, deny = _rules(named, servers)
    permissions = {
        "allow": allow,
        "ask": ask,
        "deny": deny,
        "defaultMode": "default" if ask else "dontAsk",
        "disableBypassPermissionsMode": "disable",
        "disableAutoMode": "disable",
    }
    settings = {
        "permissions": permissions,
        "allowManagedPermissionRulesOnly": True,
        "enableAllProjectMcpServers": False,
        "enabledMcpjsonServers": list(servers.values()),
    }
    files = {"settings.json": as_file(settings), ".mcp.json": as_file({"mcpServers": _endpoints(servers)})}
    said = [SPELLING] * bool(allow) + [UNNAMED] * bool(ask)
    unexpressed = [*_unexpressed(chain, named, servers, said), *beside_names(chain, named), *beside_calls(chain)]
    return Export("claude-code", digest(canonical(chain[0])), files, unexpressed)


def _servers(pairs: Iterable[Pair]) -> dict[str, str]:
    """Name the servers to connect to, each with its key: none whose tools could be taken for another server's."""
    found: dict[str, str] = {}
    for server in dict.fromkeys(server for server, _ in pairs):
        key = _spelled(server)
        if _server(server) and not ("__" in key or key.endswith("_") or key in found.values()):
            found[server] = key
    return found


def _endpoints(servers: dict[str, str]) -> dict[str, object]:
    headers = {"Authorization": "Bearer ${TALLY_TOKEN}"}
    return {
        key: {"type": "http", "url": "${TALLY_GATEWAY}/mcp/" + server, "headers": headers}
        for server, key in servers.items()
    }


def _rules(named: Named, servers: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """Write what is allowed, asked and denied; a name that Claude Code writes otherwise is asked, not allowed."""
    free = [pair for pair in named.free if pair[0] in servers]
    allow = [_rule(pair) for pair in free if _spelled(pair[1]) == pair[1]]
    asked = [pair for pair in free if _spelled(pair[1]) != pair[1]]
    asked += [pair for pair in named.asked if pair[0] in servers]
    ask = [_rule(pair) for pair in (*asked, *named.held, *named.doubtful)]
    return _once(allow), _once(ask), _once([*map(_rule, named.barred), *OWN_TOOLS])


def _rule(pair: Pair) -> str:
    server, tool = map(_spelled, pair)
    return f"mcp__{server}__{tool}"


def _spelled(name: str) -> str:
    """Spell a name, or a glob over names, as Claude Code does."""
    return _foreign.sub("_", name)


def _once(rules: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(rules))


def _unexpressed(chain: Chain, named: Named, servers: dict[str, str], said: list[str]) -> Iterator[Unexpressed]:
    for place, _, why in hanging(chain):
        yield Unexpressed(place, f"it hangs on {why}: Claude Code asks, then the gateway decides", "gateway")
    for server in dict.fromkeys(server for server, _ in (*named.free, *named.asked)):
        if server not in servers:
            why = f"{server}: no name that Claude Code can connect to and tell apart; its tools are not offered"
            yield Unexpressed("allowed_tools", why, "narrower")
    yield from (Unexpressed("allowed_tools", why, "gateway") for why in said)
