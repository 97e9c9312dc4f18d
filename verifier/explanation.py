"""What a code means, from the tables and sentences of `specs/`, which are installed with the verifier."""

import re
from functools import cache
from pathlib import Path

from msgspec import Struct, field

from verifier.codes import CODES
from verifier.refused import Refused

SPECS = Path(__file__).resolve().parent.parent / "specs"
_SECTION = re.compile(r"^## ([0-9]+)\. (.*)$", re.MULTILINE)
_CODE = re.compile(r"`([a-z][a-z0-9-]*)`")


class Step(Struct, frozen=True):
    """A step of the audit that names the code, and the sentence in which it does."""

    number: int
    title: str
    says: str


class Explanation(Struct, kw_only=True, omit_defaults=True):
    """All that is known of one code. `where`: whose code it is; `columns`: the other cells of its row."""

    code: str
    meaning: str
    action: str
    where: str
    verdict: str | None = None
    exit_code: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def explain(code: str) -> Explanation:
    """Explain a code. Raises `Refused` usage for one that there is not, naming the nearest."""
    listed = _listed()
    if code not in listed:
        from difflib import get_close_matches  # noqa: PLC0415 - only for a slip of the pen

        near = get_close_matches(code.lower().replace("_", "-").replace(" ", "-"), listed, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "specs/errors.md lists them all."
        raise Refused("usage", f"there is no code {code!r}", hint=hint)
    return listed[code]


@cache
def _listed() -> dict[str, Explanation]:
    """Read every code: those of documents from the program, all others from specs/errors.md where it is installed."""
    steps = _steps(_text("verification.md"))
    found = {
        code: Explanation(
            code=code, meaning=known.says, action=known.hint, where="Codes of documents",
            verdict=known.verdict.name, exit_code=known.verdict.exit_code, steps=steps.get(code, []),
        )
        for code, known in CODES.items()
    }  # fmt: skip
    for title, section in _sections(_text("errors.md")):
        for each in _rows(title, section):
            found.setdefault(each.code, each)
    return found


def _text(name: str) -> str:
    path = SPECS / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _sections(said: str) -> list[tuple[str, str]]:
    parts = _SECTION.split(said)
    return list(zip(parts[2::3], parts[3::3], strict=True))


def _rows(where: str, section: str) -> list[Explanation]:
    """Read the table of a section: code first, what to do last."""
    table = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line[:1] == "|"
    ]
    titles = table[0] if table else []
    return [
        Explanation(
            code=row[0].strip("`"), meaning=row[-2], action=row[-1], where=where,
            columns=dict(zip(titles[1:-2], row[1:-2], strict=True)),
        )
        for row in table[2:]
    ]  # fmt: skip


def _steps(said: str) -> dict[str, list[Step]]:
    """Find, in the numbered steps, the sentence that names each code."""
    found: dict[str, list[Step]] = {}
    parts = _SECTION.split(said)
    for number, title, section in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        for sentence in re.split(r"(?<=[.;:])\s+(?=[A-Z`])", " ".join(section.split())):
            for code in dict.fromkeys(_CODE.findall(sentence)):
                if code in CODES and all(step.number != int(number) for step in found.get(code, [])):
                    found.setdefault(code, []).append(Step(int(number), title, _unlinked(sentence)))
    return found


def _unlinked(sentence: str) -> str:
    """Leave out what is a link in Markdown and keeps a reader up."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence)
