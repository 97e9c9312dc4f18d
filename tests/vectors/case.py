"""One vector: a header that says what must come of it and why, a blank line, then the bytes, whatever they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECS = Path(__file__).parent.parent.parent / "specs"
VECTORS = SPECS / "vectors"
FROZEN = VECTORS / "frozen"
PASS = "PASS"


@dataclass(frozen=True)
class Case:
    """`expect` is PASS, or a verdict and the code that names what is wrong; `also` holds every other code found.

    `finds` says of each finding its code, step and place; the generator writes it, so its author reads it. `pin` names
    the file beside the vectors that judges it; `at` is the time of `--at`; `kind` is an envelope's, `asked` the digest
    under which it was asked for. `keys` (of `--keys`), `kept` (of `--receipts`) and `beside` (more bundles of the same
    command) name other vectors. `lacks` is what the installation that judges it cannot do.
    """

    expect: str
    why: str
    raw: bytes
    also: str = ""
    finds: tuple[str, ...] = ()
    pin: str = "pin.json"
    at: int | None = None
    kind: str = ""
    keys: str = ""
    kept: str = ""
    beside: str = ""
    asked: str = ""
    lacks: str = ""

    @property
    def verdict(self) -> str:
        """The verdict that is expected."""
        return self.expect.split()[0]

    @property
    def codes(self) -> set[str]:
        """Every code that is expected."""
        return {*self.expect.split()[1:], *self.also.split()}

    def encode(self) -> bytes:
        """Write the file."""
        fields = [("expect", self.expect), ("why", self.why), ("also", self.also)]
        fields += [("finds", each) for each in self.finds]
        fields += [("pin", "" if self.pin == "pin.json" else self.pin), ("kind", self.kind)]
        fields += [("at", "" if self.at is None else str(self.at))]
        fields += [(name, getattr(self, name)) for name in ("keys", "kept", "beside", "asked", "lacks")]
        return "".join(f"{name}: {value}\n" for name, value in fields if value).encode() + b"\n" + self.raw

    @classmethod
    def parse(cls, file: bytes) -> "Case":
        """Read the file."""
        head, _, raw = file.partition(b"\n\n")
        lines = [line.split(": ", 1) for line in head.decode().split("\n")]
        fields = {name: value for name, value in lines if name != "finds"}
        finds = tuple(value for name, value in lines if name == "finds")
        at = fields.pop("at", None)
        return cls(raw=raw, finds=finds, at=None if at is None else int(at), **fields)


Made = dict[str, Callable[[], Case]]
Make = Callable[[], bytes]


def case(made: Made, expect: str, why: str, **more: Any) -> Callable[[Make], Make]:
    """Add what a function will return to `made`, under the function's name."""

    def add(make: Make) -> Make:
        made[make.__name__.replace("_", "-")] = lambda: Case(expect, why, make(), **more)
        return make

    return add
