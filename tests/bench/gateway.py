"""What the gateway adds to a call: one client, the same request sent straight, through a bare pass-through, through it.

Both receipts are durable before the answer. All are measured in each round, the disk too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median as middle

from tests.bench.installation import Caller, Installation, Message, call, chat
from tests.bench.measure import Row, Samples, flushes, interleave, medians, percentile

PART = "gateway"
ROUNDS = 60
CALLS = 20
MILLISECONDS = 1000
MOST = 1.0
DIRECT, BARE, GATEWAY, FLUSH = "direct upstream", "bare pass-through", "gateway", "fdatasync of 400 bytes"


def rows(house: Installation) -> list[Row]:
    """Measure both paths."""
    _, caller = house.open()
    straight, bare = Caller(house.url("upstream")), Caller(house.url("bare"))
    flush = flushes(house.installation / "receipts" / "flushes", CALLS)

    def tools() -> list[float]:
        caller.send(chat(CALLS))  # the model asks for as many tool calls as follow
        return caller.time(call(), CALLS)

    chats = {DIRECT: _timed(straight, chat()), BARE: _timed(bare, chat()), GATEWAY: _timed(caller, chat())}
    calls = {DIRECT: _timed(straight, call("/mcp")), BARE: _timed(bare, call("/mcp")), GATEWAY: tools}
    return [*_path("chat", chats, flush), *_path("tools/call", calls, flush)]


def _timed(caller: Caller, message: Message) -> Callable[[], list[float]]:
    return partial(caller.time, message, CALLS)


def _path(name: str, timed: Mapping[str, Callable[[], list[float]]], flush: Callable[[], list[float]]) -> list[Row]:
    """Measure one path; the first round warms up and does not count."""
    every = {**timed, FLUSH: flush}
    interleave(every, 1)
    samples = interleave(every, ROUNDS)
    return [*(_spread(name, each, samples) for each in every), _added(name, samples)]


def _spread(name: str, what: str, samples: Samples) -> Row:
    p50, p95 = (percentile(samples[what], percent) * MILLISECONDS for percent in (50, 95))
    return Row(PART, f"{name}: {what}, p50", p50, "ms", f"p95 {p95:.2f} ms")


def _added(name: str, samples: Samples) -> Row:
    """Subtract round by round: what slows a round down, the disk above all, slows all that is in it."""
    rounds = zip(*(medians(samples[each]) for each in (DIRECT, BARE, GATEWAY, FLUSH)), strict=True)
    spent = [
        (gateway - direct, gateway - bare, gateway - direct - 2 * flush) for direct, bare, gateway, flush in rounds
    ]
    added, above, own = (middle(each) * MILLISECONDS for each in zip(*spent, strict=True))
    beside = f"{own:.2f} ms beyond 2 x fdatasync, {above:.2f} ms over the pass-through"
    target = f"<= 2 x fdatasync + {MOST:.0f} ms = {added - own + MOST:.2f} ms"
    return Row(PART, f"{name}: added by the gateway, p50", added, "ms", beside, target, own <= MOST)
