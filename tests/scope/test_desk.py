"""Tokens asked for at the same time share a transaction; what one is refused for is nobody else's trouble."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import event, func, select

from scope.client import RevocationRequest
from scope.desk import MOST, Answer, Desk, Order
from scope.tables import tokens
from service.engine import WRITER, reading
from tests.scope.conftest import Town, refusal
from verifier.refused import Refused


def order(job: str) -> Order:
    return Order("orchestrator", job, None, None, None)


async def count(town: Town) -> int:
    async with reading(town.authority.engine) as db:
        found: int = (await db.execute(select(func.count()).select_from(tokens))).scalar_one()
        return found


async def test_tokens_asked_for_at_once_share_transactions(town: Town) -> None:
    job, scope = (await town.open()).job, town.scope()
    commits = list[object]()
    engine = town.authority.engine.sync_engine
    writer = engine.get_execution_options().get(WRITER)
    event.listen(engine if writer is None else writer.engine, "commit", commits.append)
    issued = await asyncio.gather(*(scope.token(job) for _ in range(40)))
    assert len({each.access_token for each in issued}) == 40 == await count(town)
    assert 0 < len(commits) < 20


async def test_one_that_is_refused_keeps_no_other_from_its_token(town: Town) -> None:
    job, scope = (await town.open()).job, town.scope()
    asked = [scope.token(job), scope.token("job-unknown"), scope.token(job, 901), scope.token(job)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    codes = [each.code if isinstance(each, Refused) else "" for each in answers]
    assert codes == ["", "unknown-job", "ttl-too-long", ""]
    assert await count(town) == 2


async def test_when_a_transaction_fails_each_order_gets_one_of_its_own() -> None:
    desk, seen = Desk(), list[int]()

    async def issue(orders: Sequence[Order]) -> list[Answer]:
        seen.append(len(orders))
        if any(each.job == "bad" for each in orders):
            raise OSError("the disk")
        return [Refused("unknown-job", each.job) for each in orders]

    asked = [desk.ask(order(name), issue) for name in ("a", "bad", "b")]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in answers] == [Refused, OSError, Refused]
    assert seen == [3, 1, 1, 1]


async def test_one_that_waits_in_vain_keeps_no_other_waiting() -> None:
    desk, locked = Desk(), asyncio.Event()

    async def issue(orders: Sequence[Order]) -> list[Answer]:
        if len(orders) > 1:
            raise TimeoutError
        if orders[0].job == "locked":
            await locked.wait()
        return [Refused("unknown-job", each.job) for each in orders]

    asked = [asyncio.create_task(desk.ask(order(name), issue)) for name in ("locked", "locked", "free")]
    done, _ = await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    locked.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert done == {asked[2]}


async def test_a_transaction_is_bounded_and_who_left_is_not_waited_for() -> None:
    desk, seen = Desk(), list[int]()

    async def issue(orders: Sequence[Order]) -> list[Answer]:
        seen.append(len(orders))
        return [Refused("unknown-job", each.job) for each in orders]

    asked = [asyncio.create_task(desk.ask(order(str(number)), issue)) for number in range(MOST + 1)]
    await asyncio.sleep(0)
    asked[0].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(each, Refused) for each in answers[1:])
    assert seen == [MOST, 1]


async def test_a_revoked_key_refuses_all(town: Town) -> None:
    job = (await town.open()).job
    gone = RevocationRequest(kind="key", value=town.key("scope", "token").kid, reason="leaked")
    await town.scope("responder").revoke(gone)
    answers = await asyncio.gather(*(refusal(town.scope().token(job)) for _ in range(5)))
    assert answers == ["revoked"] * 5
    assert await count(town) == 0
