"""What deciding costs, in process: `decide` on policies of several sizes, and a call's way through the gateway."""

import asyncio
from collections.abc import Callable
from functools import partial

import aiohttp

from receipts.tokens import read_token
from tests.bench.counter import LATER, Counter, clock
from tests.bench.installation import call, chat
from tests.bench.measure import MICROSECONDS, Row, interleave, median, repeated
from tests.world import AUTHOR, GATEWAY, MINIMAL, NOW, SCOPE
from verifier.compiled import compile_policy
from verifier.decision import Allowed, Call, Decision, Subject, ToolTarget, decide
from verifier.draft import build, read_draft
from verifier.policy import DAY, Policy

PART = "decision"
SIZES = (10, 100, 500)
ROUNDS, TIMES, CALLS = 9, 300, 1500
MOST = 10.0
SUBJECT = Subject("agent-1", "orchestrator-1", "job-1", "support", "bench")
TARGET = ToolTarget("crm-mcp", "get_case", "read", "internal", "crm.example", ("customer_provided",))
MINIMAL_NAME, KNOWN, ANEW = "decide, minimal policy", "token known, revocations, decide", "a token checked anew"


def rows() -> list[Row]:
    """Measure `decide` alone, what comes before it, and whole calls."""
    return asyncio.run(_rows())


async def _rows() -> list[Row]:
    async with aiohttp.ClientSession() as http:
        counter = Counter(http)
        await counter.sessions.open(counter.credential)
        samples = interleave({name: repeated(work, TIMES) for name, work in _works(counter).items()}, ROUNDS)
        found = {name: median(rounds) for name, rounds in samples.items()}
        calls = await _calls(counter)
        await counter.upstream.close()
    known, anew = found.pop(KNOWN), found.pop(ANEW)
    least = found[MINIMAL_NAME]
    return [
        *(Row(PART, name, taken, "us", _beside(name, found)) for name, taken in found.items()),
        Row(PART, KNOWN, known, "us", f"{known / anew:.2f} of checking a token", f"< {MOST:.0f} us", known < MOST),
        Row(PART, ANEW, anew, "us", "its Ed25519 signature, issuer, audience"),
        *(Row(PART, what, taken, "us", f"{taken / least:.0f} of a decision") for what, taken in calls.items()),
    ]


def _beside(name: str, found: dict[str, float]) -> str:
    """Hold the compiled form against the plain one, and that against itself on the smallest policy."""
    plain = name.replace("compiled", "decide")
    if plain != name:
        return f"{found[name] / found[plain]:.3f} of the plain one"
    return f"{found[name] / found[MINIMAL_NAME]:.1f} of the minimal policy"


def _works(counter: Counter) -> dict[str, Callable[[], object]]:
    asked = _asked()
    minimal = build(read_draft(MINIMAL.read_bytes()), issuer=AUTHOR, now=NOW - DAY)
    sized = {f"decide, {size} rules, the last allows": policy_of(size) for size in SIZES}
    policies = {MINIMAL_NAME: minimal, **sized, "decide, a condition on a path": conditioned()}
    decided = {name: partial(allow, partial(decide, (policy,)), asked) for name, policy in policies.items()}
    decided |= {
        name.replace("decide", "compiled"): partial(allow, compile_policy((policy,)), asked)
        for name, policy in policies.items()
    }
    anew = partial(read_token, counter.token, counter.trust, issuer=SCOPE, audience=GATEWAY, now=LATER)
    return {**decided, KNOWN: partial(known, counter, asked), ANEW: anew}


def policy_of(size: int) -> Policy:
    """Build a policy of so many rules, each of another server; the last is about the call."""
    others = [{"kind": "mcp", "server": f"server-{n}", "tools": ["read", "list", "search_*"]} for n in range(size - 1)]
    rules = [*others, {"kind": "mcp", "server": "crm-mcp", "tools": ["search_customer", "get_case"]}]
    return build(read_draft(MINIMAL.read_bytes()) | {"allowed_tools": rules}, issuer=AUTHOR, now=NOW - DAY)


def conditioned() -> Policy:
    """Build a policy that asks for an argument."""
    when = [{"attr": "args.path", "op": "subpath_of", "value": "/srv/data"}]
    rule = {"kind": "mcp", "server": "crm-mcp", "tools": ["get_case"], "when": when}
    return build(read_draft(MINIMAL.read_bytes()) | {"allowed_tools": [rule]}, issuer=AUTHOR, now=NOW - DAY)


def allow(ask: Callable[[Call], Decision], asked: Call) -> None:
    """Decide; only what is allowed has been through all rules."""
    if not isinstance(ask(asked), Allowed):
        raise TypeError("the call was not allowed")


def known(counter: Counter, asked: Call) -> None:
    """Do what each call of a known token costs before its policy is asked, and ask it."""
    session = counter.session()
    counter.revocations.require_live(session.names)
    counter.revocations.require_fresh(session.terms, clock())
    allow(session.decide, asked)


def _asked() -> Call:
    return Call(subject=SUBJECT, target=TARGET, token_ttl=300, time=LATER, arguments={"path": "/srv/data/2026/q3.csv"})


async def _calls(counter: Counter) -> dict[str, float]:
    """Let many calls through, models and tools by turns; the first ones warm up."""
    asks, calls = chat(), call(arguments={"query": "CASE-1"})
    turns = [(await counter.chat(asks), await counter.call(calls)) for _ in range(CALLS)][CALLS // 10 :]
    halves = {
        "chat completion, until it is sent": [[model[0]] for model, _ in turns],
        "chat completion, from its answer on": [[model[1]] for model, _ in turns],
        "MCP tools/call, until it is sent": [[tool[0]] for _, tool in turns],
        "MCP tools/call, from its answer on": [[tool[1]] for _, tool in turns],
    }
    return {what: median(taken) * MICROSECONDS for what, taken in halves.items()}
