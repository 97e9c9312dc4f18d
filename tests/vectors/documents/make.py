"""How single documents are bent."""

from collections.abc import Callable
from typing import Any

from tests.vectors.bundles.make import bent
from tests.vectors.case import Case, Made
from tests.world import World

Make = Callable[[], bytes]
Row = tuple[str, str, str, Make]
ZERO = "sha256:" + "0" * 64


def rows(*given: Row, **more: Any) -> Made:
    """Turn rows of name, expectation, reason and bytes into cases."""

    def made(expect: str, why: str, make: Make) -> Callable[[], Case]:
        return lambda: Case(expect, why, make(), **more)

    return {name: made(expect, why, make) for name, expect, why, make in given}


def bend(payload: Callable[[World], bytes], change: Callable[[dict[str, Any]], Any]) -> Make:
    """Bend one honest payload."""
    return lambda: bent(payload(World()), change)
