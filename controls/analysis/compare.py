"""Is a new policy narrower than the old one? (specs/policy.md §8)

Narrower is said only when it is proved: no call, by anybody, at any time, with any arguments, is let through by the new
policy that the old one would deny, or hold for a higher tier. Wider is said only with a call that `decide()` itself
tells apart. What is neither is unknown, and to be treated as wider.
"""

from threading import Lock
from typing import Literal

from msgspec import Struct

from verifier.policy import Chain

Relation = Literal["equal", "narrower", "wider", "incomparable", "unknown"]
_one_at_a_time = Lock()  # the solver is one for the whole process


class OneWay(Struct, frozen=True):
    """Whether one policy lets through what another does not: `found` is None where nobody could tell, and why."""

    found: bool | None
    sentences: tuple[str, ...] = ()
    why: str = ""


class Comparison(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a new policy relates to an old one: `widening` is what it lets through besides, `narrowing` what no more."""

    relation: Relation
    widening: tuple[str, ...] = ()
    narrowing: tuple[str, ...] = ()
    why: str = ""

    @property
    def may_be_wider(self) -> bool:
        """Tell whether the new policy is not proved to be within the old one."""
        return self.relation not in {"equal", "narrower"}


def compare(old: Chain, new: Chain) -> Comparison:
    """Compare two policies, each with its ancestors; seconds at most. Call it off the event loop."""
    try:
        from controls.analysis.solve import same, widens  # noqa: PLC0415 - the solver is an extra
    except ModuleNotFoundError:
        return Comparison(relation="unknown", why="the solver is not installed: pip install tallystick[analysis]")
    with _one_at_a_time:
        if same(old, new):
            return Comparison(relation="equal")
        there, back = widens(old, new), widens(new, old, ("new", "old"))
    why = there.why or back.why
    shown = {"widening": there.sentences, "narrowing": back.sentences}
    if there.found is None:
        return Comparison(relation="unknown", why=why, **shown)
    if there.found:
        return Comparison(relation="wider" if back.found is False else "incomparable", why=why, **shown)
    return Comparison(relation="equal" if back.found is False else "narrower", why=why, **shown)
