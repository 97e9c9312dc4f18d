"""The call that nobody knows yet: a value of each attribute, of any type that it can have (specs/conditions.md §2)."""

from typing import Any

import z3
from msgspec import Struct

from controls.analysis.patterns import Term, any_of, characters, literal, name, printable, safe_text, sequence
from verifier.rules import Condition

YES, NO = z3.BoolVal(True), z3.BoolVal(False)
SECOND, MINUTE, DAY = 1_000_000, 60_000_000, 1440
MAX_TIME = 1 << 52
NOWADAYS = 1_767_225_600_000_000  # 2026
TEXTS = {
    "agent.id": safe_text, "job.id": safe_text, "job.type": safe_text, "job.environment": safe_text,
    "job.client": safe_text, "tool.name": safe_text, "tool.sensitivity": safe_text, "model.name": safe_text,
    "model.operation": safe_text, "tool.server": name, "model.provider": name,
}  # fmt: skip
CLASSES = ("read", "write", "destructive", "external")
OPTIONAL = {"agent.act", "user.id", "gateway.url"}
NUMBERS = {"job.depth", "time.now", "recent.calls", "recent.denials", "gateway.staleness"}


class Value(Struct, frozen=True):
    """A value of an attribute: which type it has, and what it then is. At most one of the types holds; none: absent.

    `is_other` is a list, an object or null; `unreadable` is a text that the grammar does not read for its length.
    """

    is_text: Term
    is_number: Term
    is_flag: Term
    is_other: Term
    text: Term
    number: Term
    flag: Term
    unreadable: Term

    @property
    def present(self) -> Term:
        """Whether there is a value at all."""
        return z3.Or(self.is_text, self.is_number, self.is_flag, self.is_other)


class Symbols:
    """One unknown call: of a tool or of a model. `facts` holds what is true of every call."""

    def __init__(self, *, model: bool) -> None:
        """Begin with what every call has."""
        self.model = model
        self.kind = z3.String("target.kind")
        self.facts: list[Term] = []
        self.nice: list[Term] = []  # what makes a counterexample easy to read
        self._values: dict[str, Value] = {}
        self.server = z3.String("target.server")
        self.host = z3.String("target.host")
        self.labels: dict[str, Term] = {}
        self.fresh_label, self.has_fresh = z3.String("label.fresh"), z3.Bool("label.has_fresh")
        label = sequence(characters(("az",)), z3.Star(characters(("az", "09", "_"))))
        self.facts.append(z3.InRe(self.fresh_label, label))
        host = sequence(z3.Plus(characters(("az", "AZ", "09", ".", ":", "-", "[", "]"))))
        self.facts.append(z3.InRe(self.host, host))
        self.addresses: dict[str, tuple[Term, Term]] = {}  # IP addresses: the number, and whether it is of version 6
        self.hosted: list[tuple[Term, Term]] = []  # a hosted tool: whether it is asked for, and its name
        self.remote_content, self.provider_state = z3.Bool("body.remote"), z3.Bool("body.state")
        self.tool_class = self.value("tool.class").text if not model else z3.StringVal("")
        self.facts.append(any_of(self.kind == each for each in ("mcp", "local", "resource", "prompt")))
        if not model:
            read = any_of(self.kind == each for each in ("resource", "prompt"))
            self.facts.append(z3.Implies(read, self.tool_class == "read"))
            self.nice.append(self.kind == "mcp")
        for attr in ("agent.id", "job.type", "job.environment"):
            self.value(attr)

    def value(self, attr: str) -> Value:
        """Return the value of an attribute, made at its first use."""
        if attr not in self._values:
            self._values[attr] = found = self._make(attr)
            kinds = (found.is_text, found.is_number, found.is_flag, found.is_other)
            self.facts += [z3.AtMost(*kinds, 1)]
            self.nice += [z3.Not(found.unreadable), z3.Not(found.is_other), z3.InRe(found.text, printable())]
            if attr == "time.now":
                self.nice.append(found.number >= NOWADAYS)
            self._nest(attr)
        return self._values[attr]

    def used(self) -> dict[str, Value]:
        """Return every attribute that was asked for."""
        return dict(self._values)

    def label(self, label: str) -> Term:
        """Tell whether the call bears a label that a condition names."""
        if label not in self.labels:
            self.labels[label] = z3.Bool(f"label.{label}")
            self.facts.append(self.fresh_label != literal(label))
        return self.labels[label]

    def local(self, condition: Condition, offset: int) -> Value:
        """Return an attribute of a place on earth at an offset in minutes; Unix time began on a Thursday."""
        now = self.value("time.now").number
        minutes = z3.ToInt(now) / MINUTE + offset
        days, minute = minutes / DAY, minutes % DAY
        terms = {"time.hour": minute / 60, "time.minute_of_day": minute, "time.weekday": (days + 3) % 7 + 1}
        return _number(f"{condition.attr}{condition.offset}", z3.ToReal(terms[condition.attr]))

    def age(self, claim: str) -> Value:
        """Return the whole seconds since a claim; a claim of the future, or of another type, has no age."""
        since, now = self.value("user." + claim), z3.ToInt(self.value("time.now").number)
        known = z3.And(since.is_number, z3.ToInt(since.number) * SECOND <= now)
        age = (now - z3.ToInt(since.number) * SECOND) / SECOND
        return _typed("age." + claim, is_number=known, number=z3.ToReal(age))

    def _make(self, attr: str) -> Value:
        family = attr.partition(".")[0]
        foreign = {"tool", "args"} if self.model else {"model"}
        if family in foreign or (self.model and attr == "recent.first_use"):
            return _typed(attr)
        if family == "args":
            return self._any(attr)
        if family == "user" and attr != "user.id":
            return self._claim(attr)
        if attr == "recent.first_use":
            return _typed(attr, is_flag=YES)
        if attr in NUMBERS or attr == "model.max_output_tokens":
            return self._count(attr, YES if attr in NUMBERS else z3.Bool(attr + "?"))
        return _typed(attr, is_text=z3.Bool(attr + "?")) if attr in OPTIONAL else self._text(attr)

    def _claim(self, attr: str) -> Value:
        found = self._any(attr, other=False)
        self.facts.append(z3.IsInt(found.number))
        return found

    def _text(self, attr: str) -> Value:
        found = _typed(attr, is_text=YES)
        if attr == "tool.class":
            self.facts.append(any_of(found.text == each for each in CLASSES))
        elif attr in TEXTS:
            self.facts += [z3.InRe(found.text, TEXTS[attr]()), z3.Length(found.text) <= 64]  # noqa: PLR2004 - of a name
        return found

    def _count(self, attr: str, present: Term) -> Value:
        found = _typed(attr, is_number=present)
        most = 4 if attr == "job.depth" else MAX_TIME
        self.facts += [z3.IsInt(found.number), found.number >= 0, found.number <= most]
        return found

    def _any(self, attr: str, *, other: bool = True) -> Value:
        """Make a value of any type: an argument, or a claim, which is no list and no object."""
        is_text, is_number, is_flag, is_other = (z3.Bool(f"{attr}?{kind}") for kind in "tnfo")
        return _typed(attr, is_text=is_text, is_number=is_number, is_flag=is_flag, is_other=is_other if other else NO)

    def _nest(self, attr: str) -> None:
        """An argument inside another one makes that an object."""
        if not attr.startswith("args."):
            return
        for each in self._values:
            for outer, inner in ((each, attr), (attr, each)):
                if inner.startswith(outer + "."):
                    self.facts.append(z3.Implies(self._values[inner].present, self._values[outer].is_other))


def _typed(attr: str, **kinds: Any) -> Value:
    given = {"is_text": NO, "is_number": NO, "is_flag": NO, "is_other": NO, "number": z3.Real(f"{attr}#n"), **kinds}
    return Value(text=z3.String(f"{attr}#t"), flag=z3.Bool(f"{attr}#f"), unreadable=z3.Bool(f"{attr}#long"), **given)


def _number(attr: str, number: Term) -> Value:
    return _typed(attr, is_number=YES, number=number)
