"""What both example upstreams share: their command line, the check of their own key, the list of calls received."""

import argparse
import hmac
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Guarded:
    """An application behind its own bearer key, which writes down each request that it lets in.

    A gateway that forwards its caller's token instead of this key is refused with 401: credentials must be swapped.
    The line (`POST /mcp tools/call get_case`) is written before the application sees the request, so that a test can
    count what arrived although the gateway was killed.
    """

    def __init__(self, app: ASGIApp, key: str | None, calls: Path | None) -> None:
        self._app = app
        self._expected = None if key is None else f"Bearer {key}".encode()
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or write down and pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._admits(headers.get("authorization", "")):
            await _unauthorized()(scope, receive, send)
            return
        self._record(scope, headers)
        await self._app(scope, receive, send)

    def _admits(self, authorization: str) -> bool:
        return self._expected is None or hmac.compare_digest(authorization.encode(), self._expected)

    def _record(self, scope: Scope, headers: Headers) -> None:
        if self._calls is None:
            return
        words = (scope["method"], scope["path"], headers.get("mcp-method", ""), headers.get("mcp-name", ""))
        with self._calls.open("a", encoding="utf-8") as lines:
            lines.write(" ".join(words).rstrip() + "\n")


def _unauthorized() -> JSONResponse:
    error = {"message": "Incorrect API key.", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    return JSONResponse({"error": error}, status_code=401, headers={"www-authenticate": "Bearer"})


def command_line(program: str, description: str, *, key_required: bool) -> argparse.ArgumentParser:
    """The options that every upstream takes; the key comes from a file because a command line is public."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument(
        "--key-file", type=key_in, required=key_required, help="the bearer key that callers must present"
    )
    parser.add_argument("--calls-file", type=Path, help="append a line for each request let in")
    return parser


def key_in(path: str) -> str:
    """The key that a file holds."""
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read as a key") from error
    if not key:
        raise argparse.ArgumentTypeError(f"{path} is empty")
    return key


def serve(app: ASGIApp, options: argparse.Namespace) -> None:
    """Serve on loopback until the process is ended."""
    guarded = Guarded(app, options.key_file, options.calls_file)
    uvicorn.run(guarded, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)
