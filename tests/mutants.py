"""Two honest bundles that are small and hold much, cut into lines: what a mutation engine works on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from tests.world import NOW, SECOND, World, key, log_proof
from verifier.box import AuditorKey, Box
from verifier.bundle import kind_of, wrap
from verifier.commitment import call_key, commit
from verifier.disclosure import disclose_each
from verifier.encoding import b64, canonical, digest
from verifier.keys import Pin
from verifier.leaf import Echo, Hold, Target, ToolCall, Usage, leaf_digest


@dataclass(frozen=True)
class Whole:
    """An honest bundle and the pin that judges it."""

    raw: bytes
    pin: Pin

    @cached_property
    def lines(self) -> list[bytes]:
        """Cut it into lines."""
        return self.raw.splitlines(keepends=True)

    def start(self, number: int) -> int:
        """Say where a line begins."""
        return sum(map(len, self.lines[:number]))

    def kind(self, number: int) -> str:
        """Name a line's kind."""
        return kind_of(self.lines[number]) or "receipt"

    def edited(self, number: int, line: bytes) -> bytes:
        """Replace one line; without it when it is empty."""
        return b"".join([*self.lines[:number], line, *self.lines[number + 1 :]])


def plain() -> Whole:
    """Play a job of one model call and one tool call."""
    made = World()
    lane = made.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.close()
    made.revoke("agent", "agent-9", lane.time)
    return Whole(made.bundle(), made.pin())


LOG = key("log", "log", "https://log.example")
AUDITOR = AuditorKey(bytes(range(32)))
SENT = [b'{"arguments":{', b'"query":"case-1"', b"}}"]
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
GET_CASE = Target(server="crm-mcp", tool="get_case")


def _world() -> World:
    """Open a delegated job: under two policies and the second of two key lists, with a log, an approver, an auditor."""
    auditor = replace(key("a", "auditor", "auditor-1"), kid=AUDITOR.kid, ed25519=None, ml_dsa_44=None)
    honest = World().listed.keys
    every = [*honest, LOG, key("ann", "approver", "ann"), replace(auditor, hpke=b64(AUDITOR.public))]
    terms: dict[str, Any] = {
        "token_constraints": {"max_delegation_depth": 1},
        "approvals": {"quorum": 1, "ttl_seconds": 600, "approvers": ["ann"]},
    }
    policy = terms | {
        "allowed_tools": [{"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "approval": "human", "when": [
            {"attr": "args.query", "op": "prefix", "value": "case-"}]}],
        "receipts": {"privacy": "hash_only", "auditors": ["auditor-1"]},
    }  # fmt: skip
    root = World(policy=policy, above=[terms | {"policy_name": "above"}], keys=honest[-1:])
    return root.delegate().rotate(keys=every)


def rich() -> Whole:
    """Play the job: a model asks, a person releases, a gateway is cut off and comes back; sealed twice, and logged."""
    made = _world()
    lane = made.lane()
    lane.begin("call-1", MODEL, inherited=["1/model-1"], counter=1)
    lane.end("call-1", tool_calls=[ToolCall(id="t", name="get_case")], usage=Usage(input=10, output=5))
    made.superseded = made.sealed(status="interrupted")
    secret = call_key(lane.lane_key, "call-2", "sent")
    held = lane.hold("call-2", GET_CASE, sent=commit(secret, SENT), inherited=["1/allow-1"], counter=2)
    assert isinstance(held, Hold)
    name = leaf_digest(lane.raws[-1])
    sealed_to = Box(auditor=AUDITOR.kid, ciphertext=b64(bytes(1200)), side="sent")
    approval = made.approve(held, lane.raws[-1], "ann")
    begun = lane.begin(
        "call-2", GET_CASE, sent=held.sent, parent=held.parent, inherited=held.inherited, hold=name,
        approvals=[digest(canonical(approval))], echo=Echo(seq=held.seq, hash=name), boxes=lane.boxed(sealed_to),
    )  # fmt: skip
    lane.end("call-2")
    lane.close()
    shown = disclose_each(secret, SENT, range(3), "sent")
    lane.behind[begun.seq][:0] = [wrap("disclosure", canonical(each)) for each in shown]
    made.revoke("agent", "agent-9", lane.time)
    sealed = replace(made.sealed(), supersedes=digest(canonical(made.superseded)))
    made.log = log_proof(digest(canonical(sealed)).encode(), NOW // SECOND + 3600)
    return Whole(made.bundle(made.documents(sealed)), made.pin())
