"""One request to scope, and its answer or its refusal: nothing here knows what is asked."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from scope.client.tokens import ASSERTION
from verifier.refused import Refused

T = TypeVar("T")
Credential = Callable[[], str]
Proving = Callable[[str, str, str], str]  # method, URL, nonce -> the DPoP header (RFC 9449)

MAX_ANSWER = 1 << 24
MAX_FEED_LINE = 1 << 19  # a hundred revocations are half of it
MAX_REFUSAL = 1 << 16
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Transport:
    """The way to one scope, as one client: `credential` makes a fresh client token for each request."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Credential) -> None:
        """Nothing is asked yet."""
        self._session = session
        self._url = url.rstrip("/")
        self._credential = credential
        self._nonce = ""

    async def form(self, path: str, fields: Mapping[str, str], proving: Proving | None = None) -> bytes:
        """Send a form as OAuth asks, with the client's own JWT as its assertion (RFC 7523)."""
        assertion = {"client_assertion_type": ASSERTION, "client_assertion": self._credential()}
        headers = {} if proving is None else {"DPoP": proving("POST", self._url + path, self._nonce)}
        return await self._send("POST", path, data={**fields, **assertion}, headers=headers)

    async def call(self, method: str, path: str, body: Struct | None = None, *, public: bool = False) -> bytes:
        """Send a request with a body in JSON, or with none; `public` ones as nobody."""
        headers = {} if public else {"Authorization": f"Bearer {self._credential()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else msgspec.json.encode(body)
        return await self._send(method, path, data=data, headers=headers)

    async def lines(self, path: str, silence: float) -> AsyncGenerator[bytes, None]:
        """Read an answer line by line, for as long as it comes; `silence` is how many seconds a line may be awaited."""
        headers, patience = {"Authorization": f"Bearer {self._credential()}"}, aiohttp.ClientTimeout(sock_read=silence)
        try:
            async with self._session.get(
                self._url + path, headers=headers, allow_redirects=False, timeout=patience, read_bufsize=MAX_FEED_LINE
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004 - redirects are not followed
                    raise _refusal(answer.status, await answer.content.read(MAX_REFUSAL))
                while line := await answer.content.readline():
                    yield line
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Refused("scope-unavailable", f"scope's feed ends: {type(error).__name__}") from error

    async def _send(self, method: str, path: str, **given: Any) -> bytes:
        url = self._url + path
        try:
            async with self._session.request(method, url, allow_redirects=False, timeout=TIMEOUT, **given) as answer:
                self._nonce = answer.headers.get("DPoP-Nonce", self._nonce)
                content = await answer.content.read(MAX_ANSWER + 1)
                while len(content) <= MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER + 1 - len(content))):
                    content += more
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused("scope-unavailable", f"scope does not answer: {type(error).__name__}") from error
        if len(content) > MAX_ANSWER:
            raise Refused("scope-unavailable", "scope answers with more than is read")
        if answer.status >= 300:  # noqa: PLR2004 - redirects are not followed
            raise _refusal(answer.status, content)
        return content


class _Problem(Struct):
    code: str
    detail: str = ""
    error_description: str = ""
    hint: str = ""
    field: str = ""


def _refusal(status: int, content: bytes) -> Refused:
    """Read a refusal, be it a problem document (RFC 9457) or OAuth's own (RFC 6749 §5.2)."""
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused("scope-unavailable", f"scope answers {status} without a reason")
    why = problem.detail or problem.error_description
    return Refused(problem.code, why, hint=problem.hint, field=problem.field)


def decode(content: bytes, kind: type[T]) -> T:
    """Read an answer. Raises `Refused` scope-unavailable for one that is of another form."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("scope-unavailable", "scope answers with something else") from error
