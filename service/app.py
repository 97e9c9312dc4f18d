"""An application put together from its parts, and how it is served."""

import logging
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import structlog
import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler
from sqlalchemy.ext.asyncio import AsyncEngine

from service import health, problems
from service.clients import Clients, Clock, provide_caller
from service.described import Rendered
from service.engine import ping
from service.protocol import BoundedProtocol
from service.settings import Settings
from verifier.refused import Refused

VERSION = "0.1.0"


class Lifespan(Protocol):
    """Something that an application holds open while it runs."""

    def __call__(self, app: Litestar, /) -> AbstractAsyncContextManager[None]:
        """Open it, and close it in the end."""


def now() -> int:
    """Read the clock: Unix time in microseconds."""
    return time.time_ns() // 1000


def uptime() -> int:
    """Count the machine's own time, which nobody sets, sleep included (Linux): microseconds since it started."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1000


def counter(clock: Clock, given: Clock | None) -> Clock:
    """Choose the machine's own count of time: one that is given, `uptime`, or a made-up clock itself."""
    return given or (uptime if clock is now else clock)


def build(
    settings: Settings,
    routes: Sequence[ControllerRouterHandler],
    *,
    engine: AsyncEngine,
    clients: Clients,
    state: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, Provide] | None = None,
    statuses: Mapping[str, int] | None = None,
    checks: Mapping[str, health.Check] | None = None,
    lifespan: Sequence[Lifespan] = (),
) -> Litestar:
    """Build a service's application.

    Routes may ask for `caller` and for what `dependencies` adds, never for a connection: dependencies are resolved side
    by side, and one that raises would leave the connection of another open. `state` is theirs as `State`; `statuses`
    maps the service's own codes; `checks` extend `/readyz`.
    """
    log: problems.Log = structlog.get_logger(service=settings.name)

    async def database() -> None:
        await ping(engine)

    @asynccontextmanager
    async def connections(_app: Litestar) -> AsyncGenerator[None, None]:
        try:
            yield
        except Refused as refused:
            log.error("stopped", code=refused.code, why=refused.why, hint=refused.hint)  # noqa: TRY400 - a refusal has no trace
            raise
        finally:
            await engine.dispose()

    return Litestar(
        [health.livez, health.readyz, *routes],
        dependencies={"caller": Provide(provide_caller), **(dependencies or {})},
        state=State(
            {
                **(state or {}),
                "settings": settings,
                "engine": engine,
                "clients": clients,
                "log": log,
                "checks": {"database": database, **(checks or {})},
            }
        ),
        exception_handlers=problems.exception_handlers(log, statuses or {}),
        request_max_body_size=settings.max_body,
        openapi_config=OpenAPIConfig(
            title=f"Tallystick {settings.name}",
            version=VERSION,
            path="/openapi",
            use_handler_docstrings=True,
            render_plugins=[Rendered(path="/openapi.json")],
        ),
        lifespan=[connections, *lifespan],
        logging_config=None,
        debug=False,
    )


def configure_logs() -> None:
    """Write one JSON object a line to standard error; nothing logs a payload, a token or a header."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def serve(app: ASGIApp | Litestar, settings: Settings) -> None:
    """Serve until a signal ends it; requests that have begun are answered first."""
    host, port = settings.address
    files = [settings.directory / each for each in (settings.tls_certificate, settings.tls_key) if each]
    uvicorn.run(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # an address that a caller writes is no address
        timeout_graceful_shutdown=10,
        ssl_certfile=files[0] if files else None,
        ssl_keyfile=files[1] if files else None,
    )
