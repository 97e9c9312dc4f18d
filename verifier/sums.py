"""What the calls of a rule add up to in an argument: `limits.sums` (specs/receipts.md §5).

Exact decimals, in leaf order, counted when a call begins and never given back. An amount that is missing, no number or
negative is over every limit; one that is not disclosed is anything from nothing up.
"""

from collections.abc import Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

from verifier.conditions import UNDISCLOSED, argument
from verifier.grammar import number
from verifier.policy import Chain, rule_name

EXACT = Context(prec=80)  # thousands of numbers of 34 digits and exponents to 34: never rounded
NOTHING = Decimal(0)
Sum = tuple[str, str]  # a rule, and the path of an argument


class Sums:
    """The sums of one lane, by rule and argument."""

    def __init__(self, chain: Chain) -> None:
        """Start with nothing spent; an ancestor's rule is named with its level."""
        self._most: dict[str, dict[str, Decimal]] = {
            rule_name(level, rule.id): {path: number(most) or NOTHING for path, most in sums.items()}
            for level, policy in enumerate(chain)
            for rule in policy.allowed_tools
            if rule.limits is not None and (sums := rule.limits.sums) is not None
        }
        self._spent: dict[Sum, Decimal] = {}

    def __contains__(self, rule: str) -> bool:
        return rule in self._most

    def __bool__(self) -> bool:
        return bool(self._most)

    def over(self, rule: str, arguments: Any) -> bool | None:
        """Tell whether one more call is over a sum of a rule; None where what is not disclosed would say."""
        found = {self._over((rule, path), most, arguments) for path, most in self._most.get(rule, {}).items()}
        return True if True in found else None if None in found else False

    def add(self, rule: str, arguments: Any) -> None:
        """Count a call that a rule let through, as far as its arguments are known."""
        for path in self._most.get(rule, {}):
            amount = _amount(path, arguments)
            if amount is not None and amount is not UNDISCLOSED:
                self._spent[rule, path] = EXACT.add(self._spent.get((rule, path), NOTHING), amount)

    def counted(self) -> Iterator[tuple[str, Decimal, Decimal]]:
        """Give what was spent of each sum, and how much it may be."""
        for (rule, path), spent in self._spent.items():
            yield f"{path} of rule {rule}", spent, self._most[rule][path]

    def _over(self, place: Sum, most: Decimal, arguments: Any) -> bool | None:
        amount = _amount(place[1], arguments)
        if amount is UNDISCLOSED:
            return None
        return amount is None or EXACT.add(self._spent.get(place, NOTHING), amount) > most


def _amount(path: str, arguments: Mapping[str, Any] | Any) -> Any:
    """Read an amount: None where there is none that counts, UNDISCLOSED where nobody can tell."""
    value = argument(path.split("."), arguments)
    if value is UNDISCLOSED:
        return UNDISCLOSED
    exact = None if isinstance(value, str) else number(value)
    return None if exact is None or exact < 0 else exact
