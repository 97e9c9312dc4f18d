"""A gateway in a process of its own that stops dead at one point, to be killed there: `DIR PORT POINT [KIND]`.

POINT is `before` or `after` the commit of a receipt of KIND, `full` for a disk that takes no more, or `run`.
"""

import resource
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from receipts.app import create
from receipts.ledger import Ledger, Write
from service.app import configure_logs

LIMIT = 600_000


class Stopping(Ledger):
    """A ledger that stops before or after it commits a receipt of one kind, and says so."""

    def __init__(self, path: Path, point: str, kind: str) -> None:
        super().__init__(path)
        self._point = point
        self._mark = f'"kind":"{kind}"'.encode()

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[Write]) -> Exception | None:
        hit = any(isinstance(value, bytes) and self._mark in value for write in batch for value in write.row)
        if hit and self._point == "before":
            stop()
        failure = super()._commit(connection, batch)
        if hit and self._point == "after":
            stop()
        return failure


def stop() -> None:
    """Say that the point is reached, and never go on."""
    print("stopped", flush=True)  # noqa: T201 - the test waits for it
    threading.Event().wait()


def main(directory: str, port: str, point: str, kind: str = "") -> None:
    """Serve until killed."""
    configure_logs()
    app = create(Path(directory) / "settings.toml", make_ledger=lambda path: Stopping(path, point, kind))
    if point == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None, ws="none", loop="uvloop")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
