"""Whether a service lives, and whether it can work."""

from collections.abc import Awaitable, Callable

from litestar import get
from litestar.datastructures import State
from msgspec import Struct

from verifier.refused import Refused

Check = Callable[[], Awaitable[None]]


class Health(Struct, frozen=True):
    """The answer of a service that is well."""

    status: str = "ok"


@get("/livez", tags=["health"], summary="The process answers")
async def livez() -> Health:
    """Tell that the process answers; asks nothing of anybody."""
    return Health()


@get("/readyz", tags=["health"], summary="The service can work")
async def readyz(state: State) -> Health:
    """Run every check of the service; 503 names the first that fails, and says why where that is a refusal."""
    checks: dict[str, Check] = state.checks
    for name, check in checks.items():
        try:
            await check()
        except Refused as refused:
            raise Refused("not-ready", f"{name}: {refused.why}", hint=refused.hint) from refused
        except Exception as error:
            raise Refused("not-ready", f"{name} does not answer") from error
    return Health()
