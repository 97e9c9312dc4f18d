"""A policy for OpenClaw: tool policy, sandbox, and the gateway as its MCP servers (specs/exports.md §6).

OpenClaw lets a tool through or hides it; it asks nobody and reads no arguments. So what hangs on more than a name is
left out. Each tool passes two gates: its server's filter, over its own name, and the tool policy, over
`<server>__<tool>` in small letters. An empty list of either means everything, and so does, in older versions, an allow
list without a tool of OpenClaw's own: neither is ever written.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from controls.exports.names import Named, Pair, beside_names, by_name, hanging
from controls.exports.unexpressed import Export, Unexpressed, as_file, beside_calls
from verifier.conditions import glob_matches
from verifier.encoding import canonical, digest
from verifier.policy import Chain

GROUPS = (
    "agents", "automation", "fs", "media", "memory", "messaging", "nodes", "openclaw", "runtime", "sessions", "ui",
    "web",
)  # fmt: skip
OWN = "session_status"  # allowed in name, that the list is one; denied with all that OpenClaw can do itself
UTILITIES = ("resources_list", "resources_read", "prompts_list", "prompts_get")
_server = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,29}").fullmatch
_foreign = re.compile(r"[^A-Za-z0-9_*-]")


def write(chain: Chain) -> Export:
    """Write `openclaw.json`. Raises `Refused` export-too-large."""
    named = by_name(chain)
    offered = dict.fromkeys(_offered(named))
    servers: dict[str, list[str]] = {}
    for server, tool in offered:
        servers.setdefault(server, []).append(tool)
    hidden = [*named.held, *named.barred, *named.doubtful]
    allow = _once([*(_rule(pair) for pair in offered), OWN])
    deny = _once([*(f"group:{each}" for each in GROUPS), *map(_rule, hidden)])
    sandbox = {"mode": "all", "scope": "session", "workspaceAccess": "none", "docker": {"network": "none"}}
    config = {
        "agents": {"defaults": {"sandbox": sandbox}},
        "tools": {
            "allow": allow,
            "deny": deny,
            "elevated": {"enabled": False},
            "sandbox": {"tools": {"allow": allow, "deny": deny}},
        },
        "mcp": {"servers": {server: _endpoint(server, tools, hidden) for server, tools in servers.items()}},
    }
    unexpressed = [*_unexpressed(chain, named, offered.keys()), *beside_names(chain, named), *beside_calls(chain)]
    return Export("openclaw", digest(canonical(chain[0])), {"openclaw.json": as_file(config)}, unexpressed)


def _offered(named: Named) -> Iterator[Pair]:
    """Give the tools that are free, of servers that keep their names, by names that mean nothing else."""
    taken: dict[str, str] = {}
    for server, tool in named.free:
        apart = _server(server) and "__" not in server
        if apart and taken.setdefault(server.lower(), server) == server and not _ambiguous(server, tool):
            yield server, tool


def _ambiguous(server: str, tool: str) -> bool:
    """Tell whether a pattern may match `<server>__<tool>` where it does not match the tool: filters try both."""
    prefix, (head, star, rest) = f"{server}__", tool.partition("*")
    if head:
        return bool(star) and (prefix.startswith(head) or head.startswith(prefix))
    return "*" in rest and bool(rest.strip("*"))


def _endpoint(server: str, tools: list[str], hidden: list[Pair]) -> dict[str, object]:
    """Write a server: the gateway's address of it, and which of its tools there are."""
    return {
        "url": "${TALLY_GATEWAY}/mcp/" + server,
        "transport": "streamable-http",
        "headers": {"Authorization": "Bearer ${TALLY_TOKEN}"},
        "toolFilter": {
            "include": tools,
            "exclude": _once([*(tool for each, tool in hidden if glob_matches(each, server)), *UTILITIES]),
        },
    }


def _rule(pair: Pair) -> str:
    server, tool = (_foreign.sub("-", name) for name in pair)
    return f"{server}__{tool}"


def _once(rules: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(rules))


def _unexpressed(chain: Chain, named: Named, offered: Collection[Pair]) -> Iterator[Unexpressed]:
    for place, _, why in hanging(chain):
        told = f"it hangs on {why}, of which OpenClaw knows nothing: what it names is not offered"
        yield Unexpressed(place, told, "narrower")
    for server, tool in named.free:
        if (server, tool) not in offered:
            why = f"{server}/{tool}: OpenClaw cannot connect to it, or tell it apart from another; it is not offered"
            yield Unexpressed("allowed_tools", why, "narrower")
    servers = {server for server, _ in offered}
    for server, tool in (*named.barred, *named.held, *named.doubtful):
        if any(glob_matches(server, each) and _ambiguous(each, tool) for each in servers):
            why = f"{server}/{tool}: OpenClaw also holds it against the server's name, and hides more"
            yield Unexpressed("denied_tools", why, "narrower")
