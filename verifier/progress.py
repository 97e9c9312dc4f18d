"""How far a long audit has come, shown on a terminal and nowhere else. The bar is loaded only when it is drawn."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from verifier.terminal import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MOMENT = 1 << 25  # bytes that are judged before anybody wonders
STEP = 1 << 21


class Meter:
    """Counts bytes towards a known total; begins to draw at the first ones, after other processes were started."""

    def __init__(self, total: int) -> None:
        """Decide whether anybody is told."""
        self._total = total
        self._shown = total > MOMENT and is_terminal(sys.stderr)
        self._done = self._drawn = 0
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self.hide()

    def see(self, data: bytes) -> None:
        """Count what was read."""
        self.add(len(data))

    def add(self, size: int) -> None:
        """Count bytes, and draw from time to time."""
        self._done += size
        if self._shown and self._done - self._drawn >= STEP:
            self._drawn = self._done
            self._draw()

    def hide(self) -> None:
        """Take the bar away until it is drawn again, so that a report can be written in its place."""
        if self._bar:
            self._bar[0].stop()

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console  # noqa: PLC0415 - slow to load, and mostly not needed
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

            drawn = Progress(
                BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), auto_refresh=False,
                transient=True, redirect_stdout=False, redirect_stderr=False,  # a report goes where it always goes
            )  # fmt: skip
            self._bar = drawn, drawn.add_task("judged", total=self._total)
        self._bar[0].start()
        self._bar[0].update(self._bar[1], completed=self._done, refresh=True)
