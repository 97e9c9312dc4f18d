"""Questions about policies over HTTP (specs/http.md §1): how two differ, what one says of a call or to a runtime."""

import asyncio

from litestar import Controller, Response, get, post
from litestar.params import RawBody
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from controls import publish
from controls.analysis import Change, Comparison, Simulation, compare, diff, simulate
from controls.asked import At, By, For, Here, read
from controls.exports import Export, export
from service.described import json_body
from verifier.draft import call_of
from verifier.policy import Chain, PolicyTest, TestCall, TestFacts

ASK_AGAIN = "no-cache"  # a later version may write the same policy in other words


async def _chain(db: AsyncConnection, digest: str) -> Chain:
    """Find a published policy with its ancestors. Raises `Refused` unknown-policy."""
    return await publish.lineage(db, publish.read((await publish.find(db, digest)).envelope))


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """One call with the facts that it assumes, as a policy's own test says them."""

    call: TestCall
    facts: TestFacts = TestFacts()


class Difference(Struct, frozen=True):
    """How a policy `b` differs from `a`: field by field, and whether it lets more through."""

    changes: list[Change]
    comparison: Comparison


class Questions(Controller):
    """What policies mean; nothing is stored."""

    path = "/policies"
    tags = ("policies",)

    @get("/{a:str}/diff/{b:str}", summary="How two policies differ")
    async def difference(self, *, a: At, b: At, caller: By, registry: Here) -> Difference:
        """Say what policy `b` changes in `a`, and whether it is narrower, wider or equal; it may take seconds."""
        caller.require("author", "auditor", "registrar", "responder")
        async with registry.reading() as db:
            before, after = await _chain(db, a), await _chain(db, b)
        compared = await asyncio.to_thread(compare, before, after)
        return Difference(diff(before[0], after[0]), compared)

    @post(
        "/{digest:str}/simulate",
        status_code=200,
        summary="What a policy would say of a call",
        operation_class=json_body(Question),
    )
    async def simulation(self, *, digest: At, body: RawBody, caller: By, registry: Here) -> Simulation:
        """Decide one call, and show every rule that was looked at."""
        caller.require("author", "auditor", "registrar", "responder", "orchestrator")
        asked = read(body, Question)
        async with registry.reading() as db:
            chain = await _chain(db, digest)
        test = PolicyTest(name="question", call=asked.call, facts=asked.facts, expect="allow")
        return simulate(chain, call_of(test))


@get("/export/{digest:str}", tags=["policies"], summary="A policy as a runtime's own configuration")
async def exported(digest: At, runtime: For, registry: Here) -> Response[Export]:
    """Write a policy, under its ancestors, as a runtime's own files, and list what these do not say."""
    async with registry.reading() as db:
        chain = await _chain(db, digest)
    return Response(await asyncio.to_thread(export, chain, runtime), headers={"Cache-Control": ASK_AGAIN})
