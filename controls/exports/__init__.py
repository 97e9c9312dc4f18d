"""Exports of a policy to the configuration of a program that enforces rules of its own (specs/exports.md §4).

openclaw      tool policy, sandbox, MCP endpoints
claude_code   permissions, MCP servers
cedar         policies and schema, for any engine that speaks Cedar
unexpressed   what an export is, and the list of what it does not say
names         a policy as far as names of tools go, for the first two

An export is a convenience and a second fence. The gateway enforces the policy, whatever became of the export.
"""

from collections.abc import Callable
from typing import Literal

from controls.exports import cedar, claude_code, openclaw
from controls.exports.unexpressed import Export, Unexpressed
from verifier.policy import Chain

Runtime = Literal["openclaw", "claude-code", "cedar"]
WRITERS: dict[Runtime, Callable[[Chain], Export]] = {
    "openclaw": openclaw.write,
    "claude-code": claude_code.write,
    "cedar": cedar.write,
}

__all__ = ["Export", "Runtime", "Unexpressed", "export"]


def export(chain: Chain, runtime: Runtime) -> Export:
    """Write a policy, under all its ancestors, for a runtime. Raises `Refused` export-too-large."""
    return WRITERS[runtime](chain)
