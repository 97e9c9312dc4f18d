"""Steps 7 to 12 for receipts of a known form: only what stands in their holes is looked at (forms.py).

What was judged of the first call of a form stands for all: its token, target, manifest, rule and labels are the same
bytes. What is left are place, time, staleness, and which call is opened, answered or settled.
"""

from itertools import islice

from msgspec import Struct

from verifier.calls import MAX_OPEN, Calls
from verifier.fold import Opened
from verifier.forms import Known


class Place(Struct):
    """Where a lane has come to: the number that its next receipt must bear, and what bounds its time."""

    expected: int
    earliest: int
    latest: int


def follow(calls: Calls, known: Known, start: int, stop: int, place: Place) -> tuple[int, int]:
    """Judge the next receipts, as long as all is good by what is known; return how many, and how many of them begin.

    The first of which more has to be said is left as if it had not been read.
    """
    fold, stale, tied = calls.fold, calls.stale, calls.tied
    opened, models = fold.open_calls, fold.model_calls
    texts, numbers = known.texts, known.numbers
    expected, before, latest = place.expected, place.earliest, place.latest
    begins = 0
    for line in islice(known.lines, start, stop):
        if line is None:
            break
        form, text, number = line
        if numbers[number] != expected:
            break
        usual, call, more = form.usual, texts[text], form.more
        if usual is None:
            time = numbers[number + 1]
            if not before <= time <= latest or call not in opened or (more and opened[call].target.provider is None):
                break
            del opened[call]
            if more:
                text += 1
                models.ask(call, texts[text : text + more : 2], texts[text + 1 : text + more : 2], expected)
        else:
            time, token, tool = numbers[number + 2], usual.token, usual.judged.tool
            parent = (texts[text + 1], texts[text + 2]) if more else None
            if (
                not before <= time <= latest
                or not token.earliest <= time <= token.exp
                or numbers[number + 1] > stale
                or call in opened
                or len(opened) >= MAX_OPEN
                or (tied and tool is not None if parent is None else tool is None)
                or (parent is not None and tool is not None and not models.claim(parent, tool, expected))
            ):
                break
            opened[call] = Opened(expected, usual.target, parent)
            usual.times += 1
            begins += 1
        before = time
        expected += 1
    count = expected - place.expected
    place.expected, place.earliest = expected, before
    return count, begins
