"""A picture of a job: its lanes, and on them calls, denials, holds, notes, marks, revocations (verifier/timeline.py).

Every position is computed from bounded integers, every word is escaped; nothing is drawn that the page's own style
sheet does not colour. What lies outside the receipts' time stands at the edge.
"""

from collections.abc import Iterator
from html import escape

from verifier.report import many
from verifier.terminal import plain
from verifier.timeline import Event, LaneTime, Timeline
from verifier.times import words

WIDTH, LEFT, RIGHT = 1000, 14, 986
ROWS, ROW, BAR = 4, 19, 16
CALLS = ("model", "tool")
LETTER = 6.7  # the width of one inside a bar
HEAD, FOOT = 22, 26
TICKS = 5
_PART_OF_A_SECOND, _DAY = 120_000_000, 86_400_000_000


class Scale:
    """Time to place: the receipts' own time fills the picture."""

    def __init__(self, timeline: Timeline) -> None:
        """Find the first and the last receipt, and leave a little room at both ends."""
        first = min((lane.first for lane in timeline.lanes if lane.receipts), default=timeline.opened)
        last = max((lane.last for lane in timeline.lanes if lane.receipts), default=timeline.closed)
        room = max((last - first) // 40, 500)
        self.first, self.last = max(first - room, 0), max(last, first) + room

    def x(self, time: int) -> float:
        """Place a time, at the edge when it lies beyond."""
        share = (time - self.first) / (self.last - self.first)
        return round(LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0), 1)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Place a few times, in words as short as the span allows."""
        span = self.last - self.first
        part = slice(11, 23) if span < _PART_OF_A_SECOND else slice(11, 19) if span < _DAY else slice(0, 16)
        for number in range(TICKS + 1):
            time = self.first + span * number // TICKS
            yield self.x(time), words(time, milliseconds=True)[part].replace("T", " ")


def draw(timeline: Timeline) -> str:
    """Draw everything."""
    scale = Scale(timeline)
    parts: list[str] = []
    top = 0
    for lane in timeline.lanes:
        events = [event for event in timeline.events if event.lane == lane.lane]
        drawn, height = _lane(lane, events, scale, top)
        parts += drawn
        top += height
    parts += [_revocation(each.time, each.what, scale, top) for each in timeline.revocations]
    parts += [_tick(x, said, top) for x, said in scale.ticks()]
    return (
        f'<svg viewBox="0 0 {WIDTH} {top + FOOT}" width="{WIDTH}" height="{top + FOOT}" role="img" '
        f'aria-label="What the bundle says happened, lane by lane">{"".join(parts)}</svg>'
    )


def _lane(lane: LaneTime, events: list[Event], scale: Scale, top: int) -> tuple[list[str], int]:
    """Draw one lane: its name, its calls packed into rows, then what has no length."""
    counted = ((lane.receipts, "receipt"), (lane.calls, "call"), (lane.denials, "denial"), (lane.holds, "hold"))
    counts = " · ".join(many(count, noun) for count, noun in counted if count)
    name = f'{escape(plain(lane.lane))}<tspan dx="8">{counts}</tspan>'
    parts = [f'<text class="lane" x="{LEFT}" y="{top + 15}">{name}</text>']
    ends: list[float] = []
    for event in events:
        if event.kind in CALLS:
            left = scale.x(event.time)
            right = max(scale.x(event.until or lane.last), left + 3)
            row = next((number for number, end in enumerate(ends) if end < left), len(ends))
            row = min(row, ROWS - 1)
            ends[row : row + 1] = [right]
            parts.append(_call(event, left, right, top + HEAD + row * ROW))
    line = top + HEAD + max(len(ends), 1) * ROW + 8
    parts.append(f'<path class="track" d="M{LEFT} {line}H{RIGHT}"/>')
    parts += [f'<path class="mark" d="M{scale.x(time)} {line}v7">{_title(time, "mark")}</path>' for time in lane.marks]
    parts += [_point(event, scale.x(event.time), line) for event in events if event.kind not in CALLS]
    return parts, line + 16 - top


def _call(event: Event, left: float, right: float, top: int) -> str:
    kind = event.kind if event.status == "ok" else "bad" if event.until else "open"
    title = _title(event.time, f"receipt {event.seq}: {event.kind} call to {event.what}: {event.status}")
    name = plain(event.what.rpartition("/")[2])
    said = ""
    if len(name) * LETTER + 8 < right - left:  # it can stand inside
        said = f'<text class="name" x="{left + 4}" y="{top + 12}">{escape(name)}</text>'
    size = f'width="{right - left:.1f}" height="{BAR}" rx="2"'
    return f'<rect class="call {kind}" x="{left}" y="{top}" {size}>{title}</rect>{said}'


def _point(event: Event, x: float, y: int) -> str:
    said = " ".join(part for part in (event.kind, event.what, event.status) if part)
    title = _title(event.time, f"receipt {event.seq}: {said}")
    if event.kind == "deny":
        return f'<path class="deny" d="M{x} {y - 6}l6 6l-6 6l-6 -6z">{title}</path>'
    if event.kind == "hold":
        return f'<circle class="hold" cx="{x}" cy="{y}" r="5">{title}</circle>'
    return f'<path class="note" d="M{x - 4} {y - 4}h8v8h-8z">{title}</path>'


def _revocation(time: int, what: str, scale: Scale, bottom: int) -> str:
    return f'<path class="revoked" d="M{scale.x(time)} 0V{bottom}">{_title(time, "revoked: " + what)}</path>'


def _tick(x: float, said: str, bottom: int) -> str:
    anchor = "start" if x < WIDTH / 4 else "end" if x > WIDTH * 3 / 4 else "middle"
    return (
        f'<path class="tick" d="M{x} {bottom}v5"/>'
        f'<text class="time" x="{x}" y="{bottom + 18}" text-anchor="{anchor}">{said}</text>'
    )


def _title(time: int, said: str) -> str:
    return f"<title>{words(time)} {escape(plain(said))}</title>"
