"""A request for a job whose answer was lost is repeated: the answer comes again, and there is one job."""

import asyncio
from typing import Any

import aiohttp

from scope.client import RevocationRequest, ScopeClient, Tools
from service.clients import client_token
from tests.scope.conftest import Town, refusal
from tests.scope.lives import hire
from tests.scope.test_children import deep
from tests.scope.test_revoking import people
from tests.scope.test_two_processes import Two, two
from tests.scope.test_users import Issuer
from verifier.grant import Budget

__all__ = ["people", "two"]
GET = Tools(server="crm-mcp", tools=["get_case"])


async def names(town: Town) -> list[str]:
    return [each.job for each in (await town.scope().jobs()).jobs]


async def test_the_same_request_is_answered_the_same_and_opens_one_job(town: Town) -> None:
    wanted = town.job(request_id="mine-1")
    first = await town.scope().open(wanted)
    town.pass_seconds(5)
    assert await town.scope().open(wanted) == first
    assert bytes((await town.scope().open(wanted)).grant) == bytes(first.grant)
    assert await names(town) == [first.job]


async def test_a_repetition_is_not_planned_again(town: Town) -> None:
    wanted = town.job(request_id="mine-1")
    first = await town.scope().open(wanted)
    await town.registry("author").withdraw(town.policy, "test")
    assert await refusal(town.open()) == "policy-withdrawn"
    assert await town.scope().open(wanted) == first


async def test_another_request_of_the_same_name_is_refused(town: Town) -> None:
    await deep(town)
    first = await town.open(request_id="mine-1")
    token = (await town.scope().token(first.job)).access_token
    others: list[dict[str, Any]] = [
        {"agent": "agent-2"}, {"expires_in": 60}, {"limits": Budget(calls=1)}, {"authorization_details": [GET]},
        {"binding": "dpop"}, {"parent_token": token},
    ]  # fmt: skip
    for other in others:
        assert await refusal(town.open(request_id="mine-1", **other)) == "request-differs", other
    status, _, problem = await town.ask(
        "POST", "/jobs", "orchestrator", json={"agent": "x", "policy": town.policy, "job_type": "support",
                                               "environment": "test", "request_id": "mine-1"},
    )  # fmt: skip
    assert (status, problem["code"], problem["field"]) == (409, "request-differs", "request_id")
    assert await names(town) == [first.job]


async def test_a_name_is_of_one_client_alone(town: Town) -> None:
    key = hire(town, "second")
    await town.restart()
    mine = await town.scope().open(town.job(request_id="mine-1"))
    second = ScopeClient(town.session, town.url, lambda: client_token(key, "second", town.urls.scope, town.clock()))
    theirs = await second.open(town.job(request_id="mine-1", expires_in=60))
    assert theirs.job != mine.job
    assert await names(town) == [mine.job]


async def test_a_name_that_is_no_name_is_refused(town: Town) -> None:
    for name in ("", "a b", "x" * 65, "é"):
        asked = {"agent": "agent-1", "policy": town.policy, "job_type": "support", "environment": "test"}
        status, _, problem = await town.ask("POST", "/jobs", "orchestrator", json={**asked, "request_id": name})
        assert (status, problem["code"]) == (400, "bad-value"), name


async def test_a_childs_share_is_taken_once_also_with_a_fresh_token(town: Town) -> None:
    await deep(town)
    parent = await town.open(limits=Budget(calls=100))
    wanted = town.job(limits=Budget(calls=60), request_id="child-1")
    first = await town.scope().child((await town.scope().token(parent.job)).access_token, wanted)
    fresh = (await town.scope().token(parent.job)).access_token
    assert await town.scope().child(fresh, wanted) == first
    assert (await town.scope().status(parent.job)).children == [first.job]
    rest = town.job(limits=Budget(calls=40), request_id="child-2")
    await town.scope().child(fresh, rest)
    other = await town.open()
    elsewhere = (await town.scope().token(other.job)).access_token
    for token in (elsewhere, fresh + "x", "x"):
        assert await refusal(town.scope().child(token, wanted)) == "request-differs"
    assert await refusal(town.scope().open(wanted)) == "request-differs"


async def test_a_job_that_ended_answers_the_same_until_it_is_deleted(town: Town) -> None:
    await deep(town)
    wanted, below = town.job(request_id="mine-1"), town.job(request_id="below-1")
    parent = await town.scope().open(wanted)
    token = (await town.scope().token(parent.job)).access_token
    child = await town.scope().child(token, below)
    await town.scope().close(parent.job)
    assert await town.scope().child(token, below) == child
    await town.advance(6)
    await town.advance()
    await town.sealed(parent.job)
    town.pass_seconds(3600)  # the parent's token is over
    assert (await town.scope().open(wanted), await town.scope().child(token, below)) == (parent, child)
    for each in (child, parent):
        await town.scope("responder").delete(each.job, "asked-for")
    again = await town.scope().open(wanted)
    assert again.job != parent.job


async def test_the_same_user_may_show_a_fresh_token_and_another_user_gets_nothing(people: tuple[Town, Issuer]) -> None:
    town, issuer = people
    ann = await town.open(user_token=issuer.token(), request_id="mine-1")
    town.pass_seconds(3600)
    for token in (issuer.token(jti="fresh"), issuer.token()):  # they have expired
        assert await town.open(user_token=token, request_id="mine-1") == ann
    assert await refusal(town.open(user_token=issuer.token(sub="bob"), request_id="mine-1")) == "request-differs"
    assert await refusal(town.open(request_id="mine-1")) == "request-differs"
    assert await refusal(town.open(user_token="x", request_id="mine-1")) == "bad-user-token"
    await town.open(request_id="mine-2")
    assert await refusal(town.open(user_token=issuer.token(), request_id="mine-2")) == "request-differs"


async def test_a_revoked_job_answers_the_same(town: Town) -> None:
    wanted = town.job(request_id="mine-1")
    first = await town.scope().open(wanted)
    await town.scope("responder").revoke(RevocationRequest(kind="job", value=first.job, reason="incident"))
    assert await town.scope().open(wanted) == first
    assert await refusal(town.scope().token(first.job)) == "job-not-open"


async def test_two_at_the_same_moment_are_one_job(town: Town) -> None:
    wanted = town.job(request_id="mine-1")
    opened = await asyncio.gather(*(town.scope().open(wanted) for _ in range(8)))
    assert {each.job for each in opened} == {opened[0].job}
    assert {bytes(each.grant) for each in opened} == {bytes(opened[0].grant)}
    assert await names(town) == [opened[0].job]


async def test_two_processes_open_one_job(two: Two) -> None:
    wanted = two.town.job(request_id="mine-1")
    opened = await asyncio.gather(*(two.at(turn % 2).open(wanted) for turn in range(8)))
    assert {bytes(each.grant) for each in opened} == {bytes(opened[0].grant)}
    assert len((await two.at(0).jobs()).jobs) == 1


async def test_the_client_itself_asks_again_when_the_answer_is_lost(town: Town) -> None:
    lost = Cut(town)
    listener = await asyncio.start_server(lost.pass_on, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener, aiohttp.ClientSession() as session:
        scope = ScopeClient(session, url, lambda: town.credential("orchestrator"))
        opened = await scope.open(town.job())
    assert lost.answers == 2
    assert await names(town) == [opened.job]


class Cut:
    """A way to scope that loses the first answer: the connection breaks after scope has done what was asked."""

    def __init__(self, town: Town) -> None:
        self.port, self.answers = int(town.url.rpartition(":")[2]), 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, and its answer back, but for the first."""
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        back.write(await self._request(reader))
        answer = await there.read(1 << 16)
        self.answers += 1
        if self.answers > 1:
            writer.write(answer)
        back.close()
        writer.close()

    @staticmethod
    async def _request(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        (length,) = (int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        return head + await reader.readexactly(length)
