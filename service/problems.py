"""Refusals as RFC 9457 problem details: one internal type, one mapping (specs/http.md).

    {"type":"urn:tallystick:problem:unknown-signer","title":"unknown-signer","status":400,"code":"unknown-signer","detail":"…"}

What is not a `Refused` is a bug: the caller learns 500 and nothing else, the log learns the rest. But for a full disk:
503, nothing was written, and it is well again once there is room.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from service.engine import is_full
from verifier.refused import Refused

Log = structlog.stdlib.BoundLogger
MEDIA_TYPE = "application/problem+json"
SERVER_ERROR = 500
# Codes that every service can give. Whatever is in no table is a bad document: 400.
STATUS: dict[str, int] = {
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "too-large": 413,
    "wrong-media-type": 415,
    "too-many-failures": 429,
    "too-many-requests": 429,
    "internal-error": SERVER_ERROR,
    "not-ready": 503,
    "disk-full": 503,
    "clock-stepped": 503,
}
# Seconds after which it is worth while to try again.
WAIT = {
    "too-many-failures": 60, "too-many-requests": 5, "too-many-proofs": 5, "disk-full": 30, "clock-stepped": 30,
    "stale-revocations": 1, "scope-unavailable": 1, "controls-unavailable": 1, "database-restored": 60,
}  # fmt: skip
# How the framework's own errors are called in public.
OURS = {"too-many-requests", "disk-full", "clock-stepped"}
NAMES = {status: code for code, status in STATUS.items() if code not in OURS}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document; `code` is the stable public code (specs/errors.md)."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    hint: str = ""
    field: str = ""


def exception_handlers(log: Log, statuses: Mapping[str, int]) -> ExceptionHandlersMap:
    """Answer every exception of an application; `statuses` are the service's own codes."""
    table = {**STATUS, **statuses}

    def refused(_request: Request[Any, Any, Any], error: Refused) -> Response[bytes]:
        return answer(error, table.get(error.code, 400))

    def framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        if error.status_code >= SERVER_ERROR:
            return bug(request, error)
        code = NAMES.get(error.status_code, "bad-request")
        refusal = Refused(code, SENTENCES.get(code, "the request cannot be read"), field=_place(error))
        return answer(refusal, error.status_code, error.headers)

    def bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        if is_full(error):
            log.error("disk-full", method=request.method, path=request.url.path)
            return refused(request, full())
        log.error("bug", method=request.method, path=request.url.path, exc_info=error)
        return answer(Refused("internal-error", "this is our fault; the server's log says more"), SERVER_ERROR)

    return {Refused: refused, HTTPException: framework, Exception: bug}


def full() -> Refused:
    """Say that a write failed for want of room."""
    hint = "Free the disk that the database lies on; nothing has to be restarted."
    return Refused("disk-full", "there is no room left to write: nothing of this was done", hint=hint)


SENTENCES = {
    "not-found": "there is nothing here",
    "method-not-allowed": "this address does not know that method",
    "too-large": "the request is larger than this service reads",
    "wrong-media-type": "this address does not read that media type",
}


def _place(error: HTTPException) -> str:
    """Name the parameter that the framework could not read; its value may be anything and is not repeated."""
    found = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    return str(found.get("key", "")) if isinstance(found, dict) else ""


def answer(error: Refused, status: int, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Write a refusal as a problem document."""
    challenge = {"WWW-Authenticate": "Bearer"} if status == STATUS["unauthenticated"] else {}
    return Response(
        problem(error, status),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={**(headers or {}), **challenge, **retry_after(error.code), "Cache-Control": "no-store"},
    )


def retry_after(code: str) -> dict[str, str]:
    """Say after how many seconds to try again, where that is worth while (RFC 9110 §10.2.3)."""
    return {"retry-after": str(WAIT[code])} if code in WAIT else {}


def problem(error: Refused, status: int) -> bytes:
    """Encode the document itself, for those who answer without the framework."""
    name = f"urn:tallystick:problem:{error.code}"
    return msgspec.json.encode(
        Problem(
            type=name,
            title=error.code,
            status=status,
            code=error.code,
            detail=error.why,
            hint=error.hint,
            field=error.field,
        )
    )
