"""Where codes are found: what the vectors say of each code's steps and readers, as a table in specs/errors.md §5."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from tests.vectors.case import Case

HEADING = "## 5. Where a document's code is found"


class Found(NamedTuple):
    """One `finds` line: a code, its step, and the rest of its place by name."""

    code: str
    step: int | None
    place: dict[str, str]


def read(line: str) -> Found:
    """Read a `finds` line."""
    code, *rest = line.split(" ")
    place = dict(each.split("=", 1) for each in rest)
    step = place.pop("step", None)
    return Found(code, None if step is None else int(step), place)


def with_places(page: str, cases: Iterable[tuple[str, Case]]) -> str:
    """Write the section that tells for each code where the vectors show it, in place of the one that is there."""
    steps: dict[str, set[int]] = {}
    readers: dict[str, set[str]] = {}
    for folder, case in cases:
        for line in case.finds:
            found = read(line)
            if found.step is None:
                readers.setdefault(found.code, set()).add(folder)
            else:
                steps.setdefault(found.code, set()).add(found.step)
    rows = [
        f"| `{code}` | {', '.join(map(str, sorted(steps.get(code, ())))) or 'none'} "
        f"| {', '.join(sorted(readers.get(code, ()))) or 'none'} |"
        for code in sorted(steps | readers)
    ]
    section = [
        HEADING,
        "Steps of [verification.md](verification.md) at which the vectors show a code in a bundle, and the folders of",
        "`vectors/` where a single document gets it. Made by `python -m tests.vectors` from the vectors themselves.",
        "",
        "| code | steps | single documents |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]
    before, _, after = page.partition(HEADING)
    following = re.search(r"^## ", after, re.MULTILINE)
    rest = after[following.start() :] if following else ""
    return before.rstrip("\n") + "\n\n" + "\n".join(section) + ("\n" + rest if rest else "")
