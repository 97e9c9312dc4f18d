"""Forms: receipts that are equal to an earlier one but for a few values, read without being decoded.

Most calls of a lane look alike. A form is learned from a receipt that was read in full and found good: its canonical
bytes, cut at the values that differ from call to call. A line has the form when it is as long, is the same byte for
byte outside these holes, and has in each hole what its field may hold: harmless characters, lower-case hex digits, a
canonical integer within its range. Such a line is by construction the canonical bytes of a receipt that differs from
the learned one there alone; reading it in full could only say so again. Every other line is read in full.

Lengths belong to a form, so its holes stand at fixed places: a line is compared at a fixed cost, whatever is in it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from struct import Struct as Cut

import msgspec
from msgspec import Struct

from verifier.calls import Usual
from verifier.encoding import Count
from verifier.leaf import CHARACTERS, HEX, Begin, End

MAX_FORMS = 512  # of one lane
MAX_ALIKE = 8  # of one length
EVERY = 4  # one of so many lines of a length that had to be read in full is learned from
MAX_SLICES = 6  # digits of a commitment's `n`: a number with no more of them is within its range

# In a good line no text has a quote in it, and only a key is followed by a colon.
_HOLES = re.compile(
    rb'"(?:call|id|name|upstream_id)":"(?P<text>[^"]++)'
    rb'|"(?P<name>input|n|output|seq|staleness|time|tokens)":(?P<number>[0-9]++)'
    rb'|"root":"sha256:(?P<root>[0-9a-f]{64})'
)
_DIGITS = b"0123456789"
_counts = msgspec.json.Decoder(list[Count])
Pieces = Callable[[bytes], tuple[bytes, ...]]


class Form(Struct, frozen=True):
    """What lines of one form have in common, and where they differ.

    `usual` is what was judged of a begin, None for an end; `seq` is the place of that number among the numbers. The
    call is the first text; `more` tells how many behind it name its parent, or the tool calls that a model asked for.
    """

    usual: Usual | None
    seq: int
    more: int
    same: tuple[bytes, ...]
    rest: Pieces
    texts: Pieces
    numbers: Pieces
    roots: Pieces


class Known(Struct, frozen=True):
    """What was read by form: for each line its form, the place of its call in `texts` and of its seq in `numbers`.

    None stands for a line that has no known form.
    """

    lines: Sequence[tuple[Form, int, int] | None]
    texts: list[str] = []
    numbers: list[int] = []


class Forms:
    """The forms of one lane."""

    def __init__(self) -> None:
        """Start with none."""
        self._alike: dict[int, list[Form]] = {}  # by length
        self._missed: dict[int, int] = {}
        self._count = 0

    def learn(self, raw: bytes, leaf: Begin | End, usual: Usual | None = None) -> None:
        """Learn from a good line: a begin of which nothing but its holes was looked at, an end that just went well."""
        size = len(raw)
        missed = self._missed[size] = self._missed.get(size, 0) + 1
        alike = self._alike.setdefault(size, [])
        if missed % EVERY or self._count >= MAX_FORMS or len(alike) >= MAX_ALIKE:
            return
        if any(form.rest(raw) == form.same for form in alike):  # learned since, from a line of the same batch
            return
        holes = list(_HOLES.finditer(raw))
        if any(hole["name"] == b"n" and len(hole["number"]) > MAX_SLICES for hole in holes):
            return
        texts, numbers, roots = (
            [hole.span(group) for hole in holes if hole[group]] for group in ("text", "number", "root")
        )
        rest = _pieces(size, _between(size, sorted(texts + numbers + roots)))
        seq = [hole["name"] for hole in holes if hole["number"]].index(b"seq")
        more = 2 * len(leaf.tool_calls) if isinstance(leaf, End) else len(texts) - 1
        cuts = (_pieces(size, spans) for spans in (texts, numbers, roots))
        alike.append(Form(usual, seq, more, rest(raw), rest, *cuts))
        self._count += 1

    def read(self, raws: list[bytes]) -> Known:
        """Read those of the lines that have a known form: none of them when one has in a hole what it must not."""
        lines: list[tuple[Form, int, int] | None] = []
        texts: list[bytes] = []
        numbers: list[bytes] = []
        roots: list[bytes] = []
        alike = self._alike.get
        for raw in raws:
            for form in alike(len(raw), ()):
                if form.rest(raw) == form.same:
                    lines.append((form, len(texts), len(numbers) + form.seq))
                    texts += form.texts(raw)
                    numbers += form.numbers(raw)
                    roots += form.roots(raw)
                    break
            else:
                lines.append(None)
        words, counts, digits = b",".join(texts), b",".join(numbers), b"".join(roots)
        if (
            not texts
            or words.translate(None, CHARACTERS) != b"," * (len(texts) - 1)
            or counts.translate(None, _DIGITS) != b"," * (len(numbers) - 1)
            or digits.translate(None, HEX)
        ):
            return Known([None] * len(raws))
        try:
            return Known(lines, words.decode().split(","), _counts.decode(b"[" + counts + b"]"))
        except msgspec.DecodeError:  # a zero too many in front, or a number that is too large
            return Known([None] * len(raws))


def _between(size: int, spans: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Give what lies between spans, and behind the last."""
    at = 0
    for start, end in spans:
        yield at, start
        at = end
    yield at, size


def _pieces(size: int, spans: Iterable[tuple[int, int]]) -> Pieces:
    """Make what cuts these pieces out of a line."""
    at, cut = 0, ""
    for start, end in spans:
        cut += f"{start - at}x{end - start}s"
        at = end
    return Cut(f"{cut}{size - at}x").unpack
