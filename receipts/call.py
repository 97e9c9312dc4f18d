"""One call on its way through the gateway: what it asks, what is known of it so far, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from receipts.body import Committing
from receipts.request import Answer
from receipts.sessions import Session
from receipts.upstream import UpstreamFailed
from verifier.commitment import SIDES, Side, call_key
from verifier.conditions import Undisclosed
from verifier.decision import Call, ModelBody, ModelTarget, Recency, ToolTarget
from verifier.leaf import MAX_TOOL_CALLS, End, Parent, Reservation, Status, Target, ToolCall, Usage
from verifier.refused import Refused

# What 64 tool calls may take of a leaf's 8 KiB.
MAX_TOOL_CALL_BYTES = 6000


class Known(Struct):
    """What a denial can say of a call, as far as the pipeline got; filled in step by step."""

    raw: bytes | None = None
    target: Target | None = None
    manifest: str | None = None
    labels: list[str] | None = None
    parent: Parent | None = None
    call: str | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """A call as it was read: what is decided about, and what would be sent; `slices` joined are the body.

    `reservation` holds what the grant limits; `redactions` counts what was replaced in it.
    """

    target: Target
    decided: ToolTarget | ModelTarget
    arguments: Mapping[str, Any] = {}
    body: ModelBody = ModelBody()
    slices: Sequence[bytes]
    reservation: Reservation = Reservation()
    redactions: int = 0
    url: str
    headers: Mapping[str, str]

    def to_decide(self, session: Session, time: int, recent: Recency | Undisclosed, staleness: int) -> Call:
        """Put the question to the policy; `time` is the leaf's, `recent` known where the policy asks for it."""
        token = session.token
        return Call(
            subject=session.subject,
            target=self.decided,
            token_ttl=token.exp - token.iat,
            time=time,
            arguments=self.arguments,
            body=self.body,
            recent=recent,
            staleness=staleness,
        )


class Path(Protocol):
    """A client's shape: how its calls are read, sent on and answered. One instance a call."""

    async def read(self, raw: bytes, session: Session, known: Known) -> Asked | Answer:
        """Read the call; an `Answer` when the gateway answers by itself. Raises `Refused`."""

    async def forward(self, asked: Asked, exchange: "Exchange") -> None:
        """Send the call and take in its answer. Raises `UpstreamFailed`."""

    def failed(self, failure: UpstreamFailed) -> Answer:
        """Say in the client's shape that no answer came."""

    def refusal(self, refused: Refused, receipt: str | None) -> Answer:
        """Refuse in the client's shape; `receipt` names the denial, where there is one."""


class Exchange:
    """One forwarded call while it is under way: commitments grow as bytes pass, and the end is written from it."""

    def __init__(self, lane_key: bytes, call: str) -> None:
        """Start with an `ok` that nothing has contradicted yet."""
        self.call = call
        self.keys: dict[Side, bytes] = {side: call_key(lane_key, call, side) for side in SIDES}
        self.answer: Answer | None = None
        self.tail = b""  # a stream's last event, held until the end is durable
        self.status: Status = "ok"
        self.code: str | None = None
        self.flags: list[str] = []
        self.labels: list[str] = []
        self.redactions = 0
        self.rules: tuple[str, ...] = ()  # that allowed the call, one of each level
        self.server_requests: list[str] = []
        self.screens: list[str] = []
        self.model: str | None = None
        self.stream: Literal["complete", "cut"] | None = None
        self.tool_calls: list[ToolCall] = []
        self.tool_error: bool | None = None
        self.upstream_id: str | None = None
        self.usage: Usage | None = None
        self._recv = Committing(self.keys["recv"])
        self._dlv = Committing(self.keys["dlv"])
        self.stopped = False  # by the client or by the lane, rather than by its own course
        self._received = False
        self.size = 0  # bytes that the upstream sent

    def received(self, content: bytes) -> None:
        """Commit to what the upstream sent."""
        self._received = True
        self.size += len(content)
        self._recv.add(content)

    def deliver(self, content: bytes) -> bytes:
        """Commit to what goes to the caller, and return it."""
        self._dlv.add(content)
        return content

    def fail(self, status: Status, code: str) -> None:
        """Say how the call ended; the first reason stands."""
        if self.status == "ok":
            self.status, self.code = status, code

    def too_many_tool_calls(self) -> bool:
        """Tell whether the end would not hold the tool calls that the model asked for."""
        size = sum(len(each.id) + len(each.name) + 20 for each in self.tool_calls)
        return len(self.tool_calls) > MAX_TOOL_CALLS or size > MAX_TOOL_CALL_BYTES

    def end(self, seq: int, time: int) -> End:
        """Write the `end`. Tool calls of an answer that was withheld are not the caller's to use, so not recorded."""
        return End(
            call=self.call,
            code=self.code,
            dlv=self._dlv.commitment(),
            flags=tuple(self.flags),
            labels=tuple(self.labels),
            model=self.model,
            recv=self._recv.commitment() if self._received else None,
            redactions=self.redactions,
            screens=tuple(self.screens),
            seq=seq,
            server_requests=tuple(self.server_requests) or None,
            status=self.status,
            stream=self.stream,
            time=time,
            tool_calls=tuple(self.tool_calls) if self.status == "ok" else (),
            tool_error=self.tool_error,
            upstream_id=self.upstream_id,
            usage=self.usage,
        )
