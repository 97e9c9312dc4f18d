"""After `begin`: the call is sent, its end recorded, its answer delivered with the proof, in this order always."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from receipts.call import Asked, Exchange, Path
from receipts.lanes import Cut, Lane
from receipts.log import Appended
from receipts.request import Answer, Request
from receipts.stream import comment, event
from receipts.upstream import UpstreamFailed
from verifier.commitment import Side
from verifier.encoding import b64
from verifier.leaf import Status
from verifier.refused import Refused

# A header that common clients still read; a larger proof is fetched from /receipts/{call}.
MAX_PROOF_HEADER = 6000

log = structlog.get_logger(service="receipts")


class Begun(Struct, frozen=True):
    """A call that may be sent: its `begin` is durable. `cut` is set when its lane closes."""

    lane: Lane
    asked: Asked
    exchange: Exchange
    cut: Cut


class Receipt(Struct, frozen=True):
    """A durable leaf that answers a call: an `end` or a `deny`; `keys` open the commitments that it holds."""

    call: str
    lane: Lane
    appended: Appended
    keys: Mapping[Side, bytes]

    def proof(self) -> str:
        """Return the tlog-proof in base64, as header and comment carry it."""
        return b64(self.lane.proof(self.appended).encode())


def key_header(keys: Mapping[Side, bytes]) -> str:
    """Write a call's keys for its caller, who can open the commitments of its own call with them."""
    return ",".join(f"{side}={b64(key)}" for side, key in keys.items())


def with_receipt(answer: Answer, receipt: Receipt) -> Answer:
    """Add the proof headers to an answer."""
    headers = {**answer.headers, "tally-receipt": receipt.call, "tally-call-keys": key_header(receipt.keys)}
    proof = receipt.proof()
    if len(proof) <= MAX_PROOF_HEADER:
        headers["tally-proof"] = proof
    return replace(answer, headers=headers)


async def finish(request: Request, path: Path, begun: Begun) -> None:
    """Forward, record, deliver. Without a durable `end` nothing is delivered, and a stream just stops."""
    exchange, lane = begun.exchange, begun.lane
    failure = await _forward(request, path, begun)
    answer = exchange.answer if failure is None and exchange.answer else path.failed(failure or _no_answer())
    last = answer.body
    if request.started:
        last = exchange.tail if failure is None else event(answer.body)
    if exchange.status != "client_abort":
        exchange.deliver(last)
    try:
        appended = lane.append(exchange.end)
        await asyncio.sleep(0)  # the writer's thread gets its turn first, and flushes while this one signs
        lane.sign_ahead()
        await lane.durable(appended)
    except Refused as refused:
        if not request.started:
            await request.answer(path.refusal(refused, None))
        return
    receipt = Receipt(exchange.call, lane, appended, exchange.keys)
    if request.started:
        await request.write(comment(f"tally-receipt {receipt.call} {receipt.proof()}") + last, last=True)
    else:
        await request.answer(with_receipt(answer, receipt))


async def _forward(request: Request, path: Path, begun: Begun) -> UpstreamFailed | None:
    """Send the call, until its answer is there, its client leaves or its lane is cut; every failure becomes a value."""
    exchange, here = begun.exchange, asyncio.current_task()
    assert here is not None
    if begun.cut.code:
        exchange.fail("policy_cut", begun.cut.code)
        return _cut(begun)
    begun.cut.listen(lambda: _stop(here, exchange, "policy_cut", begun.cut.code))
    watching = asyncio.create_task(_watch(request, partial(_stop, here, exchange, "client_abort", "client-gone")))
    try:
        await path.forward(begun.asked, exchange)
    except UpstreamFailed as failure:
        exchange.fail(failure.outcome, failure.code)
        return failure
    except asyncio.CancelledError:
        if not exchange.stopped:
            raise  # the gateway itself stops: recovery will say that the call was lost
        here.uncancel()
        return _cut(begun)
    except Exception:
        log.exception("bug", call=exchange.call)
        exchange.fail("upstream_error", "internal-error")
        return UpstreamFailed("internal-error", "this is our fault; the server's log says more", 500)
    finally:
        begun.cut.listen(None)
        watching.cancel()
    return None


async def _watch(request: Request, stop: Callable[[], None]) -> None:
    """Stop a call when its client goes away."""
    await request.gone()
    stop()


def _stop(work: asyncio.Task[object], exchange: Exchange, status: Status, code: str) -> None:
    """Stop a call that does not end by its own course."""
    exchange.stopped = True
    exchange.fail(status, code)
    work.cancel()


def _cut(begun: Begun) -> UpstreamFailed:
    """Say why a call was stopped: its job ended, it was revoked, or its client has left and reads nothing of this."""
    if begun.cut.code == "revoked":
        return UpstreamFailed("revoked", "what this call needs was revoked while it was under way", 403)
    return UpstreamFailed("job-closed", "the job ended while the call was under way", 403)


def _no_answer() -> UpstreamFailed:
    return UpstreamFailed("upstream-answer", "there is no answer")
