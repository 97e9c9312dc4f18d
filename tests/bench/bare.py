"""A bare Litestar application: one handler that answers with fixed bytes, or 304. `--port PORT`."""

from litestar import Litestar, Request, Response, get

from tests.bench.upstream import serve

DOCUMENT = bytes(4096)


@get("/policies/{digest:str}")
async def document(digest: str, request: Request) -> Response[bytes]:  # type: ignore[type-arg]
    """Answer as the registry does, from nothing."""
    tag = f'"{digest}"'
    headers = {"ETag": tag, "Cache-Control": "public, max-age=31536000, immutable"}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    return Response(DOCUMENT, headers=headers)


if __name__ == "__main__":
    serve(Litestar([document], openapi_config=None))
