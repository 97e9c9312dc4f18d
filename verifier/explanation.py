"""What a code means, from the tables and sentences of `specs/`, which are installed with the verifier."""

import re
from functools import cache
from pathlib import Path

from msgspec import Struct, field

from verifier.codes import CODES, USAGE
from verifier.refused import Refused

SPECS = Path(__file__).resolve().parent.parent / "specs"
_SECTION = re.compile(r"^## ([0-9]+)\. (.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.;])\s+(?=[A-Z`a-z])")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_NUMBER = re.compile(r"[0-9]+")
LAST_STEP = 14


class Step(Struct, frozen=True, omit_defaults=True):
    """A step of the audit at which the code is found, and the sentence that names it there, if one does."""

    number: int
    title: str
    says: str = ""


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


def action(code: str) -> str:
    """Say what to do about a code; nothing for one that is not known here."""
    known = _listed().get(code)
    return "" if known is None else _LINK.sub(r"\1", known.action)


@cache
def _listed() -> dict[str, Explanation]:
    """Read every code: those of documents from the program, all others from specs/errors.md where it is installed."""
    errors, verification = _text("errors.md"), _text("verification.md")
    found = {
        code: Explanation(
            code=code, meaning=known.says, action=known.hint, where="Codes of documents",
            verdict=known.verdict.name, exit_code=USAGE if code == "bad-pin" else known.verdict.exit_code,
        )
        for code, known in CODES.items()
    }  # fmt: skip
    for _, title, section in _sections(errors):
        titles, rows = _table(section)
        for code, *cells in rows:
            if titles[-1] == "what to do":
                columns = dict(zip(titles[1:-2], cells, strict=False))
                told = Explanation(code=code, meaning=cells[-2], action=cells[-1], where=title, columns=columns)
                found.setdefault(code, told)
            elif code in CODES:
                numbers = [int(each) for each in _NUMBER.findall(cells[0])]
                found[code].steps = _steps(code, numbers, _sections(verification))
    return found


def _steps(code: str, numbers: list[int], sections: list[tuple[int, str, str]]) -> list[Step]:
    """Name the steps at which a code was seen or is spoken of, with the sentence that does."""
    found = []
    for number, title, section in sections:
        sentences = _SENTENCE.split(" ".join(section.split()))
        says = next((each for each in sentences if f"`{code}`" in each), "")
        if number in numbers or (says and number <= LAST_STEP):
            found.append(Step(number, title, _LINK.sub(r"\1", says).rstrip(";")))
    return found


def _text(name: str) -> str:
    path = SPECS / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _sections(said: str) -> list[tuple[int, str, str]]:
    parts = _SECTION.split(said)
    return list(zip(map(int, parts[1::3]), parts[2::3], parts[3::3], strict=True))


def _table(section: str) -> tuple[list[str], list[list[str]]]:
    """Read the titles and rows of a section's table; codes without their quotes."""
    lines = [line.strip("| ") for line in section.splitlines() if line[:1] == "|"]
    titles, _, *rows = [[cell.strip(" `") for cell in line.split(" | ")] for line in lines] or [[""], []]
    return titles, rows
