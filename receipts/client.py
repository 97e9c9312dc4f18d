"""What the gateway says of its receipts, and the client of those who ask for them.

The client believes nothing: a receipt is checked with `verifier.checkpoint.Proof`, a bundle with `verifier.verify`.
"""

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Raw, Struct

from verifier.bundle import MAX_BYTES
from verifier.refused import Refused

T = TypeVar("T")
Credential = Callable[[], str]
Proving = Callable[[str, str, str, str], str]  # method, URL, nonce, token -> the DPoP header (RFC 9449)

MAX_ANSWER = 1 << 24
PIECE = 1 << 16
TIMEOUT = aiohttp.ClientTimeout(total=600, connect=10, sock_read=60)


class Receipt(Struct, frozen=True, kw_only=True):
    """A call's `end` under a signed head (C2SP tlog-proof), and the keys that open its commitments.

    `keys` is empty once the lane's key is deleted: then nobody can tell any more what the call said.
    """

    call: str
    job: str
    lane: str
    seq: int
    proof: str
    keys: dict[str, str]


class Place(Struct, frozen=True):
    """One receipt of a job: where it lies, and its very bytes."""

    lane: str
    seq: int
    leaf: Raw


class ReceiptPage(Struct, frozen=True, omit_defaults=True):
    """Some of a job's receipts, lane after lane; `next` is the `after` of the following page."""

    items: list[Place]
    next: str | None = None


class DeletedReceipts(Struct, frozen=True, kw_only=True):
    """The receipts of a job that were deleted, in how many lanes."""

    job: str
    lanes: int
    receipts: int


class ReceiptsClient:
    """A reader of receipts and bundles: `credential` gives a fresh client token or the job's own token.

    `proving` proves possession of the key that the job's token is bound to.
    Every method raises `Refused` with the gateway's own code, or receipts-unavailable when it does not answer.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, credential: Credential, *, proving: Proving | None = None
    ) -> None:
        """Nothing is asked yet."""
        self._session = session
        self._url = url.rstrip("/")
        self._credential = credential
        self._proving = proving
        self._nonce = ""

    async def receipt(self, call: str) -> Receipt:
        """Fetch a call's receipt with its proof."""
        return await self._json(f"/receipts/{quote(call, safe='')}", Receipt)

    async def receipts(self, job: str, after: str = "", limit: int = 100) -> ReceiptPage:
        """Fetch a page of a job's receipts."""
        query = f"?after={quote(after)}&limit={limit}"
        return await self._json(f"/jobs/{quote(job, safe='')}/receipts{query}", ReceiptPage)

    async def delete(self, job: str, reason: str) -> DeletedReceipts:
        """Delete the receipts of a job that scope has deleted (role responder). Repeating it is receipts-deleted."""
        path = f"/jobs/{quote(job, safe='')}?reason={quote(reason, safe='')}"
        return await self._json(path, DeletedReceipts, method="DELETE")

    async def bundle(self, job: str, file: BinaryIO, *, underway: bool = False) -> str:
        """Fetch a job's bundle into a file; return the verdict that the gateway's own verifier gave.

        `underway` takes what there is of a job without a seal: INCOMPLETE at best. The verdict is a courtesy of the
        party that is audited: verify the file yourself.
        """
        asked = "?underway=true" if underway else ""
        async with self._ask(f"/bundles/{quote(job, safe='')}{asked}") as answer:
            await _raise_for(answer)
            try:
                await _save(answer, file)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _unavailable("the bundle broke off") from error
            return answer.headers.get("Tally-Verdict", "")

    async def _json(self, path: str, kind: type[T], *, method: str = "GET") -> T:
        async with self._ask(path, method) as answer:
            await _raise_for(answer)
            try:
                return msgspec.json.decode(await _content(answer), type=kind)
            except msgspec.DecodeError as error:
                raise _unavailable("the gateway answers with something else") from error

    def _ask(self, path: str, method: str = "GET") -> "_Answer":
        return _Answer(lambda: self._request(path, method), self._learn)

    def _request(self, path: str, method: str) -> Any:
        url, token = self._url + path, self._credential()
        headers = {"Authorization": f"{'Bearer' if self._proving is None else 'DPoP'} {token}"}
        if self._proving is not None:
            headers["DPoP"] = self._proving(method, url.partition("?")[0], self._nonce, token)
        return self._session.request(method, url, headers=headers, allow_redirects=False, timeout=TIMEOUT)

    def _learn(self, answer: aiohttp.ClientResponse) -> bool:
        """Take the nonce that an answer gives; tell whether the request is worth another try with it."""
        before, self._nonce = self._nonce, answer.headers.get("DPoP-Nonce", self._nonce)
        return answer.status == 401 and self._proving is not None and self._nonce != before  # noqa: PLR2004


class _Answer:
    """A request on its way, made again at most once; whatever breaks the connection is a refusal."""

    def __init__(self, request: Callable[[], Any], again: Callable[[aiohttp.ClientResponse], bool]) -> None:
        self._make = request
        self._again = again
        self._request: Any = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            answer = await self._send()
            if self._again(answer):
                await self._request.__aexit__(None, None, None)
                answer = await self._send()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(f"the gateway does not answer: {type(error).__name__}") from error
        return answer

    async def _send(self) -> aiohttp.ClientResponse:
        self._request = self._make()
        answer: aiohttp.ClientResponse = await self._request.__aenter__()
        return answer

    async def __aexit__(self, *error: object) -> None:
        await self._request.__aexit__(*error)


class _Problem(Struct):
    code: str
    detail: str = ""
    hint: str = ""


async def _raise_for(answer: aiohttp.ClientResponse) -> None:
    """Turn everything but success into the refusal that it is (RFC 9457)."""
    if answer.status == 200:  # noqa: PLR2004 - redirects are not followed
        return
    try:
        problem = msgspec.json.decode(await _content(answer), type=_Problem)
    except msgspec.DecodeError as error:
        raise _unavailable(f"the gateway answers {answer.status} without a reason") from error
    raise Refused(problem.code, problem.detail, hint=problem.hint)


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for piece in answer.content.iter_chunked(PIECE):
        content += piece
        if len(content) > MAX_ANSWER:
            raise _unavailable("the gateway answers with more than is read")
    return content


async def _save(answer: aiohttp.ClientResponse, file: BinaryIO) -> None:
    size = 0
    async for piece in answer.content.iter_chunked(PIECE):
        size += len(piece)
        if size > MAX_BYTES:
            raise _unavailable("the bundle is larger than is read")
        file.write(piece)


def _unavailable(why: str) -> Refused:
    return Refused("receipts-unavailable", why)
