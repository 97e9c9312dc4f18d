"""What a lane's leaves add up to: the purse, the open calls, and which model asked for which tool call.

The gateway feeds it as it writes, the verifier as it reads: a budget or a tie cannot mean two things
(specs/receipts.md §5).
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct

from verifier.chain import terms
from verifier.conditions import UNDISCLOSED
from verifier.decision import Denied, Recency, reads
from verifier.grant import LIMITS, Budget
from verifier.leaf import MAX_TOOL_CALLS, Begin, Deny, End, Leaf, Note, Parent, Reservation, Target
from verifier.policy import Chain, rule_name
from verifier.prices import Prices
from verifier.sums import Sums

Number = int | Decimal
MINUTE = 60_000_000
SECOND = 1_000_000
WINDOW = 4096
MAX_ASKED = WINDOW * MAX_TOOL_CALLS  # in the window of an honest lane; what bears wrong numbers may have more
RECENT_SECONDS = 600
MAX_RECENT_TOOLS = 4096
_SEPARATORS = ("__", ".", "/")


class Purse:
    """The lane's share and what is left of it; `opened` in microseconds is when the job opened."""

    def __init__(self, chain: Chain, share: Budget, opened: int, prices: Prices | None = None) -> None:
        """Start with nothing spent; a budget is the lowest of the chain, a rule's limit is its own.

        `prices` is the table that the chain names.
        """
        self.share = share
        self.opened = opened
        self.calls = 0
        self.tokens = 0  # spent by ended calls and reserved by open and lost ones
        self.cost = 0  # likewise
        self.prices = prices
        self._per_rule: dict[str, int] = {}
        self._tools: dict[str, int] = {}
        limits = {
            rule_name(number, rule.id): rule.limits
            for number, policy in enumerate(chain)
            for rule in policy.allowed_tools
            if rule.limits is not None
        }
        self._rule_calls = {
            rule: limit.calls_per_job for rule, limit in limits.items() if limit.calls_per_job is not None
        }
        self._recent = {
            rule: deque[int](maxlen=limit.calls_per_minute)
            for rule, limit in limits.items()
            if limit.calls_per_minute is not None
        }
        self.sums = Sums(chain)
        budgets = terms(chain).budgets
        self._per_tool = budgets.per_tool or {}
        lane = budgets.calls_per_minute
        self._recent_all = None if lane is None else deque[int](maxlen=lane)

    def refusal(
        self, rules: Sequence[str], target: Target, asked: Reservation, time: int, arguments: Any = UNDISCLOSED
    ) -> Denied | None:
        """Say why one more call is not covered, or None: by the rule whose limit it is, else by the policy's own.

        `rules` are those that allow, one of each level; `asked` is what it would reserve. What is not disclosed of the
        arguments is over no sum.
        """
        share = self.share
        tool = _tool(target)
        tokens, cost = self.tokens + (asked.tokens or 0), self.cost + (asked.cost_nano_usd or 0)
        checks = (
            ("budget-calls", share.calls is not None and self.calls >= share.calls),
            ("budget-tokens", share.tokens is not None and tokens > share.tokens),
            ("budget-cost", share.cost_nano_usd is not None and cost > share.cost_nano_usd),
            ("budget-time", share.wall_seconds is not None and time - self.opened > share.wall_seconds * SECOND),
            ("budget-tool", tool in self._per_tool and self._tools.get(tool, 0) >= self._per_tool[tool]),
            ("budget-rate", self._recent_all is not None and _full(self._recent_all, time)),
        )
        code = next((code for code, over in checks if over), None)
        if code is not None:
            return Denied(rules[0], code)
        for rule in rules:
            if rule in self._rule_calls and self._per_rule.get(rule, 0) >= self._rule_calls[rule]:
                return Denied(rule, "limit-calls")
            if rule in self._recent and _full(self._recent[rule], time):
                return Denied(rule, "limit-rate")
            if self.sums.over(rule, arguments):
                return Denied(rule, "limit-sum")
        return None

    @property
    def limited(self) -> bool:
        """Tell whether anything is counted at all."""
        share = self.share
        return bool(
            self._recent_all is not None or self._per_tool or self._rule_calls or self._recent or self.sums
            or any(getattr(share, name) is not None for name in LIMITS)
        )  # fmt: skip

    def begin(self, leaf: Begin, arguments: Any = UNDISCLOSED) -> None:
        """Count a call, reserve its tokens, add its arguments up as far as they are known."""
        self.calls += 1
        self.tokens += leaf.reservation.tokens or 0
        self.cost += leaf.reservation.cost_nano_usd or 0
        if self._recent_all is not None:
            self._recent_all.append(leaf.time)
        for rule in (leaf.rule, *(leaf.inherited or ())):
            if rule in self._recent:
                self._recent[rule].append(leaf.time)
            if rule in self._rule_calls:
                self._per_rule[rule] = self._per_rule.get(rule, 0) + 1
            self.sums.add(rule, arguments)
        if self._per_tool and (tool := _tool(leaf.target)) in self._per_tool:
            self._tools[tool] = self._tools.get(tool, 0) + 1

    def counts_in_job(self, rule: str, target: Target) -> str | None:
        """Say by code what limits such calls over all lanes of a job together, None for what a lane may count alone."""
        if rule in self._rule_calls:
            return "limit-calls"
        if rule in self.sums:
            return "limit-sum"
        return "budget-tool" if _tool(target) in self._per_tool else None

    def counted(self) -> Iterator[tuple[str, Number, Number]]:
        """Give what has a limit for the whole job, not for a lane: of which rule or tool, how much, the limit."""
        for rule, calls in self._per_rule.items():
            yield f"calls by rule {rule}", calls, self._rule_calls[rule]
        for tool, calls in self._tools.items():
            yield f"calls by tool {tool}", calls, self._per_tool[tool]
        yield from self.sums.counted()

    def end(self, call: "Opened", leaf: End) -> None:
        """Replace a reservation by what was used; a call without usage, or without a price, costs its reservation."""
        if leaf.usage is None or leaf.status == "lost":
            return
        self.tokens += leaf.usage.input + leaf.usage.output - (call.reserved.tokens or 0)
        cost = None if self.prices is None else self.prices.cost(call.target, leaf.usage)
        if cost is not None:
            self.cost += cost - (call.reserved.cost_nano_usd or 0)


Asked = tuple[str, str]  # a model's tool call: the id of the model call, its own id in the answer


class Several:
    """What the lanes of one job add up to: what they spent, and what `calls_per_job`, `per_tool`, `sums` limit."""

    def __init__(self) -> None:
        """Start with no lane."""
        self.spent = Budget(calls=0, cost_nano_usd=0, tokens=0)
        self._counted: dict[str, tuple[Number, Number, Number]] = {}  # in all, the most in one lane, the limit

    def add(self, purse: Purse) -> None:
        """Take in a lane that ended."""
        before = self.spent
        self.spent = Budget(
            calls=(before.calls or 0) + purse.calls,
            cost_nano_usd=(before.cost_nano_usd or 0) + purse.cost,
            tokens=(before.tokens or 0) + purse.tokens,
        )
        for name, calls, most in purse.counted():
            earlier, highest, _ = self._counted.get(name, (0, 0, most))
            self._counted[name] = (earlier + calls, max(highest, calls), most)

    def over(self) -> Iterator[str]:
        """Say where all lanes together had more than the limit, though none of them had alone."""
        for name, (calls, highest, most) in sorted(self._counted.items()):
            if calls > most >= highest:
                yield f"all lanes together made {calls} {name}, at most {most} are allowed in a job"


class ModelCalls:
    """The tool calls that models of this lane asked for, each to be answered once, within 4,096 leaves."""

    def __init__(self) -> None:
        """Start empty."""
        self._asked: dict[Asked, tuple[str, int]] = {}  # by name, at which place
        self._free: dict[Asked, str] = {}
        self._order: deque[tuple[int, Asked]] = deque()  # the oldest first; one that was asked again stands twice

    def asked(self, leaf: End) -> None:
        """Take in the tool calls of a model's answer."""
        asked = leaf.tool_calls
        self.ask(leaf.call, [each.id for each in asked], [each.name for each in asked], leaf.seq)

    def ask(self, call: str, ids: Iterable[str], names: Iterable[str], seq: int) -> None:
        """Take in tool calls, and forget those out of the window."""
        self.forget(seq)
        for ident, name in zip(ids, names, strict=True):
            key = (call, ident)
            if key in self._asked:  # one that is asked again is the newest
                self._free.pop(key, None)
            self._asked[key] = (name, seq)
            self._free[key] = name
            self._order.append((seq, key))

    def forget(self, seq: int) -> None:
        """Drop what lies more than the window before `seq`."""
        order, oldest = self._order, seq - WINDOW
        while order and (order[0][0] < oldest or len(order) > MAX_ASKED):
            place, key = order.popleft()
            if self._asked.get(key, ("", -1))[1] == place:
                del self._asked[key]
                self._free.pop(key, None)

    def find(self, tool: str, seq: int) -> Parent | None:
        """Find the oldest unused tool call with this tool's name, for a client that names none.

        `seq` is the next leaf's.
        """
        self.forget(seq)
        return next(
            (Parent(call=call, id=ident) for (call, ident), name in self._free.items() if matches(name, tool)),
            None,
        )

    def answers(self, parent: Parent, tool: str, seq: int) -> bool:
        """Tell whether `parent` is an unused tool call for this tool."""
        return self._is_free((parent.call, parent.id), tool, seq)

    def _is_free(self, parent: Asked, tool: str, seq: int) -> bool:
        self.forget(seq)
        name = self._free.get(parent)
        return name is not None and matches(name, tool)

    def use(self, parent: Parent) -> None:
        """Take a tool call; it comes back only with `release`."""
        self._free.pop((parent.call, parent.id), None)

    def claim(self, parent: Asked, tool: str, seq: int) -> bool:
        """Take a tool call, by its two names, if it is an unused one for this tool."""
        if not self._is_free(parent, tool, seq):
            return False
        del self._free[parent]
        return True

    def release(self, parent: Parent) -> None:
        """Give back a tool call whose answer was an error: the model may have it tried again."""
        self.put_back((parent.call, parent.id))

    def put_back(self, parent: Asked) -> None:
        """Give back a tool call by its two names."""
        asked = self._asked.get(parent)
        if asked is not None:
            self._free[parent] = asked[0]


class Recent:
    """What a lane did in the last ten minutes, by leaf time in whole seconds: this second and the 599 before it."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._calls = _Tally()
        self._denials = _Tally()
        self._tools: OrderedDict[tuple[str | None, str, str], int] = OrderedDict()  # the second of the last call

    def add(self, leaf: Leaf) -> None:
        """Take in any leaf: calls that began, denials, and the denials that one note stands for."""
        if isinstance(leaf, Begin):
            second = leaf.time // SECOND
            self._calls.add(second, 1)
            if (named := leaf.target.named) is not None:
                tool = (leaf.target.server, *named)
                self._tools[tool] = second
                self._tools.move_to_end(tool)
                if len(self._tools) > MAX_RECENT_TOOLS:
                    self._tools.popitem(last=False)
        elif isinstance(leaf, Deny):
            self._denials.add(leaf.time // SECOND, 1)
        elif isinstance(leaf, Note) and leaf.code == "denials":
            self._denials.add(leaf.time // SECOND, leaf.count or 0)

    def at(self, time: int, target: Target) -> Recency:
        """Say what conditions may read of it at a time, for a call of this target."""
        second = time // SECOND
        first_use = None
        if (named := target.named) is not None:
            first_use = self._tools.get((target.server, *named), -RECENT_SECONDS) <= second - RECENT_SECONDS
        return Recency(self._calls.count(second), self._denials.count(second), first_use)


class _Tally:
    """A count over the last ten minutes, in 600 numbers at most."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        self._total = 0

    def add(self, second: int, count: int) -> None:
        """Count something; time that runs backwards stands still."""
        self.count(second)
        self._total += count
        if self._seconds and self._seconds[-1][0] >= second:
            second, before = self._seconds.pop()
            count += before
        self._seconds.append((second, count))

    def count(self, second: int) -> int:
        """Forget what is older than ten minutes, and say what is left."""
        while self._seconds and self._seconds[0][0] <= second - RECENT_SECONDS:
            self._total -= self._seconds.popleft()[1]
        return self._total


class Opened(Struct, frozen=True, gc=False):
    """What is remembered of a call until its end."""

    seq: int
    target: Target
    parent: Asked | None
    reserved: Reservation = Reservation()
    rules: tuple[str, ...] = ()


class Fold:
    """Everything that a lane's next leaf depends on; `recent` is kept where a policy asks for it."""

    def __init__(self, purse: Purse, *, recent: bool = False) -> None:
        """Start before leaf 0."""
        self.purse = purse
        self._limited = purse.limited
        self.recent = Recent() if recent else None
        self.model_calls = ModelCalls()
        self.open_calls: dict[str, Opened] = {}

    @classmethod
    def of(cls, chain: Chain, share: Budget, opened: int, prices: Prices | None = None) -> "Fold":
        """Start a lane under a chain of policies and the price table that they name."""
        return cls(Purse(chain, share, opened, prices), recent=reads(chain, "recent"))

    def add(self, leaf: Leaf, arguments: Any = UNDISCLOSED) -> None:
        """Take in the next leaf; of a call with the arguments that are known."""
        if isinstance(leaf, Begin):
            self.begin(leaf, arguments)
        elif isinstance(leaf, End):
            self.end(leaf)
        if self.recent is not None:
            self.recent.add(leaf)

    def begin(self, leaf: Begin, arguments: Any = UNDISCLOSED) -> None:
        """Open a call: count it, reserve for it, take the model's tool call that it answers."""
        if self._limited:
            self.purse.begin(leaf, arguments)
        parent = None if leaf.parent is None else (leaf.parent.call, leaf.parent.id)
        self.open_calls[leaf.call] = Opened(
            leaf.seq, leaf.target, parent, leaf.reservation, (leaf.rule, *(leaf.inherited or ()))
        )
        if leaf.parent is not None and leaf.target.tool is not None:  # only a tool call answers a model's
            self.model_calls.use(leaf.parent)

    def end(self, leaf: End) -> None:
        """Close a call: settle its reservation, take in what a model asked for, free what an error left unanswered."""
        call = self.open_calls.pop(leaf.call, None)
        if call is None:
            return
        if self._limited:
            self.purse.end(call, leaf)
        if leaf.tool_calls and call.target.provider is not None:
            self.model_calls.asked(leaf)
        if (leaf.tool_error or leaf.status == "upstream_error") and call.parent is not None and call.target.tool:
            self.model_calls.put_back(call.parent)


def _tool(target: Target) -> str:
    """Name a tool as `per_tool` does; a model, a resource and a prompt have no such name."""
    return f"{target.server}/{target.tool}" if target.tool is not None else ""


def matches(asked: str, tool: str) -> bool:
    """Tell whether the name that a model used means this tool: the same, or ending in it after `__`, `.` or `/`."""
    return asked.endswith(tool) and (asked == tool or asked[: len(asked) - len(tool)].endswith(_SEPARATORS))


def _full(recent: deque[int], time: int) -> bool:
    return len(recent) == recent.maxlen and (not recent or recent[0] > time - MINUTE)
