"""Cedar as text: literals, patterns, and tests put together so that no engine runs out of stack.

A `forbid` whose evaluation fails is skipped, and Cedar's evaluation fails where a test nests too deep: a long chain of
`||` nests as deep as it is long. So chains are written as trees.
"""

from collections.abc import Iterable

TRUE, FALSE = "true", "false"
WIDE = 32  # tests side by side


def text(value: str) -> str:
    """Write a string literal."""
    return f'"{_escaped(value)}"'


def texts(values: Iterable[str]) -> str:
    """Write a set of string literals; never an empty one, which has no type."""
    return f"[{', '.join(map(text, values))}]"


def one_of(term: str, values: list[str]) -> str:
    """Test a text against others, as they stand."""
    return f"{term} == {text(values[0])}" if len(values) == 1 else f"{texts(values)}.contains({term})"


def like(term: str, *parts: str) -> str:
    """Test a text against literal parts with anything between them."""
    return f'{term} like "{"*".join(_escaped(part).replace("*", chr(92) + "*") for part in parts)}"'


def globs(term: str, patterns: Iterable[str]) -> str:
    """Test a text against globs, of which one has to match."""
    every = list(dict.fromkeys(patterns))
    if "*" in every:
        return TRUE
    exact = [each for each in every if "*" not in each]
    tests = [one_of(term, exact)] if exact else []
    return some(tests + [like(term, *each.split("*")) for each in every if "*" in each])


def every(tests: Iterable[str]) -> str:
    """All of them; true of none."""
    return _joined("&&", tests, TRUE, FALSE)


def some(tests: Iterable[str]) -> str:
    """One of them at least; false of none."""
    return _joined("||", tests, FALSE, TRUE)


def negated(test: str) -> str:
    """Turn a test round."""
    return {TRUE: FALSE, FALSE: TRUE}.get(test, f"!({test})")


def _joined(operator: str, tests: Iterable[str], neutral: str, decisive: str) -> str:
    left = [each for each in dict.fromkeys(tests) if each != neutral]
    if decisive in left:
        return decisive
    while len(left) > 1:
        left = [_group(operator, left[at : at + WIDE]) for at in range(0, len(left), WIDE)]
    return left[0] if left else neutral


def _group(operator: str, tests: list[str]) -> str:
    return tests[0] if len(tests) == 1 else f"({f' {operator} '.join(tests)})"


def _escaped(value: str) -> str:
    return "".join(each if " " <= each <= "~" and each not in '"\\' else f"\\u{{{ord(each):x}}}" for each in value)
