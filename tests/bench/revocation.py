"""How soon gateways know of a revocation, what a hundred thousand of them cost a call, how soon an outage is over."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import cast

import msgspec

from receipts.revocations import Revocations
from scope.client import RevocationRequest, ScopeClient
from tests.bench.installation import Installation
from tests.bench.measure import Row, interleave, median, percentile, repeated
from tests.world import NOW, SCOPE
from verifier.keys import Trust
from verifier.leaf import Target
from verifier.revocation import Name, Revocation, TargetKind
from verifier.revocation import Target as RevokedTarget

PART = "revocation"
GATEWAYS, REVOKED, PAUSE = 20, 40, 0.1
LIVE, ROUNDS, TIMES = 100_000, 9, 2000
AWAY = 10.0
PATIENCE = 60.0
MILLISECONDS = 1000
KINDS = ("jti", "job", "agent", "user")


def rows(house: Installation) -> Iterator[Row]:
    """Measure with twenty gateways beside the first."""
    yield from _checks()
    gateways = [house.start_gateway(f"gateway-{number}") for number in range(GATEWAYS)]
    house.wait_for(gateways)
    first = house.revoke(RevocationRequest(kind="agent", value="agent-of-nobody", reason="bench"))
    for each in gateways:
        _logged(house, each, "revoked", first)
    yield _spread(house, gateways)
    yield _outage(house, gateways)


def _checks() -> Iterator[Row]:
    """Time what each call asks, with no revocation and with very many: half of tokens and names, half of tools."""
    none, many = _ear(0), _ear(LIVE)
    names: dict[Name, int] = {
        ("jti", "a" * 32): NOW, ("key", "b" * 32): NOW, ("key", "c" * 32): NOW, ("job", "job-1"): NOW,
        ("agent", "agent-1"): NOW, ("client", "orchestrator-1"): NOW, ("user", "user-1"): NOW,
        ("policy", "sha256:" + "d" * 64): NOW, ("all", "*"): NOW,
    }  # fmt: skip
    target = Target(server="crm-mcp", tool="get_case")

    def asked(revocations: Revocations) -> Callable[[], None]:
        def ask() -> None:
            revocations.require_live(names)
            revocations.require_target(target, NOW)

        return ask

    timed = {name: repeated(asked(each), TIMES) for name, each in (("none", none), ("many", many))}
    samples = interleave(timed, ROUNDS)
    taken, beside = median(samples["many"]), median(samples["none"])
    what = f"token and tool checked against {LIVE:,} revocations"
    yield Row(PART, what, taken, "us", f"{beside:.2f} us with none", "< 1 us", taken < 1)


def _ear(count: int) -> Revocations:
    """Make a gateway's memory of so many revocations that all hold."""
    made = Revocations(cast("ScopeClient", None), cast("Trust", None), SCOPE, lambda: NOW)
    for number in range(count):
        kind, value = ("tool", f"crm-mcp/tool-{number}") if number % 2 else (KINDS[number // 2 % 4], f"other-{number}")
        target = RevokedTarget(cast("TargetKind", kind), value)
        made._add(Revocation(iss=SCOPE, sequence=number + 1, time=NOW, target=target, reason="bench", actor="bench"))
    return made


def _spread(house: Installation, gateways: list[str]) -> Row:
    """Time each revocation from its request to its being known, in every process."""
    taken, answered = list[float](), list[float]()
    for number in range(REVOKED):
        time.sleep(PAUSE)
        began = time.time()
        sequence = house.revoke(RevocationRequest(kind="agent", value=f"agent-of-{number}", reason="bench"))
        answered.append(time.time() - began)
        taken += [_logged(house, each, "revoked", sequence) - began for each in gateways]
    late = percentile([taken], 99) * MILLISECONDS
    own = f"p50 {median([taken]) * MILLISECONDS:.1f} ms; the request itself {median([answered]) * MILLISECONDS:.1f} ms"
    return Row(PART, f"known to {GATEWAYS} gateways, p99", late, "ms", own, "< 50 ms", late < 50)


def _outage(house: Installation, gateways: list[str]) -> Row:
    """Kill scope, start it again after a while, and time from its first answer until everybody has heard it."""
    house.kill("scope")
    time.sleep(AWAY)
    house.start("scope")
    back = time.time()
    taken = max(_logged(house, each, "heard-again") for each in gateways) - back
    return Row(
        PART,
        f"heard again after {AWAY:.0f} s without scope, by all",
        taken,
        "s",
        "from its first answer",
        "< 2 s",
        taken < 2,
    )


def _logged(house: Installation, gateway: str, event: str, sequence: int = 0) -> float:
    """Wait until a gateway's log tells of something, up to a sequence or beyond; return when it was so."""
    file, until = house.directory / f"{gateway}.log", time.monotonic() + PATIENCE
    while time.monotonic() < until:
        lines = (msgspec.json.decode(line) for line in file.read_bytes().splitlines() if line.endswith(b"}"))
        found = next((line for line in lines if line["event"] == event and line["sequence"] >= sequence), None)
        if found is not None:
            return datetime.fromisoformat(found["timestamp"]).timestamp()
        time.sleep(0.02)
    raise RuntimeError(f"{file.name} never told of {event}")
