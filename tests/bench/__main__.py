"""`python -m tests.bench [--json] [part ...]`: measure the parts named, all when none is, and print one table."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench import decision, gateway, issuance, registry, revocation, verification
from tests.bench.installation import Installation
from tests.bench.measure import Row

WIDTH = 160
PARTS = ("verification", "decision", "gateway", "registry", "issuance", "revocation")


def measure(parts: list[str], progress: Console) -> Iterator[Row]:
    """Measure the parts asked for; the installation is made for the first that needs one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-bench-")))

        @cache
        def house() -> Installation:
            progress.print("  three services, an upstream, a pass-through")
            made = stack.enter_context(Installation(folder))
            made.begin()
            return made

        for part in parts:
            progress.print(f"  {part}")
            if part == "decision":
                yield from decision.rows()
            else:
                yield from {
                    "gateway": gateway,
                    "issuance": issuance,
                    "registry": registry,
                    "revocation": revocation,
                    "verification": verification,
                }[part].rows(house())


def table(rows: list[Row]) -> Table:
    """Lay the rows out for people."""
    made = Table(
        box=SIMPLE_HEAD, title=f"Measured side by side; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for name in ("what", "", "beside", "target"):
        made.add_column(name, justify="right" if not name else "left", overflow="fold")
    for part in dict.fromkeys(row.part for row in rows):
        made.add_section()
        for row in rows:
            if row.part == part:
                made.add_row(row.what, f"{_figure(row.value)} {row.unit}", row.beside, _verdict(row))
    return made


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _verdict(row: Row) -> str:
    return row.target if row.holds is None else f"{'[green]✓[/]' if row.holds else '[red]✗[/]'} {row.target}"


def main() -> int:
    """Measure and print; 1 when a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure, each figure beside something that everybody has."
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    rows = list(measure(options.parts or list(PARTS), Console(stderr=True)))
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n")
    else:
        Console(width=WIDTH).print(table(rows))
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
