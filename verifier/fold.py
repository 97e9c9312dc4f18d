"""What a lane's leaves add up to: the purse, the open calls, and which model asked for which tool call.

The gateway feeds it as it writes, the verifier as it reads: a budget or a tie cannot mean two things
(specs/receipts.md §5).
"""

from collections import OrderedDict, deque

from msgspec import Struct

from verifier.grant import Budget
from verifier.leaf import Begin, End, Leaf, Parent, Target
from verifier.policy import Policy

MINUTE = 60_000_000
SECOND = 1_000_000
WINDOW = 4096
_SEPARATORS = ("__", ".", "/")


class OpenCall(Struct, frozen=True):
    """A call that has begun and not ended."""

    seq: int
    target: Target
    parent: Parent | None
    reserved: int


class Purse:
    """The lane's share and what is left of it; `opened` in microseconds is when the job opened."""

    def __init__(self, policy: Policy, share: Budget, opened: int) -> None:
        """Start with nothing spent."""
        self.policy = policy
        self.share = share
        self.opened = opened
        self.calls = 0
        self.tokens = 0  # spent by ended calls and reserved by open and lost ones
        self._per_rule: dict[str, int] = {}
        self._per_tool: dict[str, int] = {}
        limits = {rule.id: rule.limits for rule in policy.allowed_tools}
        minutes = {
            rule: limit.calls_per_minute
            for rule, limit in limits.items()
            if limit and limit.calls_per_minute is not None
        }
        self._rule_calls = {
            rule: limit.calls_per_job for rule, limit in limits.items() if limit and limit.calls_per_job is not None
        }
        self._recent = {rule: deque[int](maxlen=most) for rule, most in minutes.items()}
        lane = policy.budgets.calls_per_minute
        self._recent_all = None if lane is None else deque[int](maxlen=lane)

    def refusal(self, rule: str, target: Target, reservation: int, time: int) -> str | None:
        """Say by code why one more call is not covered, or None. `reservation` is in tokens."""
        share, budgets = self.share, self.policy.budgets
        tool = f"{target.server}/{target.tool}"
        per_tool = (budgets.per_tool or {}).get(tool)
        checks = (
            ("budget-calls", share.calls is not None and self.calls >= share.calls),
            ("budget-tokens", share.tokens is not None and self.tokens + reservation > share.tokens),
            ("budget-time", share.wall_seconds is not None and time - self.opened > share.wall_seconds * SECOND),
            ("budget-tool", per_tool is not None and self._per_tool.get(tool, 0) >= per_tool),
            ("budget-rate", self._recent_all is not None and _full(self._recent_all, time)),
            ("limit-calls", rule in self._rule_calls and self._per_rule.get(rule, 0) >= self._rule_calls[rule]),
            ("limit-rate", rule in self._recent and _full(self._recent[rule], time)),
        )
        return next((code for code, over in checks if over), None)

    @property
    def limited(self) -> bool:
        """Tell whether anything is counted at all."""
        share, budgets = self.share, self.policy.budgets
        return bool(
            self._recent_all is not None or budgets.per_tool or self._rule_calls or self._recent
            or (share.calls, share.tokens, share.wall_seconds) != (None, None, None)
        )  # fmt: skip

    def begin(self, leaf: Begin, reserved: int) -> None:
        """Count a call and reserve its tokens."""
        self.calls += 1
        self.tokens += reserved
        if self._recent_all is not None:
            self._recent_all.append(leaf.time)
        if leaf.rule in self._recent:
            self._recent[leaf.rule].append(leaf.time)
        if leaf.rule in self._rule_calls:
            self._per_rule[leaf.rule] = self._per_rule.get(leaf.rule, 0) + 1
        if self.policy.budgets.per_tool:
            tool = f"{leaf.target.server}/{leaf.target.tool}"
            self._per_tool[tool] = self._per_tool.get(tool, 0) + 1

    def end(self, call: OpenCall, leaf: End) -> None:
        """Replace a reservation by what was used; a call without usage costs its reservation."""
        if leaf.usage is not None and leaf.status != "lost":
            self.tokens += leaf.usage.input + leaf.usage.output - call.reserved


class ModelCalls:
    """The tool calls that models of this lane asked for, each to be answered once, within 4,096 leaves."""

    def __init__(self) -> None:
        """Start empty."""
        # Ordered ones: a plain dict is slow at dropping its oldest.
        self._asked: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        self._free: OrderedDict[tuple[str, str], None] = OrderedDict()

    def asked(self, leaf: End) -> None:
        """Take in the tool calls of a model's answer, and forget those out of the window."""
        self.forget(leaf.seq)
        for each in leaf.tool_calls:
            key = (leaf.call, each.id)
            for known in (self._asked, self._free):
                known.pop(key, None)  # one that is asked again is the newest
            self._asked[key] = (each.name, leaf.seq)
            self._free[key] = None

    def forget(self, seq: int) -> None:
        """Drop what lies more than the window before `seq`."""
        while self._asked:
            key, (_, asked) = next(iter(self._asked.items()))
            if asked >= seq - WINDOW:
                return
            del self._asked[key]
            self._free.pop(key, None)

    def find(self, tool: str, seq: int) -> Parent | None:
        """Find the oldest unused tool call with this tool's name, for a client that names none.

        `seq` is the next leaf's.
        """
        self.forget(seq)
        return next(
            (Parent(call=call, id=ident) for call, ident in self._free if matches(self._asked[call, ident][0], tool)),
            None,
        )

    def answers(self, parent: Parent, tool: str, seq: int) -> bool:
        """Tell whether `parent` is an unused tool call for this tool."""
        self.forget(seq)
        key = (parent.call, parent.id)
        return key in self._free and matches(self._asked[key][0], tool)

    def use(self, parent: Parent) -> None:
        """Take a tool call; it comes back only with `release`."""
        self._free.pop((parent.call, parent.id), None)

    def release(self, parent: Parent) -> None:
        """Give back a tool call whose answer was an error: the model may have it tried again."""
        key = (parent.call, parent.id)
        if key in self._asked:
            self._free[key] = None


class Fold:
    """Everything that a lane's next leaf depends on."""

    def __init__(self, purse: Purse) -> None:
        """Start before leaf 0."""
        self.purse = purse
        self._limited = purse.limited
        self.model_calls = ModelCalls()
        self.open_calls: dict[str, OpenCall] = {}

    def add(self, leaf: Leaf) -> None:
        """Take in the next leaf."""
        if isinstance(leaf, Begin):
            self.begin(leaf)
        elif isinstance(leaf, End):
            self.end(leaf)

    def begin(self, leaf: Begin) -> None:
        """Open a call: count it, reserve for it, take the model's tool call that it answers."""
        reserved = leaf.reservation.tokens or 0
        parent = leaf.parent if leaf.target.tool is not None else None  # only a tool call answers a model's
        self.open_calls[leaf.call] = OpenCall(leaf.seq, leaf.target, parent, reserved)
        if self._limited:
            self.purse.begin(leaf, reserved)
        if parent is not None:
            self.model_calls.use(parent)

    def end(self, leaf: End) -> None:
        """Close a call: settle its reservation, take in what a model asked for, free what an error left unanswered."""
        call = self.open_calls.pop(leaf.call, None)
        if call is None:
            return
        if self._limited:
            self.purse.end(call, leaf)
        if leaf.tool_calls and call.target.provider is not None:
            self.model_calls.asked(leaf)
        if call.parent is not None and (leaf.status == "upstream_error" or leaf.tool_error):
            self.model_calls.release(call.parent)


def matches(asked: str, tool: str) -> bool:
    """Tell whether the name that a model used means this tool: the same, or ending in it after `__`, `.` or `/`."""
    return asked == tool or any(asked.endswith(separator + tool) for separator in _SEPARATORS)


def _full(recent: deque[int], time: int) -> bool:
    return len(recent) == recent.maxlen and (not recent or recent[0] > time - MINUTE)
