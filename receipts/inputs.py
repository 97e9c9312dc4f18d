"""What servers ask their client for before they answer (MCP 2026-07-28, `input_required`; specs/http.md §4).

The state that a server hands out to be brought back goes no further than this gateway: its caller gets a name for it,
good once, for the same call of the same job, for some minutes.
"""

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from receipts.body import encode
from receipts.mcp_calls import ServerCall
from receipts.upstream import UpstreamFailed
from verifier.encoding import digest, safe_text
from verifier.refused import Refused

MINUTES = 600 * 1_000_000
MAX_WAITING, MAX_OF_JOB = 4096, 32
MAX_ASKED = 16
# Which of a client's capabilities each request uses.
CAPABILITY = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class _Waiting(Struct, frozen=True):
    job: str
    call: str
    state: str | None
    until: int


class Inputs:
    """The states of one gateway that callers may bring back."""

    def __init__(self) -> None:
        """Start with none."""
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()

    def keep(self, job: str, call: ServerCall, state: str | None, now: int) -> str:
        """Keep a server's state, and give its name."""
        name = secrets.token_urlsafe(24)
        mine = [each for each, waiting in self._waiting.items() if waiting.job == job]
        for each in mine[: len(mine) + 1 - MAX_OF_JOB]:  # nobody pushes out what others wait with
            del self._waiting[each]
        self._waiting[name] = _Waiting(job, _same(call), state, now + MINUTES)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        return name

    def resume(self, job: str, call: ServerCall, params: Mapping[str, Any], now: int) -> dict[str, Any]:
        """Give what goes into `params` of a call that is tried again: nothing the first time.

        Raises `Refused`: bad-params, unknown-state.
        """
        name, responses = params.get("requestState"), params.get("inputResponses")
        if name is None and responses is None:
            return {}
        if not isinstance(name, str) or not isinstance(responses, dict | None):
            raise Refused("bad-params", "a call that is tried again brings its requestState, and inputResponses")
        found = self._waiting.pop(name, None)
        if found is None or (found.job, found.call) != (job, _same(call)) or now >= found.until:
            why = "this state is of no call like this one that still waits: a state is good once, for some minutes"
            raise Refused("unknown-state", why, field="requestState", hint="Call the tool anew.")
        state = {} if found.state is None else {"requestState": found.state}
        return {**state, **({} if responses is None else {"inputResponses": responses})}


def asked(result: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Read what a server asks for: methods, sorted, and its state. Raises `UpstreamFailed`."""
    requests, state = result.get("inputRequests") or {}, result.get("requestState")
    methods = [each.get("method") for each in requests.values()] if _is_objects(requests) else [None]
    if len(methods) > MAX_ASKED or not all(isinstance(each, str) for each in methods):
        raise UpstreamFailed("upstream-answer", "the server asks its client for something that cannot be read")
    if not isinstance(state, str | None) or not (methods or state):
        raise UpstreamFailed("upstream-answer", "the server asks its client for nothing")
    return sorted({safe_text(str(each))[:64] for each in methods}), state


def capabilities(declared: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    """Keep of the capabilities that a client declared those that a rule lets servers use."""
    usable = {CAPABILITY.get(method) for method in allowed}
    return {name: value for name, value in declared.items() if name in usable and isinstance(value, dict)}


def _is_objects(requests: Any) -> bool:
    return isinstance(requests, dict) and all(isinstance(each, dict) for each in requests.values())


def _same(call: ServerCall) -> str:
    return digest(encode([call.method, call.name, call.arguments]))
