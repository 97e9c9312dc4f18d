"""The client of orchestrators, gateways and responders: a method for each thing that scope can be asked."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from scope.client.details import Detail
from scope.client.fresh import FreshToken
from scope.client.jobs import DeletedJob, JobPage, JobRequest, JobStatus, OpenedJob
from scope.client.lanes import Head, HeadsAnswer, HeadsReport, IncidentPage, LaneRequest, RegisteredLane
from scope.client.message import State
from scope.client.revocations import Documents, Preview, RevocationRequest, Revoked, Snapshot
from scope.client.tokens import ACCESS_TOKEN, TOKEN_EXCHANGE, IssuedToken
from scope.client.transport import Credential, Proving, Transport, decode
from scope.client.unsealed import Unsealed
from verifier.encoding import digest, is_id
from verifier.envelope import Envelope
from verifier.refused import Refused

PASSING = {"not-sealed", "scope-unavailable"}  # refusals that a while may change


def _named(job: str) -> str:
    """Write a job's name as a part of an address. Raises `Refused` unknown-job for what would be another address."""
    if not is_id(job):
        raise Refused("unknown-job", "no job has such a name", field="job")
    return job


class ScopeClient:
    """A caller of `scope`. `credential` makes a fresh client token (service/clients.py) for each request.

    Every method raises `Refused` with the service's own code, or scope-unavailable when it does not answer.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Credential) -> None:
        """Nothing is asked yet."""
        self._transport = Transport(session, url, credential)

    async def open(self, job: JobRequest) -> OpenedJob:
        """Open a job (role orchestrator).

        Asked once more when no answer comes, under the same `request_id`, which is made up here where the request has
        none: no second job is opened. Who goes on trying later gives it one of its own.
        """
        named = job if job.request_id is not None else msgspec.structs.replace(job, request_id=token_hex(16))
        try:
            answer = await self._transport.call("POST", "/jobs", named)
        except Refused as refused:
            if refused.code != "scope-unavailable":
                raise
            answer = await self._transport.call("POST", "/jobs", named)
        return decode(answer, OpenedJob)

    async def child(self, token: str, job: JobRequest) -> OpenedJob:
        """Open a child job of the one that a living token is of; what the request does not name it inherits."""
        return await self.open(msgspec.structs.replace(job, parent_token=token))

    async def token(self, job: str, ttl: int | None = None, *, proving: Proving | None = None) -> IssuedToken:
        """Get a token for a job of one's own; `ttl` in seconds; `proving` binds it to a key (RFC 9449)."""
        return await self._token({"grant_type": "client_credentials", "job": job}, ttl, proving)

    async def refresh(self, token: str, ttl: int | None = None, *, proving: Proving | None = None) -> IssuedToken:
        """Exchange a living token for a younger one of the same job and scope (RFC 8693)."""
        fields = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        return await self._token(fields, ttl, proving)

    async def narrow(
        self, token: str, *details: Detail, ttl: int | None = None, proving: Proving | None = None
    ) -> IssuedToken:
        """Exchange a living token for one that carries a part of what it does (RFC 8693, RFC 9396)."""
        fields = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        asked = {**fields, "authorization_details": msgspec.json.encode(details).decode()}
        return await self._token(asked, ttl, proving)

    def fresh(self, job: str, *details: Detail, ttl: int | None = None, proving: Proving | None = None) -> FreshToken:
        """Keep a token of a job of one's own fresh, with `details` one that carries that part of it."""

        async def ask(held: IssuedToken | None) -> IssuedToken:
            if details and held is not None:
                return await self.refresh(held.access_token, ttl, proving=proving)
            whole = await self.token(job, ttl, proving=proving)
            if not details:
                return whole
            return await self.narrow(whole.access_token, *details, ttl=ttl, proving=proving)

        return FreshToken(ask)

    async def revoke_token(self, token: str) -> None:
        """Revoke one token of one's own (RFC 7009)."""
        await self._transport.form("/revoke", {"token": token})

    async def introspect(self, token: str) -> dict[str, Any]:
        """Ask whether a token is live (RFC 7662)."""
        return decode(await self._transport.form("/introspect", {"token": token}), dict[str, Any])

    async def incidents(self, after: int = 0) -> IncidentPage:
        """List what gateways reported and cannot be, the oldest first, behind a position."""
        return decode(await self._transport.call("GET", f"/incidents?after={after}"), IncidentPage)

    async def unsealed(self) -> Unsealed:
        """Ask what waits for its seal (role auditor or responder)."""
        return decode(await self._transport.call("GET", "/unsealed"), Unsealed)

    async def close(self, job: str) -> JobStatus:
        """Close a job of one's own: its gateways end what is open, then it is sealed."""
        return decode(await self._transport.call("POST", f"/jobs/{_named(job)}/close"), JobStatus)

    async def status(self, job: str) -> JobStatus:
        """Ask where a job stands."""
        return decode(await self._transport.call("GET", f"/jobs/{_named(job)}"), JobStatus)

    async def jobs(
        self,
        before: int | None = None,
        limit: int = 50,
        *,
        everybody: bool = False,
        state: State | None = None,
        sealed_before: int | None = None,
    ) -> JobPage:
        """List one's own jobs, newest first; `before` is the `next` of the page before.

        `everybody` lists those of all clients (role auditor or responder). `sealed_before` are those that have a seal
        and began to close before a time.
        """
        asked = {"before": before, "all": "true" if everybody else None, "state": state, "sealed_before": sealed_before}
        query = urlencode({"limit": limit} | {name: said for name, said in asked.items() if said is not None})
        return decode(await self._transport.call("GET", f"/jobs?{query}"), JobPage)

    async def delete(self, job: str, reason: str, ticket: str | None = None) -> DeletedJob:
        """Delete a sealed job (role responder); the record of acts keeps the digest of its seal."""
        query = urlencode({"reason": reason} | ({} if ticket is None else {"ticket": ticket}))
        return decode(await self._transport.call("DELETE", f"/jobs/{_named(job)}?{query}"), DeletedJob)

    async def wait_for_seal(self, job: str, *, seconds: float = 15, every: float = 0.1) -> bytes:
        """Wait for a closing job's seal, asking every `every` seconds at first, and each second later.

        While scope does not answer it may be coming back. Raises `Refused` when the time is over: not-sealed, or
        scope-unavailable if that was heard last; any other refusal at once.
        """
        last = "not-sealed"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.seal(job)
                    except Refused as refused:
                        last = refused.code
                        if last not in PASSING:
                            raise
                    await asyncio.sleep(every)
                    every = max(every, min(every * 1.5, 1))
        except TimeoutError as error:
            hint = "Ask where it stands: tally job status. A job that is open has to be closed first."
            raise Refused(last, f"job {job} has no seal after {seconds:g} seconds", hint=hint) from error

    async def seal(self, job: str) -> bytes:
        """Fetch a job's seal. Raises `Refused` not-sealed."""
        return await self._transport.call("GET", f"/jobs/{_named(job)}/seal")

    async def register_lane(self, job: str, lane: LaneRequest) -> RegisteredLane:
        """Register a lane before its first leaf; the same request again answers the same (role gateway)."""
        return decode(await self._transport.call("POST", f"/jobs/{_named(job)}/lanes", lane), RegisteredLane)

    async def report_heads(self, heads: Sequence[Head]) -> HeadsAnswer:
        """Report the lanes that moved, and learn which jobs are closing; an empty report only learns."""
        return decode(await self._transport.call("POST", "/heads", HeadsReport(heads=list(heads))), HeadsAnswer)

    async def snapshot(self, after: int) -> tuple[bytes, list[bytes]]:
        """Fetch a heartbeat and the revocations after a sequence, as the envelopes that were signed."""
        answer = decode(await self._transport.call("GET", f"/revocations/snapshot?after={after}"), Snapshot)
        return bytes(answer.heartbeat), [bytes(each) for each in answer.revocations]

    async def follow(self, after: int, silence: float = 2.5) -> AsyncGenerator[tuple[bytes, list[bytes]], None]:
        """Follow the feed of revocations: snapshots as they come, each from where the last one ended.

        Ends when scope ends it. Raises `Refused` scope-unavailable, also after `silence` seconds without a line.
        """
        async with aclosing(self._transport.lines(f"/revocations/stream?after={after}", silence)) as lines:
            async for line in lines:
                said = decode(line, Snapshot)
                yield bytes(said.heartbeat), [bytes(each) for each in said.revocations]

    async def grant(self, wanted: str) -> bytes:
        """Fetch a grant by digest. Raises `Refused` wrong-digest when the answer is another."""
        raw = await self._transport.call("GET", f"/grants/{quote(wanted)}", public=True)
        if digest(Envelope.parse(raw, "grant").content()) != wanted:
            raise Refused("wrong-digest", "scope answered with another grant than the one asked for")
        return raw

    async def keys(self) -> bytes:
        """Fetch the signed key list that `scope` works with."""
        return await self._transport.call("GET", "/keys", public=True)

    async def revocations(self, job: str) -> list[bytes]:
        """Fetch the revocations that touch a job: of a sealed one those that its seal names, in the seal's order."""
        answer = decode(await self._transport.call("GET", f"/jobs/{_named(job)}/revocations"), Documents)
        return [bytes(each) for each in answer.documents]

    async def revoke(self, wanted: RevocationRequest) -> Revoked:
        """Revoke (role responder); the answer comes when it is durable."""
        return decode(await self._transport.call("POST", "/revocations", wanted), Revoked)

    async def preview(self, wanted: RevocationRequest) -> Preview:
        """Ask what a revocation would touch; nothing is revoked (role responder)."""
        return decode(await self._transport.call("POST", "/revocations/preview", wanted), Preview)

    async def _token(self, fields: Mapping[str, str], ttl: int | None, proving: Proving | None) -> IssuedToken:
        asked = fields if ttl is None else {**fields, "ttl": str(ttl)}
        try:
            return decode(await self._transport.form("/token", asked, proving), IssuedToken)
        except Refused as refused:
            if refused.code != "use-dpop-nonce" or proving is None:
                raise
        return decode(await self._transport.form("/token", asked, proving), IssuedToken)
